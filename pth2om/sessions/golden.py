"""A session over outputs that were computed elsewhere: files that a user brings from a board.

It computes nothing. It answers the feeds that it knows, and refuses all others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from pth2om.errors import DataError
from pth2om.session import Array, Feeds, Provenance, TensorSpec
from pth2om.sessions.output_files import output_files

_SUFFIXES = (".bin", ".npy")
_HEADER = 1 << 16
"""Most bytes of an ``.npy`` besides its values."""

GOLDEN = Provenance("golden", "outputs computed elsewhere, not measured by pth2om", "double")
"""No file proves which machine wrote it, so such outputs never stand on device ground."""


def digest_of(feeds: Feeds) -> str:
    """sha256 of one inference's inputs: names, dtypes, shapes and bytes, in the order of names."""
    whole = hashlib.sha256()
    for name in sorted(feeds):
        array = np.ascontiguousarray(feeds[name])
        whole.update(f"{name}|{array.dtype.name}|{feeds[name].shape}|".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()


@dataclass(frozen=True)
class Answer:
    """The output files of one inference.

    Attributes:
        files: one per output of the model, in its order.
    """

    files: tuple[Path, ...]


def find_answers(folder: Path, stems: Sequence[str], outputs: int) -> tuple[dict[str, Answer], list[str]]:
    """The output files of each input file; see `pth2om.sessions.output_files`.

    Args:
        folder: where they lie, or with one sub-folder that holds them (named after the time of the run).
        stems: names of the input files without suffix.
        outputs: how many outputs the model has.

    Returns:
        Name -> its files where all are there; and the names of the missing ones (``batch_0000_output_1``).

    Raises:
        DataError: no folder, several runs in it, or one output in two files.
    """
    found = output_files(folder, _SUFFIXES)
    answers, missing = {}, []
    for stem in stems:
        absent = [number for number in range(outputs) if (stem, number) not in found]
        missing += [f"{stem}_output_{number}" for number in absent]
        if not absent:
            answers[stem] = Answer(tuple(found[stem, number] for number in range(outputs)))
    return answers, missing


def read_output(path: Path, output: TensorSpec) -> Array:
    """One output file as an array of the output's shape and dtype.

    Args:
        path: ``.bin`` (C order, no header, the output's dtype) or ``.npy`` (any float dtype for a float output).
        output: what the model returns; at most one axis of a ``.bin`` may be open.

    Raises:
        DataError: the size, shape or dtype differs, or the file cannot be read.
    """
    where, dtype = str(path), output.dtype
    shape = "x".join("?" if size is None else str(size) for size in output.shape) or "scalar"
    known = math.prod(size for size in output.shape if size is not None)
    is_open = None in output.shape
    try:
        size = path.stat().st_size
        if path.suffix.lower() == ".bin":
            expected = known * dtype.itemsize
            fits = expected and size and size % expected == 0 if is_open else size == expected
            if not fits or output.shape.count(None) > 1:
                values = {"output": output.name, "shape": shape, "dtype": dtype.name}
                raise DataError("golden.wrong-size", where=where, size=size, expected=expected, **values)
            return np.fromfile(path, dtype).reshape([-1 if size is None else size for size in output.shape])
        if not is_open and size > known * 16 + _HEADER:
            raise ValueError("larger than the output")
        array: Array = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise DataError("golden.unreadable", where=where) from error
    same_kind = array.dtype == dtype or (array.dtype.kind == "f" and dtype.kind == "f")
    same_shape = array.ndim == len(output.shape) and all(
        wanted in (None, size) for wanted, size in zip(output.shape, array.shape, strict=True)
    )
    if not same_kind or not same_shape:
        held = f"{'x'.join(map(str, array.shape))} {array.dtype}"
        raise DataError("golden.wrong-form", where=where, output=output.name, held=held, wanted=f"{shape} {dtype.name}")
    return np.array(array, dtype)


class GoldenSession:
    """Returns the outputs that were computed elsewhere for the feeds it knows.

    Args:
        inputs: of the model.
        outputs: of the model.
        answers: digest of the feeds (`digest_of`) -> output files; they are read when asked for.
    """

    def __init__(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], answers: Mapping[str, Answer]
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._answers = dict(answers)

    @property
    def digest(self) -> str:
        """sha256 of the known feeds and the files that answer them."""
        whole = hashlib.sha256()
        for feeds, answer in sorted(self._answers.items()):
            whole.update(feeds.encode())
            for path in answer.files:
                with path.open("rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()

    @property
    def provenance(self) -> Provenance:
        """`GOLDEN`: ground ``double``, which no sign-off takes for a device."""
        return GOLDEN

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """The stored outputs.

        Raises:
            DataError: these inputs are not among those that were handed out, or a file does not fit the model.
        """
        answer = self._answers.get(digest_of(feeds))
        if answer is None:
            raise DataError("golden.unknown-feeds", count=len(self._answers))
        return {output.name: read_output(path, output) for output, path in zip(self.outputs, answer.files, strict=True)}

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> GoldenSession:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
