"""A campaign in several processes: one total, whatever becomes of them, and an interrupt that ends it."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaigns import sharding

SHARE = "import json, sys; [print(json.dumps([n, 'a/b', ['bad'] * (n == 3)])) for n in range({}, 6, 2)]; {}"


def process(first: int, then: str = "") -> list[str]:
    return [sys.executable, "-c", SHARE.format(first, then)]


def test_the_outcomes_of_all_processes_are_in_one_total() -> None:
    printed = io.StringIO()
    assert sharding.total(sharding.joined([process(0), process(1)]), printed) == 1
    text = printed.getvalue()
    assert re.search(r"^6 faults, 1 wrong, \d+ s$", text, re.MULTILINE), text
    assert re.search(r"a/b +6 +1 wrong", text)
    assert "bad" in text


@pytest.mark.parametrize(
    ("then", "said"),
    [("sys.exit(7)", "ended with 7 after 3"), ("print('noise')", "something else"), ("os.abort()", "ended with 1")],
    ids=["status", "noise", "error"],
)
def test_a_process_that_ends_badly_is_wrong(then: str, said: str) -> None:
    printed = io.StringIO()
    assert sharding.total(sharding.joined([process(0, then)]), printed) == 1
    assert said in printed.getvalue()


def test_nothing_tried_is_no_success() -> None:
    assert sharding.total([], io.StringIO()) == 1


def test_what_was_found_before_an_interrupt_is_told() -> None:
    closed = []

    def interrupted() -> Iterator[sharding.Found]:
        try:
            yield sharding.Row(0, "a/b", ["bad"])
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    printed = io.StringIO()
    assert sharding.total(interrupted(), printed) == sharding.INTERRUPTED
    assert closed
    assert re.search(r"1 faults, 1 wrong, \d+ s, interrupted", printed.getvalue())


@pytest.mark.nightly
def test_an_interrupt_ends_the_campaign_and_all_that_it_started(tmp_path: Path) -> None:
    """Also where it was started with the signal ignored, as a shell starts what it puts into the background."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    line = [sys.executable, "-m", "tests.campaigns.faults", "1000", "1", "--shards", "2"]
    ignored = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *line]
    root = Path(__file__).parents[2]
    with subprocess.Popen(ignored, env=environment, cwd=root, stdout=subprocess.PIPE, text=True) as campaign:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("faults-*/test_run.py"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(6)
        campaign.send_signal(signal.SIGINT)
        text, _ = campaign.communicate(timeout=60)
    assert campaign.returncode == sharding.INTERRUPTED, text
    assert re.search(r"\d+ faults, 0 wrong, \d+ s, interrupted", text), text
    assert not list(tmp_path.glob("faults-*"))
    left = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and str(tmp_path) in _environment(entry)]
    assert left == []


def _environment(entry: Path) -> str:
    try:
        return (entry / "environ").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
