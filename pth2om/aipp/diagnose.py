"""Is the picture normalized exactly once? AIPP and the graph's first nodes taken together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pth2om.aipp.config import AippConfig, AippOp
from pth2om.errors import AippError, GraphError
from pth2om.evidence import Finding
from pth2om.language import Value, say
from pth2om.onnxfile.reading import read
from pth2om.spec import Preprocess

if TYPE_CHECKING:
    import onnx

_PASSED_OVER = frozenset({"Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Dropout"})
_MOST_NODES = 32
_TOLERANCE = 0.02  # of the span of the normalized picture; FP16 and decimals in configs stay well below
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """``y = factor * x + shift``, per channel or for all.

    Attributes:
        factor, shift: float64, of one shape that broadcasts over channels.
        nodes: names of the graph's nodes it was read off.
    """

    factor: Doubles
    shift: Doubles
    nodes: tuple[str, ...] = ()

    def after(self, first: Affine) -> Affine:
        """First ``first``, then this."""
        return Affine(self.factor * first.factor, self.factor * first.shift + self.shift, first.nodes + self.nodes)

    @property
    def span(self) -> float:
        """Largest distance between what pixels 0 and 255 become."""
        return float(np.abs(self.factor).max() * 255)

    @property
    def trivial(self) -> bool:
        """It changes nothing."""
        return bool(np.all(self.factor == 1) and np.all(self.shift == 0))


def diagnose(
    model: Path | onnx.ModelProto,
    config: AippConfig | None,
    *,
    preprocess: Preprocess | None = None,
    input_name: str | None = None,
) -> list[Finding]:
    """Whether AIPP and the graph's first nodes together normalize once.

    With the spec's ``[preprocess]`` the result is compared with what the net was trained with; without it, only what
    cannot be right is reported: everything squeezed into a hundredth, or pixels of 0..255 going straight into a
    convolution.

    Args:
        model: the ONNX file or model that atc is given.
        config: the AIPP configuration; None: no AIPP, the host feeds the model what `preprocess` makes.
        preprocess: the spec's table.
        input_name: which input; default the one of the configuration's operator, or the first.

    Raises:
        AippError: the file cannot be read.
    """
    if isinstance(model, Path):
        model = _load(model)
    names = [item.name for item in model.graph.input]
    initial = {item.name for item in model.graph.initializer}
    inputs = [name for name in names if name not in initial]
    found: list[Finding] = []
    for op in config.ops if config else ():
        if op.dynamic or op.rank >= len(inputs):
            continue
        name = inputs[op.rank]
        if input_name in (None, name):
            found += _judge(affine_of(op), leading_affine(model, name), _wanted(preprocess), name)
    if config is None and inputs:
        name = input_name or inputs[0]
        host = _wanted(preprocess)
        graph = leading_affine(model, name)
        if host is not None and _normalizes(host) and _normalizes(graph):
            found.append(_twice(host, graph, name, "host"))
    return found


def affine_of(op: AippOp) -> Affine:
    """What a static operator's normalization does, in real numbers."""
    mean = [op.integer(f"mean_chn_{channel}") + op.number(f"min_chn_{channel}") for channel in range(3)]
    factor = np.array([op.number(f"var_reci_chn_{channel}", 1.0) for channel in range(3)], dtype=np.float64)
    return Affine(factor, -factor * np.array(mean, dtype=np.float64))


def leading_affine(model: onnx.ModelProto, name: str) -> Affine:
    """The normalization that a graph begins with at input ``name``.

    It is read off Sub, Add, Mul, Div and BatchNormalization nodes with constant operands, up to the first other node. A
    BatchNormalization after a first convolution is no part of it.
    """
    constants = _constants(model.graph)
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for item in node.input:
            consumers.setdefault(item, []).append(node)
    total = Affine(np.ones(1), np.zeros(1))
    for _ in range(_MOST_NODES):
        users = consumers.get(name, [])
        if len(users) != 1:
            break
        node = users[0]
        if node.op_type in _PASSED_OVER:
            name = node.output[0]
            continue
        step = _step(node, name, constants)
        if step is None:
            break
        try:
            total = step.after(total)
        except ValueError:  # constants that do not broadcast over channels: no normalization
            break
        name = node.output[0]
    return total


def _judge(aipp: Affine, graph: Affine, wanted: Affine | None, name: str) -> list[Finding]:
    try:
        total = graph.after(aipp)
    except ValueError:
        return []
    if wanted is not None:
        return _against(aipp, graph, total, wanted, name)
    if _normalizes(aipp) and _normalizes(graph):
        return [_twice(aipp, graph, name, "aipp")]
    if total.span >= 255 and not np.any(total.shift):
        message = say("aipp.never", input=name)
        return [Finding("aipp.never", "warning", message, name, {"span": total.span})]
    return []


