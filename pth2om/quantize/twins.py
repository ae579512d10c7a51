"""Twins of a deploy model that run in plain ONNX Runtime.

A deploy model is taken apart by its pattern, ``AscendQuant -> layer (-> Add) -> AscendDequant``, whoever wrote it, and
put together again:

* `fake_quant`: floating point, standard operators; every INT8 tensor becomes ``q - offset`` held in FP32;
* `integer`: ConvInteger and MatMulInteger, INT32 sums: the mathematical meaning of the deploy model;
* with ``level="npu"``: the same with the chip's own rounding, see `Level`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from pth2om.ascend import families
from pth2om.errors import QuantizeError
from pth2om.quantize.layers import from_rows, to_rows
from pth2om.quantize.network import Array, Network, attributes
from pth2om.quantize.parts import Part, parts_of
from pth2om.quantize.weights import EXACT_FLOAT

Level = Literal["math", "npu"]
"""``math``: FP32 around exact integers. ``npu``: AscendQuant computed in FP16, dequantized results rounded to FP16, the
scale kept as the SoC's registers keep it, and layers that ATC rolls back compiled in floating point."""


# ------------------------------------------------------------------------------------------------- the fake-quant twin


def fake_quant(deploy: onnx.ModelProto, where: str = "") -> onnx.ModelProto:
    """The floating-point twin: Mul, Add, Round, Clip, Sub before each layer and a Mul after it.

    It equals an integer evaluation of the deploy model bit for bit wherever `Part.exact_in_float` holds and the runtime
    fuses nothing (ONNX Runtime: ``ORT_DISABLE_ALL``).

    Args:
        deploy: a deploy model, ours or AMCT's.
        where: its name, for errors.

    Raises:
        QuantizeError: it is not a deploy model.
    """
    return _rewrite(deploy, where, _FakeWriter)


def integer(deploy: onnx.ModelProto, where: str = "") -> onnx.ModelProto:
    """The integer twin: what the deploy model means, exactly, with ConvInteger and MatMulInteger."""
    return _rewrite(deploy, where, _IntegerWriter)


def emulation_rewrite(
    deploy: onnx.ModelProto, level: Level = "math", soc: str | None = None, where: str = ""
) -> onnx.ModelProto:
    """A deploy model as standard ONNX that computes what an NPU would.

    Args:
        deploy: a deploy model.
        level: see `Level`.
        soc: for ``npu``: the SoC name; 310B, 910B and later dequantize with a 19-bit scale, 310 with an FP16 scale,
            310P and others with FP32.
        where: the model's name, for errors.

    Returns:
        A model of standard operators; tensors between layers stay FP32 typed, at level ``npu`` with FP16 values where
        this rewrite made them. Rounding the remaining operators is the caller's.

    Raises:
        QuantizeError: it is not a deploy model.
    """
    if level == "math":
        return integer(deploy, where)
    return _rewrite(deploy, where, lambda network: _NpuWriter(network, families.find(soc)))


def _rewrite(deploy: onnx.ModelProto, where: str, writer_of: Callable[[Network], _Writer]) -> onnx.ModelProto:
    network = Network(deploy)
    parts = parts_of(network, where)
    writer = writer_of(network)
    doomed: set[int] = set()
    for part in parts:
        writer.part(part)
        doomed |= {id(node) for node in (part.layer, part.add, part.pad, part.dequant) if node is not None}
    for node in network.nodes:
        if node.op_type == "AscendQuant":
            doomed.add(id(node))
        elif node.op_type == "AscendAntiQuant":
            writer.anti(node)
            doomed.add(id(node))
        elif node.op_type.startswith("Ascend") and id(node) not in doomed:
            raise QuantizeError("quantize.unsupported-operator", where=where or None, kind=node.op_type, node=node.name)
    network.nodes = [node for node in network.nodes if id(node) not in doomed] + writer.nodes
    network.index()
    return network.finish()


