"""Custom operators in exported files: one node each, and a model-local function of standard operators beside it.

ATC looks the node up among its plug-ins and ignores functions; ONNX Runtime and the emulator run the function.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.ascend.custom_ops import output_shapes
from pth2om.custom_ops.bodies import Bodies, Body, run_body
from pth2om.errors import ExportError, first_line
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.onnxfile.types import ELEMENT_NAMES, tensor_types
from pth2om.onnxfile.walking import Sizes, node_label, opset
from pth2om.spec.custom_ops import CustomOp
from pth2om.terminal import silent

if TYPE_CHECKING:
    import torch
    from onnx import FunctionProto, ModelProto, NodeProto

BODY_MARK = "custom-op-body/"
"""The names of a function's nodes begin so: the emulator computes them as the operator's kernel does."""

_NUMBERS = {name: number for number, name in ELEMENT_NAMES.items()}
_OVERLOADS_SINCE = 10
"""IR version that has several functions of one name."""


@contextlib.contextmanager
def symbolics(operators: Sequence[CustomOp], version: int) -> Iterator[None]:
    """Inside the block PyTorch's exporter writes the operators' symbols as their nodes.

    Args:
        operators: complete declarations; those without a symbol are left out.
        version: the opset that is exported.
    """
    from torch import onnx as exporter

    register: Any = getattr(exporter, "register_custom_op_symbolic")  # noqa: B009 - not exported for mypy
    forget: Any = getattr(exporter, "unregister_custom_op_symbolic")  # noqa: B009 - not exported for mypy
    chosen = [entry for entry in operators if entry.symbol]
    for entry in chosen:
        register(str(entry.symbol), _symbolic(entry), version)
    try:
        yield
    finally:
        for entry in chosen:
            forget(str(entry.symbol), version)


def _symbolic(operator: CustomOp) -> Callable[..., Any]:
    import torch

    def write(graph: Any, *values: Any) -> Any:  # noqa: ANN401 - torch's graph and values have no public types
        from torch.onnx import symbolic_helper

        parse: Any = symbolic_helper._parse_arg

        count = len(operator.inputs)
        inputs = []
        for port, value in zip(operator.inputs, values[:count], strict=True):
            kinds = [getattr(torch, kind) for kind in port.dtypes]
            if value.type().dtype() not in kinds:
                value = graph.op("Cast", value, to_i=_NUMBERS[port.dtypes[0]])
            inputs.append(value)
        attributes = {}
        for (name, default), value in zip(operator.attributes.items(), values[count:], strict=False):
            kind = _kind(default)
            attributes[f"{name}_{kind[0]}"] = parse(value, kind)
        results = graph.op(operator.label, *inputs, outputs=len(operator.outputs), **attributes)
        shapes, _ = output_shapes(operator, [value.type().sizes() for value in values[:count]])
        made = [results] if len(operator.outputs) == 1 else list(results)
        for entry, value, shape in zip(operator.outputs, made, shapes, strict=True):
            known = shape is not None and -1 not in shape
            kind = values[0].type().with_dtype(getattr(torch, entry.dtype))
            value.setType(kind.with_sizes(list(shape)) if known and shape is not None else kind.with_sizes(None))
        return results

    return write


def _kind(default: object) -> str:
    """The exporter's word for an attribute's type: ``i``, ``f``, ``s``, ``is``, ``fs``."""
    if isinstance(default, tuple):
        return "fs" if any(isinstance(one, float) for one in default) else "is"
    return {bool: "i", int: "i", float: "f", str: "s"}[type(default)]


def attach(model: ModelProto, operators: Sequence[CustomOp], bodies: Bodies) -> list[Finding]:
    """Give a model the functions of its custom operators, and their outputs the shapes that they have.

    A node whose function the model brings itself keeps it. Nodes of other dtypes than the kernels take get a function
    with casts at its ends.

    Args:
        model: changed in place.
        operators: complete declarations.
        bodies: of those that have one.

    Returns:
        Findings: outputs that the file declares with another shape, operators without a body.

    Raises:
        ExportError: a body cannot be exported, or a node's input shapes are not known.
    """
    from onnx import helper

    by_label = {entry.label: entry for entry in operators}
    own = {(item.domain, item.name) for item in model.functions}
    nodes = [node for node in model.graph.node if f"{node.domain}::{node.op_type}" in by_label]
    findings: list[Finding] = []
    made: dict[tuple[Any, ...], str] = {}
    count: dict[str, int] = {}
    for node in nodes:
        operator = by_label[f"{node.domain}::{node.op_type}"]
        types = tensor_types(model, {})
        findings += _declare(model, node, operator, types)
        if (node.domain, node.op_type) in own:
            continue
        body = bodies.get(operator.label)
        if body is None:
            message = say("export.no-body", operator=operator.label)
            findings.append(Finding("export.no-body", "warning", message, node_label(node)))
            continue
        kinds, shapes = _signature(node, operator, types)
        outputs = tuple(types.get(name, (0, None))[0] or _NUMBERS[entry.dtype]
                        for name, entry in zip(node.output, operator.outputs, strict=False))  # fmt: skip
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        signature = (operator.label, kinds, shapes, outputs, repr(sorted(attributes.items())))
        if signature not in made:
            number = count[operator.label] = count.get(operator.label, 0) + 1
            made[signature] = "" if number == 1 else str(number)
            function = _function(operator, body, kinds, shapes, outputs, attributes, opset(model))
            function.overload = made[signature]
            model.functions.append(function)
        node.overload = made[signature]
    if model.functions and nodes:
        model.ir_version = max(model.ir_version, _OVERLOADS_SINCE if any(count[k] > 1 for k in count) else 8)
    versions = {item.domain or "ai.onnx": item.version for item in model.opset_import}
    if "ai.onnx" not in versions and model.functions:
        model.opset_import.append(helper.make_opsetid("", 13))
    return findings


def _signature(
    node: NodeProto, operator: CustomOp, types: Mapping[str, tuple[int, Sizes | None]]
) -> tuple[tuple[int, ...], tuple[Sizes, ...]]:
    kinds: list[int] = []
    shapes: list[Sizes] = []
    for name in node.input:
        kind, shape = types.get(name, (0, None))
        if not kind or shape is None or any(size < 0 for size in shape):
            raise ExportError("export.body-shapes", operator=operator.label, node=node_label(node), input=name)
        kinds.append(kind)
        shapes.append(shape)
    if len(kinds) != len(operator.inputs):
        raise ExportError("export.custom-inputs", operator=operator.label, has=len(kinds), wanted=len(operator.inputs))
    return tuple(kinds), tuple(shapes)


def _declare(
    model: ModelProto, node: NodeProto, operator: CustomOp, types: Mapping[str, tuple[int, Sizes | None]]
) -> Iterator[Finding]:
    """Write the shapes of a node's outputs into the model; a finding where it declared others."""
    from onnx import helper

    shapes, _ = output_shapes(operator, [types.get(name, (0, None))[1] for name in node.input])
    for name, entry, shape in zip(node.output, operator.outputs, shapes, strict=False):
        kind, declared = types.get(name, (0, None))
        if shape is None or -1 in shape:
            continue
        if declared is not None and not _agree(declared, shape):
            said, real = str(list(declared)), str(list(shape))
            message = say("export.declared-shape", name=name, operator=operator.label, declared=said, real=real)
            yield Finding("export.declared-shape", "warning", message, node_label(node))
        if declared == shape:
            continue
        value = helper.make_tensor_value_info(name, kind or _NUMBERS[entry.dtype], shape)
        places = [item for item in (*model.graph.output, *model.graph.value_info) if item.name == name]
        for place in places:
            place.CopyFrom(value)
        if not places:
            model.graph.value_info.append(value)


