"""Which files a net's code opens while it runs: they decide what the net is, so keys must cover them."""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_WATCHING: list[set[str]] = []
_installed = False


@contextlib.contextmanager
def watched(into: set[str]) -> Iterator[None]:
    """Add the name of every file that Python code opens for reading inside the block, or hands to another program.

    What a library opens in C, by a name that Python does not see, is not noticed.
    """
    global _installed
    if not _installed:
        sys.addaudithook(_hook)  # for good: a hook cannot be taken away
        _installed = True
    _WATCHING.append(into)
    try:
        yield
    finally:
        _WATCHING.remove(into)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _WATCHING:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = set(mode) & set("wax+") if isinstance(mode, str) else int(flags or 0) & (os.O_WRONLY | os.O_RDWR)
        _note([] if writes else [path])
    elif event == "sqlite3.connect":
        _note([os.fsdecode(arguments[0]).removeprefix("file:").partition("?")[0]])
    elif event == "subprocess.Popen":
        _, given, folder, _ = arguments
        words = [given] if isinstance(given, str | bytes | os.PathLike) else list(given)
        texts = [os.fsdecode(word) for word in words]
        # A shell's command line is one word.
        texts += [part for text in texts for part in text.split() if " " in text]
        _note([os.path.join(os.fsdecode(folder or ""), text) for text in texts])  # noqa: PTH118 - as below


def _note(paths: Iterable[object]) -> None:
    """Keep names that may be files; `user_files` leaves out those that are none."""
    for path in paths:
        if isinstance(path, str | bytes):
            for found in _WATCHING:
                found.add(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 - pathlib opens nothing, but imports might


def user_files(opened: Iterable[str]) -> tuple[Path, ...]:
    """Those of ``opened`` that are the user's.

    Left out are Python itself and installed packages with their records, the system's folders, temporary files, and
    hidden folders of the home directory, where libraries keep caches and settings that change by themselves.
    """
    ours = Path(__file__).resolve().parent.parent
    roots = [*(Path(place) for place in sysconfig.get_paths().values()), Path(sys.prefix), Path(sys.base_prefix), ours]
    roots += [Path(place) for place in ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib")]
    installed = {root.resolve() for root in roots}
    home = Path.home().resolve()
    scratch = Path(tempfile.gettempdir()).resolve()
    found = set()
    for name in opened:
        path = Path(name)
        with contextlib.suppress(OSError):
            real = path.resolve()
            parts = set(real.parts)
            if not real.is_file() or parts & {"site-packages", "dist-packages", "__pycache__"}:
                continue
            if any(part.endswith((".egg-info", ".dist-info")) for part in parts):
                continue
            if real.is_relative_to(home) and real.relative_to(home).parts[0].startswith("."):
                continue
            if not any(real.is_relative_to(root) for root in installed) and real.parent != scratch:
                found.add(path)
    return tuple(sorted(found))


_NOT_CODE = frozenset({".pth", ".pt", ".ckpt", ".safetensors", ".onnx", ".om", ".md", ".pyc"})
_NOT_READ = frozenset({"weights", "reports", "__pycache__"})


def folder_files(folder: Path) -> tuple[Path, ...]:
    """The files of a model's folder that its net may depend on.

    Left out are weights, reports, caches, pages, hidden files, and the spec, whose values are in the keys themselves;
    a net that opens one of these all the same is noticed by `watched`.

    Args:
        folder: of the spec.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if any(part in _NOT_READ or part.startswith(".") for part in inner.parts):
            continue
        if path.is_file() and path.suffix.lower() not in _NOT_CODE and inner.as_posix() != "model.toml":
            found.append(path)
    return tuple(found)
