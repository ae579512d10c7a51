"""The small files beside a deploy model: the scale/offset record and the ``_quant.json`` fusion record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from pth2om.quantize.record import Record
from pth2om.quantize.weights import Quantized


def records(layers: Sequence[Quantized]) -> dict[str, Record]:
    """AMCT's ``ScaleOffsetRecord`` of each layer."""
    found = {}
    for quantized in layers:
        scale = tuple(float(value) for value in quantized.scale)
        found[quantized.layer.name] = Record(
            scale_d=float(quantized.activation.scale),
            offset_d=quantized.activation.offset,
            scale_w=scale,
            offset_w=(0,) * len(scale),
            other=(("act_type", "INT8"), ("wts_type", "INT8")),
        )
    return found


def quant_json(original: Sequence[onnx.NodeProto], deploy: onnx.ModelProto, name: str) -> dict[str, Any]:
    """The original nodes of every node of the deploy model, in the format of Ascend's accuracy comparison.

    Layout and names as the msprobe parser reads them (``-q`` / ``--quant_fusion_rule_file``); quantization nodes have
    no original and get an empty list.
    """
    known = {node.name for node in original}
    makers = {output: node for node in original for output in node.output}
    # An input is named by its producing operator and that operator's output number.
    origins = {
        output: f"{node.name}:{number}" for node in deploy.graph.node for number, output in enumerate(node.output)
    }
    ops = []
    for node in deploy.graph.node:
        sources = _sources(node, known, makers)
        origin = sources[-1] if sources else ""
        op: dict[str, Any] = {
            "name": node.name,
            "type": node.op_type,
            "attr": [{"key": "_datadump_original_op_names", "value": {"list": {"val_type": 1, "s": sources}}}],
            "input": [origins.get(entry, f"{entry}:0") for entry in node.input if entry],
        }
        if origin:
            op["output_desc"] = [
                {
                    "attr": [
                        {"key": "_datadump_origin_name", "value": {"s": origin}},
                        {"key": "_datadump_origin_output_index", "value": {"i": 0}},
                        {"key": "_datadump_origin_format", "value": {"s": "NCHW"}},
                    ]
                }
            ]
        ops.append(op)
    return {"name": name, "graph": [{"name": deploy.graph.name, "op": ops}]}


def _sources(node: onnx.NodeProto, known: set[str], makers: dict[str, onnx.NodeProto]) -> list[str]:
    """A node's own original and the nodes folded into it, from the output tensor upwards."""
    if node.name not in known:
        return []
    chain = [node.name]
    last = makers.get(node.output[0])
    while last is not None and last.name not in chain and last.op_type in ("BatchNormalization", "Mul", "Add"):
        chain.insert(1, last.name)
        last = next((makers[name] for name in last.input if name in makers), None)
    return chain
