"""INT8 layers for the emulator: `on_chip` marks them in a deploy model and defines how they are computed.

::

    on_chip(deploy, "Ascend310B1") --> float operators and pth2om::QuantizedLayer --numerics--> standard ONNX

Importing this module registers the operator. A QuantizedLayer is one AscendQuant, layer and AscendDequant with the
SoC's own rounding: FP16 AscendQuant, exact INT32 sums, the dequantization scale as the SoC holds it, one rounding to
FP16 at the end. Layers that ATC returns to FP16 are float operators with dequantized weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pth2om.ascend import families
from pth2om.quantize.network import attributes
from pth2om.quantize.parts import Part
from pth2om.quantize.twins import _NpuWriter, _rewrite
from pth2om.toolchain.emulator.numerics import emulation

DOMAIN = "pth2om"
OPERATOR = "QuantizedLayer"


def on_chip(deploy: onnx.ModelProto, soc: str, where: str = "") -> onnx.ModelProto:
    """A deploy model with its INT8 layers as single `OPERATOR` nodes, and layers returned to FP16 in floating point.

    Args:
        deploy: a deploy model.
        soc: SoC name, for the dequantization scale.
        where: the model's name, for errors.

    Raises:
        QuantizeError: it is not a deploy model.
    """
    model = _rewrite(deploy, where, lambda network: _ChipWriter(network, families.find(soc)))
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return model


class _ChipWriter(_NpuWriter):
    """Writes one node per INT8 layer, with everything the emulation needs in its attributes."""

    def part(self, part: Part) -> None:
        if part.rolls_back:
            self.rolled_back(part)
            return
        values: dict[str, Any] = {
            "layer": numpy_helper.from_array(np.frombuffer(part.layer.SerializeToString(), np.uint8)),
            "scale": float(part.scale),
            "offset": part.offset,
            "sqrt_mode": int(part.sqrt_mode),
            "relu": int(part.relu),
            "rank": part.rank,
            "deq_scale": numpy_helper.from_array(self.kept_scale(part)),
        }
        if part.weight is not None:
            values["weight"] = numpy_helper.from_array(np.ascontiguousarray(part.weight))
        if part.bias is not None:
            values["bias"] = numpy_helper.from_array(np.ascontiguousarray(part.bias))
        source = part.source
        if part.pad is not None:
            # AscendQuant maps zero to its offset, so padding before it equals padding after it.
            source = self.padded(part, source)
        node = helper.make_node(OPERATOR, [source], [part.dequant.output[0]], name=part.name, domain=DOMAIN, **values)
        self.nodes.append(node)


class _EmissionWriter(_NpuWriter):
    """The chip's arithmetic, written with the emulator's node writer."""

    def __init__(self, pen: emulation.Emission) -> None:
        # Without a network: names and constants come from the emulator.
        self.pen = pen
        self.family = None
        self._quants: dict[tuple[Any, ...], str] = {}
        self._clips: dict[tuple[Any, ...], str] = {}
        self._bytes: dict[tuple[Any, ...], str] = {}

    def constant(self, name: str, value: Any) -> str:  # noqa: ANN401, ARG002 - as in the base class
        return self.pen.constant(np.asarray(value))

    def emit(self, kind: str, inputs: list[str], name: str, output: str | None = None, **values: Any) -> str:  # noqa: ANN401, ARG002 - attributes of ONNX; the signature is `twins`'
        return self.pen.add(kind, inputs, **values)

    def quant_name(self, part: Part) -> str:
        return part.name


def _emulate(pen: emulation.Emission) -> None:
    values = attributes(pen.node)
    layer = onnx.NodeProto()
    layer.ParseFromString(numpy_helper.to_array(values["layer"]).tobytes())
    weight = numpy_helper.to_array(values["weight"]) if "weight" in values else None
    bias = numpy_helper.to_array(values["bias"]) if "bias" in values else None
    part = Part(
        name=pen.node.name,
        layer=layer,
        add=None,
        dequant=onnx.NodeProto(),
        source=pen.input(0, rounded=True),
        scale=np.float32(values["scale"]),
        offset=int(values["offset"]),
        sqrt_mode=bool(values["sqrt_mode"]),
        weight=None if weight is None else np.asarray(weight, np.int8),
        bias=None if bias is None else np.asarray(bias, np.int32),
        deq_scale=np.asarray(numpy_helper.to_array(values["deq_scale"]), np.float32),
        relu=bool(values["relu"]),
        channels_in=None,
        rank=int(values["rank"]),
    )
    writer = _EmissionWriter(pen)
    sums = writer.emit("Cast", [writer.sums(part)], "cast", to=TensorProto.FLOAT)
    scale = writer.constant("scale", part.broadcast(part.deq_scale))
    wide = writer.emit("Mul", [sums, scale], "dequant")
    if part.relu:
        wide = writer.emit("Relu", [wide], "relu")
    pen.output(0, wide, TensorProto.FLOAT, rounded=True)


emulation.register(OPERATOR, _emulate, domain=DOMAIN)
