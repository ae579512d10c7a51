"""Data that the repository generates: made once by its recipe, kept in the store, and made ahead by a child process.

``python -m pth2om.data.recipes`` is that child: it reads one line of JSON from stdin, ``{"root": STORE, "places":
[FOLDER, ...]}``, and makes one dataset after another. It ends when its stdin does, so it never outlives who started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pth2om.data.manifest import Manifest, load_manifest
from pth2om.errors import DataError, Pth2omError, first_line
from pth2om.files import is_file
from pth2om.host import cores, end_group, keep_memory, started_alike
from pth2om.store import Key, Store, file_digest

VERSION = 1


def drawn(name: str, calib_root: Path, overrides: Mapping[str, Path] | None = None) -> Manifest | None:
    """The manifest of a dataset that is made by a recipe here; None of any other, and of one that is wrong."""
    if name in (overrides or {}):
        return None
    try:
        manifest = load_manifest(calib_root / name)
    except Pth2omError:
        return None  # told where it is opened
    return None if manifest.recipe is None else manifest


def made(manifest: Manifest, store: Store) -> Path:
    """The folder that the dataset's recipe writes, from the store.

    Raises:
        DataError: the recipe is not there, or failed.
        StoreError: the store cannot be written.
    """
    recipe, key = _asked(manifest)
    return store.artifact(key, lambda folder: _run(recipe, folder)).path


@contextlib.contextmanager
def made_ahead(manifests: Sequence[Manifest], store: Store) -> Iterator[None]:
    """Within it a child makes those that are not there yet; who needs one before makes it, or waits for the child.

    What fails there is told by who needs it, who then makes it again. Where there is one core, nothing is started.

    Args:
        manifests: of datasets with a recipe, the one that is needed first first.
        store: where they are kept.
    """
    places = []
    for manifest in manifests:
        with contextlib.suppress(Pth2omError, OSError):  # told by who needs it
            if not store.place(_asked(manifest)[1]).is_dir():
                places.append(str(manifest.place))
    if not places or cores() < 2:
        yield
        return
    child = started_alike("pth2om.data.recipes")
    try:
        with contextlib.suppress(OSError):  # it is gone already
            if child.stdin is not None:
                child.stdin.write(json.dumps({"root": str(store.root), "places": places}).encode() + b"\n")
                child.stdin.flush()
        yield
    finally:
        end_group(child)


def _asked(manifest: Manifest) -> tuple[Path, Key]:
    """The recipe's file, and the key of what it makes."""
    recipe = manifest.place / (manifest.recipe or "")
    if not is_file(recipe):
        raise DataError("data.no-recipe", where=str(recipe))
    inputs = {
        path.relative_to(manifest.place).as_posix(): file_digest(path)
        for path in sorted(manifest.place.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path.name != "dataset.toml"
    }
    return recipe, Key("dataset", VERSION, inputs=inputs, options={"name": manifest.name}, label=manifest.name)


def _run(recipe: Path, folder: Path) -> None:
    import runpy

    try:
        make = runpy.run_path(str(recipe)).get("make")
        if not callable(make):
            raise DataError("data.recipe-without-make", where=str(recipe))
        make(folder)
    except (DataError, OSError, KeyboardInterrupt):
        raise  # the store reports a full disk with its own error
    except Exception as error:  # a recipe is the repository's own code and may raise anything
        raise DataError(
            "data.recipe-failed", where=str(recipe), reason=first_line(f"{type(error).__name__}: {error}")
        ) from error


def _main() -> int:
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return 0
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_memory()
    asked = json.loads(line)
    store = Store(Path(asked["root"]))
    for place in asked["places"]:
        with contextlib.suppress(Exception):  # the parent makes it then, and tells why it cannot be made
            made(load_manifest(Path(place)), store)
    return 0


def _end_with_parent() -> None:
    while os.read(0, 64):  # unbuffered: a lock of the interpreter's own must not be held when it ends
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(_main())
