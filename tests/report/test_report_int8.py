"""What the page says of INT8: from a quantized stage and the gates of both levels."""

from __future__ import annotations

import dataclasses
import re

import pytest

from pth2om.evidence import Finding, Limit
from pth2om.language import Message
from pth2om.report import collect, cost, int8, plots
from pth2om.report.html import Links, render_html
from pth2om.report.markdown import render_markdown

LAYERS = [
    {
        "name": "/conv1/Conv",
        "kind": "Conv",
        "int8": False,
        "reason": "quantize.left-float",
        "values": {"channels": 3},
        "rolls_back": True,
    },
    {
        "name": "/conv2/Conv",
        "kind": "Conv",
        "int8": True,
        "reason": "",
        "values": {},
        "scale": 0.0185,
        "offset": -128,
        "low": 0.0,
        "high": 4.7,
        "clipped": 0.0005,
        "weight_sqnr_db": 41.8,
        "input_sqnr_db": 45.1,
        "exact": True,
        "rolls_back": False,
    },
]
DETAILS = {
    "layers": LAYERS,
    "errors": [{"layer": "/conv2/Conv", "tensor": "t", "sqnr_db": 37.25, "cosine": 1.0, "largest": 0.1}],
    "pictures": {"/conv2/Conv": {"edges": [0, 1, 2, 3, 4.7], "counts": [90, 9, 1, 1], "low": 0.0, "high": 4.0}},
    "settings": {"activations": "mse", "weights": "arq"},
    "dataset": "cifar10_249",
    "images": 32,
    "calibration_digest": "ba3d" * 16,
    "random_calibration": False,
    "proof": [],
}


@pytest.fixture
def records(factory):
    close = [
        factory.gate(
            "net", "int8-bs1", "closeness", f"onnx~{side}/scores/cosine", value, Limit(">=", 0.99), "passed", made
        )
        for side, value, made in (("fake-quant", 0.9985, factory.HOST), ("om", 0.9971, factory.EMULATOR))
    ]
    path = "/store/quantized/abc/int8_as_fp32.pth"
    way_back = factory.gate(
        "net",
        "int8-bs1",
        "quantization",
        "fp32-checkpoint/tensors",
        97.0,
        Limit(">", 0),
        "passed",
        details={"path": path},
    )
    counts = {"differing": 0, "values": 10, "exact": 1, "layers": 1}
    equal = factory.gate(
        "net", "int8-bs1", "quantization", "quantized/twin-differing", 0.0, Limit("==", 0), "passed", details=counts
    )
    return [factory.stage("net", "int8-bs1", "quantized", details=DETAILS), *close, equal, way_back]


def card_of(records):
    return next(card for card in collect(records).cards if card.variant == "int8-bs1")


def test_layers_levels_and_the_way_back(records) -> None:
    found = int8.section(card_of(records))
    assert found is not None
    assert [(layer.name, layer.int8, layer.output_db) for layer in found.layers] == [
        ("/conv1/Conv", False, None),
        ("/conv2/Conv", True, 37.25),
    ]
    assert found.layers[0].reason is not None
    assert found.layers[0].reason.key == "quantize.left-float"
    assert found.count == 1
    (level,) = found.levels
    assert (level.name, level.metric) == ("scores", "cosine")
    assert (level.twin.measured, level.om.measured) == (0.9985, 0.9971)
    assert found.pictures[0].span == (0.0, 4.0)
    assert found.calibration == int8.Calibration("cifar10_249", 32, "ba3d" * 16, False, False, "mse", "arq")
    assert [(reason.key, names) for reason, names in found.floating] == [("quantize.left-float", ("/conv1/Conv",))]


def test_the_page_shows_them(records) -> None:
    page = render_html(collect(records), "en", Links())
    for text in (
        "INT8, layer by layer",
        "1 of 2 candidate layers are INT8",
        "Calibrated on 32 images of cifar10_249.",
        "with 3 input channels",
        "37.2",
        "0.0185",
        "-128",
        "0.9985",
        "0.9971",
        "/store/quantized/abc/int8_as_fp32.pth",
        "so its score does not include their loss",
        "激活仍为 FP32",
        "the same 10 output values, bit for bit",
        "In 1 of 1 INT8 layers",
    ):
        assert text in page, text
    # The raw dump of the stage's details does not repeat what the section draws.
    assert "errors" not in re.findall(r"<td class=soft>([^<]*)", page)
    assert "sqnr_db" not in page


