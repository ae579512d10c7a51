"""Reading an ONNX file as ATC's parser does: names, keys, pre-check, then inputs, constants and connections.

Rules of ``onnx_parser.cc``, ``pre_checker.cc``, ``onnx_data_parser.cc`` and ``onnx_constant_parser.cc`` (CANN GE
sources).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.ascend import parser_table
from pth2om.ascend.versions import generation
from pth2om.language import Message, say
from pth2om.onnxfile import reading, walking
from pth2om.onnxfile.types import element_name
from pth2om.onnxfile.walking import NamedNode
from pth2om.toolchain.emulator.front_end.texts import AtcFailure, AtcRefusedError, failure, hidden

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

_INPUT_TYPES = frozenset({*range(1, 18), 19, 22})
"""Element types that ATC's table maps; 18, 20, 21, 23 and 0 it does not."""

_CONSTANT_TYPES = frozenset({*range(1, 17), 22})
"""The same for constants: FLOAT8 is mapped for inputs only."""

NOT_SUPPORTED = {"code": 1, "message": "The type is not supported."}
REPEATED = {"code": 9, "message": "The name is repeated in the graph."}


@dataclass
class Report:
    """``check_result.json`` in the making: one entry for each node, input and initializer."""

    entries: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, kind: str) -> dict[str, Any]:
        """A further entry, so far without a cause to refuse it."""
        entry: dict[str, Any] = {"name": name, "type": kind, "result": "success"}
        self.entries.append(entry)
        return entry

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        failed = sum(entry["result"] == "failed" for entry in self.entries)
        return {
            "name": "",
            "result": "failed" if failed else "success",
            "total": len(self.entries),
            "pass": len(self.entries) - failed,
            "fail": failed,
            "op": self.entries,
        }


@dataclass(frozen=True)
class ParsedModel:
    """A model that passed the parser.

    Attributes:
        model: the protobuf.
        nodes: every node with its name.
        inputs: real graph inputs in order: name to (element type, sizes with -1 for unknown).
        outputs: names of the graph's outputs.
    """

    model: ModelProto
    nodes: tuple[NamedNode, ...]
    inputs: Mapping[str, tuple[int, tuple[int, ...]]]
    outputs: tuple[str, ...]

    @property
    def names(self) -> dict[str, int]:
        """Nodes of the root graph by name, with the number of their outputs."""
        return {item.name: len(item.node.output) for item in self.nodes if item.graph == 0}


def load(path: Path, cann: str) -> ModelProto:
    """The model's bytes, bounded and parsed.

    Raises:
        AtcRefusedError: E13015 for its size, E13005 for its content, E16004 without a graph.
    """
    try:
        size = path.stat().st_size
        if not 0 < size <= reading.PROTOBUF_LIMIT:
            raise AtcRefusedError(failure("E13015", path, size, reading.PROTOBUF_LIMIT, cann=cann))
        data = path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        raise AtcRefusedError(failure("E13001", path, reason, cann=cann)) from None
    try:
        model = reading.parse(data)
    except reading.NotOnnxError:
        inner = failure("E19999", f"Read onnx model file:{path} failed.", cann=cann)
        raise AtcRefusedError(failure("E13005", path, cann=cann, advice=say("atc.not-onnx")), inner) from None
    if not model.HasField("graph"):
        raise AtcRefusedError(failure("E16004", cann=cann))
    return model


def precheck(model: ModelProto, cann: str, report: Report) -> ParsedModel:
    """Names, inputs and outputs, domains, keys and duplicates; every unsupported node is listed.

    Args:
        model: as loaded.
        cann: whose rules.
        report: filled with what was looked at.

    Raises:
        AtcRefusedError: with all messages of the pre-check.
    """
    nodes = tuple(walking.named_nodes(model))
    _check_branches(nodes, cann)
    graph = model.graph
    for name, found in (("input", graph.input), ("output", graph.output)):
        if not found:
            advice = say(f"atc.no-{name}")
            raise AtcRefusedError(failure("E16001", name, cann=cann, advice=advice))
    problems: list[AtcFailure] = []
    constants = {tensor.name for tensor in graph.initializer}
    keys = _Keys(model, cann)
    for place, part in enumerate(walking.graphs(model)):
        own = [item for item in nodes if item.graph == place]
        problems += _precheck_graph(part, own, keys, report, root=place == 0)
    if problems:
        raise AtcRefusedError(*problems)
    inputs = {value.name: (_element_type(value), _sizes(value)) for value in graph.input if value.name not in constants}
    return ParsedModel(model, nodes, inputs, tuple(value.name for value in graph.output))


