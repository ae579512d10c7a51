"""Custom operators: dtypes, shapes and limits of their kernels, chips without one, and incomplete packages."""

from __future__ import annotations

from collections.abc import Iterator

from pth2om.ascend import custom_ops
from pth2om.evidence import Finding
from pth2om.onnxfile.walking import NamedNode, Sizes
from pth2om.preflight.context import Context, Rule, found
from pth2om.spec.custom_ops import CustomOp


def _nodes(context: Context) -> Iterator[tuple[NamedNode, CustomOp]]:
    for item in context.nodes:
        operator = custom_ops.find(item.node.domain, item.node.op_type)
        if operator is not None:
            yield item, operator


def _shapes(context: Context, item: NamedNode) -> list[Sizes | None]:
    return [context.sizes(name) for name in item.node.input]


def inputs(context: Context) -> Iterator[Finding]:
    """The number, dtypes and shapes of a node's inputs, against those of the kernel."""
    for item, operator in _nodes(context):
        has, wanted = len(item.node.input), len(operator.inputs)
        if has != wanted:
            yield found("custom-inputs", "error", item.name, op=operator.label, has=has, wanted=wanted)
            continue
        for name, port in zip(item.node.input, operator.inputs, strict=True):
            kind = context.dtype(name)
            if kind and kind not in port.dtypes:
                taken = ", ".join(port.dtypes)
                yield found(
                    "custom-dtype", "error", item.name, op=operator.label, port=port.name, type=kind, taken=taken
                )
        _, wrong = custom_ops.output_shapes(operator, _shapes(context, item))
        for text in wrong:
            place, _, rest = text.partition(": ")
            port_name = operator.inputs[int(place)].name
            yield found("custom-input-shape", "error", item.name, op=operator.label, port=port_name, shapes=rest)


def outputs(context: Context) -> Iterator[Finding]:
    """Graph outputs and value_info that declare another shape than the operator gives."""
    declared = {
        value.name: tuple(int(dim.dim_value) if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
        for value in (*context.model.graph.output, *context.model.graph.value_info)
        if (kind := value.type.tensor_type).HasField("shape")
    }
    for item, operator in _nodes(context):
        if len(item.node.input) != len(operator.inputs):
            continue
        shapes, _ = custom_ops.output_shapes(operator, _shapes(context, item))
        for name, shape in zip(item.node.output, shapes, strict=False):
            said = declared.get(name)
            if said is None or shape is None:
                continue
            agree = len(said) == len(shape) and all(-1 in (a, b) or a == b for a, b in zip(said, shape, strict=True))
            if not agree:
                real = str(list(shape))
                yield found(
                    "custom-shape",
                    "warning",
                    item.name,
                    op=operator.label,
                    output=name,
                    declared=str(list(said)),
                    real=real,
                )


def limits(context: Context) -> Iterator[Finding]:
    """What the kernel cannot do at these sizes."""
    for item, operator in _nodes(context):
        if len(item.node.input) == len(operator.inputs):
            for name, value, limit in custom_ops.broken_limits(operator, _shapes(context, item)):
                yield found("custom-limit", "error", item.name, op=operator.label, of=name, value=value, limit=limit)


def chips(context: Context) -> Iterator[Finding]:
    """Chips for which the operator package has no kernel."""
    if context.soc is None:
        return
    nodes: dict[str, list[str]] = {}
    operators = {}
    for item, operator in _nodes(context):
        if context.kernels.look_up(operator.op_type).verdict == "core":
            continue
        package = custom_ops.current().packages.get(operator.label)
        families = package.families(operator.op_type) if package is not None else operator.families
        if families and context.soc.family not in families:
            nodes.setdefault(operator.label, []).append(item.name)
            operators[operator.label] = ", ".join(families)
    for label, names in nodes.items():
        yield found("custom-no-kernel", "error", names, op=label, soc=context.soc.name, families=operators[label])


def packages(context: Context) -> Iterator[Finding]:
    """What an operator package lacks or says otherwise than the declaration; packages that were not read."""
    current = custom_ops.current()
    used = {operator.label: operator for _, operator in _nodes(context)}
    for operator in current.declared:
        if operator.label not in used:
            continue
        package = current.packages.get(operator.label)
        if package is None:
            yield found(
                "custom-declared", "info", None, op=operator.label, package=operator.package or operator.origin or "-"
            )
            continue
        name = package.path.name
        if not package.has_plugin:
            yield found("custom-no-plugin", "error", None, op=operator.label, package=name)
        if not package.has_proto:
            yield found("custom-no-proto", "error", None, op=operator.label, package=name)
        packaged = package.operator(operator.op_type)
        if packaged is None:
            yield found("custom-not-packaged", "error", None, op=operator.label, package=name)
            continue
        said = [(port.name, frozenset(port.dtypes)) for port in packaged.inputs]
        declared = [(port.name, frozenset(port.dtypes)) for port in operator.inputs]
        if said != declared:
            shown = "; ".join(f"{port}: {', '.join(sorted(kinds))}" for port, kinds in said)
            yield found("custom-package-differs", "warning", None, op=operator.label, package=name, ports=shown)


RULES: tuple[Rule, ...] = (inputs, outputs, limits, chips, packages)
