"""The graph rewritten so that ONNX Runtime computes, to first order, what the NPU's units would.

Every float tensor is carried as float32; where a kernel of the NPU gives float16, a pair of Casts (float32 -> float16
-> float32) rounds it, to nearest and ties to even. The rounded tensor keeps the source's name, so that tensors of both
graphs can be compared by name. Values that only move (Reshape, Concat, MaxPool ...) stay float16 values and are not
rounded again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from pth2om.toolchain.emulator.numerics import emulation, fusion, operators
from pth2om.toolchain.emulator.numerics.dtypes import FLOAT, HALF, outputs_of
from pth2om.toolchain.emulator.numerics.modes import Policy
from pth2om.toolchain.emulator.numerics.rounding import HALF_MAX, counts, to_half
from pth2om.toolchain.emulator.numerics.scope import Scope, Tensor
from pth2om.toolchain.emulator.numerics.weights import WeightFile, read

Array = npt.NDArray[np.generic]
_EXACT_SOURCES = frozenset({int(TensorProto.BOOL), int(TensorProto.INT8), int(TensorProto.UINT8)})


class Rewriter:
    """Rewrites one model for one band.

    Args:
        policy: who computes in float16.
        band: ``fused`` or ``unfused``.
        opset: of the default domain.
        types: element types by tensor name.
        folder: of the source model, for external data.
        weights: where large constants go.
        half_outputs: graph outputs that leave as float16.
    """

    def __init__(
        self,
        policy: Policy,
        band: str,
        opset: int,
        types: dict[str, int],
        folder: Path,
        weights: WeightFile,
        half_outputs: frozenset[str],
    ) -> None:
        self.policy = policy
        self.band = band
        self._opset = opset
        self._types = types
        self._folder = folder
        self._weights = weights
        self._half_outputs = half_outputs
        self._saturates = policy.family.overflow == "saturate"
        self._names: set[str] = set()
        self._shared: dict[bytes, str] = {}
        self.sites: list[dict[str, Any]] = []
        self.counts = {"rounded": 0, "half_nodes": 0, "nodes": 0, "chains": 0, "folded": 0, "clipped": 0, "vanished": 0}

    def rewrite(self, graph: onnx.GraphProto) -> onnx.GraphProto:
        """The rewritten top-level graph; ``graph`` itself is changed by folding."""
        self._names = _all_names(graph)
        return self._graph(graph, Scope())

    # graphs ----------------------------------------------------------------------------------------------------------

    def _graph(self, graph: onnx.GraphProto, scope: Scope) -> onnx.GraphProto:
        top = scope.parent is None
        initial = {tensor.name: tensor for tensor in graph.initializer}
        if self.band == "fused":
            self.counts["folded"] += fusion.fold_batch_norms(
                graph,
                lambda name: read(initial[name], self._folder) if name in initial else None,
                self._may_be_half,
                self.fresh,
            )
        chains = fusion.find(graph, self._may_be_half, exact=self.band != "fused")
        self.counts["chains"] += chains.count
        limits = {limit for end, limit in chains.limited.items() if end not in chains.raw} if self._saturates else set()
        for tensor in graph.initializer:
            self._constant_tensor(tensor, scope)
        constants = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in constants]
        for value in inputs:
            self._input(value, scope, top)
        for node in graph.node:
            _NodeRewriter(self, scope, node, chains, limits).write()
        outputs = [self._output(value, scope, top) for value in graph.output]
        result = onnx.GraphProto(name=graph.name or "graph", doc_string=graph.doc_string)
        result.input.extend(inputs)
        result.output.extend(outputs)
        result.node.extend(scope.nodes)
        result.sparse_initializer.extend(graph.sparse_initializer)
        used = {name for node in result.node for name in node.input}
        for node in result.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    used |= fusion.captured(attribute.g)
        result.initializer.extend(tensor for name, tensor in scope.constants.items() if name in used)
        self._export_constants(result, used, scope)
        return result

    def _export_constants(self, result: onnx.GraphProto, used: set[str], scope: Scope) -> None:
        """The source's constants that are still read, as they are or widened."""
        for name, tensor in scope.tensors.items():
            proto = tensor.constant
            if proto is None or tensor.carrier not in used or tensor.carrier in scope.constants:
                continue
            if proto.data_type == HALF:
                values = np.asarray(read(proto, self._folder)).astype(np.float32)
            elif not proto.external_data:
                result.initializer.append(proto)
                result.initializer[-1].name = tensor.carrier
                continue
            else:
                values = np.asarray(read(proto, self._folder))
            result.initializer.append(self._weights.tensor(tensor.carrier or name, values))

    def _input(self, value: onnx.ValueInfoProto, scope: Scope, top: bool) -> None:
        kind = int(value.type.tensor_type.elem_type) or self._types.get(value.name, 0)
        if kind != HALF:
            scope.tensors[value.name] = Tensor(value.name, kind)
            return
        carrier = value.name
        if top:
            carrier = self.fresh(f"{value.name}__fp32")
            scope.nodes.append(helper.make_node("Cast", [value.name], [carrier], to=FLOAT))
        else:
            value.type.tensor_type.elem_type = FLOAT
        scope.tensors[value.name] = Tensor(carrier, HALF, on_grid=True, half=True)

    def _constant_tensor(self, proto: TensorProto, scope: Scope) -> None:
        scope.tensors[proto.name] = Tensor(
            proto.name, int(proto.data_type), on_grid=proto.data_type == HALF, host=True, constant=proto
        )

    def _output(self, value: onnx.ValueInfoProto, scope: Scope, top: bool) -> onnx.ValueInfoProto:
        tensor = scope.tensor(value.name)
        declared = onnx.ValueInfoProto()
        declared.CopyFrom(value)
        kind = tensor.dtype or int(value.type.tensor_type.elem_type)
        source = tensor.carrier
        if tensor.constant is not None and kind in (FLOAT, HALF) and self.policy.scheme == "force_fp16":
            source = self.round(scope, value.name)
        leaves_half = top and value.name in self._half_outputs
        if kind in (FLOAT, HALF):
            declared.type.tensor_type.elem_type = HALF if leaves_half else FLOAT
        if leaves_half:
            if source == value.name:
                source = self._moved(scope, value.name)
            scope.nodes.append(helper.make_node("Cast", [source], [value.name], to=HALF))
        elif tensor.constant is not None:
            if source == value.name:
                source = self._moved(scope, value.name)
            scope.nodes.append(helper.make_node("Identity", [source], [value.name]))
        elif source != value.name:
            scope.nodes.append(helper.make_node("Identity", [source], [value.name]))
        return declared

    def _moved(self, scope: Scope, name: str) -> str:
        """Rename a constant that is a graph output, so that a node can make the output."""
        tensor = scope.tensors[name]
        fresh = self.fresh(f"{name}__constant")
        for node in scope.nodes:
            for index, entry in enumerate(node.input):
                if entry == name:
                    node.input[index] = fresh
        tensor.carrier = fresh
        return fresh

    # pieces that nodes are written with ------------------------------------------------------------------------------

    def fresh(self, name: str) -> str:
        """An unused tensor name beginning with ``name``."""
        candidate, number = name, 1
        while candidate in self._names:
            number += 1
            candidate = f"{name}_{number}"
        self._names.add(candidate)
        return candidate

    def shared(self, scope: Scope, values: Array) -> str:
        """A constant in the outermost graph, one for equal values."""
        identity = f"{values.dtype}{values.shape}".encode() + values.tobytes()
        name = self._shared.get(identity)
        if name is None:
            name = self._shared[identity] = self.fresh("pth2om_constant")
            scope.root.constants[name] = self._weights.tensor(name, values)
        return name

    def value(self, scope: Scope, name: str) -> Array | None:
        """A constant's values (a float16 constant's as float32)."""
        proto = scope.tensor(name).constant
        if proto is None:
            return None
        values = np.asarray(read(proto, self._folder))
        return values.astype(np.float32) if proto.data_type == HALF else values

    def round(self, scope: Scope, name: str) -> str:
        """The tensor that holds the float16 values of ``name``; made where it is first needed."""
        tensor = scope.tensor(name)
        if tensor.on_grid:
            return tensor.carrier
        found = scope.rounded_name(name)
        if found is not None:
            return found
        if tensor.constant is not None:
            return self._round_constant(scope.owner(name) or scope, name, tensor)
        fresh = self.fresh(f"{name}__fp16")
        self.cast(scope, tensor.carrier, fresh, limit=True)
        scope.rounded[name] = fresh
        return fresh

    def _round_constant(self, scope: Scope, name: str, tensor: Tensor) -> str:
        assert tensor.constant is not None
        values = np.asarray(read(tensor.constant, self._folder), dtype=np.float32)
        rounded = to_half(values, clip=self.policy.weight_clip)
        if np.array_equal(values, rounded, equal_nan=True):
            tensor.on_grid = True
            return tensor.carrier
        overflowed, vanished = counts(values)
        self.counts["clipped" if self.policy.weight_clip else "overflowed"] = (
            self.counts.get("clipped" if self.policy.weight_clip else "overflowed", 0) + overflowed
        )
        self.counts["vanished"] += vanished
        fresh = self.fresh(f"{name}__fp16")
        scope.constants[fresh] = self._weights.tensor(fresh, rounded)
        scope.rounded[name] = fresh
        return fresh

    def cast(
        self, scope: Scope, before: str, after: str, *, limit: bool, nan: bool = False, measured: str | None = None
    ) -> None:
        """Write the nodes that round ``before`` to float16 values in ``after``.

        Args:
            scope: where.
            before: float32 tensor.
            after: name of the rounded tensor, float32.
            limit: whether values may leave float16's range.
            nan: whether they may be NaN of finite inputs (a saturating unit gives 0 then).
            measured: what `overflow_report` counts when it is not ``before``: a Relu's input.
        """
        tensor = before
        if self._saturates and nan and self._opset >= 9:
            tensor = self.no_nan(scope, tensor)
        if self._saturates and limit:
            tensor = self.limit(scope, tensor)
        half = self.fresh(f"{after}__half")
        scope.nodes.append(helper.make_node("Cast", [tensor], [half], to=HALF))
        scope.nodes.append(helper.make_node("Cast", [half], [after], to=FLOAT))
        self.counts["rounded"] += 1
        if scope.parent is None:
            site = {"tensor": after, "before": measured or before, "positive": measured is not None}
            self.sites.append(site)

    def no_nan(self, scope: Scope, tensor: str) -> str:
        """NaN becomes 0 (saturation mode: CANN API reference, INF_NAN_MODE_ENABLE)."""
        where, clean = self.fresh(f"{tensor}__isnan"), self.fresh(f"{tensor}__number")
        zero = self.shared(scope, np.zeros((), np.float32))
        scope.nodes.append(helper.make_node("IsNaN", [tensor], [where]))
        scope.nodes.append(helper.make_node("Where", [where, zero, tensor], [clean]))
        return clean

    def limit(self, scope: Scope, tensor: str, low: float = -HALF_MAX, into: str | None = None) -> str:
        """Values limited to ``low`` ... 65504."""
        limited = into or self.fresh(f"{tensor}__limited")
        if self._opset < 11:
            scope.nodes.append(helper.make_node("Clip", [tensor], [limited], min=low, max=HALF_MAX))
        else:
            bounds = [self.shared(scope, np.array(bound, np.float32)) for bound in (low, HALF_MAX)]
            scope.nodes.append(helper.make_node("Clip", [tensor, *bounds], [limited]))
        return limited

    def _may_be_half(self, node: onnx.NodeProto) -> bool:
        """Whether a node computes in float16 when its predecessor does."""
        source_half = any(self._types.get(name) == HALF for name in (*node.input[:1], *node.output[:1]))
        return self.policy.computes_in_half(node.op_type, node.name, source_half=source_half, after_half=True)


