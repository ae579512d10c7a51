"""Where a model's weights lie."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import platformdirs

from pth2om.errors import CheckpointError
from pth2om.files import is_file
from pth2om.spec import Spec
from pth2om.store import Store


def find_weights(spec: Spec, *, overrides: Mapping[str, Path], data_roots: Sequence[Path]) -> Path | None:
    """The checkpoint (or ONNX) file of a model.

    Searched: the override; the model's folder, its ``weights/``; each data root, its ``weights/`` and its folder of the
    model's name; the user's cache.

    Args:
        spec: the model; ``source.sha256`` must hold, but not for an override, which replaces the file on purpose.
        overrides: model name -> file, from ``--om-weights``.
        data_roots: further folders.

    Returns:
        The file, absolute, links followed nowhere; None where it is absent, or the spec names none.

    Raises:
        CheckpointError: the override does not exist, or only files of another sha256 are there.
    """
    if spec.name in overrides:
        chosen = overrides[spec.name].expanduser()
        if not is_file(chosen):
            raise CheckpointError("checkpoint.override-missing", where=str(chosen), model=spec.name)
        return chosen.absolute()
    name = spec.source.checkpoint or spec.source.onnx or ""
    if not name:
        return None
    other: tuple[Path, str] | None = None
    for candidate in candidates(spec.folder, name, spec.name, data_roots):
        if not is_file(candidate):
            continue
        if spec.source.sha256 is None:
            return _normalized(candidate)
        digest = Store().digest(candidate)
        if digest == spec.source.sha256:
            return _normalized(candidate)
        other = other or (candidate, digest)
    if other is not None:
        raise CheckpointError(
            "checkpoint.other-file",
            where=str(_normalized(other[0])),
            model=spec.name,
            expected=str(spec.source.sha256),
            found=other[1],
        )
    return None


def _normalized(path: Path) -> Path:
    """Absolute and without ``..``, as a person would write it, where that is the same file."""
    short = Path(os.path.normpath(path.absolute()))
    return short if is_file(short) and short.samefile(path) else path.absolute()


def candidates(folder: Path, name: str, model: str, data_roots: Sequence[Path]) -> Iterator[Path]:
    """Every place a file called ``name`` of ``model`` is searched in, in order.

    Args:
        folder: the model's folder.
        name: as written in the spec; absolute paths and ``~`` are taken as they are.
        model: the model's name.
        data_roots: further folders.
    """
    file = Path(name)
    with contextlib.suppress(RuntimeError):  # ~somebody who is no user here
        file = file.expanduser()
    if file.is_absolute():
        yield file
        return
    yield folder / file
    yield folder / "weights" / file
    for root in data_roots:
        yield root / file
        yield root / "weights" / file
        yield root / model / file
    cache = Path(platformdirs.user_cache_dir("pth2om", appauthor=False))
    yield cache / file
    yield cache / "weights" / file
