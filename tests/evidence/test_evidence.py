"""Evidence survives the file, other readers, and interruption."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.errors import DataError
from pth2om.evidence import (
    Coverage,
    EndRecord,
    EvidenceFile,
    Finding,
    GateRecord,
    Limit,
    OutcomeRecord,
    Planned,
    PlanRecord,
    RunRecord,
    StageRecord,
    from_json,
    read,
    to_json,
)
from pth2om.evidence.reading import from_line
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


PLAN = PlanRecord(tuple(Planned(f"t.py::t[{name}]", name, "fp16-bs1", None, "accuracy", "accuracy/t") for name in "ab"))
WHOLE = [RUN, PLAN, STAGE, GATE, OutcomeRecord("t.py::t[a]", "passed", 0.1), EndRecord(5)]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    file = EvidenceFile(tmp_path / "evidence.jsonl")
    for record in WHOLE:
        file.append([record])
    assert list(read(file.path)) == WHOLE
    return file.path


@pytest.mark.parametrize("index", range(len(WHOLE)))
@pytest.mark.parametrize("edit", ["space", "drop", "twice", "digit"])
def test_no_line_can_be_changed_dropped_or_repeated(written: Path, index: int, edit: str) -> None:
    lines = written.read_bytes().splitlines(keepends=True)
    line = lines[index]
    lines[index] = {
        "space": line.replace(b", ", b",  ", 1),
        "drop": b"",
        "twice": line * 2,
        "digit": line.replace(b'"kind"', b'"x": 1, "kind"'),
    }[edit]
    written.write_bytes(b"".join(lines))
    if (index, edit) == (len(WHOLE) - 1, "drop"):  # a file cut off whole lines later is a run that did not end
        coverage = Coverage()
        coverage.take(read(written))
        assert not coverage.ended
        return
    if (index, edit) == (0, "twice"):  # a run that was killed after its first line, then another
        return
    with pytest.raises(DataError, match=r"evidence\.jsonl:\d"):
        list(read(written))


def test_two_files_one_after_the_other_are_evidence(written: Path) -> None:
    written.write_bytes(written.read_bytes() * 2)
    assert list(read(written)) == WHOLE * 2


def test_what_has_no_outcome_was_not_reached() -> None:
    coverage = Coverage()
    coverage.take(WHOLE[:-1])
    assert not coverage.ended
    (gate,) = coverage.unreached
    assert (gate.model, gate.question, gate.verdict, gate.measured) == ("b", "accuracy", "not_reached", None)
    coverage.take(WHOLE[-1:])
    assert coverage.ended


FORGED = {
    "verdict": dataclasses.replace(GATE, measured=0.9, verdict="passed"),
    "ground": dataclasses.replace(GATE, ground="device"),
    "unmeasured": dataclasses.replace(GATE, measured=None),
    "unknown": dataclasses.replace(GATE, ground="device", provenance=None),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_record_that_contradicts_itself_is_refused(tmp_path: Path, forged: GateRecord) -> None:
    file = EvidenceFile(tmp_path / "evidence.jsonl")
    file.append([RUN, forged])
    with pytest.raises(DataError, match=r"evidence\.jsonl:2"):
        list(read(file.path))


def test_a_run_holds_a_gate_once(tmp_path: Path) -> None:
    file = EvidenceFile(tmp_path / "evidence.jsonl")
    other = dataclasses.replace(GATE, details={"dataset": "coco"})
    assert other.id == "net/fp16-bs1/Ascend310B1/closeness/onnx~om/scores/cosine@coco"
    file.append([RUN, GATE, other])
    assert len(list(read(file.path))) == 3
    file.append([other])
    with pytest.raises(DataError, match="twice"):
        list(read(file.path))


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = EvidenceFile(tmp_path / "evidence.jsonl")
    file.append([RUN])
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("pth2om.evidence.file.SYNC_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="space"):
        file.append([PLAN])
    monkeypatch.undo()
    file.append([GATE])
    assert list(read(file.path)) == [RUN, GATE]


def test_lines_are_written_at_once_and_the_disk_is_waited_for_once_a_second_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, synced = [100.0], []
    monkeypatch.setattr("pth2om.evidence.file.time.monotonic", lambda: now[0])
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(now[0]))
    file = EvidenceFile(tmp_path / "evidence.jsonl")
    for moment in (100.0, 100.2, 100.9, 101.5, 101.6):
        now[0] = moment
        file.append([RUN])
        assert len(list(read(file.path))) == file.records
    assert synced == [100.0, 101.5]
    file.append([EndRecord(file.records, False)])
    assert synced == [100.0, 101.5, 101.6]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(WHOLE), st.data())
def test_any_value_in_any_place_is_a_record_or_one_sentence(record, data) -> None:
    row = to_json(record)
    row[data.draw(st.sampled_from(sorted(set(row) - {"kind"})))] = data.draw(JSON)
    try:
        back = from_json(row)
    except DataError:
        return
    assert from_json(to_json(back)) == back


DAMAGED = [
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"kind": "gate", "seed": ' + b"9" * 5000 + b"}",
    b"\xff\xfe",
    b"{}",
    b"[]",
    b"null",
    b'{"kind": []}',
    b'{"kind": "run", "format": "x"}',
]


@pytest.mark.parametrize("line", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_line_is_one_sentence(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "evidence.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(DataError, match=r"evidence\.jsonl:1"):
        list(read(path))


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8) | st.just("NaN"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(to_json(GATE))), _values, st.booleans())
def test_the_fast_reader_makes_what_the_careful_one_makes(field, value, twice):
    """A line is read straight into a record; whatever that refuses, or would read otherwise, the other one decides."""
    data = {**to_json(GATE), field: value}
    kind = data.pop("kind")
    text = json.dumps(data | {"kind": kind})
    line = (text[:-1] + f', {json.dumps(field)}: {json.dumps(value)}, "kind": "gate"}}' if twice else text).encode()
    fast = from_line("gate", line)
    try:
        careful = from_json(json.loads(line))
    except DataError:
        careful = None
    assert repr(fast) == repr(careful)
