"""The first few batches of a stream, for what does not need all of them."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator

from pth2om.session import Feeds


def first(batches: Iterable[Feeds], count: int, most_bytes: int | None = None) -> list[Feeds]:
    """The first batches; of an iterator they are then gone.

    Args:
        batches: arrays by input name.
        count: at most so many.
        most_bytes: no more are taken once these have at least so many bytes together.
    """
    taken: list[Feeds] = []
    size = 0
    for batch in itertools.islice(batches, count):
        taken.append(batch)
        size += sum(array.nbytes for array in batch.values())
        if most_bytes is not None and size >= most_bytes:
            break
    return taken


class Keeping:
    """Passes batches through and keeps the first ones.

    Args:
        batches: arrays by input name.
        count: how many are kept.

    Attributes:
        first: those that came by so far, at most `count`.
    """

    def __init__(self, batches: Iterable[Feeds], count: int) -> None:
        self._batches = batches
        self._count = count
        self.first: list[Feeds] = []

    def __iter__(self) -> Iterator[Feeds]:
        for batch in self._batches:
            if len(self.first) < self._count:
                self.first.append(batch)
            yield batch

    def __length_hint__(self) -> int:
        return operator.length_hint(self._batches)
