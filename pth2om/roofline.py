"""A lower bound of an OM's latency from the chip's peak and the graph's work: an estimate, never a measurement.

``max(FLOP / peak, bytes / bandwidth)`` (Williams, Waterman and Patterson 2009, "Roofline", CACM 52:65) over the whole
graph. Only work that no compiler can avoid is counted: multiplications and additions of convolutions and matrix
products at the peak of the cube units, and the bytes of weights, inputs and outputs, each read or written once. Real
latencies are several times as high. Peaks are core count x clock x tile from the public CANN platform files, or the
published figure if that is higher; for Ascend910B no published figure agrees with the derived one, and the estimate
reports this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.ascend import socs
from pth2om.ascend.families import FAMILIES

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

VERSION = 1


def work(model: Path | ModelProto, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Any]:
    """The work in one inference of an ONNX graph, as JSON.

    Args:
        model: the file, or the model.
        shapes: input shapes, if the graph's are symbolic.

    Returns:
        ``flop`` (a multiply-add counts as two), ``parameters``, ``input_elements``, ``output_elements``, ``uncounted``:
        convolutions and matrix products whose shapes are unknown.
    """
    from pth2om.onnxfile.reading import read
    from pth2om.onnxfile.types import tensor_types

    graph_model = read(model) if isinstance(model, Path) else model
    graph = graph_model.graph
    types = tensor_types(graph_model, shapes or {})
    initial = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    sizes = {name: found for name, (_, found) in types.items() if found is not None} | initial
    flop, uncounted = 0, []
    for node in graph.node:
        if node.op_type not in _FLOP:
            continue
        try:
            count = _FLOP[node.op_type](node, sizes)
        except (KeyError, IndexError):
            count = -1
        if count < 0:
            uncounted.append(node.name or node.output[0])
        else:
            flop += count
    return {
        "version": VERSION,
        "flop": flop,
        "parameters": sum(math.prod(dims) for dims in initial.values()),
        "input_elements": _elements([entry.name for entry in graph.input if entry.name not in initial], sizes),
        "output_elements": _elements([entry.name for entry in graph.output], sizes),
        "uncounted": uncounted[:20],
        "uncounted_count": len(uncounted),
    }


def estimate(done: Mapping[str, Any], soc: str, *, batch: int = 1, quantized: bool = False) -> dict[str, Any] | None:
    """The shortest time that one inference can take.

    Args:
        done: what `work` returned for the graph at this batch size.
        soc: as ``--soc_version``.
        batch: images per inference, for frames per second.
        quantized: whether the variant is INT8, and bounded by the INT8 peak.

    Returns:
        JSON with ``milliseconds``, ``fps``, ``bound_by``, the peak and its source; ``milliseconds`` is None if no peak
        is known. None for an unknown SoC.
    """
    chip = socs.find(soc)
    if chip is None:
        return None
    row = socs.table()["socs"][socs.table()["aliases"].get(soc, socs.OLD_NAMES.get(soc, soc))]
    names = (
        ("derived_int8_tops", "published_int8_tops") if quantized else ("derived_fp16_tflops", "published_fp16_tflops")
    )
    peak = max((float(row[name]) for name in names if row.get(name) is not None), default=None)
    result: dict[str, Any] = {
        "estimate": True,
        "soc": soc,
        "flop": done["flop"],
        "peak_tflops": peak,
        "bandwidth_gbs": chip.bandwidth_gbs,
        "source": chip.source,
        "peak_unconfirmed": not FAMILIES[chip.family].peak_confirmed,
        "uncounted_count": done["uncounted_count"],
        "milliseconds": None,
        "fps": None,
        "bound_by": None,
    }
    if peak is None:
        return result
    width = 1 if quantized else 2
    moved = width * done["parameters"] + 2 * (done["input_elements"] + done["output_elements"])
    times = {"compute": 1e3 * done["flop"] / (peak * 1e12)}
    if chip.bandwidth_gbs is not None:
        times["memory"] = 1e3 * moved / (chip.bandwidth_gbs * 1e9)
    bound_by = max(times, key=lambda name: times[name])
    milliseconds = times[bound_by]
    result.update(bytes=moved, bound_by=bound_by, milliseconds=milliseconds or None)
    result["fps"] = 1000.0 * batch / milliseconds if milliseconds else None
    return result


# ---------------------------------------------------------------------------------------------------- one node

_Sizes = Mapping[str, tuple[int, ...]]


def _count(sizes: _Sizes, name: str) -> int:
    found = sizes[name]
    if min(found, default=1) < 0:
        raise KeyError(name)
    return math.prod(found)


def _conv(node: NodeProto, sizes: _Sizes) -> int:
    """2 x outputs x (input channels per group x kernel): the weight is (out, in / groups, kernel...)."""
    return 2 * _count(sizes, node.output[0]) * math.prod(sizes[node.input[1]][1:])


def _conv_transpose(node: NodeProto, sizes: _Sizes) -> int:
    """2 x inputs x (output channels per group x kernel): the weight is (in, out / groups, kernel...)."""
    return 2 * _count(sizes, node.input[0]) * math.prod(sizes[node.input[1]][1:])


def _matmul(node: NodeProto, sizes: _Sizes) -> int:
    return 2 * _count(sizes, node.output[0]) * sizes[node.input[0]][-1]


def _gemm(node: NodeProto, sizes: _Sizes) -> int:
    transposed = next((attribute.i for attribute in node.attribute if attribute.name == "transA"), 0)
    inner = sizes[node.input[0]][0 if transposed else 1]
    return 2 * _count(sizes, node.output[0]) * inner


_FLOP = {"Conv": _conv, "ConvTranspose": _conv_transpose, "MatMul": _matmul, "Gemm": _gemm}


def _elements(names: list[str], sizes: _Sizes) -> int:
    return sum(math.prod(sizes[name]) for name in names if name in sizes and min(sizes[name], default=1) >= 0)
