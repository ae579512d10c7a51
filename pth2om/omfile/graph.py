"""The graph inside MODEL_DEF: attributes with their names restored, operators, inputs and outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pth2om.errors import OmFileError
from pth2om.omfile.container import MODEL_DEF, Partition
from pth2om.omfile.inout import OmTensor
from pth2om.omfile.schema import decode, dtype_name
from pth2om.omfile.wire import LENGTH, Field, Source, fields

_MOST_ATTRIBUTES = 4096
_INPUTS = frozenset({"Data", "AippData", "AnnData", "RefData"})


@dataclass(frozen=True)
class Operator:
    """One operator of the compiled graph.

    Attributes:
        name, type: as in the graph; a fused operator's name joins those of its parts.
        graph: name of the (sub)graph it is in.
        inputs, outputs: element types of its tensors, such as ``FLOAT16``, ``INT8``.
        sources: names of the framework's nodes that it was made from, where the OM records them.
    """

    name: str
    type: str
    graph: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sources: tuple[str, ...] = ()


def definition_of(model: tuple[Partition, ...]) -> Partition | None:
    """The MODEL_DEF partition of a model."""
    return next((partition for partition in model if partition.kind == MODEL_DEF), None)


def attribute_entries(source: Source, part: Partition) -> Iterator[tuple[bytes, Field]]:
    """Name and value field of each model attribute; the graphs between them are skipped."""
    count = 0
    for item in fields(source, part.start, part.end):
        if item.number != 11 or item.wire != LENGTH:
            continue
        count += 1
        if count > _MOST_ATTRIBUTES:
            raise OmFileError("omfile.too-many-attributes", where=source.where, most=_MOST_ATTRIBUTES)
        name, value = _attribute(source, item)
        if value is not None:
            yield name, value


def _attribute(source: Source, item: Field) -> tuple[bytes, Field | None]:
    """Name and value field of one entry of an attribute map."""
    name, value = b"", None
    for inner in fields(source, item.start, item.end):
        if inner.number == 1 and inner.wire == LENGTH and inner.end - inner.start <= 4096:
            name = source.read(inner.start, inner.end - inner.start)
        elif inner.number == 2 and inner.wire == LENGTH:
            value = inner
    return name, value


def plain(attribute: Mapping[str, Any]) -> Any:  # noqa: ANN401 - an attribute of any kind
    """An AttrDef as a Python value: a list for a list, ``str`` for bytes that are text."""
    for kind, value in attribute.items():
        if kind == "list":
            lists = [part for name, part in value.items() if name != "val_type"]
            return [_text(item) for item in lists[0]] if lists else []
        if kind == "list_list_int":
            return [list(row.get("list_i", [])) for row in value.get("list_list_i", [])]
        if kind == "list_list_float":
            return [list(row.get("list_f", [])) for row in value.get("list_list_f", [])]
        return _text(value)
    return None


def _text(value: Any) -> Any:  # noqa: ANN401 - an attribute of any kind
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    return value


class AttributeNames:
    """Restores attribute names and shared strings (``om_compress_version`` >= 1).

    A compressed name is a zero byte and base-127 digits, least significant first, each stored plus one; the number
    indexes ``attr_name_enum``. Submodels' tables may hold names that are compressed themselves: those index the root's.
    CANN graph engine, ``model_compress_manager.cc`` and ``enum_attr_utils.cc``.
    """

    def __init__(self, source: Source, models: tuple[tuple[Partition, ...], ...]) -> None:
        self._tables = [self._table(source, definition_of(model)) for model in models]

    @staticmethod
    def _table(source: Source, part: Partition | None) -> tuple[list[bytes], list[bytes], list[bool]]:
        names: list[bytes] = []
        values: list[bytes] = []
        shared: list[bool] = []
        if part is not None:
            for name, field in attribute_entries(source, part):
                if name in (b"attr_name_enum", b"attr_value_enum", b"attrs_use_string_value"):
                    content = decode(source, field.start, field.end, "AttrDef").get("list", {})
                    if name == b"attr_name_enum":
                        names = content.get("s", [])
                    elif name == b"attr_value_enum":
                        values = content.get("s", [])
                    else:
                        shared = content.get("b", [])
        return names, values, shared

    def name(self, raw: bytes, model: int) -> tuple[str, list[bytes] | None]:
        """The name that ``raw`` stands for, and the table of shared strings if its integers index one."""
        strings: list[bytes] | None = None
        for table in dict.fromkeys((model, 0)):
            if not raw.startswith(b"\0"):
                break
            names, values, shared = self._tables[table]
            index = 0
            for digit in reversed(raw[1:]):
                index = index * 127 + digit - 1
            if not 0 <= index < len(names):
                break
            raw = names[index]
            if index < len(shared) and shared[index]:
                strings = values
        return raw.decode("utf-8", "backslashreplace"), strings

    def restore(self, value: Any, model: int) -> Any:  # noqa: ANN401 - a decoded message of any kind
        """A decoded message with every attribute map's keys and shared strings restored."""
        if isinstance(value, list):
            return [self.restore(item, model) for item in value]
        if not isinstance(value, dict):
            return value
        restored = {name: self.restore(item, model) for name, item in value.items() if name != "attr"}
        if "attr" in value:
            restored["attr"] = {}
            for raw, item in value["attr"].items():
                name, strings = self.name(raw, model)
                restored["attr"][name] = self.restore(_shared(item, strings), model)
        return restored