def build(parsed: ParsedModel, folder: Path, cann: str, overrides: Mapping[str, tuple[int, ...]]) -> None:
    """What follows the pre-check: inputs, constants, plugins, connections.

    Args:
        parsed: the model.
        folder: of the model; external data is looked for below it.
        cann: whose texts.
        overrides: static shapes of ``--input_shape``.

    Raises:
        AtcRefusedError: with the messages of that step.
    """
    problems = [*_input_problems(parsed, cann, overrides), *_constant_problems(parsed, cann, folder)]
    if problems:
        raise AtcRefusedError(*problems)
    from pth2om.preflight.plugins import refusals

    refused = [
        hidden(item.name, say(message.key, **{"count": 1, "nodes": item.name, **message.values}))
        for item, message in refusals(parsed.model, parsed.nodes)
    ]
    if refused:
        raise AtcRefusedError(*refused)
    problems = list(_output_problems(parsed, cann))
    if problems:
        raise AtcRefusedError(*problems)


class _Keys:
    """Looks ``domain::opset::Type`` up, as that generation of the parser does."""

    def __init__(self, model: ModelProto, cann: str) -> None:
        self.cann = cann
        self.imports = walking.imports(model)
        self.fields = len(model.opset_import)
        self.functions = {(item.domain, item.name) for item in model.functions}
        self.single_domain = generation(cann) == 7

    def key(self, item: NamedNode) -> tuple[str, int]:
        """Domain and opset of a node.

        Raises:
            AtcRefusedError: E16005 where the generation takes one opset import only, or a domain without a version.
        """
        domain = item.node.domain
        if not domain and self.single_domain:
            if self.fields != 1:
                advice = say("atc.two-domains", domains=", ".join(sorted(self.imports)) or "-")
                raise AtcRefusedError(failure("E16005", self.fields, cann=self.cann, advice=advice))
            return next(iter(self.imports.items()))
        domain = domain or "ai.onnx"
        if domain not in self.imports:
            text = f"The opset of domain[{domain}] has no responding version."
            from pth2om.preflight.rules.parser import known_as_standard

            if known_as_standard(domain, item.node.op_type):
                advice = say("atc.domain-without-version", domain=domain, node=item.name)
            else:
                advice = say("atc.domain-without-version-foreign", domain=domain, node=item.name)
            raise AtcRefusedError(failure("E19999", text, cann=self.cann, node=item.name, advice=advice))
        return domain, self.imports[domain]


def _check_branches(nodes: tuple[NamedNode, ...], cann: str) -> None:
    for item in nodes:
        if item.node.op_type != "If" or item.node.domain not in ("", "ai.onnx"):
            continue
        if len(item.node.attribute) != 2:
            text = f"Invalid graph, if node attribute size:{len(item.node.attribute)} must be 2."
            raise AtcRefusedError(failure("E19999", text, cann=cann, node=item.name))
        for attribute in item.node.attribute:
            if attribute.name not in ("then_branch", "else_branch"):
                text = f"Invalid attribute name:{attribute.name}."
                raise AtcRefusedError(failure("E19999", text, cann=cann, node=item.name))


def _precheck_graph(
    graph: GraphProto, nodes: list[NamedNode], keys: _Keys, report: Report, *, root: bool
) -> list[AtcFailure]:
    problems: list[AtcFailure] = []
    by_name: dict[str, list[dict[str, Any]]] = {}
    explained: set[str] = set()
    for item in nodes:
        try:
            domain, opset = keys.key(item)
        except AtcRefusedError as refused:
            # ATC stops at the first such node, after what it had reported until then.
            raise AtcRefusedError(*problems, *refused.failures) from None
        kind = f"{domain}::{opset}::{item.node.op_type}"
        entry = report.add(item.name, kind)
        by_name.setdefault(item.name, []).append(entry)
        if parser_table.status(domain, opset, item.node.op_type, keys.cann) == "missing":
            _refuse(entry, NOT_SUPPORTED)
            local = (item.node.domain, item.node.op_type) in keys.functions
            # One explanation a key, and one for an opset that is too new for everything.
            advice = None if kind in explained else _unsupported_advice(domain, opset, item, local=local)
            explained.add(kind)
            if advice is not None and advice.key == "preflight.opset-too-new":
                advice = None if advice.key in explained else advice
                explained.add("preflight.opset-too-new")
            problems.append(failure("E13010", item.name, kind, cann=keys.cann, node=item.name, advice=advice))
    constants = {tensor.name for tensor in graph.initializer}
    if root:
        for value in graph.input:
            if value.name not in constants:
                by_name.setdefault(value.name, []).append(report.add(value.name, "Input"))
    external = {tensor.name: tensor.data_location == 1 for tensor in graph.initializer if tensor.name}
    for place, name in enumerate(sorted(external)):
        full = f"{name}_Initializer_{place}"
        entry = report.add(full, "FileConstant" if external[name] else "Constant")
        by_name.setdefault(full, []).append(entry)
    inputs = {value.name for value in graph.input} if root else set()
    for name, entries in by_name.items():
        if len(entries) > 1:
            for entry in entries:
                _refuse(entry, REPEATED)
            advice = say("atc.name-is-input" if name in inputs else "atc.name-repeated", name=name)
            problems.append(failure("E13009", name, cann=keys.cann, node=name, advice=advice))
    return problems