def _agree(declared: Sizes, shape: Sizes) -> bool:
    """Whether two shapes may be the same; a size of -1 is any."""
    return len(declared) == len(shape) and all(a < 0 or a == b for a, b in zip(declared, shape, strict=True))


def _function(
    operator: CustomOp,
    body: Body,
    kinds: Sequence[int],
    shapes: Sequence[Sizes],
    outputs: Sequence[int],
    attributes: Mapping[str, Any],
    version: int,
) -> FunctionProto:
    """The body at one signature, exported to standard operators."""
    from onnx import helper

    traced = _traced(operator, body, kinds, shapes, attributes, version or 13)
    nodes: list[NodeProto] = []
    renamed: dict[str, str] = {}
    accepted = [{_NUMBERS[kind] for kind in port.dtypes} for port in operator.inputs]
    for port, kind, known in zip(operator.inputs, kinds, accepted, strict=True):
        if kind not in known:
            renamed[port.name] = f"{port.name}__cast"
            nodes.append(helper.make_node("Cast", [port.name], [renamed[port.name]], to=_NUMBERS[port.dtypes[0]]))
    nodes += [helper.make_node("Constant", [], [item.name], value=item) for item in traced.graph.initializer]
    ends = {}
    for entry, kind in zip(operator.outputs, outputs, strict=True):
        if kind != _NUMBERS[entry.dtype]:
            ends[entry.name] = f"{entry.name}__computed"
    for node in traced.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = ends.get(name, renamed.get(name, name))
        for place, name in enumerate(node.output):
            node.output[place] = ends.get(name, name)
        nodes.append(node)
    nodes += [
        helper.make_node("Cast", [ends[entry.name]], [entry.name], to=kind)
        for entry, kind in zip(operator.outputs, outputs, strict=True)
        if entry.name in ends
    ]
    for number, node in enumerate(nodes):
        node.name = f"{BODY_MARK}{operator.op_type}_{number}"
    return helper.make_function(
        operator.domain,
        operator.op_type,
        [port.name for port in operator.inputs],
        [entry.name for entry in operator.outputs],
        nodes,
        [helper.make_opsetid("", opset(traced))],
        attributes=sorted(attributes),
    )


def _traced(
    operator: CustomOp,
    body: Body,
    kinds: Sequence[int],
    shapes: Sequence[Sizes],
    attributes: Mapping[str, Any],
    version: int,
) -> ModelProto:
    import onnx
    import torch

    class Module(torch.nn.Module):
        def forward(self, *inputs: torch.Tensor) -> Any:  # noqa: ANN401 - a tensor, or several
            return run_body(operator, body, inputs, {**operator.attributes, **given})

    given = {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()}
    examples = []
    for port, kind, shape in zip(operator.inputs, kinds, shapes, strict=True):
        name = ELEMENT_NAMES[kind] if ELEMENT_NAMES[kind] in port.dtypes else port.dtypes[0]
        examples.append(torch.ones(shape, dtype=getattr(torch, name)))
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.no_grad(),
        warnings.catch_warnings(),
        silent(1),
        silent(2),  # where the exporter prints what it does
    ):
        warnings.simplefilter("ignore")
        path = Path(folder) / "body.onnx"
        try:
            torch.onnx.export(
                Module().eval(),
                tuple(examples),
                str(path),
                dynamo=False,
                opset_version=version,
                input_names=[port.name for port in operator.inputs],
                output_names=[entry.name for entry in operator.outputs],
            )
        except ExportError:
            raise
        except Exception as error:  # the exporter raises whatever the body's code raises
            raise ExportError("export.body-export", operator=operator.label, reason=first_line(error)) from error
        return onnx.load(path)
