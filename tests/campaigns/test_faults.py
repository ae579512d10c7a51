"""A share of the campaign of injected faults, at night."""

from __future__ import annotations

import pytest

from tests.campaigns import faults


@pytest.mark.nightly
def test_no_fault_hangs_leaks_or_lies(tmp_path, monkeypatch):
    for name in ("ASCEND_HOME_PATH", "PTH2OM_BOARD_PYTHON", "PTH2OM_BOARD_CACHE", "PTH2OM_LEASE_DIR", "TMPDIR"):
        monkeypatch.setenv(name, "")  # put back afterwards
    assert faults.campaign(tmp_path, 40, 0) == []