class _Writer:
    """Writes the nodes that stand for a part; subclasses choose the arithmetic."""

    kind = "fakequant"

    def __init__(self, network: Network) -> None:
        self.network = network
        self.nodes: list[onnx.NodeProto] = []
        self._names: set[str] = set()
        self._quants: dict[tuple[Any, ...], str] = {}
        self._clips: dict[tuple[Any, ...], str] = {}

    def part(self, part: Part) -> None:
        raise NotImplementedError

    def anti(self, node: onnx.NodeProto) -> None:
        """AscendAntiQuant: ``(q - offset) * scale`` in FP32."""
        quant = self.network.producer.get(node.input[0])
        if quant is None or quant.op_type != "AscendQuant":
            raise QuantizeError("quantize.no-dequant", layer=node.name, kind=node.op_type)
        values, own = attributes(quant), attributes(node)
        offset = int(values.get("offset", 0.0))
        q = self.levels(
            quant.input[0],
            quant.name,
            np.float32(values.get("scale", 1.0)),
            offset,
            bool(values.get("sqrt_mode", 0)),
        )
        if float(own.get("offset", 0.0)) != offset:
            shift = self.constant(f"{node.name}.shift", np.float32(offset - float(own.get("offset", 0.0))))
            q = self.emit("Add", [q, shift], f"{node.name}.{self.kind}.shift")
        scale = self.constant(f"{node.name}.scale", np.float32(own.get("scale", 1.0)))
        self.emit("Mul", [q, scale], f"{node.name}.{self.kind}.mul", node.output[0])

    def constant(self, name: str, value: Any) -> str:  # noqa: ANN401 - array or NumPy scalar
        return self.network.add_constant(name, np.asarray(value))

    def emit(self, kind: str, inputs: list[str], name: str, output: str | None = None, **values: Any) -> str:  # noqa: ANN401 - attributes of ONNX
        unique, count = name, 1
        while unique in self._names:
            unique, count = f"{name}.{count}", count + 1
        self._names.add(unique)
        output = output or self.network.fresh(f"{unique}.output0")
        name = unique
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, **values))
        return output

    def scaled(self, source: str, name: str, scale: np.float32, sqrt_mode: bool) -> str:
        """``source * scale`` (twice the root with sqrt_mode), FP32."""
        factor = self.constant(f"{name}.scale", scale)
        product = self.emit("Mul", [source, factor], f"{name}.mul")
        return self.emit("Mul", [product, factor], f"{name}.mul2") if sqrt_mode else product

    def clipped(self, source: str, name: str, scale: np.float32, offset: int, sqrt_mode: bool) -> str:
        """``clip(rint(source * scale + offset), -128, 127)`` in FP32."""
        shift = self.constant(f"{name}.offset", np.float32(offset))
        moved = self.emit("Add", [self.scaled(source, name, scale, sqrt_mode), shift], f"{name}.add")
        low = self.constant(f"{name}.low", np.float32(-128))
        high = self.constant(f"{name}.high", np.float32(127))
        return self.emit("Clip", [self.emit("Round", [moved], f"{name}.round"), low, high], f"{name}.clip")

    def clipped_once(self, source: str, name: str, scale: np.float32, offset: int, sqrt_mode: bool) -> str:
        """`clipped`, shared by all that read ``source`` alike."""
        key = (source, scale.tobytes(), offset, sqrt_mode)
        if key not in self._clips:
            self._clips[key] = self.clipped(source, f"{name}.{self.kind}", scale, offset, sqrt_mode)
        return self._clips[key]

    def levels(self, source: str, name: str, scale: np.float32, offset: int, sqrt_mode: bool) -> str:
        """``q - offset`` in FP32; shared by the layers that read ``source`` alike."""
        key = (source, scale.tobytes(), offset, sqrt_mode)
        if key not in self._quants:
            base = f"{name}.{self.kind}"
            q = self.clipped_once(source, name, scale, offset, sqrt_mode)
            self._quants[key] = self.emit("Sub", [q, self.constant(f"{base}.zero", np.float32(offset))], f"{base}.sub")
        return self._quants[key]

    def quant_name(self, part: Part) -> str:
        return self.network.producer[(part.pad or part.layer).input[0]].name

    def float_layer(self, part: Part, source: str, weight: Array, bias: Array | None, output: str | None) -> str:
        """The layer itself on FP32 tensors."""
        inputs = [source, self.constant(f"{part.layer.input[1]}.float", weight.astype(np.float32))]
        last = None
        if bias is not None:
            last = self.constant(f"{part.name}.bias.float", bias.astype(np.float32))
        if last is not None and part.add is None:
            inputs.append(last)
        inner = output if part.add is None else None
        sums = self.emit(part.layer.op_type, inputs, part.layer.name, inner, **part.values)
        if part.add is None:
            return sums
        assert last is not None
        return self.emit("Add", [sums, last], part.add.name, output)

    def padded(self, part: Part, source: str) -> str:
        """The Pad before an AveragePool, on FP32 tensors; it pads with zero."""
        assert part.pad is not None
        axes = ["", part.pad.input[3]] if len(part.pad.input) > 3 else []
        inputs = [source, *part.pad.input[1:2], *axes]
        return self.emit("Pad", inputs, part.pad.name, **attributes(part.pad))

    def dequantized(self, part: Part, sums: str, deq_scale: npt.NDArray[np.float32]) -> str:
        """``sums * deq_scale`` (and the ReLU), into the tensor that AscendDequant made."""
        name = f"{part.name}.fakedequant" if self.kind == "fakequant" else f"{part.name}.{self.kind}.dequant"
        scale = self.constant(f"{name}.dqscale", part.broadcast(deq_scale))
        last = part.dequant.output[0]
        result = self.emit("Mul", [sums, scale], f"{name}.mul", None if part.relu else last)
        return self.emit("Relu", [result], f"{name}.relu", last) if part.relu else result