def _unsupported_advice(domain: str, opset: int, item: NamedNode, *, local: bool) -> Message:
    """Why a key is not registered and what to do: the sentence of the pre-flight rule."""
    from pth2om.preflight.rules.parser import missing_message

    return missing_message(domain, opset, item.node.op_type, item.name, local=local)


def _refuse(entry: dict[str, Any], cause: dict[str, Any]) -> None:
    entry["result"] = "failed"
    entry.setdefault("cause", []).append(cause)


def _input_problems(parsed: ParsedModel, cann: str, overrides: Mapping[str, tuple[int, ...]]) -> Iterator[AtcFailure]:
    for name, (kind, sizes) in parsed.inputs.items():
        if kind not in _INPUT_TYPES:
            advice = say("atc.input-type", name=name, type=element_name(kind))
            yield failure("E19999", f"tensor_proto data type {kind} is undefined.", cann=cann, node=name, advice=advice)
        given = overrides.get(name)
        if given is not None and sizes and len(given) != len(sizes):
            advice = say("atc.rank-differs", name=name, given=len(given), model=len(sizes))
            yield hidden(name, advice)


def _constant_problems(parsed: ParsedModel, cann: str, folder: Path) -> Iterator[AtcFailure]:
    asked: set[str] = set()
    for name, tensor, root in walking.tensors(parsed.model):
        kind = tensor.data_type
        if kind not in _CONSTANT_TYPES:
            state = "is undefined" if kind not in _INPUT_TYPES else "not support"
            yield failure("E19999", f"tensor_proto data type {kind} {state}.", cann=cann, node=name)
            continue
        count = 1
        for size in tensor.dims:
            count *= size
            if size < 0 or count >= 2**31:
                yield failure("E19999", f"Dim size is invalid, dim:{size}.", cann=cann, node=name)
                count = 0
                break
        if tensor.data_location == 1:
            location = reading.external_location(tensor) or name
            if location not in asked:
                asked.add(location)
                yield from _external_problems(name, tensor, folder, cann, root=root)
        elif count and not _has_data(tensor):
            yield failure("E19999", "tensor_proto has no elements or raw_data", cann=cann, node=name)


def _external_problems(name: str, tensor: TensorProto, folder: Path, cann: str, *, root: bool) -> Iterator[AtcFailure]:
    location = reading.external_location(tensor)
    if not location:
        yield failure("E19999", f"external tensor proto[{name}] must contain location.", cann=cann, node=name)
        return
    for entry in tensor.external_data:
        if entry.key != "location" and not _starts_as_number(entry.value):
            yield failure("E10001", entry.value, entry.key, "stol", cann=cann, node=name)
    place = reading.external_place(folder, location)
    if place == "outside":
        # ATC itself would follow it; this front end reads nothing outside the model's folder.
        advice = say("atc.external-outside", name=name, path=location)
        yield failure("E13026", location, "it lies outside the model's folder", cann=cann, node=name, advice=advice)
    elif root and place == "missing":
        advice = say("atc.external-missing", name=name, path=location)
        yield failure("E13001", folder / location, os.strerror(errno.ENOENT), cann=cann, node=name, advice=advice)


def _starts_as_number(text: str) -> bool:
    """Whether C's ``stol`` reads a number at the beginning."""
    digits = text.strip().removeprefix("-").removeprefix("+")
    return digits[:1].isascii() and digits[:1].isdigit()


def _has_data(tensor: TensorProto) -> bool:
    if tensor.HasField("raw_data"):
        # `raw_data` copies the bytes when it is read; anything this large has some.
        return tensor.ByteSize() > 2**16 or bool(tensor.raw_data)
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
    return any(len(getattr(tensor, name)) for name in fields)


def _output_problems(parsed: ParsedModel, cann: str) -> Iterator[AtcFailure]:
    graph = parsed.model.graph
    made = {name for node in graph.node for name in node.output}
    made.update(parsed.inputs)
    made.update(tensor.name for tensor in graph.initializer)
    for name in parsed.outputs:
        if name not in made:
            yield failure("E19999", f"[Get][Outputs] Cannot find output:{name} in graph.", cann=cann, node=name)


def _element_type(value: ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type) if value.type.HasField("tensor_type") else 0


def _sizes(value: ValueInfoProto) -> tuple[int, ...]:
    """The sizes ATC sees: -1 for a symbol or nothing; without a shape the same as a scalar."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return ()
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim)
