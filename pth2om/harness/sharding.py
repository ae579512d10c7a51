"""One run of several that share the tests among them: ``--om-shard 2/4``.

A model's tests stay together, because they share its artifacts: models are dealt out, those with most tests first, each
to the shard that has fewest tests so far. Every shard collects everything, so all of them deal alike, and each knows by
name what the others have: ``pth2om report merge`` compares what was collected with what was reported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from pth2om.harness.cases import case_of
from pth2om.language import say

MOST = 1000


@dataclass(frozen=True)
class Shard:
    """``number`` of ``of``, from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def share(self, items: Sequence[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
        """The tests of this shard and those of the others, each in their order."""
        owners = [_owner(item) for item in items]
        load = [0] * self.of
        dealt: dict[str, int] = {}
        for owner in sorted(set(owners), key=lambda owner: (-owners.count(owner), owner)):
            dealt[owner] = lightest = load.index(min(load))
            load[lightest] += owners.count(owner)
        own = [dealt[owner] == self.number - 1 for owner in owners]
        return (
            [item for item, mine in zip(items, own, strict=True) if mine],
            [item for item, mine in zip(items, own, strict=True) if not mine],
        )


def shard(config: pytest.Config) -> Shard | None:
    """What ``--om-shard`` asks for; None without.

    Raises:
        UsageError: it is not ``NUMBER/OF`` with a number from 1 to OF.
    """
    asked = config.getoption("--om-shard")
    if not asked:
        return None
    match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", asked)
    number, of = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= of <= MOST:
        raise pytest.UsageError(say("plugin.not-a-shard", text=str(asked), most=MOST).render())
    return Shard(number, of)


def _owner(item: pytest.Item) -> str:
    """Whose tests stay together: a model's, or those of a file that is about none."""
    case = case_of(item)
    return case.folder.name if case is not None else item.nodeid.partition("::")[0]
