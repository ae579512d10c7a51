"""Forms of a node that ONNX allows but ATC's ONNX plugins refuse.

ATC prints no useful message for these (an unregistered code), so the reason given here is often the only one. From the
plugin sources of the public CANN operator repositories (2026-08).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from pth2om.language import Message, say
from pth2om.onnxfile.walking import NamedNode, attribute, imports, integer, integers, text

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Check = Callable[["NodeProto", int], "Message | None"]


def refusals(model: ModelProto, nodes: Sequence[NamedNode]) -> Iterator[tuple[NamedNode, Message]]:
    """Nodes whose plugin refuses them, each with the reason.

    Args:
        model: the model, for its opset.
        nodes: its nodes with their names.
    """
    opset = imports(model).get("ai.onnx", 0)
    for item in nodes:
        if item.node.domain not in ("", "ai.onnx"):
            continue
        for check in CHECKS.get(item.node.op_type, ()):
            message = check(item.node, opset)
            if message is not None:
                yield item, message
                break


def _needs(*names: str, below: int = 99, since: int = 0) -> Check:
    """The attributes have to be written out at opsets from `since` to below `below`."""

    def check(node: NodeProto, opset: int) -> Message | None:
        missing = [name for name in names if attribute(node, name) is None]
        if not since <= opset < below or not missing:
            return None
        return say("preflight.attribute-missing", op=node.op_type, attribute=missing[0])

    return check


def _only(name: str, *values: int | str, default: int | str) -> Check:
    """The attribute takes these values only."""

    def check(node: NodeProto, _opset: int) -> Message | None:
        value = text(node, name, str(default)) if isinstance(default, str) else integer(node, name, default)
        if value in values:
            return None
        allowed = ", ".join(str(item) for item in values)
        return say("preflight.attribute-value", op=node.op_type, attribute=name, value=value, allowed=allowed)

    return check


def _even_pads(node: NodeProto, _opset: int) -> Message | None:
    pads = integers(node, "pads")
    if pads is None or len(pads) % 2 == 0:
        return None
    return say("preflight.attribute-value", op=node.op_type, attribute="pads", value=len(pads), allowed="2n")


def _spatial_rank(node: NodeProto, _opset: int) -> Message | None:
    """1-D, 2-D and 3-D kernels only; a Conv without any list cannot be told apart."""
    lists = (integers(node, name) for name in ("kernel_shape", "strides", "dilations"))
    length = next((len(item) for item in lists if item is not None), None)
    if length is None:
        pads = integers(node, "pads")
        length = None if pads is None else len(pads) // 2
    if length is None:
        return say("preflight.attribute-missing", op=node.op_type, attribute="kernel_shape")
    if 1 <= length <= 3:
        return None
    return say("preflight.spatial-rank", op=node.op_type, rank=length)


def _conv_3d(node: NodeProto, _opset: int) -> Message | None:
    if len(integers(node, "kernel_shape") or ()) != 3:
        return None
    return _only("auto_pad", "NOTSET", "VALID", default="NOTSET")(node, 0)


def _pool_indices(node: NodeProto, _opset: int) -> Message | None:
    if len(node.output) > 1 and node.output[1]:
        return say("preflight.maxpool-indices")
    return None


def _inputs(most: int, rule: str, least: int = 0, since: int = 0, below: int = 99) -> Check:
    """The plugin binds from `least` to `most` connected inputs."""

    def check(node: NodeProto, opset: int) -> Message | None:
        used = len(node.input)
        while used and not node.input[used - 1]:
            used -= 1
        if not since <= opset < below or least <= used <= most:
            return None
        return say(f"preflight.{rule}", op=node.op_type, count=used, most=most, least=least)

    return check


def _clip(node: NodeProto, opset: int) -> Message | None:
    if opset >= 11 and not any(list(node.input)[1:]):
        return say("preflight.clip-open")
    return None


def _dropout(node: NodeProto, _opset: int) -> Message | None:
    if len(node.input) > 1 and any(list(node.input)[1:]):
        return say("preflight.dropout-ratio")
    return None


def _resize(node: NodeProto, opset: int) -> Message | None:
    if opset >= 11 and len(node.input) < 3:
        return say("preflight.resize-inputs", count=len(node.input))
    mode = text(node, "mode", "nearest")
    modes = ("nearest", "linear") if opset <= 10 else ("nearest", "linear", "cubic")
    if mode not in modes:
        allowed = ", ".join(modes)
        return say("preflight.attribute-value", op="Resize", attribute="mode", value=mode, allowed=allowed)
    return None


def _split(node: NodeProto, opset: int) -> Message | None:
    sizes = integers(node, "split")
    if sizes is not None and len(sizes) != len(node.output):
        return say("preflight.split-outputs", count=len(sizes), outputs=len(node.output))
    parts = attribute(node, "num_outputs")
    if opset >= 18 and parts is not None and parts.i != len(node.output):
        return say("preflight.split-outputs", count=int(parts.i), outputs=len(node.output))
    return None


def _even_size(node: NodeProto, _opset: int) -> Message | None:
    size = integer(node, "size", 1)
    if size % 2:
        return None
    return say("preflight.attribute-value", op="LRN", attribute="size", value=size, allowed="1, 3, 5, ...")


def _selu(node: NodeProto, _opset: int) -> Message | None:
    for name, default in (("alpha", 1.6732632), ("gamma", 1.0507010)):
        item = attribute(node, name)
        if item is not None and abs(item.f - default) > 1e-4:
            return say("preflight.attribute-value", op="Selu", attribute=name, value=item.f, allowed=str(default))
    return None


def _depth(node: NodeProto, _opset: int) -> Message | None:
    size, least = integer(node, "blocksize", 0), 2 if node.op_type == "DepthToSpace" else 1
    if size >= least:
        return None
    allowed = f">= {least}"
    return say("preflight.attribute-value", op=node.op_type, attribute="blocksize", value=size, allowed=allowed)


def _einsum(node: NodeProto, _opset: int) -> Message | None:
    if text(node, "equation", "").strip():
        return None
    return say("preflight.attribute-missing", op="Einsum", attribute="equation")


_REDUCE = (_inputs(2, "inputs-count"),)

CHECKS: dict[str, tuple[Check, ...]] = {
    "ArgMax": (_only("select_last_index", 0, default=0),),
    "ArgMin": (_only("select_last_index", 0, default=0),),
    "AveragePool": (_needs("kernel_shape"), _even_pads, _spatial_rank),
    "BitShift": (_only("direction", "LEFT", "RIGHT", default=""),),
    "Cast": (_needs("to"),),
    "Clip": (_clip,),
    "Concat": (_needs("axis"),),
    "Conv": (_even_pads, _inputs(3, "inputs-count", 2), _spatial_rank, _conv_3d),
    "ConvTranspose": (_needs("kernel_shape"), _even_pads, _spatial_rank),
    "DepthToSpace": (_depth,),
    "Dropout": (_dropout,),
    "Einsum": (_einsum,),
    "GatherND": (_only("batch_dims", 0, default=0),),
    "GridSample": (_only("align_corners", -1, 0, 1, default=0),),
    "LRN": (_needs("size"), _even_size),
    "LpPool": (_only("auto_pad", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID", default="NOTSET"), _spatial_rank),
    "MaxPool": (_needs("kernel_shape"), _pool_indices, _only("storage_order", 0, default=0), _spatial_rank),
    "MaxUnpool": (_needs("kernel_shape"),),
    "NonMaxSuppression": (_inputs(5, "inputs-count", 2),),
    "Pad": (_inputs(3, "pad-axes", since=18), _even_pads),
    **dict.fromkeys(
        (
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSum",
            "ReduceSumSquare",
        ),
        _REDUCE,
    ),
    "Resize": (_resize,),
    "Selu": (_selu,),
    "Slice": (_needs("starts", "ends", below=10),),
    "SpaceToDepth": (_depth,),
    "Split": (_split,),
    "TopK": (_needs("k", below=10),),
    "Transpose": (_needs("perm"),),
    "Upsample": (_only("mode", "nearest", "linear", default="nearest"),),
    "Unsqueeze": (_needs("axes", below=13),),
}
"""ONNX type to the checks of its plugin; the first that refuses is reported."""
