from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest

from pth2om import evidence
from pth2om.errors import DataError
from pth2om.evidence import GateRecord, Limit
from pth2om.report import collect, load
from pth2om.report.collect import is_shown, leaves
from pth2om.report.html import render_html
from pth2om.report.markdown import render_markdown
from pth2om.report.tables import closeness, others, scores, speeds


def card(report, name):
    return next(one for one in report.cards if one.name == name)


def test_counts_are_of_records_not_of_cards(small):
    report = collect(small)
    gates = [record for record in small if isinstance(record, GateRecord)]
    assert report.count() == len(gates)
    assert report.counts == Counter(("shown" if is_shown(gate) else gate.verdict, gate.ground) for gate in gates)
    assert report.unproven == sum(gate.verdict == "passed" and gate.ground in ("emulated", "double") for gate in gates)
    assert {verdict for verdict, _ in report.counts} == {"passed", "failed", "inconclusive", "not_measured", "shown"}
    assert {ground for _, ground in report.counts} == {"host", "emulated", "double", "device"}


def test_every_gate_has_exactly_one_place_in_its_card(small):
    for one in collect(small).cards:
        cells = [
            cell.gate
            for table in closeness(one)
            for row in table.rows.values()
            for cell in row
            if cell is not None and cell.gate in one.gates
        ]
        shown = [*cells, *(score.gate for score in scores(one.gates)), *(speed.gate for speed in speeds(one.gates))]
        shown += others(one.gates)
        assert sorted(map(id, shown)) == sorted(map(id, one.gates))


def test_a_variant_inherits_from_its_model_and_its_batch_size(small):
    report = collect(small)
    variant = card(report, "resnet20-fp16-bs1")
    assert variant.answers["checkpoint"].verdict == "passed"
    assert variant.answers["export"].verdict == "passed"
    assert [side.pair for side in closeness(variant)[0].sides] == ["torch~onnx", "onnx~om", "torch~om"]
    assert "export" not in card(report, "yolov6lite-int8-bs4").answers
    assert [one.name for one in leaves(report.models["resnet20"])] == [
        "resnet20-fp16-bs1",
        "resnet20-origin-bs1",
        "resnet20-mixed-bs1",
    ]


def test_a_pass_is_unproven_when_one_deciding_gate_is_emulated(small):
    report = collect(small)
    answer = card(report, "resnet20-fp16-bs1").answers["closeness"]
    assert (answer.verdict, answer.ground, answer.unproven) == ("passed", "emulated", True)
    answer = card(report, "resnet20-origin-bs1").answers["closeness"]
    assert (answer.verdict, answer.ground, answer.unproven) == ("passed", "host", False)


def test_pytorch_latency_does_not_answer_for_an_om_nobody_timed(small):
    report = collect(small)
    assert card(report, "resnet20-fp16-bs1").answers["latency"].verdict == "not_measured"
    assert card(report, "resnet20-origin-bs1").answers["latency"].verdict == "passed"


def test_models_with_trouble_come_first(small):
    assert list(collect(small).models) == ["yolov6lite", "resnet20"]


def test_two_socs_make_two_cards_and_a_gate_without_soc_is_in_both(factory):
    om = factory.gate("m", "fp16-bs1", "preflight", "preflight/errors", 0.0, Limit("==", 0), "passed", factory.EMULATOR)
    other = dataclasses.replace(om, soc="Ascend310P3")
    host = dataclasses.replace(om, soc=None, ground="host", question="export", check="onnx/findings")
    report = collect([om, other, host])
    assert [(one.soc, len(one.gates)) for one in report.cards] == [("Ascend310B1", 2), ("Ascend310P3", 2)]
    assert report.count() == 3


def test_of_a_check_measured_twice_the_worse_is_shown(factory):
    good = factory.gate("m", "fp16-bs1", "closeness", "onnx~om/x/cosine", 0.9999, Limit(">=", 0.999), "passed")
    bad = dataclasses.replace(good, measured=0.5, verdict="failed")
    for order in ([good, bad], [bad, good]):
        table = closeness(collect(order).cards[0])[0]
        assert table.rows["cosine"][0].gate is bad


def test_slices_may_have_slashes_in_their_names(factory):
    one = factory.gate("m", "fp16-bs1", "closeness", "onnx~om/head/0/cosine", 0.9999, Limit(">=", 0.999), "passed")
    table = closeness(collect([one]).cards[0])[0]
    assert (table.name, list(table.rows)) == ("head/0", ["cosine"])


@pytest.mark.parametrize(
    "details",
    [
        {"histogram": {"edges": [1, 2], "counts": [1, 2, 3]}},
        {"histogram": {"edges": "x", "counts": None}},
        {"histogram": 5, "bands": [1], "metrics": "no", "sample": 3},
        {"metrics": {"cosine": "NaN", "x": None, "y": {}}},
    ],
)
def test_odd_details_are_left_out(factory, details):
    one = factory.gate("m", "v", "closeness", "onnx~om/x/cosine", 0.9999, Limit(">=", 0.999), "passed", details=details)
    table = closeness(collect([one]).cards[0])[0]
    assert table.sides[0].counts == ()


def test_reading_what_was_written_gives_the_same_report(small, tmp_path):
    evidence.EvidenceFile(tmp_path / "evidence.jsonl").append(small)
    assert load(tmp_path).counts == collect(small).counts
    assert load(tmp_path / "evidence.jsonl").folder == tmp_path


