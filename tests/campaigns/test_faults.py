"""A share of the campaign of injected faults, at night."""

from __future__ import annotations

import random

import pytest

from tests.campaigns import faults


@pytest.mark.nightly
def test_no_fault_hangs_leaks_or_lies(tmp_path, monkeypatch):
    for name in ("ASCEND_HOME_PATH", "PTH2OM_BOARD_PYTHON", "PTH2OM_BOARD_CACHE", "PTH2OM_LEASE_DIR", "TMPDIR"):
        monkeypatch.setenv(name, "")  # put back afterwards
    monkeypatch.setenv("PTH2OM_SSH_CONFIG", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = list(faults.campaign(tmp_path, range(40), 0))
    assert len(found) == 40
    assert [text for each in found for text in each.wrong] == []


def test_each_fault_is_expected_in_one_place_at_least() -> None:
    """A campaign whose faults expect nothing could not fail."""
    generator = random.Random(0)
    drawn = [faults.draw(generator) for _ in range(300)]
    silent = [fault for fault in drawn if not any(fault.expected(streamed=False).values())]
    assert {fault.do for fault in silent} == {"print"}
    assert {fault.where for fault in drawn} == {"execute", "load_from_file", "init", "exit", "finalize", "link"}
