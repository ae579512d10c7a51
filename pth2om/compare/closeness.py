"""Measuring how close two sessions are, per slice of the outputs and per row of each batch.

Item k of a batch is compared with item k; the rows' names come with the samples, so the worst is named. What is
measured of each is in `pth2om.compare.figures`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pth2om.compare import spread
from pth2om.compare.figures import EDGES, METRICS, closeness, figures, worst_column
from pth2om.errors import DataError
from pth2om.session import Array, Feeds, Remembering
from pth2om.spec import Slice

if TYPE_CHECKING:
    from pth2om.data.samples import Sample

VERSION = 5


class Runs(Protocol):
    """What is compared: a session, or something that feeds one."""

    def run(self, feeds: Feeds) -> Mapping[str, Array]:
        """See `pth2om.session.Session.run`."""


def measure(
    reference: Runs, candidate: Runs, samples: Iterable[Sample], slices: Sequence[Slice] = ()
) -> dict[str, Any]:
    """Run both sessions on all samples.

    Args:
        reference: the side that is taken for right.
        candidate: the side that is judged.
        samples: what is fed (`pth2om.data.Samples`).
        slices: named parts of the outputs; each whole output is measured besides, unless a slice is all of it.

    Returns:
        JSON: ``slices``: name -> ``output``, ``kind``, ``samples`` (row names), one list per metric of `METRICS` with a
        value per row (None where it does not apply), ``histogram``, ``spread`` (`pth2om.compare.spread.Spread`);
        ``mismatch``: what makes a comparison impossible;
        ``pixels``: longer side of the image input, for limits in pixels; ``constant``: outputs of the reference that
        are the same for all rows but for float rounding.

    Raises:
        DataError: a slice names no output or selects nothing.
    """
    measured: dict[str, Any] = {"version": VERSION, "slices": {}, "mismatch": []}
    pixels = getattr(samples, "pixels", None)
    measured["pixels"] = pixels
    seen: dict[str, _Seen] = {}
    firsts: dict[str, Array] = {}
    for sample, expected, got in _answers(reference, candidate, samples):
        for name, ours, theirs in _paired(expected, got, measured["mismatch"]):
            seen.setdefault(name, _Seen()).add(ours, len(sample.names))
            parts = [entry for entry in slices if (entry.output or next(iter(expected))) == name]
            unnamed = not parts
            if not any(entry.index.strip() == "..." for entry in parts):
                taken = name in {entry.name for entry in slices}
                # Not validated: an output may be called anything, "/head/Concat_3:0" too.
                parts.insert(0, Slice.model_construct(name=f"{name}.whole" if taken else name))
            for part in parts:
                pair = (ours, theirs)
                _add(measured["slices"], part, name, sample.names, pair, firsts, pixels=pixels, unnamed=unnamed)
        for entry in slices:
            if entry.output is not None and entry.output not in expected:
                raise DataError("compare.no-output", name=entry.name, output=entry.output, known=", ".join(expected))
        if measured["mismatch"]:
            break  # the same will hold for every sample
    measured["constant"] = [name for name, values in seen.items() if values.constant]
    return measured


def _answers(
    reference: Runs, candidate: Runs, samples: Iterable[Sample]
) -> Iterator[tuple[Sample, Mapping[str, Array], Mapping[str, Array]]]:
    """What both sides return for each sample; ahead of the caller where both can compute beside him.

    PyTorch cannot: beside the other side at work its threads wait for each other.
    """
    if isinstance(reference, Remembering) and isinstance(candidate, Remembering) and reference.ways and candidate.ways:
        kept, first, second = itertools.tee(samples, 3)
        ours = reference.stream(sample.feeds for sample in first)
        theirs = candidate.stream(sample.feeds for sample in second)
        return zip(kept, ours, theirs, strict=True)
    return ((sample, reference.run(sample.feeds), candidate.run(sample.feeds)) for sample in samples)


class _Seen:
    """Whether an output of the reference ever changes."""

    def __init__(self) -> None:
        self._first: Array | None = None
        self._rows = 0
        self._alike = True

    def add(self, output: Array, count: int) -> None:
        """The output for ``count`` rows."""
        batched = output.ndim > 0 and len(output) == count
        for row in output if batched else [output]:
            if self._first is None:
                self._first = np.array(row)
            self._rows += 1
            self._alike = self._alike and _alike(self._first, np.asarray(row))

    @property
    def constant(self) -> bool:
        """Whether all rows are equal; of a single row, whether all its numbers are."""
        if not self._alike or self._first is None:
            return False
        return self._rows > 1 or (
            self._first.size > 1 and _equal(np.full_like(self._first, self._first.flat[0]), self._first)
        )


_ROUNDING_ULPS = 8
"""Relative changes up to this many units in the last place are what another order of summation gives."""


def _alike(first: Array, second: Array) -> bool:
    """Whether two rows are the same, floats but for rounding: what changes by no more does not answer to the input."""
    if first.dtype.kind != "f" or first.shape != second.shape:
        return _equal(first, second)
    tolerance = _ROUNDING_ULPS * float(np.finfo(first.dtype.name).eps)
    return bool(np.allclose(second, first, rtol=tolerance, atol=0, equal_nan=True))


def _equal(first: Array, second: Array) -> bool:
    return first.shape == second.shape and np.array_equal(first, second, equal_nan=first.dtype.kind in "fc")


def worse(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> dict[str, Any]:
    """Two measurements of the same pair, e.g. of the fused and the unfused emulation, as one that is as bad as either.

    Rows of both are kept, named with their band, so that judging finds the worst of all and says whose it is.

    Args:
        first: a measurement.
        second: another of the same slices.
        names: what distinguishes them, e.g. ``("fused", "unfused")``.
    """
    merged: dict[str, Any] = {
        "version": first["version"],
        "pixels": first.get("pixels"),
        "mismatch": [
            {**entry, "band": name}
            for part, name in ((first, names[0]), (second, names[1]))
            for entry in part["mismatch"]
        ],
        "slices": {},
        "bands": list(names),
        "constant": [name for name in first["constant"] if name in second["constant"]],
    }
    for slice_name in dict.fromkeys([*first["slices"], *second["slices"]]):
        parts = [
            (part["slices"][slice_name], name)
            for part, name in ((first, names[0]), (second, names[1]))
            if slice_name in part["slices"]
        ]
        base = parts[0][0]
        merged["slices"][slice_name] = {
            "output": base["output"],
            "kind": base["kind"],
            "elements": base["elements"],
            "samples": [f"{sample} [{name}]" for part, name in parts for sample in part["samples"]],
            **{metric: [value for part, _ in parts for value in part[metric]] for metric in METRICS},
            "histogram": [sum(counts) for counts in zip(*(part["histogram"] for part, _ in parts), strict=True)],
            "spread": functools.reduce(spread.joined, (part["spread"] for part, _ in parts)),
        }
    return merged


def index_of(text: str) -> tuple[Any, ...]:
    """NumPy index text as in a spec, ``"..., 5:"``, as an index.

    Raises:
        DataError: it is not an index.
    """
    parts: list[Any] = []
    for part in text.split(","):
        word = part.strip()
        try:
            if word == "...":
                parts.append(Ellipsis)
            elif ":" in word:
                numbers = [int(number) if number.strip() else None for number in word.split(":")]
                parts.append(slice(*numbers))
            elif word:
                parts.append(int(word))
        except (ValueError, TypeError):
            raise DataError("compare.bad-index", index=text) from None
    if parts.count(Ellipsis) > 1:
        raise DataError("compare.bad-index", index=text)
    return tuple(parts)


# ---------------------------------------------------------------------------------------------------- one sample


def _paired(
    expected: Mapping[str, Array], got: Mapping[str, Array], mismatch: list[dict[str, Any]]
) -> list[tuple[str, Array, Array]]:
    """Outputs of both sides by name, or by position where the names differ but the number does not."""
    by_position = dict(zip(expected, got, strict=False)) if len(expected) == len(got) else {}
    shared = {name: name for name in expected if name in got}
    names = shared or by_position
    pairs = []
    for name, ours in expected.items():
        if name not in names:
            mismatch.append({"output": name, "reference": _form(ours), "candidate": "-"})
            continue
        theirs = got[names[name]]
        if ours.shape != theirs.shape:
            mismatch.append({"output": name, "reference": _form(ours), "candidate": _form(theirs)})
            continue
        pairs.append((name, ours, theirs))
    return pairs


def _form(array: Array) -> str:
    return f"{array.dtype} {'x'.join(map(str, array.shape)) or 'scalar'}"


def _add(
    slices: dict[str, Any],
    part: Slice,
    output: str,
    names: Sequence[str],
    pair: tuple[Array, Array],
    firsts: dict[str, Array],
    *,
    pixels: int | None,
    unnamed: bool,
) -> None:
    """Measure one slice of one sample, row by row.

    ``unnamed``: no slice of the spec is of this output; ``firsts``: of each slice the reference's first row.
    """
    index, (ours, theirs) = index_of(part.index), pair
    try:
        mine, yours = ours[index], theirs[index]
    except IndexError:
        shape = "x".join(map(str, ours.shape))
        raise DataError("compare.index-out-of-range", name=part.name, index=part.index, shape=shape) from None
    if mine.size == 0:
        shape = "x".join(map(str, ours.shape))
        raise DataError("compare.selects-nothing", name=part.name, index=part.index, shape=shape)
    # Rows can only be told apart where the batch axis is still the first one.
    batched = ours.ndim > 0 and mine.ndim > 0 and mine.shape[0] == ours.shape[0] == len(names)
    batched = batched and not (index and isinstance(index[0], int))
    rows = [(name, mine[number], yours[number]) for number, name in enumerate(names)] if batched else []
    if not batched:
        rows = [(names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}", mine, yours)]
    kind = "integers" if part.kind == "values" and (ours.dtype == bool or _counts(ours.dtype)) else part.kind
    kept = slices.setdefault(
        part.name,
        {
            "output": output,
            "kind": kind,
            "elements": int(rows[0][1].size),
            "samples": [],
            **{metric: [] for metric in METRICS},
            "histogram": [0] * (len(EDGES) + 1),
            "spread": {},
        },
    )
    for name, row_ours, row_theirs in rows:
        values, histogram = closeness(row_ours, row_theirs, kind=kind, pixels=pixels)
        if unnamed and kind == "values":
            values["column_l2"] = worst_column(row_ours, row_theirs)
        first = firsts.setdefault(part.name, np.array(row_ours)) if not kept["samples"] else firsts[part.name]
        between = None
        if kept["samples"]:
            between = figures(first, row_ours, kind="boxes" if kind == "boxes" else "values", pixels=pixels)
        spread.widen(kept["spread"], values, between, counted=kind in ("labels", "integers"))
        kept["samples"].append(name)
        for metric in METRICS:
            kept[metric].append(values.get(metric))
        kept["histogram"] = [old + new for old, new in zip(kept["histogram"], histogram, strict=True)]


def _counts(dtype: np.dtype[Any]) -> bool:
    """Whether numbers of this type are class numbers or indices; narrower ones are pixels or quantized values."""
    return dtype.kind in "iu" and dtype.itemsize >= 4
