"""The child process of the pass ``simplify``: ``python -m pth2om.graph.simplify_child``.

It imports what is slow, then reads what to do from stdin: ``["TOOL", "SOURCE", "DESTINATION"]``. It ends without a word
where nothing comes.

It is a process of its own because both simplifiers have been seen to crash, to hang and to eat memory
(onnx-simplifier #187, #206, #262), and two protobuf runtimes in one process do not agree (#103, #425).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from pathlib import Path

from pth2om.onnxfile.reading import read_whole
from pth2om.onnxfile.writing import write_model

_FOLD_BYTES = 64 * 2**20
"""Constants above this size are not folded: Expand and Tile of constants have made files ten times as large."""


def main(words: list[str]) -> int:
    """Simplify one file; 0 when the destination is written, 3 when the tool is not installed."""
    tool, source, destination = words
    model = read_whole(Path(source))
    if tool == "onnxslim":
        try:
            import onnxslim
        except ImportError:
            return 3
        model = onnxslim.slim(model, size_threshold=_FOLD_BYTES)
    else:
        try:
            import onnxsim
        except ImportError:
            return 3
        model, _ = onnxsim.simplify(model, tensor_size_threshold="64MB")
    if model is None:
        return 1
    write_model(model, Path(destination))
    return 0


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        importlib.import_module("onnxslim")  # the usual tool; `main` tells where it is absent
    asked = sys.stdin.buffer.read()
    sys.exit(main(json.loads(asked)) if asked else 0)
