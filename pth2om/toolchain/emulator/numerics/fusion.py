"""Which operators the fused band computes as one: convolution or matrix product, batch norm, activation, residual."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from pth2om.onnxfile.walking import captured
from pth2om.toolchain.emulator.numerics.operators import ACTIVATIONS, CUBE, GATES

Reads = dict[str, list[onnx.NodeProto | None]]
"""Tensor -> the nodes that read it; None stands for a graph output or a sub-graph's capture."""

Array = npt.NDArray[np.generic]

_GONE = "(folded)"


@dataclass
class Chains:
    """What is rounded once.

    Attributes:
        raw: tensors inside a chain: float32, not rounded.
        limited: x * gate(x) -> x: limiting x to the float16 range limits the product, and costs nothing because ONNX
            Runtime does it inside the convolution.
        count: chains found.
    """

    raw: set[str] = field(default_factory=set)
    limited: dict[str, str] = field(default_factory=dict)
    count: int = 0


def readers(graph: onnx.GraphProto) -> Reads:
    """Who reads each tensor of ``graph``."""
    reads: Reads = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            if name:
                reads[name].append(node)
        for name in captured(node):
            reads[name].append(None)
    for value in graph.output:
        reads[value.name].append(None)
    return reads


def find(graph: onnx.GraphProto, in_half: Callable[[onnx.NodeProto], bool], *, exact: bool) -> Chains:
    """The chains of ``graph``.

    Args:
        graph: a graph, batch norms already folded where they can be.
        in_half: whether a node would compute in float16 after a float16 predecessor.
        exact: only what gives the same values as rounding after every operator: relu(round(x)) is round(relu(x)).
            It costs nothing and lets ONNX Runtime join the two.
    """
    reads = readers(graph)
    chains = Chains()
    for node in graph.node:
        if node.op_type not in CUBE or node.domain not in ("", "ai.onnx") or not in_half(node):
            continue
        path = _follow(node, reads, in_half, exact)
        if path:
            chains.count += 1
            for raw, limit, end in path:
                chains.raw.add(raw)
                if limit:
                    chains.limited[end] = limit
    return chains


def _follow(
    node: onnx.NodeProto, reads: Reads, in_half: Callable[[onnx.NodeProto], bool], exact: bool
) -> list[tuple[str, str, str]]:
    """Triples (tensor not rounded, tensor limited instead of the end or "", end so far) along one chain."""
    path: list[tuple[str, str, str]] = []
    current = node.output[0]
    left = {"norm": 1, "activation": 2, "residual": 1}
    while True:
        after = reads.get(current, [])
        gate = None if exact else _gated(current, after, reads, in_half)
        if gate is not None and left["activation"]:
            left["activation"] -= 1
            sigmoid, product = gate
            path += [(current, current, product), (sigmoid, "", product)]
            current = product
            continue
        if len(after) != 1 or after[0] is None or not in_half(after[0]) or after[0].domain not in ("", "ai.onnx"):
            return path
        step = _step(after[0], current)
        if step is None or not left[step] or (exact and after[0].op_type != "Relu"):
            return path
        left[step] -= 1
        path.append((current, "", after[0].output[0]))
        current = after[0].output[0]


def _step(node: onnx.NodeProto, current: str) -> str | None:
    if node.op_type == "BatchNormalization":
        return "norm" if len(node.output) == 1 and node.input[0] == current else None
    if node.op_type in ACTIVATIONS:
        return "activation" if node.input[0] == current else None
    if node.op_type == "Add" and list(node.input).count(current) == 1:
        return "residual"
    return None


def _gated(
    current: str,
    after: list[onnx.NodeProto | None],
    reads: Reads,
    in_half: Callable[[onnx.NodeProto], bool],
) -> tuple[str, str] | None:
    """(gate's output, product) when ``current`` is read exactly by gate(x) and x * gate(x)."""
    if len(after) != 2 or any(node is None for node in after):
        return None
    gates = [node for node in after if node is not None and node.op_type in GATES]
    products = [node for node in after if node is not None and node.op_type == "Mul"]
    if len(gates) != 1 or len(products) != 1 or not (in_half(gates[0]) and in_half(products[0])):
        return None
    gate, product = gates[0].output[0], products[0]
    if sorted(product.input) != sorted([current, gate]) or len(reads.get(gate, [])) != 1:
        return None
    return gate, product.output[0]


def fold_batch_norms(
    graph: onnx.GraphProto,
    value: Callable[[str], Array | None],
    in_half: Callable[[onnx.NodeProto], bool],
    fresh: Callable[[str], str],
) -> int:
    """Fold inference batch norms into the convolution before them, as ATC does; changes ``graph``.

    Args:
        graph: the graph.
        value: a constant tensor's value, or None.
        in_half: as in `find`.
        fresh: makes an unused name.

    Returns:
        How many were folded.
    """
    reads = readers(graph)
    folded_norms = 0
    for conv in graph.node:
        if conv.op_type != "Conv" or conv.domain not in ("", "ai.onnx") or not in_half(conv):
            continue
        after = reads.get(conv.output[0], [])
        norm = after[0] if len(after) == 1 else None
        if norm is None or _step(norm, conv.output[0]) != "norm":
            continue
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in norm.attribute}
        constants = [value(name) for name in (conv.input[1], *norm.input[1:5])]
        bias = value(conv.input[2]) if len(conv.input) > 2 and conv.input[2] else None
        if attributes.get("training_mode", 0) or any(entry is None for entry in constants):
            continue
        if len(conv.input) > 2 and conv.input[2] and bias is None:
            continue
        if not all(np.issubdtype(entry.dtype, np.floating) for entry in constants if entry is not None):
            continue  # a quantized convolution
        weight, scale, shift, mean, variance = (np.asarray(entry, dtype=np.float64) for entry in constants)
        factor = scale / np.sqrt(variance + float(attributes.get("epsilon", 1e-5)))
        folded = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        moved = shift + factor * ((0.0 if bias is None else np.asarray(bias, dtype=np.float64)) - mean)
        names = [fresh(f"{norm.output[0]}__weight"), fresh(f"{norm.output[0]}__bias")]
        for name, array in zip(names, (folded, moved), strict=True):
            graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
        data = conv.input[0]
        del conv.input[:]
        conv.input.extend([data, *names])
        conv.output[0] = norm.output[0]
        norm.op_type = _GONE
        folded_norms += 1
    if folded_norms:
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node if node.op_type != _GONE]
        del graph.node[:]
        graph.node.extend(kept)
    return folded_norms