def test_layers_are_shown_once_and_linked_from_the_other_build(records, factory) -> None:
    aipp = factory.gate(
        "net", "int8-bs1-aipp", "closeness", "onnx~om/scores/cosine", 0.997, Limit(">=", 0.99), "passed",
        factory.EMULATOR,
    )  # fmt: skip
    report = collect([*records, aipp])
    build = next(card for card in report.cards if card.variant == "int8-bs1-aipp")
    found = int8.section(build)
    assert found is not None
    assert found.layers == ()
    assert found.origin.name == "net-int8-bs1"
    assert found.calibration.images == 32
    page = render_html(report, "en", Links())
    assert page.count("All candidate layers") == 1
    assert re.search(r'Compiled from the same INT8 model.*<a href="#c\d+">net-int8-bs1</a>', page, re.DOTALL)
    # Only the build with AIPP was asked for: the layers are in its own card.
    alone = collect([records[0], aipp])
    assert [card.name for card in alone.cards] == ["net-int8-bs1-aipp"]
    assert int8.section(alone.cards[0]).layers


def test_what_calibrated_is_said(records, factory) -> None:
    finding = Finding("pipeline.calibrated-on-scored", "info", Message("pipeline.calibrated-on-scored"))
    scored = factory.stage("net", "int8-bs1", "quantized", details=DETAILS, findings=(finding,))
    drop = factory.gate(
        "net", "int8-bs1", "accuracy", "om/top1/drop", 0.1, Limit("<=", 1), "passed", factory.EMULATOR,
        details={"dataset": "cifar10_249", "reference": 90.0, "candidate": 89.9, "images": 249}, interval=(-0.1, 0.4),
    )  # fmt: skip
    page = render_html(collect([scored, drop]), "en", Links())
    assert "among the scored ones" in page
    assert "may be too optimistic" in page
    assert "ba3d" * 4 in page
    assert "may be too optimistic" not in render_html(collect(records), "en", Links())
    random = factory.stage("net", "int8-bs1", "quantized", details={**DETAILS, "random_calibration": True})
    page = render_html(collect([random, drop]), "en", Links())
    assert "Calibrated on random numbers, not on data" in page
    assert "random numbers: all figures are meaningless" in page
    assert "Calibrated on 32 images" not in page


def test_what_int8_costs_comes_first(factory) -> None:
    def gate(side, candidate, made=factory.HOST, variant="int8-bs1"):
        details = {"dataset": "dots", "reference": 90.25, "candidate": candidate, "images": 200, "images_needed": 300}
        found = factory.gate(
            "net", variant, "accuracy", f"{side}/top1/drop", 90.25 - candidate, Limit("<=", 1), "inconclusive", made,
            unit="points", details=details, interval=(-0.5, 1.5),
        )  # fmt: skip
        return dataclasses.replace(found, soc=factory.SOC)

    gates = [gate("fake-quant", 89.75), gate("om", 89.5, factory.EMULATOR), gate("int8-weights", 90.0)]
    reason = Message("pipeline.weights-absent", {"file": "other.pth", "model": "net"})
    unknown = factory.gate("net", "int8-bs4", "accuracy", "accuracy/x", None, None, "not_measured", message=reason)
    first, second = cost.costs([*gates, unknown])
    assert (first.reference, first.score(first.weights), first.score(first.twin), first.score(first.om)) == (
        90.25,
        90.0,
        89.75,
        89.5,
    )
    line = first.line("en")
    for words in ("net-int8-bs1 +0.75 points of top1", "-0.50 to +1.50", "about 300 images", "unproven"):
        assert words in line
    assert "other.pth" in second.line("en")
    (alone,) = cost.costs(gates[:1])
    assert "no OM" in alone.line("en")
    assert cost.costs([gate("om", 89.5, variant="fp16-bs1")]) == []
    # As prose in results.md, in its own language throughout.
    report = collect([*gates, unknown])
    assert "## The loss from INT8" in render_markdown(report, "en")
    chinese = render_markdown(report, "zh")
    assert "约需 300 张图片" in chinese
    assert "未经证实）" in chinese
    assert "emulated" not in chinese
    page = render_html(report, "en", Links())
    assert page.index("The loss from INT8") < page.index("Models and questions")
    assert "about 300 images would settle it" in page


def test_a_card_without_int8_has_no_section(small) -> None:
    for card in collect(small).cards:
        if not card.variant.startswith("int8"):
            assert int8.section(card) is None


def test_a_model_that_came_quantized_is_not_said_to_be_calibrated_here(factory) -> None:
    details = {name: value for name, value in DETAILS.items() if name not in ("settings", "calibration_digest")}
    stage = factory.stage(
        "net", "int8-bs1", "quantized", details={**details, "dataset": "", "images": 0, "quantized_by": "given.onnx"}
    )
    drop = factory.gate("net", "int8-bs1", "accuracy", "om/top1/drop", 0.0, Limit("<=", 1), "passed")
    page = render_html(collect([stage, drop]), "en", Links())
    assert "Quantized by given.onnx." in page
    assert "Calibrated on 0" not in page
    assert "Ranges of activations by" not in page
    assert "not used for scoring" not in page
    assert "0 images" not in page