def _shared(attribute: dict[str, Any], strings: list[bytes] | None) -> dict[str, Any]:
    """An attribute whose integers index the table of shared strings, with the integers replaced by the strings."""
    if strings is None:
        return attribute
    if "i" in attribute:
        index = attribute["i"]
        return {"s": strings[index]} if 0 <= index < len(strings) else attribute
    indices = attribute.get("list", {}).get("i")
    if indices is not None and all(0 <= index < len(strings) for index in indices):
        return {"list": {"s": [strings[index] for index in indices], "val_type": 1}}
    return attribute


def _graphs(source: Source, part: Partition) -> Iterator[tuple[str, list[Field]]]:
    """Each graph's name and where its operators lie."""
    for item in fields(source, part.start, part.end):
        if item.number == 7 and item.wire == LENGTH:
            name, operators = "", []
            for inner in fields(source, item.start, item.end):
                if inner.number == 1 and inner.wire == LENGTH:
                    name = source.read(inner.start, inner.end - inner.start).decode("utf-8", "replace")
                elif inner.number == 6 and inner.wire == LENGTH:
                    operators.append(inner)
            yield name, operators


def _operator_type(source: Source, item: Field) -> str:
    """Type of an operator, from the first bytes of its message."""
    for inner in fields(source, item.start, item.end):
        if inner.number == 2 and inner.wire == LENGTH:
            return source.read(inner.start, inner.end - inner.start).decode("utf-8", "replace")
        if inner.number > 2:
            break
    return ""


def operators_of(source: Source, models: tuple[tuple[Partition, ...], ...]) -> Iterator[Operator]:
    """Every operator of every graph of these models."""
    names = AttributeNames(source, models)
    for index, model in enumerate(models):
        part = definition_of(model)
        if part is None:
            continue
        known: dict[bytes, tuple[str, list[bytes] | None]] = {}
        for graph, items in _graphs(source, part):
            for item in items:
                yield _operator(source, item, graph, functools.partial(names.name, model=index), known)


def _operator(
    source: Source,
    item: Field,
    graph: str,
    resolve: Callable[[bytes], tuple[str, list[bytes] | None]],
    known: dict[bytes, tuple[str, list[bytes] | None]],
) -> Operator:
    """One operator; of its many attributes only the names of its source nodes are decoded."""
    texts = {1: "", 2: ""}
    types: dict[int, list[str]] = {33: [], 34: []}
    sources: tuple[str, ...] = ()
    for part in fields(source, item.start, item.end):
        if part.wire != LENGTH:
            continue
        if part.number in texts:
            texts[part.number] = source.read(part.start, part.end - part.start).decode("utf-8", "replace")
        elif part.number in types:
            dtype = next((inner.value for inner in fields(source, part.start, part.end) if inner.number == 2), 0)
            types[part.number].append(dtype_name(dtype))
        elif part.number == 10:
            raw, value = _attribute(source, part)
            if raw not in known:
                known[raw] = resolve(raw)
            name, strings = known[raw]
            if value is not None and name in ("_datadump_original_op_names", "original_op_names"):
                listed = plain(_shared(decode(source, value.start, value.end, "AttrDef"), strings))
                sources = tuple(word for word in listed or () if isinstance(word, str) and word)
    return Operator(texts[1], texts[2], graph, tuple(types[33]), tuple(types[34]), sources)


def inputs_and_outputs(
    source: Source, models: tuple[tuple[Partition, ...], ...], attributes: Mapping[str, Any]
) -> tuple[tuple[OmTensor, ...], tuple[OmTensor, ...]]:
    """For files without records: inputs from the Data operators by their ``index``, outputs from NetOutput's inputs."""
    part = definition_of(models[0])
    assert part is not None
    with source.leaping():
        graph = next(_graphs(source, part), None)
        if graph is None:
            return (), ()
        kinds = [_operator_type(source, item) for item in graph[1]]
    names = AttributeNames(source, models[:1])
    inputs: list[tuple[int, int, OmTensor]] = []
    outputs: tuple[OmTensor, ...] = ()
    out_names = [name for name in attributes.get("attr_model_out_nodes_name") or [] if isinstance(name, str)]
    for place, (kind, item) in enumerate(zip(kinds, graph[1], strict=True)):
        if kind not in _INPUTS and kind != "NetOutput":
            continue
        operator = names.restore(decode(source, item.start, item.end, "OpDef"), 0)
        descriptions = operator.get("input_desc", [])
        if kind == "NetOutput":
            produced = [
                f"{name}:{number}"
                for name, number in zip(operator.get("src_name", []), operator.get("src_index", []), strict=False)
            ]
            outputs = tuple(
                _tensor(
                    (out_names or produced)[index] if index < len(out_names or produced) else f"output_{index}", desc
                )
                for index, desc in enumerate(descriptions)
            )
        else:
            position = operator.get("attr", {}).get("index", {}).get("i", place)
            tensor = _tensor(operator.get("name", ""), (descriptions or [{}])[0])
            inputs.append((position, place, tensor))
    return tuple(tensor for _, _, tensor in sorted(inputs, key=lambda entry: entry[:2])), outputs


def _tensor(name: str, description: Mapping[str, Any]) -> OmTensor:
    attributes = description.get("attr", {})
    origin = plain(attributes.get("origin_shape", {}))
    layout = plain(attributes.get("origin_format", {}))
    shape = description.get("shape", {}).get("dim", [])
    return OmTensor(
        name=name,
        shape=tuple(origin if isinstance(origin, list) and origin else shape),
        dtype=description.get("dtype", "UNDEFINED"),
        format=layout if isinstance(layout, str) else description.get("layout", ""),
        size=description.get("size", 0),
    )
