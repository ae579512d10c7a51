"""The campaigns, a small share of each, at night."""

from __future__ import annotations

import pytest

from tests.campaigns import kills


@pytest.mark.nightly
def test_kills_do_no_harm(tmp_path):
    assert kills.campaign(tmp_path, 10, 0) == []
