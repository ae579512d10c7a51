"""Dynamic sizes, ranks beyond 2-D images, and the command line's shapes against the graph's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pth2om.ascend.atc_options import shape_example
from pth2om.ascend.versions import at_least
from pth2om.evidence import Finding, Severity
from pth2om.onnxfile.walking import Sizes, integers
from pth2om.preflight.context import Context, Rule, found

_SPATIAL = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")


def dynamic_inputs(context: Context) -> Iterator[Finding]:
    """Inputs without fixed sizes: ATC needs ``--input_shape``; with -1 or gears the OM is a dynamic one."""
    dynamic = {name: sizes for name, (_, sizes) in context.inputs.items() if any(size < 0 for size in sizes)}
    if not dynamic:
        return
    options = context.options
    geared = options is not None and any((options.dynamic_batch_size, options.dynamic_image_size, options.dynamic_dims))
    shaped = options is not None and bool(options.input_shape or options.input_shape_range)
    example = shape_example(dynamic)
    listed = ", ".join(dynamic)
    if not shaped:
        # Without options nobody has asked for a compilation yet: the shape is still to be given.
        severity: Severity = "error" if options is not None else "warning"
        yield found("dynamic-input", severity, list(dynamic), inputs=listed, example=example)
    elif not geared:
        yield _range(context, dynamic, example)


def _range(context: Context, dynamic: Mapping[str, Sizes], example: str) -> Finding:
    """A range of shapes, which some chips take from some CANN on, and some never: see `pth2om.ascend.families`."""
    family = context.family
    severity: Severity = "warning"
    rule, since = "dynamic-range", ""
    if family is not None and family.ranges is None:
        rule, severity = "dynamic-range-never", "error"
    elif family is not None and family.ranges != (0, 0) and family.ranges is not None:
        since = ".".join(map(str, family.ranges))
        listed = at_least(context.cann, *family.ranges)
        rule, severity = ("dynamic-range-untested", "warning") if listed else ("dynamic-range-early", "error")
    chip, inputs = family.name if family is not None else "", ", ".join(dynamic)
    return found(
        rule, severity, list(dynamic), inputs=inputs, example=example, cann=context.cann, since=since, chip=chip
    )


def zero_sizes(context: Context) -> Iterator[Finding]:
    """Sizes of zero in the inputs or in what is computed: an empty tensor, mostly a wrong export."""
    empty = [name for name, (_, sizes) in context.inputs.items() if 0 in sizes]
    if empty:
        yield found("zero-size", "error", empty, inputs=", ".join(empty))


def given_shapes(context: Context) -> Iterator[Finding]:
    """``--input_shape`` against the inputs: unknown names, other rank, other fixed sizes."""
    declared = {value.name: value for value in context.model.graph.input}
    for name, sizes in context.shapes.items():
        value = declared.get(name)
        if value is None:
            yield found("shape-unknown-input", "error", name, name=name, inputs=", ".join(context.inputs))
            continue
        if not value.type.tensor_type.HasField("shape"):
            continue
        dims = value.type.tensor_type.shape.dim
        if len(dims) != len(sizes):
            yield found("shape-rank", "error", name, name=name, given=len(sizes), declared=len(dims))
            continue
        fixed = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims]
        other = [place for place, (a, b) in enumerate(zip(fixed, sizes, strict=True)) if a > 0 and b > 0 and a != b]
        if other:
            written = ",".join(str(size) for size in fixed)
            asked = ",".join(str(size) for size in sizes)
            yield found("shape-other", "warning", name, name=name, given=asked, declared=written)


def soundness(context: Context) -> Iterator[Finding]:
    """What cannot be computed at the shapes that are compiled: see `pth2om.preflight.soundness`."""
    from pth2om.preflight.soundness import gears_of, judge, profiles_of

    gears, by = gears_of(context.options)
    shapes = {name: sizes for name, sizes in context.shapes.items() if _fits(context, name, sizes)}
    yield from judge(context.path, context.model, profiles_of(context.model, shapes, gears, by))


def _fits(context: Context, name: str, sizes: Sizes) -> bool:
    """Whether a given shape names an input and has its rank; `given_shapes` says where not."""
    value = next((value for value in context.model.graph.input if value.name == name), None)
    kind = value.type.tensor_type if value is not None else None
    return kind is not None and (not kind.HasField("shape") or len(kind.shape.dim) == len(sizes))


def baked_batch(context: Context) -> Iterator[Finding]:
    """Reshapes with a constant batch size while the input's batch is to be another one."""
    batches = {sizes[0] for _, sizes in context.inputs.values() if sizes}
    if len(batches) != 1:
        return
    batch = batches.pop()
    if batch in (0, 1):
        return
    nodes = []
    for item in context.by_type.get("Reshape", ()):
        target = context.values(item.node.input[1]) if len(item.node.input) > 1 else None
        source = context.sizes(item.node.input[0]) if item.node.input else None
        if target and source and source[0] == batch and target[0] == 1 and -1 not in target:
            nodes.append(item.name)
    if nodes:
        yield found("baked-batch", "warning", nodes, batch=batch)


def three_dimensional(context: Context) -> Iterator[Finding]:
    """3-D convolutions and pooling: parsed, fp16 only on most chips, kernels not everywhere."""
    nodes = []
    for kind in _SPATIAL:
        for item in context.by_type.get(kind, ()):
            kernel = integers(item.node, "kernel_shape")
            rank = context.rank(item.node.input[0]) if item.node.input else None
            if (kernel is not None and len(kernel) == 3) or rank == 5:
                nodes.append(item.name)
    if nodes:
        yield found("three-dimensional", "info", nodes)


def many_dimensions(context: Context) -> Iterator[Finding]:
    """Tensors of more than eight dimensions."""
    nodes = [
        item.name for item in context.nodes if any((context.rank(name) or 0) > 8 for name in item.node.output if name)
    ]
    if nodes:
        yield found("many-dimensions", "error", nodes)


RULES: tuple[Rule, ...] = (
    dynamic_inputs,
    zero_sizes,
    given_shapes,
    soundness,
    baked_batch,
    three_dimensional,
    many_dimensions,
)
