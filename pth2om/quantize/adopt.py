"""A deploy model that another tool made, beside the float model it stands for."""

from __future__ import annotations

import numpy as np
import onnx

from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.quantize.calibrate import Calibration
from pth2om.quantize.layers import Layer, select
from pth2om.quantize.network import Network
from pth2om.quantize.plan import Plan
from pth2om.quantize.prepare import prepare
from pth2om.quantize.ranges import Range
from pth2om.quantize.settings import Settings
from pth2om.quantize.twins import Part, parts_of
from pth2om.quantize.weights import Quantized


def adopted_plan(model: onnx.ModelProto, deploy: onnx.ModelProto, where: str = "") -> Plan:
    """The plan that a deploy model follows: its layers traced to the float model's by name and shape.

    A layer that cannot be traced (the tool renamed or fused it) is INT8 all the same; it is named, and has no error
    and no place in an FP32 checkpoint.

    Args:
        model: the float model.
        deploy: made from it by amct_onnx, by a command of the user's own, or converted from QDQ.
        where: its name, for messages.

    Raises:
        QuantizeError: ``deploy`` is no deploy model or another model's, or the float model has nothing that could be
            INT8.
    """
    parts = {part.name: part for part in parts_of(Network(deploy), where)}
    _same_inputs(model, deploy, where)
    network, findings = prepare(model, where)
    selection = select(network, small_channels=True, where=where)
    plan = Plan(network, selection, Calibration({}), Settings(), findings=findings, given=deploy)
    renamed = {}
    for layer in selection.layers:
        part = parts.get(layer.name)
        traced = None if part is None or layer.reason is not None else _traced(network, layer, part)
        if traced is not None:
            plan.quantized[layer.name] = traced
            renamed[layer.name] = parts.pop(layer.name).dequant.output[0]
        elif layer.reason is None:
            layer.reason = say("quantize.left-by-tool")
        if traced is not None and layer.rolls_back:
            message = say("quantize.rolls-back", channels=layer.channels_in)
            plan.findings.append(Finding("quantize.rolls-back", "warning", message, node=layer.name))
    plan.renamed, plan.untraced = renamed, tuple(parts)
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
    """The layer's integers, or None where they belong to another weight or another place in the graph."""
    if part.relu or part.layer.op_type != layer.kind or (part.add is None) != (layer.add is None):
        return None
    scale_d = np.float32(1) / np.float32(part.scale**2 if part.sqrt_mode else part.scale)
    quantized = Quantized(layer, Range(scale_d, part.offset), np.ones(1, np.float32), network)
    if layer.weight is None or part.weight is None:
        return quantized if layer.weight is None and part.weight is None else None
    wanted = np.asarray(network.array(layer.weight)).shape
    weight = part.weight
    if layer.kind == "Gemm" and any(entry.name == "transB" and entry.i for entry in part.layer.attribute):
        weight = np.ascontiguousarray(weight.T)
    if weight.shape != wanted or part.deq_scale.size not in (1, layer.channels_out):
        return None
    quantized.weight = weight
    quantized.scale = np.asarray(part.deq_scale / scale_d, np.float32)
    if part.bias is not None:
        quantized.bias = np.broadcast_to(part.bias, (layer.channels_out,)).astype(np.int32)
    return quantized
