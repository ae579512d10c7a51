"""Per-image results of two nights, where the store still has both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pth2om.errors import Pth2omError
from pth2om.store import Store

_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Difference:
    """Tonight against the baseline on the same images, in percent points; what is lost is positive.

    Attributes:
        drop: measured.
        interval: its two-sided 95 % interval.
        images: how many.
        lost, gained: images, of a classification; else None.
    """

    drop: float
    interval: tuple[float, float]
    images: int
    lost: int | None = None
    gained: int | None = None


class Results:
    """Reads them.

    Args:
        store: where they are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def difference(self, old: str, new: str, check: str) -> Difference | None:
        """What tonight lost; None where one of them is gone, or they are of other images.

        Args:
            old: reference of the baseline's results, ``score/<key>``.
            new: of tonight's.
            check: of the gate; it names the metric.
        """
        before, after = self._load(old), self._load(new)
        if before is None or after is None:
            return None
        from pth2om.accuracy import difference

        metric = check.split("/")[-2] if "/" in check else check
        try:
            found = difference(before, after, metric=metric)
            low, high = (float(end) for end in found["interval"])
            lost, gained = found.get("lost_count"), found.get("gained_count")
            return Difference(
                float(found["drop"]), (low, high), int(found.get("distinct_images", found["images"])), lost, gained
            )
        except (Pth2omError, ValueError, KeyError, TypeError):
            return None

    def flipped(self, old: str, new: str, check: str) -> tuple[int, int] | None:
        """(images that flipped, images) between two runs; None where that is not known."""
        found = self.difference(old, new, check)
        if found is None or found.lost is None or found.gained is None:
            return None
        return found.lost + found.gained, found.images

    def _load(self, name: str) -> Mapping[str, Any] | None:
        """Results as they were written: those that were changed since are none."""
        try:
            artifact = self._store.kept(name)
            if artifact is None or artifact.file("result.json").stat().st_size > _MOST_BYTES:
                return None
            value = artifact.json()
        except (OSError, ValueError, RecursionError, Pth2omError):
            return None
        return value if isinstance(value, dict) else None
