"""The input of the rules: the graph with its types, the chip, the options; made once for each check."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.ascend.families import FAMILIES, Family
from pth2om.ascend.kernels import Kernels
from pth2om.ascend.socs import Soc
from pth2om.evidence import Finding, Severity
from pth2om.language import say
from pth2om.onnxfile.types import element_name
from pth2om.onnxfile.walking import NamedNode, Sizes, imports, named_nodes, tensors
from pth2om.preflight.remembered import remembered

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

    from pth2om.ascend.atc_options import AtcOptions
    from pth2om.onnxfile.spans import FloatRange

SMALL = 4096
"""Tensors of at most this many elements are handed to shape inference with their values."""


@dataclass(frozen=True)
class Context:
    """One model on one chip.

    Attributes:
        path: the model's file.
        model: as read, external data left where it is.
        nodes: every node that ATC reads, with its name.
        soc: the chip; None when it is not known.
        cann: whose parser.
        options: of the compilation; None when only the graph is asked about.
        kernels: what is known of kernels.
        latency_ms: the largest accepted latency, or None.
        shapes: given input shapes, by name.
    """

    path: Path
    model: ModelProto
    nodes: tuple[NamedNode, ...]
    soc: Soc | None
    cann: str
    options: AtcOptions | None
    kernels: Kernels
    latency_ms: float | None = None
    shapes: Mapping[str, Sizes] = field(default_factory=dict)

    @property
    def family(self) -> Family | None:
        """The chip's family; None when the chip is not known."""
        return None if self.soc is None else FAMILIES[self.soc.family]

    @functools.cached_property
    def imports(self) -> dict[str, int]:
        """Domain to opset."""
        return imports(self.model)

    @property
    def opset(self) -> int:
        """Of the standard domain; 0 when it is not imported."""
        return self.imports.get("ai.onnx", 0)

    @functools.cached_property
    def standard(self) -> tuple[NamedNode, ...]:
        """The nodes of the standard domain."""
        return tuple(item for item in self.nodes if item.node.domain in ("", "ai.onnx"))

    @functools.cached_property
    def by_type(self) -> dict[str, list[NamedNode]]:
        """The nodes of the standard domain by their type."""
        found: dict[str, list[NamedNode]] = {}
        for item in self.standard:
            found.setdefault(item.node.op_type, []).append(item)
        return found

    @functools.cached_property
    def constants(self) -> dict[str, TensorProto]:
        """Initializers and Constant nodes by tensor name."""
        return {name: tensor for name, tensor, _ in tensors(self.model)}

    @functools.cached_property
    def types(self) -> dict[str, tuple[int, Sizes | None]]:
        """Tensor name to element type (0 unknown) and sizes (None unknown), by shape inference where needed."""
        from pth2om.onnxfile.types import tensor_types

        asked = "types", tuple(sorted(self.shapes.items()))
        return remembered(self.path, asked, lambda: tensor_types(self.model, self.shapes))

    @functools.cached_property
    def inputs(self) -> dict[str, tuple[int, Sizes]]:
        """Real graph inputs: element type and sizes with -1 for unknown, the given shapes in place."""
        found: dict[str, tuple[int, Sizes]] = {}
        initial = {tensor.name for tensor in self.model.graph.initializer}
        for value in self.model.graph.input:
            if value.name not in initial:
                dims = value.type.tensor_type.shape.dim
                sizes = tuple(int(dim.dim_value) if dim.HasField("dim_value") else -1 for dim in dims)
                found[value.name] = (value.type.tensor_type.elem_type, self.shapes.get(value.name, sizes))
        return found

    @functools.cached_property
    def makers(self) -> dict[str, NamedNode]:
        """Tensor name to the node that makes it."""
        return {name: item for item in self.nodes for name in item.node.output if name}

    @functools.cached_property
    def floats(self) -> dict[str, FloatRange]:
        """What the values of each floating-point constant span, looked at once."""
        from pth2om.onnxfile.spans import float_range

        def spans() -> dict[str, FloatRange]:
            ranges = {name: float_range(tensor) for name, tensor in self.constants.items()}
            return {name: span for name, span in ranges.items() if span is not None}

        return remembered(self.path, "spans", spans)

    def dtype(self, name: str) -> str:
        """``float32``, ``int64``, ...; ``""`` when unknown."""
        kind = self.types.get(name, (0, None))[0]
        return element_name(kind) if kind else ""

    def sizes(self, name: str) -> Sizes | None:
        """Sizes of a tensor, -1 for unknown ones; None when not even the rank is known."""
        return self.types.get(name, (0, None))[1]

    def rank(self, name: str) -> int | None:
        """Number of dimensions, when known."""
        sizes = self.sizes(name)
        return None if sizes is None else len(sizes)

    def values(self, name: str) -> list[float] | None:
        """The values of a small constant tensor; None for anything else."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == 1:
            return None
        return constant_values(tensor)


Rule = Callable[[Context], Iterator[Finding]]
"""One rule: a context in, findings out."""


def make_context(
    path: Path,
    model: ModelProto,
    soc: Soc | None,
    cann: str,
    options: AtcOptions | None,
    latency_ms: float | None,
    shapes: Mapping[str, Sizes],
) -> Context:
    """A context, its nodes named as ATC names them."""
    nodes = tuple(named_nodes(model))
    kernels = Kernels.of(soc.family if soc else None)
    return Context(path, model, nodes, soc, cann, options, kernels, latency_ms, shapes)


def constant_values(tensor: TensorProto, most: int = SMALL) -> list[float] | None:
    """Up to `most` values of a tensor inside the file, as Python numbers; None for larger, external or text ones."""
    count = 1
    for size in tensor.dims:
        count *= max(int(size), 0)
    if count > most or tensor.data_location == 1 or tensor.data_type == 8:
        return None
    from onnx import numpy_helper

    try:
        return [
            value.real if isinstance(value, complex) else value
            for value in numpy_helper.to_array(tensor).ravel().tolist()
        ]
    except (ValueError, TypeError, KeyError, OverflowError):
        # A damaged tensor: the parser rules name it.
        return None


def found(
    rule: str,
    severity: Severity,
    nodes: Iterable[str] | str | None = None,
    details: Mapping[str, Any] | None = None,
    **values: str | int | float | bool | None,
) -> Finding:
    """A finding of rule ``preflight.<rule>``, on its first node, with all of them in the details.

    Args:
        rule: id, and key of the sentence, without ``preflight.``.
        severity: of the finding.
        nodes: names of the nodes concerned.
        details: further JSON values.
        **values: of the sentence; ``count`` and ``nodes`` are filled in.
    """
    names: Sequence[str] = [nodes] if isinstance(nodes, str) else list(nodes or ())
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    filled = {"count": len(names), "nodes": shown, **values}
    extra = dict(details or {})
    if len(names) > 1:
        extra["nodes"] = list(names[:200])
    return Finding(
        f"preflight.{rule}", severity, say(f"preflight.{rule}", **filled), names[0] if names else None, extra
    )
