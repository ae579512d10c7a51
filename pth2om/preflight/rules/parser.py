"""Reasons for which ATC's ONNX parser stops: keys, domains, names, inputs, constants, plugins."""

from __future__ import annotations

from collections.abc import Iterator

from pth2om.ascend import TABLES, custom_ops, parser_table
from pth2om.ascend.versions import generation
from pth2om.evidence import Finding
from pth2om.language import Message, say
from pth2om.onnxfile.reading import PROTOBUF_LIMIT, external_location, external_place
from pth2om.onnxfile.types import element_name
from pth2om.onnxfile.walking import STANDARD, NamedNode, attribute, graphs, tensors
from pth2om.preflight.context import Context, Rule, found
from pth2om.preflight.plugins import refusals

DOCUMENTED = (11, 18)
"""Opsets the ATC guide promises; registrations begin at 8."""

_KNOWN_IR = 10
_COMMON = ("Add", "Conv", "Relu", "Reshape")
_CONTROL_FLOW = frozenset({"Loop", "Scan", "SequenceMap"})
_QUANTIZED = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    }
)
_DECOMPOSED = frozenset({"Gelu", "GroupNormalization", "LayerNormalization", "HardSwish", "Mish", "Swish"})


def missing_message(domain: str, opset: int, op_type: str, node: str, *, local: bool = False) -> Message:
    """Why ``domain::opset::Type`` is not registered, and what to do.

    Args:
        domain: ``ai.onnx`` for the standard one.
        opset: that the model imports for it.
        op_type: the ONNX type.
        node: that asks for it.
        local: whether the model defines it as a function of its own.
    """
    rule = _missing_rule(domain, opset, op_type, local=local)
    at = parser_table.pack(parser_table.opsets(domain, op_type))
    return say(f"preflight.{rule}", op=op_type, domain=domain, opset=opset, opsets=at or "-", count=1, nodes=node)


def _missing_rule(domain: str, opset: int, op_type: str, *, local: bool) -> str:
    custom = custom_ops.find(domain, op_type)
    if custom is not None:
        return "custom-no-parser" if f"{domain}::{opset}::{op_type}" in custom.keys else "custom-opset"
    if local:
        return "local-function"
    at = parser_table.opsets(domain, op_type)
    if domain != "ai.onnx":
        if parser_table.opsets("ai.onnx", op_type):
            return "foreign-domain-known"
        return "foreign-domain"
    if op_type in _QUANTIZED:
        return "quantized-operator"
    if op_type in _CONTROL_FLOW:
        return "control-flow"
    if at and opset > max(at):
        return "opset-too-new" if opset > 18 else "operator-not-yet"
    if op_type in _DECOMPOSED:
        return "decompose"
    if at:
        return "opset-hole"
    if _is_standard(op_type):
        return "never-registered"
    return "unknown-operator"


def _is_standard(op_type: str) -> bool:
    import json

    with (TABLES / "onnx_standard.json").open(encoding="utf-8") as file:
        return op_type in json.load(file)["operators"]


def keys(context: Context) -> Iterator[Finding]:
    """Operators that the parser does not find, one finding a key."""
    functions = {(item.domain, item.name) for item in context.model.functions}
    newer: dict[int, list[parser_table.MissingOperator]] = {}
    for item in parser_table.missing_operators(context.model, context.cann):
        if item.opset is None:
            continue
        details = {"key": item.key, "opsets": list(item.opsets)}
        if item.status == "unknown":
            yield found("operator-unknown", "warning", item.nodes, details, key=item.key, cann=context.cann)
            continue
        domain = "" if item.domain == "ai.onnx" else item.domain
        rule = _missing_rule(item.domain, item.opset, item.op_type, local=(domain, item.op_type) in functions)
        at = parser_table.pack(item.opsets) or "-"
        if rule == "opset-too-new":
            newer.setdefault(item.opset, []).append(item)
            continue
        yield found(
            rule,
            "error",
            item.nodes,
            details,
            op=item.op_type,
            domain=item.domain,
            opset=item.opset,
            opsets=at,
        )
    for opset, items in newer.items():
        # One finding for the model's opset: it is at fault, and not twenty operators one by one.
        types = [item.op_type for item in items]
        shown = ", ".join(types[:6]) + (", ..." if len(types) > 6 else "")
        nodes = [name for item in items for name in item.nodes]
        details = {"keys": [item.key for item in items]}
        last = max(opset for item in items for opset in item.opsets)
        yield found(
            "opset-too-new", "error", nodes, details, op=shown, domain="ai.onnx", opset=opset, opsets=f"<= {last}"
        )


