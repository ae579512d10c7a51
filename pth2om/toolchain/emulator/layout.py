"""Rounding without leaving ONNX Runtime's blocked convolution layout.

On most CPUs ONNX Runtime convolves in a layout of blocked channels and reorders tensors on the way in and out. A pair
of Casts between two convolutions makes it reorder twice although rounding does not care about the order of elements. So
the optimized graph is asked for once, the roundings are moved to the blocked side, and the reorderings that have no
reader left are dropped. The values are the same, bit for bit; the file in the compiled folder stays ordinary ONNX, this
form lives in memory only.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from pth2om.errors import GraphError
from pth2om.onnxfile.reading import read_whole
from pth2om.onnxfile.runtime import RefusedError, open_runtime
from pth2om.onnxfile.walking import captured, sort_nodes

if TYPE_CHECKING:
    import onnx

_LARGEST = 1 << 30  # bytes of a model file; beyond it a second copy in memory costs more than the reordering


def blocked_model(path: Path, threads: int | None) -> bytes | None:
    """The model with its roundings in the blocked layout, optimized for this CPU.

    Args:
        path: an ONNX file that `compile_numerics` wrote.
        threads: intra-op threads, None for ONNX Runtime's own choice; they change no layout but cost to start.

    Returns:
        A serialized model to be opened without further optimization, or None where nothing can be gained: weights in
        another file, a very large model, no blocked convolution, or an ONNX Runtime that writes no optimized graph.
    """
    if path.stat().st_size > _LARGEST:
        return None
    try:
        model = _optimized(path, threads)
        if any(tensor.external_data for tensor in model.graph.initializer):
            return None
        return model.SerializeToString() if _move_roundings(model.graph) else None
    except (GraphError, ValueError, RuntimeError):
        return None  # the file itself is opened then, and says what is wrong with it if anything is


def _optimized(path: Path, threads: int | None) -> onnx.ModelProto:
    """What ONNX Runtime makes of a file on this CPU."""
    with tempfile.TemporaryDirectory(prefix="pth2om-") as folder:
        written = Path(folder) / "optimized.onnx"
        try:
            open_runtime(path, threads=threads, written=written)
        except RefusedError as error:
            raise RuntimeError(str(error)) from error
        return read_whole(written)


def _move_roundings(graph: onnx.GraphProto) -> int:
    """Turn reorder-out, Cast, Cast into Cast, Cast, reorder-out; drop reorderings in and out that meet.

    Returns:
        How many roundings were moved.
    """
    reads: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    fixed = {value.name for value in graph.output}
    for node in graph.node:
        for name in node.input:
            reads[name].append(node)
        fixed |= captured(node)
    renamed: dict[str, str] = {}
    gone: set[str] = set()
    moved = 0
    for reorder in graph.node:
        pair = _rounding_after(reorder, reads, fixed)
        if pair is None:
            continue
        first, second = pair
        rounded = second.output[0]
        blocked = f"{rounded}__blocked"
        inward = [node for node in reads[rounded] if _reorders(node, "ReorderInput") and node.output[0] not in fixed]
        renamed.update({node.output[0]: blocked for node in inward})
        gone.update(node.output[0] for node in inward)
        if len(inward) == len(reads[rounded]):
            gone.add(rounded)
        first.input[0], second.output[0] = reorder.input[0], blocked
        reorder.input[0], reorder.output[0] = blocked, rounded
        moved += 1
    if moved:
        _rebuild(graph, renamed, gone)
    return moved


def _rounding_after(
    reorder: onnx.NodeProto, reads: dict[str, list[onnx.NodeProto]], fixed: set[str]
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """The two Casts that alone read a reordered tensor, if that is how it is."""
    if not _reorders(reorder, "ReorderOutput"):
        return None
    chain: list[onnx.NodeProto] = []
    name = reorder.output[0]
    for _ in range(2):
        after = reads.get(name, [])
        if len(after) != 1 or after[0].op_type != "Cast" or name in fixed:
            return None
        chain.append(after[0])
        name = after[0].output[0]
    return None if name in fixed else (chain[0], chain[1])


def _reorders(node: onnx.NodeProto, op_type: str) -> bool:
    """Whether a node is that reordering between the plain (not channels-last) and the blocked layout."""
    if node.op_type != op_type or node.domain != "com.microsoft.nchwc":
        return False
    return not any(entry.name == "channels_last" and entry.i for entry in node.attribute)


def _rebuild(graph: onnx.GraphProto, renamed: dict[str, str], gone: set[str]) -> None:
    """Write the changed nodes back, producers first; types of blocked tensors are ONNX Runtime's to infer."""
    import onnx

    kept = []
    for node in graph.node:
        if node.op_type in ("ReorderInput", "ReorderOutput") and node.output[0] in gone:
            continue
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        for index, name in enumerate(copy.input):
            copy.input[index] = renamed.get(name, name)
        kept.append(copy)
    del graph.node[:]
    graph.node.extend(kept)
    del graph.value_info[:]
    sort_nodes(graph)
