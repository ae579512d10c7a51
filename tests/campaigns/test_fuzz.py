"""The fuzz campaign: a few inputs of every reader always, the whole of it at night."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pth2om.errors import Pth2omError
from tests.campaigns import fuzz
from tests.campaigns.fuzz_readers import READERS


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_answered_by_one_sentence(name: str, tmp_path: Path) -> None:
    assert [fault for number in range(6) if (fault := fuzz.one(name, 7, number, tmp_path))] == []


@pytest.mark.parametrize("name", sorted(set(READERS) - {"evidence"}))
def test_the_good_inputs_are_read(name: str, tmp_path: Path) -> None:
    """Or else nothing behind the first check would ever be reached."""
    reader = READERS[name]
    path = tmp_path / reader.name
    read = 0
    for seed in reader.seeds():
        path.write_bytes(seed)
        try:
            reader.read(path)
            read += 1
        except Pth2omError:
            pass  # a dataset whose images are not bundled
    assert read >= 1


def test_an_input_is_made_of_its_number_alone() -> None:
    for name, reader in READERS.items():
        assert fuzz.damaged(reader, name, 1, 5) == fuzz.damaged(reader, name, 1, 5)


def test_hangs_crashes_and_tracebacks_are_faults_and_batches_are_done_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = (
        "import time, os, json, sys\nfor n in range({first}, 4):\n    print(json.dumps({{'begin': n}}), flush=True)\n"
    )
    faulty += "    time.sleep(60 if n == 1 else 0)\n    n != 2 or os._exit(3)\n"
    faults: list[fuzz.Fault] = []
    monkeypatch.setattr(fuzz, "SECONDS", 0.5)
    first = 0
    while first < 4:
        command = [sys.executable, "-c", faulty.format(first=first)]
        first = fuzz._watched(command, "log", first, 4, faults)
    assert [(fault.number, fault.kind) for fault in faults] == [(1, "hang"), (2, "crash")]
    monkeypatch.setattr(fuzz, "BATCH", 100)
    monkeypatch.setattr(fuzz, "_batch", lambda *batch: [fuzz.Fault(batch[0], batch[2], "slow", "x")])
    assert len(fuzz.campaign(tmp_path, 200, 0, ["log"])) == 2
    assert len(list(tmp_path.glob("log-*.log"))) == 2
    monkeypatch.setattr(fuzz, "_batch", lambda *batch: pytest.fail("done already"))
    assert len(fuzz.campaign(tmp_path, 200, 0, ["log"])) == 2


@pytest.mark.nightly
def test_a_hundred_thousand_damaged_files(tmp_path: Path) -> None:
    assert fuzz.campaign(tmp_path, 100_000, 20, list(READERS)) == []