class _FakeWriter(_Writer):
    def part(self, part: Part) -> None:
        q = self.levels(part.source, self.quant_name(part), part.scale, part.offset, part.sqrt_mode)
        self.dequantized(part, float_sums(self, part, q), part.deq_scale)


def float_sums(writer: _Writer, part: Part, q: str) -> str:
    """The layer's sums computed in FP32 from ``q - offset``."""
    if part.pad is not None:
        # Zero is the offset's own level once the offset is taken off.
        q = writer.padded(part, q)
    if part.weight is None:
        return writer.emit(part.layer.op_type, [q], part.layer.name, None, **part.values)
    return writer.float_layer(part, q, part.weight, part.bias, None)


class _IntegerWriter(_Writer):
    kind = "integer"

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._bytes: dict[tuple[Any, ...], str] = {}

    def part(self, part: Part) -> None:
        sums = self.sums(part)
        self.dequantized(
            part, self.emit("Cast", [sums], f"{part.name}.integer.cast", to=TensorProto.FLOAT), part.deq_scale
        )

    def sums(self, part: Part) -> str:
        """INT32 sums (FP32 whole numbers for AveragePool's means)."""
        name = self.quant_name(part)
        if part.weight is None:
            return float_sums(self, part, self.levels(part.source, name, part.scale, part.offset, part.sqrt_mode))
        if part.layer.op_type == "ConvTranspose":
            return self.transposed(part, name)
        q = self.int8(part, name)
        zero = self.constant(f"{part.name}.integer.zero", np.int8(part.offset))
        weight = self.constant(f"{part.name}.integer.weight", part.weight)
        if part.layer.op_type == "Conv":
            kept = part.values
            sums = self.emit("ConvInteger", [q, weight, zero], f"{part.name}.integer.conv", **kept)
        else:
            sums = self.emit("MatMulInteger", [q, weight, zero], f"{part.name}.integer.matmul")
        if part.bias is None:
            return sums
        bias = self.constant(f"{part.name}.integer.bias", part.broadcast(part.bias.astype(np.int32)))
        return self.emit("Add", [sums, bias], f"{part.name}.integer.add")

    def int8(self, part: Part, name: str) -> str:
        key = (part.source, part.scale.tobytes(), part.offset, part.sqrt_mode)
        if key not in self._bytes:
            q = self.clipped_once(part.source, name, part.scale, part.offset, part.sqrt_mode)
            self._bytes[key] = self.emit("Cast", [q], f"{name}.{self.kind}.cast", to=TensorProto.INT8)
        return self._bytes[key]

    def transposed(self, part: Part, name: str) -> str:
        """ConvTranspose has no integer operator: FP32 ones on few bits of the weight each, joined in INT32.

        As many bits at a time as keep every sum below 2**24, so that each is exact; single bits suffice for every layer
        whose sums fit INT32.
        """
        assert part.weight is not None
        q = self.levels(part.source, name, part.scale, part.offset, part.sqrt_mode)
        bits = next((bits for bits in (4, 2, 1) if _digits_exact(part, bits)), 0)
        if not bits:
            raise QuantizeError("quantize.beyond-integer", where=part.name)
        total = ""
        for number, digits in enumerate(_digits(part.weight, bits)):
            label = f"{part.name}.integer.{number}"
            data = self.constant(f"{label}.weight", digits.astype(np.float32))
            sums = self.emit("ConvTranspose", [q, data], label, **part.values)
            whole = self.emit("Cast", [sums], f"{label}.cast", to=TensorProto.INT32)
            if number:
                factor = self.constant(f"{label}.factor", np.int32(1 << (bits * number)))
                whole = self.emit("Mul", [whole, factor], f"{label}.shift")
                whole = self.emit("Add", [total, whole], f"{label}.join")
            total = whole
        sums = total
        if part.bias is None:
            return sums
        bias = self.constant(f"{part.name}.integer.bias", part.broadcast(part.bias.astype(np.int32)))
        return self.emit("Add", [sums, bias], f"{part.name}.integer.add")