def _against(aipp: Affine, graph: Affine, total: Affine, wanted: Affine, name: str) -> list[Finding]:
    def far(one: Affine) -> bool:
        low = np.abs(one.shift - wanted.shift).max()
        high = np.abs(one.factor * 255 + one.shift - wanted.factor * 255 - wanted.shift).max()
        return bool(max(low, high) > _TOLERANCE * wanted.span)

    if not far(total):
        return []
    if not far(aipp) and not graph.trivial:
        return [_twice(aipp, graph, name, "aipp")]
    if aipp.trivial and graph.trivial and not wanted.trivial:
        message = say("aipp.never", input=name)
        return [Finding("aipp.never", "error", message, name, {"span": total.span})]
    values = {"low": _short(total.shift), "high": _short(total.factor * 255 + total.shift)}
    asked = {"want_low": _short(wanted.shift), "want_high": _short(wanted.factor * 255 + wanted.shift)}
    message = say("aipp.other-normalization", input=name, **values, **asked)
    return [Finding("aipp.other-normalization", "error", message, name, {**values, **asked})]


def _twice(first: Affine, graph: Affine, name: str, who: str) -> Finding:
    values: dict[str, Value] = {
        "node": graph.nodes[0] if graph.nodes else "",
        "span": round(graph.after(first).span, 6),
    }
    return Finding("aipp.twice-normalized", "error", say(f"aipp.twice-{who}", input=name, **values), name, values)


def _normalizes(step: Affine) -> bool:
    """It brings pixels of 0..255 near the unit range."""
    return bool(np.abs(step.factor).max() < 0.1)


def _wanted(preprocess: Preprocess | None) -> Affine | None:
    if preprocess is None:
        return None
    channels = 1 if preprocess.color == "GRAY" else 3
    mean = np.array(preprocess.mean or (0.0,) * channels)
    std = np.array(preprocess.std or (1.0,) * channels)
    return Affine(1 / (preprocess.scale * std), -mean / std)


def _step(node: onnx.NodeProto, name: str, constants: Mapping[str, Doubles]) -> Affine | None:
    """What one node does to the picture; None when it is no affine step."""
    label = (node.name or node.op_type,)
    if node.op_type == "BatchNormalization" and node.input[0] == name:
        parts = [constants.get(item) for item in node.input[1:5]]
        if any(part is None for part in parts):
            return None
        gamma, beta, mean, variance = (np.asarray(part).reshape(-1) for part in parts)
        epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
        factor = gamma / np.sqrt(variance + epsilon)
        return Affine(factor, beta - factor * mean, label)
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.input) != 2:
        return None
    left = node.input[0] == name
    other = constants.get(node.input[1] if left else node.input[0])
    # Per-channel or scalar operands only; (C,1,1), (1,C,1,1) and (1,1,1,C) all flatten to C.
    if other is None or other.size not in (1, 3, 4):
        return None
    value = other.reshape(-1)
    one, zero = np.ones_like(value), np.zeros_like(value)
    if node.op_type == "Add":
        return Affine(one, value, label)
    if node.op_type == "Sub":
        return Affine(one, -value, label) if left else Affine(-one, value, label)
    if node.op_type == "Mul":
        return Affine(value, zero, label)
    return Affine(1 / value, zero, label) if left and np.all(value != 0) else None


def _constants(graph: onnx.GraphProto) -> dict[str, Doubles]:
    """Small numeric constants of a graph by name."""
    import onnx
    from onnx import numpy_helper

    tensors: list[tuple[str, onnx.TensorProto]] = [(item.name, item) for item in graph.initializer]
    tensors += [
        (node.output[0], attribute.t)
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    found: dict[str, Doubles] = {}
    for name, tensor in tensors:
        if int(np.prod(tensor.dims or (1,))) > 64 or tensor.data_location == onnx.TensorProto.EXTERNAL:
            continue
        try:
            values = numpy_helper.to_array(tensor)
        except (TypeError, ValueError):
            continue
        if values.dtype.kind in "fiub":
            found[name] = values.astype(np.float64)
    return found


def _load(path: Path) -> onnx.ModelProto:
    try:
        return read(path)
    except GraphError as error:
        raise AippError("aipp.unreadable-onnx", where=str(path), reason=error.message.render()) from None


def _short(values: Sequence[float] | Doubles) -> str:
    return ", ".join(f"{float(value):.4g}" for value in np.atleast_1d(np.asarray(values)))
