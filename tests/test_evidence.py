"""Evidence survives the file, other readers, and interruption."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.errors import DataError
from pth2om.evidence import (
    EvidenceFile,
    Finding,
    GateRecord,
    Limit,
    RunRecord,
    StageRecord,
    from_json,
    read,
    to_json,
)
from pth2om.language import say
from pth2om.session import Provenance

RUN = RunRecord("20260101-000000-host", "2026-01-01T00:00:00+00:00", ("pytest", "-k", "x"), {"python": "3.11"})
STAGE = StageRecord(
    "net",
    "fp16-bs1",
    "om",
    "ab" * 32,
    "cd" * 32,
    False,
    1.5,
    Provenance("emulator", "1", "emulated", "Ascend310B1"),
    ("atc", "--model=x.onnx"),
    (Finding("export.frozen", "error", say("export.frozen", distance="1e-1", input=2), "n", {"a": [1]}),),
    {"bytes": 10},
)
GATE = GateRecord(
    "net",
    "fp16-bs1",
    "Ascend310B1",
    "closeness",
    "onnx~om/scores/cosine",
    0.9991,
    "",
    Limit(">=", 0.999),
    "passed",
    "emulated",
    (0.99, 1.0),
    say("pipeline.no-soc"),
    STAGE.provenance,
    {"onnx": "ab"},
    {"worst": "real-3"},
    7,
    True,
    "2026-01-01T00:00:00+00:00",
    "0123456789ab",
)


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    file = EvidenceFile(tmp_path / "run" / "evidence.jsonl")
    file.append([RUN])
    file.append([STAGE, GATE])
    assert list(read(file.path)) == [RUN, STAGE, GATE]


@given(st.floats())
def test_any_float_is_valid_json(value: float) -> None:
    data = to_json(GateRecord("n", "", None, "latency", "c", value, "ms", None, "passed", "host", details={"v": value}))
    back = from_json(json.loads(json.dumps(data, allow_nan=False)))
    assert isinstance(back, GateRecord)
    assert back.measured == value or (math.isnan(value) and math.isnan(back.measured))


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    file = EvidenceFile(tmp_path / "evidence.jsonl")
    file.append([RUN, GATE])
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-20])
    assert list(read(file.path)) == [RUN]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "evidence.jsonl"
    path.write_text('{"kind": "run"\n{}\n')
    with pytest.raises(DataError, match=r"evidence\.jsonl:1"):
        list(read(path))
    path.write_text('{"kind": "gate"}\n\n')
    with pytest.raises(DataError, match=r"evidence\.jsonl:1"):
        list(read(path))


def test_newer_formats_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(DataError, match="Upgrade"):
        from_json({**to_json(RUN), "format": 99})
    with pytest.raises(DataError, match="kind"):
        from_json({"kind": "surprise"})


@pytest.mark.parametrize(
    ("relation", "value", "measured", "holds"),
    [("<=", 1, 1, True), ("<", 1, 1, False), (">=", 1, 0.5, False), (">", 1, 2, True), ("==", 0, 0, True)],
)
def test_limits(relation, value, measured, holds) -> None:
    assert Limit(relation, value).holds(measured) is holds
    assert Limit(relation, value).holds(math.nan) is False


@pytest.mark.parametrize(
    ("limit", "shown"),
    [(0.17, "<= 0.17"), (0.9999999, "<= 0.9999999"), (1.0, "<= 1"), (1e-5, "<= 1e-05"), (0.1 + 0.2, "<= 0.3")],
)
def test_a_limit_is_shown_as_it_was_written(limit, shown) -> None:
    assert str(Limit("<=", limit)) == shown


@given(
    st.sampled_from(["<=", ">=", "==", "<", ">"]),
    st.floats(allow_nan=False, width=32),
    st.floats(-1e-4, 1e-4) | st.floats(),
)
def test_a_measured_value_is_never_rounded_across_its_limit(relation, value, distance) -> None:
    limit = Limit(relation, value)
    measured = value + distance
    assert limit.holds(float(limit.beside(measured))) == limit.holds(measured)