class _NodeRewriter:
    """Writes the nodes that stand for one source node (and is the `Emission` of a registered emulation)."""

    def __init__(
        self, owner: Rewriter, scope: Scope, node: onnx.NodeProto, chains: fusion.Chains, limits: set[str]
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
        if node.op_type == "Constant" and (proto := _constant(node)) is not None:
            proto.name = node.output[0]
            owner._constant_tensor(proto, scope)
            return
        emulate = emulation.find(node, self._in_types)
        out_types = outputs_of(node, self._in_types, owner._opset, owner._types)
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
                attribute.g.CopyFrom(self._owner._graph(attribute.g, Scope(self._scope)))
        self._scope.nodes.append(copy)
        return copy

    # what comes out --------------------------------------------------------------------------------------------------

    def _bind(self, copy: onnx.NodeProto, index: int, name: str, kind: int, *, keeps: bool, must: bool) -> None:
        owner, scope = self._owner, self._scope
        carrier = name
        if scope.parent is None and name in owner._half_outputs:
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
        if kind == "Relu" and owner._saturates and copy is scope.nodes[-1]:
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
        if self._scope.parent is None and name in self._owner._half_outputs:
            carrier = self._owner.fresh(f"{name}__fp32")
        if rounded:
            self._owner.cast(self._scope, tensor, carrier, limit=True)
        else:
            self._scope.nodes.append(helper.make_node("Identity", [tensor], [carrier]))
        self._scope.tensors[name] = Tensor(carrier, dtype, on_grid=rounded, half=self.half)


def _constant(node: onnx.NodeProto) -> TensorProto | None:
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


def _all_names(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in (*graph.input, *graph.output, *graph.value_info)}
    names |= {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        names.update(node.input)
        names.update(node.output)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names |= _all_names(attribute.g)
    return names
