"""Prepares the float model for quantization: a supported opset, folded BatchNorm, plain Gemm."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnx.shape_inference
import onnx.version_converter

from pth2om.errors import QuantizeError, first_line
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.onnxfile.walking import subgraphs
from pth2om.onnxfile.writing import INLINE_LIMIT
from pth2om.quantize.layers import KINDS
from pth2om.quantize.network import (
    FloatArray,
    Network,
    as_runtime_takes,
    attributes,
    constant_values,
    inlined,
    kind_of,
    open_session,
    opset_of,
)

LOWEST_OPSET = 11
"""The fake-quant twin needs Round and a Clip with inputs, which exist from opset 11 on."""
HIGHEST_OPSET = 22
"""ATC registers AscendQuant and AscendDequant for opset 8 to 22 (CANN ops-nn ONNX plugins)."""
QDQ_OPERATORS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_FROM_ABOVE = (17, 20, HIGHEST_OPSET)
QUANTIZED_OPERATORS = frozenset(
    {
        "AscendQuant",
        "AscendDequant",
        "AscendAntiQuant",
        "AscendRequant",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
        "DynamicQuantizeLinear",
        "QGemm",
        "QLinearAdd",
    }
)


def prepare(model: onnx.ModelProto, where: str, *, known: bool = False) -> tuple[Network, list[Finding]]:
    """The float model in the form for quantization: supported opset, known shapes, folded BatchNorm, plain Gemm.

    Args:
        model: a float ONNX model.
        where: the file's name, for errors.
        known: the caller has checked that ONNX Runtime can run the model, or does not need that.

    Raises:
        QuantizeError: ONNX Runtime cannot run it, it is quantized already, or its opset cannot be converted to 11..22.
    """
    refuse_integers(model, where)
    pairs = sorted({node.op_type for node in model.graph.node} & QDQ_OPERATORS)
    if pairs:
        raise QuantizeError("quantize.already-qdq", where=where, operators=", ".join(pairs))
    findings: list[Finding] = []
    opset = opset_of(model)
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        model = _convert_opset(model, opset, where)
        message = say("quantize.opset-converted", old=opset, new=opset_of(model))
        findings.append(Finding("quantize.opset-converted", "warning", message))
    if not known:
        # The code below requires a valid model; the runtime, which must run it anyway, checks this.
        open_session(as_runtime_takes(model), exact=True)
    network = Network(_inferred(inlined(model)))
    compute_constants(network)
    folded = _fold(network)
    network = Network(network.finish(), own=True)
    if folded:
        findings.append(Finding("quantize.folded", "info", say("quantize.folded", count=folded)))
    return network, findings


def refuse_integers(model: onnx.ModelProto, where: str) -> None:
    """Refuse a deploy model or a model of integer operators.

    Raises:
        QuantizeError: it is one; the message explains what to do instead.
    """
    found = sorted({node.op_type for node in model.graph.node} & QUANTIZED_OPERATORS)
    if found:
        key = "quantize.already-quantized" if any(kind.startswith("Ascend") for kind in found) else "quantize.qoperator"
        raise QuantizeError(key, where=where or None, operators=", ".join(found))


def _convert_opset(model: onnx.ModelProto, opset: int, where: str) -> onnx.ModelProto:
    # Older models are raised only as far as necessary: what ATC parses depends on the version (the inputs of Dropout).
    # Newer ones are lowered to the opset with most parsers in ATC, else to the highest that has any.
    reason = ""
    for target in (LOWEST_OPSET,) if opset < LOWEST_OPSET else _FROM_ABOVE:
        try:
            return onnx.version_converter.convert_version(model, target)
        except Exception as error:  # noqa: BLE001 - the converter raises bare RuntimeError and protobuf errors alike
            reason = first_line(error)
    raise QuantizeError("quantize.opset", where=where, opset=opset, reason=reason)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its tensors' shapes, or without them if inference fails: they are only used for reporting."""
    if model.ByteSize() > INLINE_LIMIT:
        return model
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # noqa: BLE001 - a model with operators onnx does not know is still quantizable
        return model


# ----------------------------------------------------------------------------------------------------- float rewrites


