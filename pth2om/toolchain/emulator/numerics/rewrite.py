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

from pth2om.onnxfile.walking import captured
from pth2om.toolchain.emulator.numerics import fusion
from pth2om.toolchain.emulator.numerics.dtypes import FLOAT, HALF
from pth2om.toolchain.emulator.numerics.modes import Policy
from pth2om.toolchain.emulator.numerics.nodes import NodeRewriter
from pth2om.toolchain.emulator.numerics.rounding import HALF_MAX, rounded_once
from pth2om.toolchain.emulator.numerics.scope import Scope, Tensor
from pth2om.toolchain.emulator.numerics.weights import WeightFile, read

Array = npt.NDArray[np.generic]


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
        self.opset = opset
        self.types = types
        self._folder = folder
        self._weights = weights
        self.half_outputs = half_outputs
        self.saturates = policy.family.overflow == "saturate"
        self._names: set[str] = set()
        self._shared: dict[bytes, str] = {}
        self.sites: list[dict[str, Any]] = []
        self.counts = {"rounded": 0, "half_nodes": 0, "nodes": 0, "chains": 0, "folded": 0, "clipped": 0, "vanished": 0}

    def rewrite(self, graph: onnx.GraphProto) -> onnx.GraphProto:
        """The rewritten top-level graph; ``graph`` itself is changed by folding."""
        self._names = _all_names(graph)
        return self.graph(graph, Scope())

    # graphs ----------------------------------------------------------------------------------------------------------

    def graph(self, graph: onnx.GraphProto, scope: Scope) -> onnx.GraphProto:
        """One graph or sub-graph rewritten; ``scope`` is its own, still empty."""
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
        limits = {limit for end, limit in chains.limited.items() if end not in chains.raw} if self.saturates else set()
        for tensor in graph.initializer:
            self.constant_tensor(tensor, scope)
        constants = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in constants]
        for value in inputs:
            self._input(value, scope, top)
        for node in graph.node:
            NodeRewriter(self, scope, node, chains, limits).write()
        outputs = [self._output(value, scope, top) for value in graph.output]
        result = onnx.GraphProto(name=graph.name or "graph", doc_string=graph.doc_string)
        result.input.extend(inputs)
        result.output.extend(outputs)
        result.node.extend(scope.nodes)
        result.sparse_initializer.extend(graph.sparse_initializer)
        used = {name for node in result.node for name in node.input}
        for node in result.node:
            used |= captured(node)
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
        kind = int(value.type.tensor_type.elem_type) or self.types.get(value.name, 0)
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

    def constant_tensor(self, proto: TensorProto, scope: Scope) -> None:
        """Make an initializer, or the value of a Constant node, known in ``scope``."""
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
        leaves_half = top and value.name in self.half_outputs
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
        found = rounded_once(np.asarray(read(tensor.constant, self._folder)), clip=self.policy.weight_clip)
        if found.values is None:
            tensor.on_grid = True
            return tensor.carrier
        self.counts["clipped" if self.policy.weight_clip else "overflowed"] = (
            self.counts.get("clipped" if self.policy.weight_clip else "overflowed", 0) + found.overflowed
        )
        self.counts["vanished"] += found.vanished
        fresh = self.fresh(f"{name}__fp16")
        scope.constants[fresh] = self._weights.tensor(fresh, found.values)
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
        if self.saturates and nan and self.opset >= 9:
            tensor = self.no_nan(scope, tensor)
        if self.saturates and limit:
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
        if self.opset < 11:
            scope.nodes.append(helper.make_node("Clip", [tensor], [limited], min=low, max=HALF_MAX))
        else:
            bounds = [self.shared(scope, np.array(bound, np.float32)) for bound in (low, HALF_MAX)]
            scope.nodes.append(helper.make_node("Clip", [tensor, *bounds], [limited]))
        return limited

    def _may_be_half(self, node: onnx.NodeProto) -> bool:
        """Whether a node computes in float16 when its predecessor does."""
        source_half = any(self.types.get(name) == HALF for name in (*node.input[:1], *node.output[:1]))
        return self.policy.computes_in_half(node.op_type, node.name, source_half=source_half, after_half=True)


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
