"""A graph as boxes and arrows: which are drawn, their text, and the marks of pre-flight findings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pth2om.onnxfile.types import element_name
from pth2om.onnxfile.walking import STANDARD, Types, opset, reads

if TYPE_CHECKING:
    from onnx import GraphProto

    from pth2om.evidence import Finding, Severity
    from pth2om.graph.document import Document

KINDS: Mapping[str, Sequence[str]] = {
    "matrix": ("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "Einsum", "Attention", "DeformConv"),
    "normalization": (
        "BatchNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "GroupNormalization",
        "RMSNormalization",
        "LRN",
    ),
    "activation": [
        "Relu",
        "Sigmoid",
        "Tanh",
        "Gelu",
        "HardSwish",
        "HardSigmoid",
        "LeakyRelu",
        "PRelu",
        "Elu",
        "Selu",
        "Softplus",
        "Softmax",
        "LogSoftmax",
        "Mish",
        "Swish",
        "Clip",
        "Erf",
    ],
    "pooling": ["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "Upsample", "GridSample"],
    "movement": [
        "Reshape",
        "Transpose",
        "Concat",
        "Split",
        "Slice",
        "Gather",
        "GatherND",
        "GatherElements",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Expand",
        "Tile",
        "Pad",
        "DepthToSpace",
        "SpaceToDepth",
        "Identity",
        "Cast",
        "Shape",
        "ScatterND",
        "ScatterElements",
    ],
    "quantization": [
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "AscendQuant",
        "AscendDequant",
    ],
    "control": ("If", "Loop", "Scan", "SequenceMap"),
}
"""Kinds of operators, each with a colour of its own; all others are ``other``."""

_RANKS = {"error": 0, "warning": 1, "info": 2}


@dataclass
class Box:
    """One box.

    Attributes:
        key: unique in the picture.
        title: the operator, or the name of an input or output.
        lines: what stands below it: name, shapes.
        kind: for the colour.
        severity: of the worst finding here; None without one.
        notes: the findings' sentences.
        width, height: in points.
        x, y: of the centre, set by the layout.
    """

    key: str
    title: str
    lines: tuple[str, ...]
    kind: str
    severity: Severity | None = None
    notes: tuple[str, ...] = ()
    width: float = 0.0
    height: float = 0.0
    x: float = 0.0
    y: float = 0.0


@dataclass
class Picture:
    """What is to be drawn.

    Attributes:
        title: above the picture.
        boxes: by key.
        arrows: from, to, label.
        hidden: number of nodes that are not drawn.
    """

    title: str
    boxes: dict[str, Box] = field(default_factory=dict)
    arrows: list[tuple[str, str, str]] = field(default_factory=list)
    hidden: int = 0


def kind_of(op_type: str, domain: str) -> str:
    """The kind of an operator; ``foreign`` for one outside the standard domain."""
    for kind, names in KINDS.items():
        if op_type in names:
            return kind
    return "other" if domain in STANDARD else "foreign"


def picture(document: Document, known: Types, findings: Iterable[Finding], *, title: str, limit: int) -> Picture:
    """Boxes for the nodes, inputs and outputs of the root graph.

    Args:
        document: the model.
        known: types of its tensors, for the arrows.
        findings: of pre-flight; they mark the nodes they name.
        title: above the picture.
        limit: at most that many nodes are drawn, the first ones.
    """
    graph = document.graph
    marks = _marks(findings)
    made = Picture(title, hidden=max(len(graph.node) - limit, 0))
    makers: dict[str, str] = {}
    constant = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in constant:
            key = f"input:{value.name}"
            _add(made, Box(key, value.name, (_type(known, value.name),), "input"), marks, value.name)
            makers[value.name] = key
    unnamed = 0
    for place, node in enumerate(graph.node):
        name = node.name
        if not name:
            name = f"{node.op_type}_{unnamed}"
            unnamed += 1
        if node.op_type == "Constant" or place >= limit:
            continue
        key = f"node:{place}"
        op_type = node.op_type if node.domain in STANDARD else f"{node.domain}.{node.op_type}"
        _add(made, Box(key, op_type, (_short(name),), kind_of(node.op_type, node.domain)), marks, name)
        for source in sorted(reads(node)):
            if source in makers:
                made.arrows.append((makers[source], key, _type(known, source)))
        makers.update((output, key) for output in node.output if output)
    _outputs(made, graph, known, makers, marks)
    return made


def _outputs(
    made: Picture, graph: GraphProto, known: Types, makers: Mapping[str, str], marks: Mapping[str, list[Finding]]
) -> None:
    for value in graph.output:
        if value.name in makers:
            key = f"output:{value.name}"
            _add(made, Box(key, value.name, (_type(known, value.name),), "output"), marks, value.name)
            made.arrows.append((makers[value.name], key, ""))


def _add(made: Picture, box: Box, marks: Mapping[str, list[Finding]], name: str) -> None:
    found = sorted(marks.get(name, ()), key=lambda finding: _RANKS[finding.severity])
    if found:
        box.severity = found[0].severity
        box.notes = tuple(dict.fromkeys(finding.message.render() for finding in found))
    # Widths of a 12 pt sans-serif, a little on the wide side so that nothing leaves its box.
    longest = max(len(box.title) * 7.6, *(len(line) * 5.6 for line in box.lines))
    box.width, box.height = max(longest + 16, 60.0), 18.0 + 13.0 * len([line for line in box.lines if line]) + 6.0
    made.boxes[box.key] = box


def _marks(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    marks: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.severity == "info":
            continue
        names = finding.details.get("nodes") or ([finding.node] if finding.node else [])
        for name in names:
            marks[str(name)].append(finding)
    return marks


def _type(known: Types, name: str) -> str:
    kind, sizes = known.get(name, (0, None))
    if sizes is None:
        return element_name(kind) if kind else ""
    shape = "x".join("?" if size < 0 else str(size) for size in sizes) or "scalar"
    return shape if kind in (0, 1) else f"{shape} {element_name(kind)}"


def _short(name: str, most: int = 42) -> str:
    return name if len(name) <= most else "..." + name[3 - most :]


def describe(document: Document, path: Path) -> dict[str, str | int]:
    """Values of the sentence above a picture."""
    return {"model": path.name, "nodes": len(document.graph.node), "opset": opset(document.model)}