def _fold(network: Network) -> int:
    """Fold per-channel operations after a convolution into it, and make every Gemm plain; returns the nodes removed."""
    before = len(network.nodes)
    _fold_identities(network)
    made: dict[tuple[Any, ...], str] = {}
    for node in list(network.nodes):
        if kind_of(node) == "Gemm":
            _plain_gemm(network, node, made)
        elif kind_of(node) in ("Conv", "ConvTranspose"):
            _written_kernel(network, node)
    changed = True
    while changed:
        changed = False
        for node in list(network.nodes):
            if kind_of(node) in ("Conv", "ConvTranspose") and _fold_follower(network, node):
                changed = True
        network.index()
    return before - len(network.nodes)


_NOT_CONSTANT = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def compute_constants(
    network: Network,
    kinds: Collection[str] = (*KINDS, "BatchNormalization", "Mul", "Add"),
    *,
    chained: bool = True,
) -> None:
    """Compute the inputs of nodes of ``kinds`` other than the activation if they depend on constants alone.

    Exporters leave the steps from a parameter to a weight in the graph (Cast, Transpose, Reshape, a weight norm); only
    an initializer can be quantized.

    Args:
        network: changed in place.
        kinds: operators whose constant inputs are computed.
        chained: whether an operator of ``kinds`` may be computed itself.
    """
    # Identities are bypassed, not computed, so that a weight shared by several layers is still recognized as shared.
    _fold_identities(network)
    fixed = set(network.constants) | {""}
    computable: dict[int, onnx.NodeProto] = {}
    for node in network.finish_order():
        kind = kind_of(node)
        excluded = kind in _NOT_CONSTANT or "::" in kind or (kind in kinds and not chained)
        if not excluded and not list(subgraphs(node)) and set(node.input) <= fixed:
            computable[id(node)] = node
            fixed |= set(node.output)
    wanted: dict[int, onnx.NodeProto] = {}
    for node in network.nodes:
        if kind_of(node) in kinds and id(node) not in computable:
            makers = (network.producer.get(name) for name in node.input)
            wanted |= {id(maker): maker for maker in makers if maker is not None and id(maker) in computable}
    done = set()
    for key, node in wanted.items():
        values = constant_values(network, [name for name in node.output if name])
        if values is None:
            # An operator that the runtime lacks for this type: the layer is then reported to have no constant weight.
            continue
        done.add(key)
        for name, value in values.items():
            network.constants[name] = onnx.numpy_helper.from_array(value, name)
    network.nodes = [node for node in network.nodes if id(node) not in done]
    network.index()
    _drop_unread(network, set(computable))


def _drop_unread(network: Network, candidates: set[int]) -> None:
    """Remove the ``candidates`` that are no longer read."""
    while True:
        used = set(network.consumers) | network.outputs | network.captured
        kept = [node for node in network.nodes if id(node) not in candidates or used & set(node.output)]
        if len(kept) == len(network.nodes):
            return
        network.nodes = kept
        network.index()


def _fold_identities(network: Network) -> None:
    """Identity of a constant: the torch exporter writes one for shared parameters."""
    for node in list(network.nodes):
        if kind_of(node) == "Identity" and node.input[0] in network.constants:
            name = node.output[0]
            if name in network.outputs or name in network.captured:
                continue
            for reader in network.consumers.get(name, []):
                for position, read in enumerate(reader.input):
                    if read == name:
                        reader.input[position] = node.input[0]
            network.nodes.remove(node)
    network.index()


def _float_constant(network: Network, name: str) -> FloatArray | None:
    value = network.array(name)
    return np.asarray(value, np.float32) if value is not None and value.dtype == np.float32 else None


def _written_kernel(network: Network, node: onnx.NodeProto) -> None:
    """Write kernel_shape, which ONNX derives from the weight and ATC requires."""
    weight = network.constants.get(node.input[1])
    if weight is not None and "kernel_shape" not in attributes(node):
        kept = [entry for entry in node.attribute if entry.name != "kernel_shape"]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute("kernel_shape", list(weight.dims)[2:])])


