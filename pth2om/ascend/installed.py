"""The keys of ONNX plugins that are installed on this machine: those of a CANN toolkit and of vendor packages.

A plugin is a shared library that holds its ``domain::opset::Type`` keys as text; they are read as bytes, nothing is
loaded. A key that is found is registered; one that is not may still be (compilers hide short texts in code).
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pth2om.ascend.socs import toolkit

_KEY = re.compile(rb"[A-Za-z_][A-Za-z0-9_.]{0,63}::[0-9]{1,3}::[A-Za-z_][A-Za-z0-9_.]{0,63}")
_LIMIT = 256 * 2**20
_MOST = 200
_BELOW = ("framework/onnx/*.so", "framework/*.so", "vendors/*/framework/onnx/*.so", "vendors/*/framework/*.so")


def plugin_keys() -> frozenset[str]:
    """Every ``domain::opset::Type`` that an installed plugin names; empty where nothing is installed."""
    home = toolkit()
    opp = os.environ.get("ASCEND_OPP_PATH") or (str(home / "opp") if home else "")
    return _keys(opp, os.environ.get("ASCEND_CUSTOM_OPP_PATH", ""))


@functools.cache
def _keys(opp: str, custom: str) -> frozenset[str]:
    found: set[str] = set()
    for number, path in enumerate(_plugins(opp, custom)):
        if number >= _MOST:
            break
        try:
            if path.stat().st_size <= _LIMIT:
                found.update(key.decode() for key in _KEY.findall(path.read_bytes()))
        except OSError:
            continue
    return frozenset(found)


def _plugins(opp: str, custom: str) -> Iterator[Path]:
    if opp and Path(opp).is_dir():
        yield from sorted(Path(opp).glob("built-in/framework/onnx/*.so"))
        yield from sorted(Path(opp).glob("vendors/*/framework/**/*.so"))
    for entry in custom.split(os.pathsep):
        if entry and Path(entry).is_dir():
            for place in (*_BELOW, *(f"packages/{below}" for below in _BELOW)):
                yield from sorted(Path(entry).glob(place))
