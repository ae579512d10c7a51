"""One node rewritten: what it is fed, whether it computes in float16, and where its results are rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from pth2om.toolchain.emulator.numerics import emulation, fusion, operators
from pth2om.toolchain.emulator.numerics.dtypes import FLOAT, HALF, outputs_of
from pth2om.toolchain.emulator.numerics.rounding import HALF_MAX, to_half
from pth2om.toolchain.emulator.numerics.scope import Scope, Tensor, Writer

Array = npt.NDArray[np.generic]
_EXACT_SOURCES = frozenset({int(TensorProto.BOOL), int(TensorProto.INT8), int(TensorProto.UINT8)})


class NodeRewriter:
    """Writes the nodes that stand for one source node (and is the `Emission` of a registered emulation)."""

    def __init__(
        self, owner: Writer, scope: Scope, node: onnx.NodeProto, chains: fusion.Chains, limits: set[str]
    ) -> None:
        self._owner = owner
        self._scope = scope
        self.node = node
        self._chains = chains
        self._limits = limits
        self.band = owner.band
        self._inputs = [scope.tensor(name) if name else None for name in node.input]
        self._attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        self._in_types = [tensor.dtype if tensor else 0 for tensor in self._inputs]
        self.half = False

    def write(self) -> None:
        """Append the rewritten node to the scope."""
        owner, scope, node = self._owner, self._scope, self.node
        owner.counts["nodes"] += 1
        if node.op_type == "Constant" and (proto := constant_of(node)) is not None:
            proto.name = node.output[0]
            owner.constant_tensor(proto, scope)
            return
        emulate = emulation.find(node, self._in_types)
        out_types = outputs_of(node, self._in_types, owner.opset, owner.types)
        self.half = self._computes_in_half(out_types)
        if emulate is not None:
            emulate(self)
            return
        if self._is_host(out_types):
            self._copy([tensor.carrier if tensor else "" for tensor in self._inputs])
            for name, kind in zip(node.output, out_types, strict=True):
                scope.tensors[name] = Tensor(name, kind, host=True)
            return
        owner.counts["half_nodes"] += int(self.half)
        takes_half = self.half or owner.policy.takes_half(node.op_type, node.name)
        on_grid = self._float_inputs_on_grid(takes_half)
        copy = self._copy([self._fed(index, takes_half) for index in range(len(self._inputs))])
        to_half = self._asks_for_half(copy, out_types)
        keeps = on_grid and operators.preserves(node.op_type, self._attributes)
        keeps = keeps or (node.op_type == "Cast" and (on_grid or self._in_types[0] in _EXACT_SOURCES))
        for index, (name, kind) in enumerate(zip(node.output, out_types, strict=True)):
            if name:
                self._bind(copy, index, name, kind, keeps=keeps, must=self.half or to_half)

    # how it computes -------------------------------------------------------------------------------------------------

    def _computes_in_half(self, out_types: list[int]) -> bool:
        floats = [tensor for tensor in self._inputs if tensor and tensor.dtype in (FLOAT, HALF)]
        if not floats and not any(kind in (FLOAT, HALF) for kind in out_types):
            return False
        source_half = any(tensor.dtype == HALF for tensor in floats) or (not floats and HALF in out_types)
        return self._owner.policy.computes_in_half(
            self.node.op_type,
            self.node.name,
            source_half=source_half,
            after_half=any(tensor.half for tensor in floats),
        )

    def _is_host(self, out_types: list[int]) -> bool:
        """Whether ATC folds the node while compiling: constants and shapes, in their own type."""
        if HALF in out_types or HALF in self._in_types or self.node.op_type in operators.RANDOM:
            return False
        if any(entry.HasField("g") for entry in self.node.attribute):
            return False
        if self.node.op_type in operators.SHAPE:
            return True
        present = [tensor for tensor in self._inputs if tensor is not None]
        return bool(present) and all(tensor.host for tensor in present)

    def _is_data(self, index: int) -> bool:
        """Whether an input is float data that a float16 kernel would take as float16."""
        tensor = self._inputs[index]
        if tensor is None or tensor.dtype not in (FLOAT, HALF):
            return False
        return index not in operators.PARAMETER_INPUTS.get(self.node.op_type, frozenset())

    def _fed(self, index: int, takes_half: bool) -> str:
        tensor = self._inputs[index]
        if tensor is None:
            return ""
        name = self.node.input[index]
        if not takes_half or not self._is_data(index) or name in self._chains.raw:
            return tensor.carrier
        return self._owner.round(self._scope, name)

    def _float_inputs_on_grid(self, takes_half: bool) -> bool:
        data = [index for index in range(len(self._inputs)) if self._is_data(index)]
        grid = [
            (tensor.on_grid or takes_half) and self.node.input[index] not in self._chains.raw
            for index in data
            if (tensor := self._inputs[index]) is not None
        ]
        return bool(grid) and all(grid)

    def _asks_for_half(self, copy: onnx.NodeProto, out_types: list[int]) -> bool:
        """Whether the node itself makes float16 (Cast to float16); its copy then makes float32."""
        name = operators.DTYPE_ATTRIBUTES.get(copy.op_type)
        for attribute in copy.attribute:
            if attribute.name == name and attribute.i == HALF:
                attribute.i = FLOAT
                return True
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == HALF:
                values = onnx.numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(values))
                return True
        return copy.op_type == "CastLike" and HALF in out_types

    def _copy(self, inputs: list[str]) -> onnx.NodeProto:
        copy = onnx.NodeProto()
        copy.CopyFrom(self.node)
        del copy.input[:]
        copy.input.extend(inputs)
        for attribute in copy.attribute:
            if attribute.HasField("g"):
                attribute.g.CopyFrom(self._owner.graph(attribute.g, Scope(self._scope)))
        self._scope.nodes.append(copy)
        return copy

    # what comes out --------------------------------------------------------------------------------------------------

    def _bind(self, copy: onnx.NodeProto, index: int, name: str, kind: int, *, keeps: bool, must: bool) -> None:
        owner, scope = self._owner, self._scope
        carrier = name
        if scope.parent is None and name in owner.half_outputs:
            carrier = copy.output[index] = owner.fresh(f"{name}__fp32")
        tensor = scope.tensors[name] = Tensor(carrier, kind, half=self.half)
        if kind not in (FLOAT, HALF):
            return
        if name in self._chains.raw:
            if name in self._limits:
                copy.output[index] = owner.fresh(f"{name}__wide")
                owner.limit(scope, copy.output[index], into=carrier)
            return
        tensor.on_grid = keeps or must
        if must and not keeps:
            self._round_output(copy, index, carrier)

    def _round_output(self, copy: onnx.NodeProto, index: int, carrier: str) -> None:
        owner, scope, kind = self._owner, self._scope, self.node.op_type
        wide = copy.output[index] = owner.fresh(f"{carrier}__wide")
        measured = None
        limit = kind not in operators.BOUNDED and self._chains.limited.get(self.node.output[index]) is None
        if kind == "Relu" and owner.saturates and copy is scope.nodes[-1]:
            # Relu and the limit as one Clip, which ONNX Runtime joins to the convolution before it.
            scope.nodes.pop()
            owner.limit(scope, copy.input[0], low=0.0, into=wide)
            measured, limit = copy.input[0], False
        elif kind == "Clip" and self._clips_within_half():
            limit = False
        nan = kind in operators.NAN_MAKERS and not self._divides_by_constant()
        owner.cast(scope, wide, carrier, limit=limit, nan=nan, measured=measured)

    def _divides_by_constant(self) -> bool:
        """Whether 0/0 cannot happen."""
        divisor = self.value(1) if self.node.op_type == "Div" else None
        return divisor is not None and bool(np.all(to_half(divisor.astype(np.float32), clip=True) != 0))

    def _clips_within_half(self) -> bool:
        bounds: list[float | None] = [self._attributes.get("min"), self._attributes.get("max")]
        for index in (1, 2):
            values = self.value(index) if len(self.node.input) > index and self.node.input[index] else None
            if values is not None and values.size == 1:
                bounds[index - 1] = float(values.reshape(-1)[0])
        return all(bound is not None and abs(bound) <= HALF_MAX for bound in bounds)

    # Emission --------------------------------------------------------------------------------------------------------

    def input(self, index: int, *, rounded: bool = False) -> str:
        """See `emulation.Emission`."""
        tensor = self._inputs[index] if index < len(self._inputs) else None
        if tensor is None:
            return ""
        return self._owner.round(self._scope, self.node.input[index]) if rounded else tensor.carrier

    def dtype(self, index: int) -> int:
        """See `emulation.Emission`."""
        return self._in_types[index] if index < len(self._in_types) else 0

    def value(self, index: int) -> Array | None:
        """See `emulation.Emission`."""
        name = self.node.input[index] if index < len(self.node.input) else ""
        return self._owner.value(self._scope, name) if name else None

    def constant(self, values: Array) -> str:
        """See `emulation.Emission`."""
        return self._owner.shared(self._scope, np.asarray(values))

    def add(self, op_type: str, inputs: list[str], **attributes: Any) -> str:  # noqa: ANN401 - ONNX attributes
        """See `emulation.Emission`."""
        name = self._owner.fresh(f"{self.node.output[0]}__{op_type.lower()}")
        self._scope.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        return name

    def output(self, index: int, tensor: str, dtype: int, *, rounded: bool = False) -> None:
        """See `emulation.Emission`."""
        name = self.node.output[index]
        carrier = name
        if self._scope.parent is None and name in self._owner.half_outputs:
            carrier = self._owner.fresh(f"{name}__fp32")
        if rounded:
            self._owner.cast(self._scope, tensor, carrier, limit=True)
        else:
            self._scope.nodes.append(helper.make_node("Identity", [tensor], [carrier]))
        self._scope.tensors[name] = Tensor(carrier, dtype, on_grid=rounded, half=self.half)


def constant_of(node: onnx.NodeProto) -> TensorProto | None:
    """The tensor a Constant node holds; None for strings and sparse tensors, which stay nodes."""
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.name == "value":
            proto = TensorProto()
            proto.CopyFrom(value)
            return proto
        if attribute.name in ("value_float", "value_floats"):
            return onnx.numpy_helper.from_array(np.asarray(value, np.float32))
        if attribute.name in ("value_int", "value_ints"):
            return onnx.numpy_helper.from_array(np.asarray(value, np.int64))
    return None