def known_as_standard(domain: str, op_type: str) -> bool:
    """Whether the pass ``domains`` makes a standard operator of a node: ATC knows the name there and nowhere else."""
    if domain in ("", "ai.onnx"):
        return True
    known = parser_table.opsets("ai.onnx", op_type) and not parser_table.opsets(domain, op_type)
    return bool(known) and _is_standard(op_type)


def _merges(item: NamedNode) -> bool:
    """Whether a node is in the standard domain, or a custom operator that its plug-in registers there too."""
    if item.node.domain in STANDARD:
        return True
    custom = custom_ops.find(item.node.domain, item.node.op_type)
    return custom is not None and custom.standard_opsets is not None


def domains(context: Context) -> Iterator[Finding]:
    """Domains that nodes use and the model does not import, and several imports for an old parser."""
    missing: dict[tuple[str, bool], list[str]] = {}
    for item in context.nodes:
        domain = item.node.domain or "ai.onnx"
        if domain not in context.imports:
            missing.setdefault((domain, known_as_standard(domain, item.node.op_type)), []).append(item.name)
    for (domain, known), nodes in missing.items():
        yield found("domain-not-imported" if known else "domain-not-imported-foreign", "error", nodes, domain=domain)
    used = {item.node.domain or "ai.onnx" for item in context.nodes}
    extra = [domain for domain in context.imports if domain not in used]
    listed = ", ".join(sorted(context.imports))
    if len(context.imports) > 1 and generation(context.cann) == 7:
        merging = context.standard and not extra and all(_merges(item) for item in context.nodes)
        if context.standard or extra:
            rule = "several-custom-domains" if merging else "several-domains"
            yield found(rule, "error", domains=listed, imports=len(context.imports))
    elif extra and len(context.imports) > 1:
        yield found("unused-domains", "info", domains=", ".join(sorted(extra)))


def opset_range(context: Context) -> Iterator[Finding]:
    """An opset outside the documented range that nonetheless has registrations."""
    if not context.standard or "ai.onnx" not in context.imports:
        return
    if not DOCUMENTED[0] <= context.opset <= DOCUMENTED[1] and any(
        parser_table.registered("ai.onnx", context.opset, name) for name in _COMMON
    ):
        yield found("opset-undocumented", "warning", opset=context.opset, first=DOCUMENTED[0], last=DOCUMENTED[1])


def names(context: Context) -> Iterator[Finding]:
    """Names that stand twice: nodes, inputs and constants share one name space a graph."""
    for place, graph in enumerate(graphs(context.model)):
        seen: dict[str, int] = {}
        initial = {tensor.name for tensor in graph.initializer}
        inputs = {value.name for value in graph.input} - initial if place == 0 else set()
        for item in context.nodes:
            if item.graph == place:
                seen[item.name] = seen.get(item.name, 0) + 1
        repeated = [name for name, count in seen.items() if count > 1]
        if repeated:
            yield found("names-repeated", "error", repeated)
        shared = [name for name in seen if name in inputs]
        if shared:
            yield found("names-shared", "error", shared)


def ends(context: Context) -> Iterator[Finding]:
    """A graph without inputs or outputs, outputs that nothing makes, inputs that are no tensors."""
    graph = context.model.graph
    for name, values in (("input", graph.input), ("output", graph.output)):
        if not values:
            yield found(f"no-{name}s", "error")
    initial = {tensor.name for tensor in graph.initializer}
    if graph.input and all(value.name in initial for value in graph.input):
        yield found("no-inputs", "error")
    made = {name for node in graph.node for name in node.output} | initial | {value.name for value in graph.input}
    for value in graph.output:
        if value.name not in made:
            yield found("output-unmade", "error", value.name, name=value.name)
    for name, (kind, _) in context.inputs.items():
        if kind in (0, 18, 20, 21, 23):
            yield found("input-no-tensor", "error", name, name=name, type=element_name(kind))
        elif kind not in (1, 2, 10):
            yield found("input-type", "warning", name, name=name, type=element_name(kind))
    undeclared = [
        value.name
        for value in graph.input
        if value.name not in initial
        and not value.type.tensor_type.HasField("shape")
        and value.name not in context.shapes
    ]
    if undeclared:
        yield found("input-no-shape", "warning", undeclared, inputs=", ".join(undeclared))