@pytest.mark.parametrize(
    "details",
    [
        {"layers": "x", "errors": 5, "pictures": []},
        {"layers": [None, {"name": 3}, {"name": "a", "scale": "NaN", "clipped": "x", "reason": {}, "values": []}]},
        {"layers": LAYERS, "errors": [{"layer": "/conv2/Conv", "sqnr_db": "Infinity"}]},
        {"pictures": {"a": {"edges": [0, 0], "counts": [1], "low": 1, "high": 0}, "b": {"edges": 1}}},
        {"pictures": {"a": {"edges": [0, 1], "counts": [1], "low": "NaN", "high": "Infinity"}}},
        {"settings": 1, "dataset": ["x"], "images": None},
    ],
)
def test_damaged_details_never_stop_the_page(factory, details) -> None:
    records = [
        factory.stage("net", "int8-bs1", "quantized", details=details),
        factory.gate("net", "int8-bs1", "accuracy", "om/top1/drop", 0.0, Limit("<=", 1), "passed"),
    ]
    assert "INT8" in render_html(collect(records), "en", Links())


def test_many_layers_are_cut(factory) -> None:
    layers = [{**LAYERS[1], "name": f"layer{number}"} for number in range(1000)]
    stage = factory.stage("net", "int8-bs1", "quantized", details={"layers": layers})
    page = render_html(collect([stage]), "en", Links())
    assert page.count("<td>INT8") == int8.MOST_LAYERS
    assert "600 more are in evidence.jsonl" in page


def test_what_a_range_clips_is_shaded() -> None:
    svg = str(plots.histogram([0, 1, 2, 3, 4], [5, 4, 3, 2], 200, 70, (0.0, 3.0)))
    shaded, lines = re.search(r'class=x d="([^"]*)"', svg), re.search(r'class=l d="([^"]*)"', svg)
    assert shaded[1] == "M0 0H0.0V54H0zM150.0 0H200V54H150.0z"
    assert lines[1] == "M0.0 0V54M150.0 0V54"
    # A range wider than the data widens the axis.
    wide = str(plots.histogram([0, 1], [1], 200, 70, (-1.0, 3.0)))
    assert re.search(r'class=b d="M50\.0 ', wide)
    assert plots.histogram([0, 1], [1], 200, 70, (0.0, float("inf"))) == ""


def test_noise_is_drawn_from_zero() -> None:
    svg = str(plots.noises([plots.Noise(1, "a<b", 40.0, 42.0, 44.0), plots.Noise(5, "c", 20.0, None, None)]))
    heights = [float(up) for up in re.findall(r"class=b d=\"M[\d.]+ 134V([\d.]+)", svg)]
    assert (134 - heights[1]) / (134 - heights[0]) == pytest.approx(0.5, abs=0.01)
    assert "a&lt;b" in svg
    assert ">5</text>" in svg
    assert plots.noises([]) == ""
    assert plots.noises([plots.Noise(1, "a", None, float("nan"), None)]) == ""


def test_advice_for_int8_is_about_quantization(factory) -> None:
    limit = Limit(">=", 0.99)
    moved = factory.gate(
        "net", "int8-bs1", "closeness", "onnx~om/scores/cosine", 0.9, limit, "failed", factory.EMULATOR
    )
    float_moved = factory.gate(
        "net", "fp16-bs1", "closeness", "onnx~om/scores/cosine", 0.9, limit, "failed", factory.EMULATOR
    )
    assert "quantize.skip" in render_html(collect([moved]), "en", Links())
    assert "quantize.skip" not in render_html(collect([float_moved]), "en", Links())


def test_a_sentence_that_tells_all_stands_alone(factory) -> None:
    values = {"name": "scores", "metric": "cosine", "measured": 0.9, "limit": 0.99, "sample": "zeros"}
    gate = factory.gate(
        "net",
        "fp16-bs1",
        "closeness",
        "onnx~om/scores/cosine",
        0.9,
        Limit(">=", 0.99),
        "failed",
        message=Message("compare.too-low", values),
    )
    page = render_html(collect([gate]), "en", Links())
    assert "cosine of scores is 0.9, below 0.99; worst on zeros." in page
    assert "measured 0.9" not in page
    silent = factory.gate("net", "fp16-bs1", "closeness", "a~b/c/cosine", 0.9, Limit(">=", 0.99), "failed")
    assert "measured 0.9" in render_html(collect([silent]), "en", Links())
