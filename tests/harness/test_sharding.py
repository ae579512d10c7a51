"""``--om-shard K/N``: every test in exactly one shard, and each shard knows what the others have."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.evidence import GateRecord, Joined, merge, read
from pth2om.harness import sharding
from pth2om.harness.sharding import Shard


@given(st.lists(st.sampled_from("abcdefg"), max_size=30), st.integers(1, 9))
def test_every_test_is_in_one_shard_and_a_model_stays_together(owners: list[str], of: int) -> None:
    items = [SimpleNamespace(nodeid=f"{owner}::{n}") for n, owner in enumerate(owners)]
    shares = [Shard(number, of).share(items) for number in range(1, of + 1)]
    assert sorted(item.nodeid for own, _ in shares for item in own) == sorted(item.nodeid for item in items)
    for own, others in shares:
        assert len(own) + len(others) == len(items)
        assert not {item.nodeid[0] for item in own} & {item.nodeid[0] for item in others}
    if len(set(owners)) >= of:
        assert all(own for own, _ in shares)


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/2/3", "-1/2", "1/9999", "1/0"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    config = SimpleNamespace(getoption=lambda name: text)
    with pytest.raises(pytest.UsageError, match="2/4"):
        sharding.shard(config)


def evidence_of(repo: pytest.Pytester) -> set[Path]:
    return set((repo.path / "reports").glob("*/evidence.jsonl"))


def test_the_shards_of_a_night_are_the_night(repo: pytest.Pytester) -> None:
    for name in ("second", "wrong"):
        shutil.copytree(repo.path / "models" / "tiny", repo.path / "models" / name)
    (repo.path / "models" / "wrong" / "model.toml").write_text("task = 3\n")
    asked = ("-k", "checkpoint_fits", "-p", "no:cacheprovider")
    shards: list[Path] = []
    for number, more in ((1, ()), (2, ("-n", "1")), (3, ())):
        before = evidence_of(repo)
        result = repo.runpytest_subprocess(*asked, "--om-shard", f"{number}/3", *more)
        (written,) = evidence_of(repo) - before
        shards.append(written)
        wrong = any(isinstance(one, GateRecord) and one.model == "wrong" for one in read(written))
        assert result.ret == int(wrong)
    whole = merge(shards).joined
    assert whole.coverage.planned == []
    assert whole.coverage.ended
    assert sorted({one.model for one in whole.gates}) == ["second", "tiny", "wrong"]
    assert [Joined().take(read(one)).coverage.shards for one in shards] == [["1/3"], ["2/3"], ["3/3"]]
    lost = merge(shards[:2]).joined.coverage.planned
    assert [each.model for each in lost] == [one.model for one in Joined().take(read(shards[2])).gates]
    # More shards than models: one that has no test is no failure.
    result = repo.runpytest_subprocess(*asked, "--om-shard", "7/9")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*shard 7/9: 0 tests here, 3 in the other shards*"])