def plugins(context: Context) -> Iterator[Finding]:
    """Forms of an operator that its plugin refuses."""
    by_message: dict[tuple[str, str], tuple[list[str], Message]] = {}
    for item, message in refusals(context.model, context.nodes):
        key = (message.key, message.render("en"))
        by_message.setdefault(key, ([], message))[0].append(item.name)
    for nodes, message in by_message.values():
        filled = {"count": len(nodes), "nodes": ", ".join(nodes[:3]), **message.values}
        details = {"nodes": nodes[:200]} if len(nodes) > 1 else {}
        yield Finding(message.key, "error", Message(message.key, filled), nodes[0], details)


def order(context: Context) -> Iterator[Finding]:
    """Nodes that stand before the ones they need: ONNX wants them sorted; most tools and ONNX Runtime refuse."""
    graph = context.model.graph
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    every = made | {name for node in graph.node for name in node.output}
    late = []
    for item in context.nodes:
        if item.graph:
            break
        if any(name and name in every and name not in made for name in item.node.input):
            late.append(item.name)
        made.update(item.node.output)
    if late:
        yield found("unsorted", "warning", late)


def dangling(context: Context) -> Iterator[Finding]:
    """Inputs of nodes that nothing makes: ATC only warns and takes them as absent."""
    graph = context.model.graph
    every = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    every.update(item.values.name for item in graph.sparse_initializer)
    sparse = {item.values.name for item in graph.sparse_initializer}
    every.update(name for node in graph.node for name in node.output)
    lost = [
        item.name for item in context.nodes if not item.graph and any(n and n not in every for n in item.node.input)
    ]
    if lost:
        yield found("input-unmade", "error", lost)
    if sparse:
        yield found("sparse-initializer", "error", sorted(sparse))


def constant_forms(context: Context) -> Iterator[Finding]:
    """Constant nodes whose value is no tensor: ATC reads the ``value`` attribute only."""
    bare = [item.name for item in context.by_type.get("Constant", ()) if attribute(item.node, "value") is None]
    if bare:
        yield found("constant-form", "error", bare)


def branches(context: Context) -> Iterator[Finding]:
    """If nodes: two branch attributes, and best folded away before conversion."""
    wrong: list[str] = []
    good: list[str] = []
    for item in context.by_type.get("If", ()):
        names = {attribute.name for attribute in item.node.attribute}
        (good if names == {"then_branch", "else_branch"} else wrong).append(item.name)
    if wrong:
        yield found("if-form", "error", wrong)
    if good:
        yield found("if-node", "warning", good)


def external(context: Context) -> Iterator[Finding]:
    """Weights in files beside the model: missing, outside its folder, or without a location."""
    outside: list[str] = []
    missing: list[str] = []
    bare: list[str] = []
    for name, tensor, _ in tensors(context.model):
        location = external_location(tensor)
        if location is None:
            continue
        place = external_place(context.path.parent, location)
        if place != "inside":
            {"bare": bare, "outside": outside, "missing": missing}[place].append(name)
    for rule, tensors_ in (("external-outside", outside), ("external-missing", missing), ("external-bare", bare)):
        if tensors_:
            yield found(rule, "error", tensors_)


def constant_types(context: Context) -> Iterator[Finding]:
    """Constants of element types that ATC cannot hold."""
    wrong: dict[str, list[str]] = {}
    for name, tensor, _ in tensors(context.model):
        if tensor.data_type not in (*range(1, 17), 22):
            wrong.setdefault(element_name(tensor.data_type), []).append(name)
    for kind, names_ in wrong.items():
        yield found("constant-type", "error", names_, type=kind)


def file_size(context: Context) -> Iterator[Finding]:
    """The two gigabytes of protobuf, with the weights that lie outside counted in."""
    try:
        total = context.path.stat().st_size
        places = {external_location(tensor) or "" for _, tensor, _ in tensors(context.model)} - {""}
        total += sum(
            (context.path.parent / place).stat().st_size
            for place in places
            if external_place(context.path.parent, place) == "inside"
        )
    except OSError:
        return
    if total > PROTOBUF_LIMIT:
        yield found("over-2gb", "warning", gib=round(total / 2**30, 2))


def ir_version(context: Context) -> Iterator[Finding]:
    """IR versions that ATC's bundled proto (6 and older) does not describe; it does not check, other tools do."""
    # ONNX 1.15 wrote 9, 1.16 wrote 10: what runs beside CANN on a board is often older than what exported the file.
    version = context.model.ir_version
    if version == 0:
        yield found("ir-absent", "warning")
    elif version > _KNOWN_IR:
        yield found("ir-new", "info", version=version)


RULES: tuple[Rule, ...] = (
    keys,
    domains,
    opset_range,
    names,
    ends,
    plugins,
    order,
    dangling,
    constant_forms,
    branches,
    external,
    constant_types,
    file_size,
    ir_version,
)
