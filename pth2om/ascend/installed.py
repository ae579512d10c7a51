"""The keys of ONNX plugins that are installed on this machine: those of a CANN toolkit and of vendor packages.

A plugin is a shared library that holds its ``domain::opset::Type`` keys as text; they are read as bytes, nothing is
loaded. A key that is found is registered; one that is not may still be (compilers hide short texts in code).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from pth2om.ascend.operator_package import KEY
from pth2om.ascend.toolkit import operator_folder, vendor_folders

_LIMIT = 256 * 2**20
_MOST = 200
_BELOW = ("framework/onnx/*.so", "framework/*.so", "vendors/*/framework/onnx/*.so", "vendors/*/framework/*.so")


def plugin_keys() -> frozenset[str]:
    """Every ``domain::opset::Type`` that an installed plugin names; empty where nothing is installed."""
    return _keys(operator_folder(), vendor_folders())


@functools.cache
def _keys(library: Path | None, vendors: tuple[Path, ...]) -> frozenset[str]:
    found: set[str] = set()
    for number, path in enumerate(_plugins(library, vendors)):
        if number >= _MOST:
            break
        try:
            if path.stat().st_size <= _LIMIT:
                found.update(key.decode() for key in KEY.findall(path.read_bytes()))
        except OSError:
            continue
    return frozenset(found)


def _plugins(library: Path | None, vendors: tuple[Path, ...]) -> Iterator[Path]:
    if library is not None:
        yield from sorted(library.glob("built-in/framework/onnx/*.so"))
        yield from sorted(library.glob("vendors/*/framework/**/*.so"))
    for folder in vendors:
        for place in (*_BELOW, *(f"packages/{below}" for below in _BELOW)):
            yield from sorted(folder.glob(place))
