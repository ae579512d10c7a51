"""Inputs for closeness: real images, random values, zeros."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from pth2om.data.arrays import row_of
from pth2om.data.labelled import Labelled
from pth2om.data.preprocess import VERSION as PREPROCESS_VERSION
from pth2om.data.preprocess import Preprocessor, placed
from pth2om.session import Array
from pth2om.spec import Input, Spec

if TYPE_CHECKING:
    from pth2om.data.normalizing import Preparation  # of volumes only, where a spec has some

VERSION = 1


@dataclass(frozen=True)
class Sample:
    """The input of one inference.

    Attributes:
        names: of each row (batch item): ``real-3 (dog.jpg)``, ``random-0``, ``zeros``.
        feeds: input name -> array, batch axis first.
        shared: inputs without a batch axis: the same for all rows.
    """

    names: tuple[str, ...]
    feeds: dict[str, Array]
    shared: frozenset[str] = frozenset()

    def row(self, number: int, count: int = 1) -> dict[str, Array]:
        """The feeds of one row, `count` times."""
        return {
            name: array if name in self.shared else np.repeat(array[number : number + 1], count, 0)
            for name, array in self.feeds.items()
        }


@dataclass(frozen=True)
class _Row:
    kind: Literal["real", "random", "zeros"]
    number: int
    image: int = -1


_SHARED = _Row("random", 0)
"""What inputs without a batch axis are drawn as, in every batch."""


class Samples:
    """Inputs that are made again in each iteration, one batch in memory at a time.

    A row has the same values for every batch size. Random rows fill up the last batch. The rows of a batch differ, so
    that a mix-up of the items of a batch is found.

    Attributes:
        batch: rows per inference.
        pixels: the longer side of the image input, for limits in pixels; None if no input is an image.
    """

    def __init__(
        self,
        spec: Spec,
        dataset: Labelled | None,
        *,
        batch: int,
        seed: int,
        rows: tuple[_Row, ...],
        from_pixels: bool = False,
    ) -> None:
        self.batch = batch
        self.seed = seed
        self._from_pixels = from_pixels
        self._spec = spec
        self._dataset = dataset
        self._rows = rows
        self._fed = spec.fed_input if spec.preprocess else None
        self._preparation: Preparation | None = None
        if spec.volume is not None and dataset is not None:
            from pth2om.data.normalizing import preparation

            self._preparation = preparation(spec)
        self.pixels = max(spec.preprocess.size) if spec.preprocess else None

    def __len__(self) -> int:
        """Number of inferences."""
        return len(self._rows) // self.batch

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all rows, in order."""
        return tuple(self._name(row) for row in self._rows)

    @cached_property
    def digest(self) -> str:
        """sha256 of the rows' sources; no image is decoded for it."""
        spec = self._spec
        parts: dict[str, object] = {
            "version": [VERSION, PREPROCESS_VERSION],
            "inputs": [entry.model_dump(mode="json") for entry in spec.inputs],
            "preprocess": spec.preprocess.model_dump(mode="json") if spec.preprocess else None,
            "dataset": self._dataset.digest if self._dataset is not None else None,
            "rows": [[row.kind, row.number, row.image] for row in self._rows],
            "batch": self.batch,
            "seed": self.seed,
            "from_pixels": self._from_pixels,
        }
        if self._preparation is not None:
            parts["volume"] = self._preparation.to_json()
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def __iter__(self) -> Iterator[Sample]:
        for start in range(0, len(self._rows), self.batch):
            rows = self._rows[start : start + self.batch]
            feeds = {
                entry.name: np.stack([self._values(entry, position, row) for row in rows])
                if entry.batched
                else self._values(entry, position, _SHARED)
                for position, entry in enumerate(self._spec.inputs)
            }
            shared = frozenset(entry.name for entry in self._spec.inputs if not entry.batched)
            yield Sample(tuple(self._name(row) for row in rows), feeds, shared)

    def _name(self, row: _Row) -> str:
        if row.kind == "real" and self._dataset is not None:
            return f"real-{row.number} ({self._dataset.file(row.image)})"
        return "zeros" if row.kind == "zeros" and row.number == 0 else f"{row.kind}-{row.number}"

    def _values(self, entry: Input, position: int, row: _Row) -> Array:
        if self._from_pixels and row.kind != "real" and entry.name == self._fed and self._spec.preprocess:
            stream = np.random.default_rng([self.seed, row.number])
            shape = (*self._spec.preprocess.size, 3)
            image = np.zeros(shape, np.uint8) if row.kind == "zeros" else stream.integers(0, 256, shape, np.uint8)
            return Preprocessor(self._spec.preprocess).normalize(image).astype(entry.dtype)
        if row.kind == "zeros":
            return np.zeros(entry.shape, dtype=entry.dtype)
        if row.kind == "real" and self._dataset is not None and self._dataset.has_arrays:
            return row_of(self._dataset, entry, row.image)
        if row.kind == "real" and position == 0 and self._dataset is not None and self._preparation is not None:
            from pth2om.data.normalizing import prepare, window_of

            volume = self._dataset.volume(row.image, reorient=self._preparation.reorient)
            prepared = prepare(volume, self._preparation, where=self._dataset.file(row.image))
            return window_of(prepared, entry.shape[1:]).astype(entry.dtype)
        if row.kind == "real" and entry.name == self._fed and self._dataset is not None and self._spec.preprocess:
            preprocessor = Preprocessor(self._spec.preprocess)
            pixels, _ = placed(self._dataset, preprocessor, row.image)
            return preprocessor.normalize(pixels).astype(entry.dtype, copy=False)
        # Each row and input has its own random stream, so a row does not depend on the rows before it.
        stream = np.random.default_rng([self.seed, row.kind == "real", row.number, position])
        low, high = entry.range
        if entry.dtype.startswith("float"):
            # Drawn in float32, the type of the input: numbers drawn in float64 could round up to `high` + 1 ulp.
            return (low + (high - low) * stream.random(entry.shape, dtype=np.float32)).astype(entry.dtype)
        if entry.dtype == "bool":
            return stream.integers(0, 2, entry.shape).astype(bool)
        return stream.integers(int(low), int(high), entry.shape, endpoint=True).astype(entry.dtype)