def _plain_gemm(network: Network, node: onnx.NodeProto, made: dict[tuple[Any, ...], str]) -> None:
    """Make transB=0 and alpha=beta=1 by changing the constants; Gemms that share a weight share the new one."""
    values = attributes(node)
    weight = _float_constant(network, node.input[1])
    if weight is None or values.get("transA", 0) or weight.ndim != 2:
        return
    bias = _float_constant(network, node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if len(node.input) > 2 and node.input[2] and bias is None:
        return
    alpha, beta = np.float32(values.get("alpha", 1.0)), np.float32(values.get("beta", 1.0))
    changed = weight.T if values.get("transB", 0) else weight
    if values.get("transB", 0) or alpha != 1:
        key = (node.input[1], values.get("transB", 0), float(alpha))
        if key not in made:
            made[key] = network.add_constant(node.input[1], np.ascontiguousarray(changed * alpha))
        node.input[1] = made[key]
    if bias is not None and beta != 1:
        node.input[2] = network.add_constant(node.input[2], np.asarray(bias * beta))
    kept = [entry for entry in node.attribute if entry.name not in ("transB", "alpha", "beta")]
    del node.attribute[:]
    node.attribute.extend(kept)


def _fold_follower(network: Network, node: onnx.NodeProto) -> bool:
    """Fold the BatchNormalization, or the constant Mul or Add, that is the only reader of a convolution's output."""
    weight = _float_constant(network, node.input[1])
    follower = network.only_consumer(node.output[0])
    if weight is None or follower is None or len(network.consumers.get(node.input[1], [])) != 1:
        return False
    group = int(attributes(node).get("group", 1))
    channels = weight.shape[0] if node.op_type == "Conv" else weight.shape[1] * group
    bias: FloatArray | None = np.zeros(channels, np.float32)
    if len(node.input) > 2 and node.input[2]:
        bias = _float_constant(network, node.input[2])
    if bias is None:
        return False
    affine = _affine(network, follower, node.output[0], channels, weight.ndim)
    if affine is None:
        return False
    factor, shift = affine
    node.input[1] = network.add_constant(node.input[1], scale_rows(weight, factor, node.op_type, group))
    moved = (bias.astype(np.float64) * factor + shift).astype(np.float32)
    base = node.input[2] if len(node.input) > 2 and node.input[2] else f"{node.name}.bias"
    name = network.add_constant(base, moved)
    if len(node.input) > 2:
        node.input[2] = name
    else:
        node.input.append(name)
    node.output[0] = follower.output[0]
    network.nodes.remove(follower)
    network.index()
    return True


def scale_rows(weight: FloatArray, factor: npt.NDArray[np.floating[Any]], kind: str, group: int) -> FloatArray:
    """A convolution's weight times one factor per output channel; in double precision, rounded once."""
    wide = weight.astype(np.float64)
    tail = (1,) * (weight.ndim - 2)
    if kind == "Conv":
        return (wide * factor.reshape(-1, 1, *tail)).astype(np.float32)
    grouped = wide.reshape(group, weight.shape[0] // group, *weight.shape[1:])
    return (grouped * factor.reshape(group, 1, -1, *tail)).astype(np.float32).reshape(weight.shape)


def _affine(
    network: Network, follower: onnx.NodeProto, name: str, channels: int, rank: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """The per-channel factor and shift that ``follower`` applies to ``name``, or None."""
    if kind_of(follower) == "BatchNormalization":
        parts = [_float_constant(network, entry) for entry in follower.input[1:5]]
        values = attributes(follower)
        if any(part is None for part in parts) or values.get("training_mode", 0) or len(follower.output) > 1:
            return None
        gamma, beta, mean, variance = (np.asarray(part, np.float64) for part in parts)
        factor = gamma / np.sqrt(variance + np.float32(values.get("epsilon", 1e-5)))
        return factor, beta - mean * factor
    if kind_of(follower) not in ("Mul", "Add") or name not in follower.input or len(set(follower.input)) != 2:
        return None
    constant = _float_constant(network, next(entry for entry in follower.input if entry != name))
    if constant is None or not _per_channel(constant.shape, channels, rank):
        return None
    value = np.broadcast_to(constant.astype(np.float64).reshape(-1), (channels,))
    if follower.op_type == "Mul":
        return value, np.zeros(channels)
    return np.ones(channels), value


def _per_channel(shape: tuple[int, ...], channels: int, rank: int) -> bool:
    """Whether a constant of ``shape`` broadcasts to one value per channel of an NC... tensor of ``rank`` axes."""
    if math.prod(shape) == 1:
        return len(shape) <= rank
    aligned = (1,) * (rank - len(shape)) + tuple(shape)
    return len(aligned) == rank and aligned[1] == channels and math.prod(aligned) == channels