def test_no_evidence(tmp_path):
    with pytest.raises(DataError, match="no evidence"):
        load(tmp_path)


def test_evidence_that_is_no_text(tmp_path):
    (tmp_path / "evidence.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not JSON"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("verdict", "fine"),
        ("ground", "moon"),
        ("model", None),
        ("details", [1]),
        ("digests", "x"),
        ("check", 5),
        ("unit", None),
    ],
)
def test_a_record_that_no_run_writes_is_named(factory, tmp_path, name, value):
    data = evidence.to_json(factory.gate("m", "v", "export", "x", 1.0, None, "passed"))
    data[name] = value
    (tmp_path / "evidence.jsonl").write_text(json.dumps(data) + "\n")
    with pytest.raises(DataError, match=name):
        load(tmp_path)


def test_a_pass_of_onnx_does_not_answer_for_an_om_nobody_ran(factory):
    """Twin and ONNX pass on the host; the OM was not measured, so its question is not answered by them."""
    limit = Limit(">=", 0.99)

    def close(variant, pair, verdict="passed", value=0.9999, made=factory.HOST):
        measured = None if verdict == "not_measured" else value
        return factory.gate("net", variant, "closeness", f"{pair}/y/cosine", measured, limit, verdict, made)

    onnx = close("bs1", "torch~onnx")
    absent = close("int8-bs1-aipp", "onnx~om", "not_measured")
    twin = close("int8-bs1-aipp", "onnx~fake-quant")
    om = close("int8-bs1-aipp", "onnx~om", made=factory.EMULATOR)

    def answer(*gates):
        return card(collect(gates), "net-int8-bs1-aipp").answers.get("closeness")

    assert answer(onnx, absent).verdict == "not_measured"
    assert answer(onnx, twin, absent).verdict == "not_measured"
    assert answer(onnx, twin).verdict == "not_measured"
    assert answer(onnx, om, absent).verdict == "passed"
    assert answer(onnx, om).unproven
    # Nobody asked for the OM: not a tick either. What is wrong is said all the same.
    assert answer(onnx, factory.stage("net", "int8-bs1-aipp", "om", factory.EMULATOR)) is None
    assert answer(dataclasses.replace(onnx, verdict="failed", measured=0.1), absent).verdict == "failed"
    assert card(collect([onnx]), "net-bs1").answers["closeness"].verdict == "passed"


@pytest.mark.parametrize("gear", ["gears1_2-bs2", "gears8x8_4x6-4x6", "gears_seq16_32-seq16", "range_seq1to64-seq64"])
def test_each_gear_has_a_place_of_its_own_and_inherits_from_its_export(factory, gear):
    """In the page, in Markdown, and for the build with AIPP of the same gear."""
    other = "gears1_2-bs1" if gear.startswith("gears1") else "gears1_2-bs2"
    limits = {"measured": 0.0, "limit": Limit("==", 0), "verdict": "passed"}
    records = [
        factory.stage("net", f"int8-{gear}", "quantized"),
        factory.gate("net", gear, "closeness", "torch~onnx/y/equal", **limits),
        factory.gate("net", f"int8-{gear}", "closeness", "static~om/y/equal", **limits),
        factory.gate("net", f"int8-{gear}-aipp", "closeness", "onnx~om/y/equal", **limits),
        factory.gate("net", f"int8-{other}", "closeness", "onnx~om/y/equal", **limits),
    ]
    report = collect(records)
    own, build = card(report, f"net-int8-{gear}"), card(report, f"net-int8-{gear}-aipp")
    assert build.origin is own
    assert [gate.variant for gate in own.shared] == [gear]
    assert [gate.variant for gate in build.shared] == [gear]
    assert card(report, f"net-int8-{other}").shared == []
    page, text = render_html(report, "en"), render_markdown(report, "en")
    for name in (f"int8-{gear}", f"int8-{gear}-aipp", f"int8-{other}"):
        assert name in page
        assert name.replace("_", "\\_") in text


def test_stages_of_a_variant_nobody_asked_are_shown_by_what_is_built_from_them(factory):
    stage = factory.stage("net", "int8-bs1", "quantized")
    gate = factory.gate("net", "int8-bs1-aipp", "quantization", "quantized/findings", 0.0, Limit("==", 0), "passed")
    (one,) = collect([stage, gate]).cards
    assert (one.name, one.origin, one.stages) == ("net-int8-bs1-aipp", None, [stage])
    plain = dataclasses.replace(gate, variant="int8-bs1")
    report = collect([stage, gate, plain])
    build = card(report, "net-int8-bs1-aipp")
    assert build.origin is card(report, "net-int8-bs1")
    assert (build.stages, build.origin.stages) == ([], [stage])


def test_a_run_that_ended_early_and_a_figure_without_a_limit_have_words_of_their_own(factory):
    lost = factory.gate("net", "fp16-bs1", "closeness", "onnx~om/x/cosine", None, None, "not_reached")
    figure = factory.gate("net", "fp16-bs1", "accuracy", "torch/top1", 90.0, None, "shown", unit="percent")
    report = collect([factory.run_record("r"), lost, figure])
    assert report.count("not_reached") == report.count("shown") == 1
    page = render_html(report, "en")
    for words in ("not reached", "未执行到", "shown only", "仅供参考"):
        assert words in page
    for language, words in (("en", "not reached"), ("zh", "未执行到")):
        assert words in render_markdown(report, language)
