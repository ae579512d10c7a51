"""Runs merged: a union of sets, whatever the order, and nothing of it is counted twice or lost."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pth2om.errors import DataError
from pth2om.evidence import (
    EndRecord,
    EvidenceFile,
    GateRecord,
    Joined,
    OutcomeRecord,
    Planned,
    PlanRecord,
    Record,
    RunRecord,
    WaiverRecord,
    merge,
    read,
    seals,
)
from pth2om.session import Provenance

EMULATOR = Provenance("emulator", "1", "emulated", "Ascend310B1")
DEVICE = Provenance("cann", "8", "device", "Ascend310B1")
MODELS = ("a", "b", "c")


def item(model: str, soc: str | None = "Ascend310B1") -> Planned:
    return Planned(f"t.py::t[{model}]", model, "fp16-bs1", soc, "accuracy", "accuracy/t", measures=True)


def gate(model: str, value: float = 0.0, **more: object) -> GateRecord:
    given: dict[str, object] = {
        "verdict": "shown", "ground": "emulated", "provenance": EMULATOR, "digests": {"om": model * 64},
    } | more  # fmt: skip
    verdict, ground = given.pop("verdict"), given.pop("ground")
    return GateRecord(
        model, "fp16-bs1", "Ascend310B1", "accuracy", "om/drop", value, "points", None, verdict, ground, **given
    )


def shard(folder: Path, number: int, *records: Record, soc: str = "Ascend310B1", end: bool = True) -> Path:
    """Shard ``number`` of 3: it has the model of that number."""
    own = MODELS[number]
    others = tuple(item(model, soc).row for model in MODELS if model != own)
    file = EvidenceFile(folder / "evidence.jsonl")
    run = RunRecord(folder.name, f"2026-01-01T0{number}:00:00+00:00", ("pytest",), {})
    file.append([run, PlanRecord((item(own, soc),), soc, f"{number + 1}/3", others)])
    file.append(records)
    if end:
        file.append([OutcomeRecord(item(own).item, "passed", 1.0)])
        file.append([EndRecord(file.records)])
    return file.path


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return [shard(tmp_path / f"s{number}", number, gate(model)) for number, model in enumerate(MODELS)]


def test_merging_is_a_union(shards: list[Path], tmp_path: Path) -> None:
    whole = merge(shards)
    for order in itertools.permutations(shards):
        assert merge([*order, *order[:2]]).text == whole.text
    partly = tmp_path / "partly.jsonl"
    partly.write_bytes(merge(shards[1:]).text)
    assert merge([partly, shards[0]]).text == merge([shards[0], partly, shards[2]]).text == whole.text
    file = tmp_path / "whole.jsonl"
    file.write_bytes(whole.text)
    assert merge([file]).text == whole.text
    assert seals(file) == whole.seals == tuple(sorted(itertools.chain(*map(seals, shards))))
    # Each line of a run is in it as it was written.
    assert set(whole.text.splitlines()[1:]) == {line for one in shards for line in one.read_bytes().splitlines()}
    joined = Joined().take(read(file))
    assert sorted(one.model for one in joined.gates) == list(MODELS)
    assert joined.coverage.ended
    assert joined.coverage.planned == []


def test_the_ends_of_lines_do_not_make_another_run(shards: list[Path], tmp_path: Path) -> None:
    whole, copy = merge(shards), tmp_path / "copy.jsonl"
    copy.write_bytes(shards[0].read_bytes().replace(b"\n", b"\r\n").rstrip())
    assert merge([copy, *shards]).text == merge([*shards, copy]).text == merge([copy, *shards[1:]]).text == whole.text


def test_a_file_without_a_run_is_named(shards: list[Path], tmp_path: Path) -> None:
    """A job that was killed at its very beginning leaves one."""
    (tmp_path / "empty.jsonl").touch()
    merged = merge([tmp_path / "empty.jsonl", *shards])
    assert merged.text == merge(shards).text
    assert merged.empty == (str(tmp_path / "empty.jsonl"),)
    assert merge(shards).empty == ()


def test_what_no_shard_reported_is_named(shards: list[Path]) -> None:
    coverage = merge([shards[0], shards[2]]).joined.coverage
    assert [each.item for each in coverage.planned] == ["t.py::t[b]"]
    (lost,) = coverage.unreached
    assert (lost.model, lost.variant, lost.verdict) == ("b", "fp16-bs1", "not_reached")
    alone = Joined().take(read(shards[0])).coverage
    assert alone.is_shard
    assert alone.planned == []


def test_a_killed_run_and_the_one_that_went_on_are_whole(tmp_path: Path) -> None:
    killed = shard(tmp_path / "k", 0, gate("a", verdict="not_measured"), end=False)
    assert not merge([killed]).joined.coverage.ended
    again = shard(tmp_path / "again", 0, gate("a", 1.5))
    joined = merge([killed, again, *[shard(tmp_path / m, n, gate(m)) for n, m in ((1, "b"), (2, "c"))]]).joined
    assert joined.coverage.ended
    assert joined.coverage.planned == []
    assert [one.measured for one in joined.gates if one.model == "a"] == [1.5]


def test_a_run_read_while_it_was_written_counts_once(shards: list[Path], tmp_path: Path) -> None:
    early = tmp_path / "early.jsonl"
    early.write_bytes(b"".join(shards[0].read_bytes().splitlines(keepends=True)[:3])[:-9])
    assert merge([early, *shards]).text == merge(shards).text


def test_shards_for_two_chips_have_tests_of_the_same_names(tmp_path: Path) -> None:
    one = [shard(tmp_path / m, n, gate(m)) for n, m in enumerate(MODELS)]
    other = [shard(tmp_path / f"{m}3", n, soc="Ascend310P3") for n, m in enumerate(MODELS)]
    assert merge([*one, *other]).joined.coverage.planned == []
    assert [each.soc for each in merge([*one, *other[1:]]).joined.coverage.planned] == ["Ascend310P3"]


@pytest.mark.parametrize("ground", ["emulated", "device"])
def test_mixed_digests_of_one_id_are_refused_in_any_order(tmp_path: Path, ground: str) -> None:
    made_by = DEVICE if ground == "device" else EMULATOR
    other = gate("a", ground=ground, provenance=made_by, digests={"om": "f" * 64})
    files = [shard(tmp_path / "x", 0, gate("a")), shard(tmp_path / "y", 0, other)]
    told = set()
    for order in (files, files[::-1]):
        with pytest.raises(DataError, match=r"om.*aaaaaaaaaaaa in x, ffffffffffff in y") as caught:
            merge(order)
        told.add(str(caught.value))
    assert len(told) == 1


def test_two_runs_of_one_name_are_two_runs(tmp_path: Path) -> None:
    """Shards that begin in the same second on two machines have the same name."""
    other = gate("a", digests={"om": "f" * 64})
    files = [shard(tmp_path / "1" / "x", 0, gate("a")), shard(tmp_path / "2" / "x", 0, other)]
    with pytest.raises(DataError, match=r"aaaaaaaaaaaa in x, ffffffffffff in x"):
        merge(files)


def test_a_failure_is_waived_only_where_every_run_waives_it(tmp_path: Path) -> None:
    waived = gate("a", verdict="failed", details={"waived": {"owner": "Li Wei"}})
    files = [shard(tmp_path / name, 0, one) for name, one in (("x", waived), ("y", gate("a", verdict="failed")))]
    for order in (files, files[::-1], files[:1] * 2):
        (kept,) = merge(order).joined.gates
        assert ("waived" in kept.details) == (order[0] == order[1])


def test_each_ground_is_kept(tmp_path: Path) -> None:
    device = gate("a", 2.0, ground="device", provenance=DEVICE)
    joined = merge([shard(tmp_path / "x", 0, gate("a")), shard(tmp_path / "y", 0, device)]).joined
    assert {(one.ground, one.measured) for one in joined.gates} == {("emulated", 0.0), ("device", 2.0)}


@settings(max_examples=30, deadline=None)
@given(st.permutations(["failed", "inconclusive", "passed", "shown", "not_measured", "not_reached"]))
def test_of_one_gate_in_two_runs_the_worse_measurement_counts(tmp_path_factory, verdicts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("v")
    first, second = verdicts[:2]
    files = [shard(folder / v, 0, gate("a", verdict=v)) for v in (first, second)]
    (kept,) = merge(files).joined.gates
    order = ["failed", "inconclusive", "passed", "shown", "not_measured", "not_reached"]
    assert kept.verdict == min((first, second), key=order.index)


def test_a_waiver_that_one_shard_used_is_used(tmp_path: Path) -> None:
    waiver = WaiverRecord("a/*", "accuracy", "Li Wei", "2026-12-31", 30)
    files = [
        shard(tmp_path / "x", 0, dataclasses.replace(waiver, used=True)),
        shard(tmp_path / "y", 1, waiver),
    ]
    assert [one.used for one in merge(files).joined.waivers] == [True]


@pytest.mark.parametrize("edit", ["drop", "swap", "digest", "twice", "head"])
def test_a_merged_file_cannot_lose_or_change_a_run(shards: list[Path], tmp_path: Path, edit: str) -> None:
    head, *lines = merge(shards).text.splitlines(keepends=True)
    lengths = len(lines) // 3
    runs = [lines[n * lengths : (n + 1) * lengths] for n in range(3)]
    edited = {
        "drop": [head, *runs[0], *runs[1]],
        "swap": [*runs[0], head, *runs[1], *runs[2]],
        "digest": [head.replace(b'["', b'["0', 1), *lines],
        "twice": [head, *lines, *runs[0]],
        "head": [head, head, *lines],
    }[edit]
    file = tmp_path / "m.jsonl"
    file.write_bytes(b"".join(edited))
    with pytest.raises(DataError):
        list(read(file))


def test_runs_without_digests_are_not_merged(tmp_path: Path) -> None:
    file = tmp_path / "old.jsonl"
    file.write_text('{"run": "r", "started": "", "command": [], "environment": {}, "format": 1, "kind": "run"}\n')
    with pytest.raises(DataError, match="no digests"):
        merge([file])
    file.write_text("")
    with pytest.raises(DataError):
        merge([file])
