"""The child process of the pass ``simplify``: ``python -m pth2om.graph.simplify_child TOOL SOURCE DESTINATION``.

It is a process of its own because both simplifiers have been seen to crash, to hang and to eat memory
(onnx-simplifier #187, #206, #262), and two protobuf runtimes in one process do not agree (#103, #425).
"""

from __future__ import annotations

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
    sys.exit(main(sys.argv[1:]))