def _digits(weight: npt.NDArray[np.int8], bits: int) -> list[npt.NDArray[np.int16]]:
    """``weight`` as digits of so many bits, the least first; the last one has the sign."""
    wide = weight.astype(np.int16)
    count = 8 // bits
    lower = [(wide >> (bits * number)) & ((1 << bits) - 1) for number in range(count - 1)]
    return [*lower, wide >> (bits * (count - 1))]


def _digits_exact(part: Part, bits: int) -> bool:
    assert part.weight is not None
    reach = max(127 - part.offset, 128 + part.offset)
    rows = (to_rows(np.abs(one.astype(np.int64)), part.layer.op_type, part.group) for one in _digits(part.weight, bits))
    return all(int(one.sum(axis=1).max()) * reach < EXACT_FLOAT for one in rows)


class _NpuWriter(_IntegerWriter):
    """The chip's arithmetic: FP16 AscendQuant, the SoC's dequantization scale, FP16 results."""

    kind = "npu"

    def __init__(self, network: Network, family: families.Family | None) -> None:
        super().__init__(network)
        self.family = family

    def part(self, part: Part) -> None:
        if part.rolls_back:
            self.rolled_back(part)
            return
        sums = self.emit("Cast", [self.sums(part)], f"{part.name}.npu.cast", to=TensorProto.FLOAT)
        last = part.dequant.output[0]
        part.dequant.output[0] = self.network.fresh(f"{part.name}.npu.wide")
        wide = self.dequantized(part, sums, self.kept_scale(part))
        self.half(wide, f"{part.name}.npu.half", last)

    def kept_scale(self, part: Part) -> npt.NDArray[np.float32]:
        """The dequantization scale as the chip keeps it; as it is where the chip is not known."""
        return part.deq_scale if self.family is None else self.family.kept_scale(part.deq_scale)

    def half(self, source: str, name: str, output: str | None = None) -> str:
        """Round to FP16 and back, saturating nowhere: beyond 65504 is infinite, as the cast makes it."""
        rounded = self.emit("Cast", [source], f"{name}.fp16", to=TensorProto.FLOAT16)
        return self.emit("Cast", [rounded], f"{name}.fp32", output, to=TensorProto.FLOAT)

    def clipped(self, source: str, name: str, scale: np.float32, offset: int, sqrt_mode: bool) -> str:
        """As the kernel computes: input, product and sum each rounded to FP16."""
        low = self.constant(f"{name}.low", np.float32(-128))
        high = self.constant(f"{name}.high", np.float32(127))
        factor = self.constant(f"{name}.scale", np.float32(np.float16(scale)))
        value = self.half(source, f"{name}.input")
        for count in range(2 if sqrt_mode else 1):
            product = self.emit("Mul", [value, factor], f"{name}.mul{count}")
            value = self.half(product, f"{name}.product{count}")
        shift = self.constant(f"{name}.offset", np.float32(offset))
        moved = self.half(self.emit("Add", [value, shift], f"{name}.add"), f"{name}.sum")
        return self.emit("Clip", [self.emit("Round", [moved], f"{name}.round"), low, high], f"{name}.clip")

    def rolled_back(self, part: Part) -> None:
        """ATC's QUANT ROLLBACK: the layer in floating point with ``int8 * scale_w`` and ``int32 * deq_scale``."""
        scale_d = np.float32(1) / (part.scale**2 if part.sqrt_mode else part.scale)
        bias = None if part.bias is None else part.bias.astype(np.float64) * part.deq_scale
        output = None if part.relu else part.dequant.output[0]
        if part.weight is None:
            source = part.source
            if part.pad is not None:
                source = self.padded(part, source)
            pooled = self.emit(part.layer.op_type, [source], part.name, output, **part.values)
            if part.relu:
                self.emit("Relu", [pooled], f"{part.name}.npu.relu", part.dequant.output[0])
            return
        scale_w = (part.deq_scale.astype(np.float64) / np.float64(scale_d)).reshape(-1, 1)
        rows = part.rows.astype(np.float64) * scale_w
        weight = from_rows(rows, part.weight.shape, part.layer.op_type, part.group)
        result = self.float_layer(part, part.source, weight, bias, output)
        if part.relu:
            self.emit("Relu", [result], f"{part.name}.npu.relu", part.dequant.output[0])
