"""A deploy model from another tool, traced to its float model."""

from __future__ import annotations

import numpy as np
import onnx

from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.quantize.calibrate import Calibration
from pth2om.quantize.layers import Layer, select
from pth2om.quantize.network import FloatArray, Network
from pth2om.quantize.parts import Part, parts_of
from pth2om.quantize.plan import Plan
from pth2om.quantize.prepare import prepare
from pth2om.quantize.ranges import Range
from pth2om.quantize.settings import LayerReport, QuantizeSettings
from pth2om.quantize.weights import Quantized

_SAME_WEIGHT = 0.3
"""Relative L2 up to which integers match a weight, apart from a factor per output channel (balancing). Rounding and
retraining stay below it; another layer's weight gives about 1."""


def adopted_plan(model: onnx.ModelProto, deploy: onnx.ModelProto, where: str = "") -> Plan:
    """The plan that a deploy model follows: its layers traced to the float model's by name, shape and weight.

    A layer that cannot be traced (the tool renamed or fused it) is still INT8. It is reported by name, no error is
    measured for it, and it is not written into an FP32 checkpoint.

    Args:
        model: the float model.
        deploy: made from it by amct_onnx or the user's own command, or converted from QDQ.
        where: its name, for messages.

    Raises:
        QuantizeError: ``deploy`` is not a deploy model or belongs to another model, or nothing in the float model can
            be INT8.
    """
    made = Network(deploy)
    parts = {part.name: part for part in parts_of(made, where)}
    _same_inputs(model, deploy, where)
    network, findings = prepare(model, where)
    selection = select(network, small_channels=True, where=where)
    plan = Plan(network, selection, Calibration({}), QuantizeSettings(), findings=findings, given=deploy)
    for part in parts.values():
        if part.rolls_back:
            message = say("quantize.rolls-back", channels=part.channels_in)
            plan.findings.append(Finding("quantize.rolls-back", "warning", message, node=part.name))
    renamed = {}
    for layer in selection.layers:
        candidate = parts.get(layer.name)
        if candidate is None:
            layer.reason = layer.reason or say("quantize.left-by-tool")
            continue
        # We fold a BatchNorm; if the tool left it in the graph, the tensor and the weight before it are different.
        readers = made.consumers.get(candidate.dequant.output[0], [])
        elsewhere = any(node.op_type == "BatchNormalization" for node in readers)
        traced = None if elsewhere or layer.reason is not None else _traced(network, layer, candidate)
        if traced is not None:
            plan.quantized[layer.name] = traced
            renamed[layer.name] = parts.pop(layer.name).dequant.output[0]
    plan.renamed = renamed
    plan.untraced = tuple(
        LayerReport(name, part.layer.op_type, True, exact=part.exact_in_float, rolls_back=part.rolls_back)
        for name, part in parts.items()
    )
    if parts:
        message = say("quantize.untraced", count=len(parts), names=", ".join(list(parts)[:5]))
        plan.findings.append(Finding("quantize.untraced", "warning", message))
    return plan


def _same_inputs(model: onnx.ModelProto, deploy: onnx.ModelProto, where: str) -> None:
    given, wanted = (
        sorted({entry.name for entry in graph.input} - {entry.name for entry in graph.initializer})
        for graph in (deploy.graph, model.graph)
    )
    if given != wanted:
        raise QuantizeError("quantize.not-this-model", where=where, given=", ".join(given), wanted=", ".join(wanted))


def _traced(network: Network, layer: Layer, part: Part) -> Quantized | None:
    """The layer's integers, or None if they belong to another weight or another place in the graph."""
    if part.relu or part.layer.op_type != layer.kind or (part.add is None) != (layer.add is None):
        return None
    scale_d = np.float32(1) / np.float32(part.scale**2 if part.sqrt_mode else part.scale)
    quantized = Quantized(layer, Range(scale_d, part.offset), np.ones(1, np.float32), network)
    if layer.weight is None or part.weight is None:
        return quantized if layer.weight is None and part.weight is None else None
    if part.weight.shape != np.asarray(network.array(layer.weight)).shape:
        return None
    quantized.weight = part.weight
    quantized.scale = np.asarray(part.deq_scale / scale_d, np.float32)
    if not _same(layer.rows(quantized.dequantized), layer.rows(np.asarray(quantized.float_weight))):
        return None
    if part.bias is not None:
        quantized.bias = np.broadcast_to(part.bias, (layer.channels_out,)).astype(np.int32)
    return quantized


def _same(rows: FloatArray, wanted: FloatArray) -> bool:
    """Whether the (channels, weights) rows are multiples of the expected ones, apart from rounding."""
    first, second = rows.astype(np.float64), wanted.astype(np.float64)
    power = np.square(second).sum(axis=1)
    factor = np.maximum((first * second).sum(axis=1), 0) / np.where(power > 0, power, 1)
    gap = np.linalg.norm(first - factor[:, None] * second)
    return bool(gap <= _SAME_WEIGHT * np.linalg.norm(first))
