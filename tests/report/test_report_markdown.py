from __future__ import annotations

import re
from dataclasses import replace

from pth2om.evidence import GateRecord
from pth2om.language import Message
from pth2om.report import collect
from pth2om.report.markdown import render_markdown


def tables(text):
    """Every table as a list of rows of cells."""
    found, current = [], None
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            current = [*(current or []), cells]
        elif current:
            found.append(current)
            current = None
    return found


def rows_with(text, word):
    return [row for table in tables(text) for row in table[2:] if word in row[0]]


def test_the_newer_table_has_modelzoos_columns(small):
    heads = [table[0] for table in tables(render_markdown(collect(small), "zh"))]
    assert ["芯片型号", "Batch Size", "数据集", "精度", "性能"] in heads
    heads = [table[0] for table in tables(render_markdown(collect(small), "en"))]
    assert ["Chip", "Batch Size", "Dataset", "Accuracy", "Performance"] in heads


def test_tables_are_rectangular(small):
    for language in ("en", "zh"):
        for table in tables(render_markdown(collect(small), language)):
            assert len({len(row) for row in table}) == 1


def test_device_columns_hold_device_figures_only(small):
    text = render_markdown(collect(small), "en")
    rows = rows_with(text, "Ascend310B1")
    origin = next(row for row in rows if row[3].startswith("top1"))
    assert origin == ["Ascend310B1", "1", "cifar10\\_249", "top1 90.36 (249)", "2427.18 fps"]
    for row in rows:
        if row is not origin:
            assert row[3] == "–" or row[3].startswith("not measured (emulated: ")
            assert row[4] == "not measured"


def test_a_count_of_images_is_no_accuracy(factory):
    emulated = factory.EMULATOR
    counted = {"dataset": "d", "images": 9, "reference": 0, "candidate": 0}
    scored = factory.drop("m", "fp16-bs1", "d", "dice", 9, 90.0, 89.5, (0.0, 1.0), "passed", emulated)
    lost = factory.gate(
        "m", "fp16-bs1", "accuracy", "om/unreadable", 0.0, None, "passed", emulated, unit="images", details=counted
    )
    rows = rows_with(render_markdown(collect([scored, lost]), "en"), "Ascend310B1")
    assert [row[3] for row in rows] == ["not measured (emulated: dice 89.5 (9))"]


def test_builds_of_one_precision_have_tables_of_their_own(factory):
    names = ("fp16-bs1", "fp16-bs4", "fp16-bs1-aipp")
    gates = [factory.gate("m", name, "preflight", "preflight/errors", 0.0, None, "passed") for name in names]
    heads = [line for line in render_markdown(collect(gates), "en").splitlines() if line.startswith("### ")]
    assert heads == ["### fp16", "### fp16 aipp"]


def test_the_older_table_has_both_sides(small):
    text = render_markdown(collect(small), "zh")
    table = next(table for table in tables(text) if table[0][0] == "模型" and "离线" in table[0][2])
    assert table[0] == ["模型", "pth精度（本次实测）", "Ascend310B1离线推理精度", "基准性能", "Ascend310B1性能"]
    row = next(row for row in table[2:] if "fp16" in row[0])
    assert row[1] == "mAP50-95 26.47 (141)"
    assert row[2] == "未实测（模拟：mAP50-95 24.92 (141)）"
    assert row[4] == "未实测"


def test_the_older_table_names_a_model_that_starts_from_an_onnx_file(small):
    records = [
        replace(record, details={**record.details, "original": "onnx"})
        if isinstance(record, GateRecord) and record.question == "accuracy"
        else record
        for record in small
    ]
    text = render_markdown(collect(records), "zh")
    table = next(table for table in tables(text) if table[0][0] == "模型" and "离线" in table[0][2])
    assert "ONNX: mAP50-95 26.47 (141)" in {row[1] for row in table[2:]}


def test_failures_end_with_what_to_do(small):
    text = render_markdown(collect(small), "en")
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(lines) == collect(small).count("failed") > 0
    assert all(" → " in line for line in lines)


def test_hostile_names_cannot_leave_their_cell(factory):
    word = "a|b\n<script>[x](javascript:y)`*_#"
    one = factory.drop(word, "fp16-bs1", word, word, 3, 1.0, 0.5, None, "failed", factory.EMULATOR)
    text = render_markdown(collect([factory.run_record(word), one]), "en")
    assert "<script" not in text
    assert "](" not in text.replace("\\](", "")
    for table in tables(text):
        assert len({len(row) for row in table}) == 1


def test_a_count_of_broken_outputs_is_no_accuracy(small):
    """Another gate of the same question has a row of its own only where it is a figure of accuracy."""
    scored = next(
        record
        for record in small
        if isinstance(record, GateRecord) and record.question == "accuracy" and record.ground != "host"
    )
    details = {"dataset": scored.details["dataset"], "images": 249, "reference": 0, "candidate": 0}
    broken = replace(scored, check="om/unreadable", measured=0.0, unit="images", interval=None, details=details)
    with_it = render_markdown(collect([*small, broken]), "en")
    assert "unreadable" not in with_it
    assert len(rows_with(with_it, "Ascend310B1")) == len(
        rows_with(render_markdown(collect(small), "en"), "Ascend310B1")
    )


def test_what_the_comparison_found_besides_failures_is_listed(factory):
    found = [
        factory.gate(
            "net", "fp16-bs1", "regression", check, None, None, verdict, factory.EMULATOR, message=Message(key, values)
        )
        for check, verdict, key, values in (
            ("regression/unchanged", "passed", "release.unchanged", {"count": 7}),
            ("regression/first-changed", "shown", "release.changed-onnx", {"what": "opset <b>"}),
            ("accuracy/top1/drop", "inconclusive", "release.count-changed", {"before": "1", "after": "2"}),
            ("latency/om/median_ms", "not_measured", "release.other-machine", {"before": "a", "after": "b"}),
            ("closeness/worse", "failed", "release.worse", {"before": "3"}),
        )
    ]
    text = render_markdown(collect([factory.run_record(), *found]), "en")
    section = text.partition("## Regression\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("- ")]
    assert [line.partition("**")[2].split()[1].rstrip("\\") for line in lines] == [
        "accuracy/top1/drop", "latency/om/median\\_ms", "regression/first-changed", "regression/unchanged",
    ]  # fmt: skip
    assert "machine a" in section
    assert "7 figures" in section
    assert "<b>" not in section
    assert all("emulated" in line for line in lines)