class GivenSamples(Samples):
    """Batches that exist already: the ``.bin`` files that calibrate INT8, for models without images.

    Args:
        feeds: makes the batches; called once for each iteration.
        count: the number of batches to take.
        batch: rows per batch.
        name: name of their source.
        digest: sha256 of their content.
        pixels: the longer side of the image input, or None.
    """

    def __init__(
        self,
        feeds: Callable[[], Iterator[Mapping[str, Array]]],
        count: int,
        *,
        batch: int,
        name: str,
        digest: str,
        pixels: int | None,
    ) -> None:
        self.batch = batch
        self.pixels = pixels
        self._feeds = feeds
        self._count = count
        self._from = name
        self._digest = digest

    def __len__(self) -> int:
        """Number of inferences."""
        return self._count

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all rows, in order."""
        return tuple(f"real-{number} ({self._from})" for number in range(self._count * self.batch))

    @cached_property
    def digest(self) -> str:
        """sha256 of the inputs."""
        return hashlib.sha256(f"{VERSION}-{self._digest}-{self._count}".encode()).hexdigest()

    def __iter__(self) -> Iterator[Sample]:
        for number, feeds in enumerate(itertools.islice(self._feeds(), self._count)):
            yield Sample(self.names[number * self.batch :][: self.batch], dict(feeds))


def samples(
    spec: Spec,
    dataset: Labelled | None,
    *,
    batch: int,
    seed: int,
    real: int = 8,
    random: int = 2,
    zeros: int = 1,
    from_pixels: bool = False,
) -> Samples:
    """The inputs on which two sessions are compared.

    Args:
        spec: the model.
        dataset: images for the real rows, taken at even distances; None: no real rows.
        batch: rows per inference.
        seed: of the random rows.
        real: number of rows from images, or fewer if there are fewer images.
        random: least number of rows of random values; more of them fill up the last batch.
        zeros: number of rows of zeros.
        from_pixels: make random and zero rows of the image input from uint8 pixels, as an OM with AIPP takes them.
    """
    rows: list[_Row] = []
    shown = spec.preprocess is not None or spec.volume is not None
    if dataset is not None and (shown or dataset.has_arrays):
        count = min(real, len(dataset))
        rows += [_Row("real", number, number * len(dataset) // count) for number in range(count)]
    if not spec.preprocess or spec.inputs[0].dtype != "bool":
        rows += [_Row("zeros", number) for number in range(zeros)]
    random += -(len(rows) + random) % batch
    rows += [_Row("random", number) for number in range(random)]
    if not rows:
        rows = [_Row("random", number) for number in range(batch)]
    return Samples(spec, dataset, batch=batch, seed=seed, rows=tuple(rows), from_pixels=from_pixels)
