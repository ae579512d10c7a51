"""An ``.om`` read: what it says of itself, at the price of a few pages of the file."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pth2om.errors import OmFileError
from pth2om.omfile.container import (
    AICPU_KERNELS,
    FLOW_SUBMODEL,
    INOUT_INFO,
    MODEL_DEF,
    SO_BINS,
    TBE_KERNELS,
    Header,
    Partition,
    read_header,
    read_partitions,
)
from pth2om.omfile.inout import InOut, OmTensor, read_inout
from pth2om.omfile.schema import decode, dtype_name
from pth2om.omfile.wire import LENGTH, Field, Part, Source, fields

_EAGER = 16 * 1024  # attributes larger than this (the task list, the name tables) are read when somebody asks
_MOST_ATTRIBUTES = 4096
_KERNEL_MAGIC = 0x5D776EFD
_INPUTS = frozenset({"Data", "AippData", "AnnData", "RefData"})
DYNAMIC_AIPP_INPUT = "ascend_dynamic_aipp_data"


@dataclass(frozen=True)
class Operator:
    """One operator of the compiled graph.

    Attributes:
        name, type: as in the graph; a fused operator's name joins those of its parts.
        graph: name of the (sub)graph it is in.
        inputs, outputs: element types of its tensors: ``FLOAT16``, ``INT8``, ...
        sources: names of the framework's nodes it was made of, where the OM records them.
    """

    name: str
    type: str
    graph: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kernel:
    """One device binary.

    Attributes:
        name: of the kernel.
        size: of the ELF object, in bytes.
        unit: ``aicore`` or ``aicpu``.
    """

    name: str
    size: int
    unit: str


@dataclass(frozen=True)
class OmModel:
    """What an ``.om`` says of itself.

    Attributes:
        path: the file.
        size: of the file, in bytes.
        header: its first 256 bytes.
        models: the partitions of each model of the file; the root's come first.
        attributes: the root model's small attributes as Python values (bytes that are text as ``str``).
        inputs, outputs: in the order in which they are fed.
        inout: gears and what else MODEL_INOUT_INFO holds; empty where the file has none (before about CANN 6).
        from_records: whether inputs and outputs come from MODEL_INOUT_INFO and not from the graph.
        fetched: bytes read from the file to know all that.
        offset: where the model starts in the file: not 0 for a submodel of a flow model.
    """

    path: Path
    size: int
    header: Header
    models: tuple[tuple[Partition, ...], ...]
    attributes: Mapping[str, Any]
    inputs: tuple[OmTensor, ...]
    outputs: tuple[OmTensor, ...]
    inout: InOut
    from_records: bool
    fetched: int
    offset: int = 0

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Those of the root model."""
        return self.models[0]

    @property
    def soc_version(self) -> str | None:
        """The SoC it was compiled for; files before CANN 5 do not say."""
        return self._text("soc_version")

    @property
    def atc_version(self) -> str | None:
        """Version of the compiler, e.g. ``7.6.0.1.220``."""
        return self._text("atc_version")

    @property
    def opp_version(self) -> str | None:
        """Version of the operator package."""
        return self._text("opp_version")

    @property
    def atc_cmdline(self) -> str | None:
        """The command line that made it, beginning with the path of ``atc.bin``."""
        return self._text("atc_cmdline")

    @property
    def framework(self) -> str | None:
        """``Onnx``, ``TensorFlow``, ``Caffe``, ``MindSpore``."""
        return self._text("framework_type")

    def number(self, name: str) -> int | None:
        """An integer attribute such as ``memory_size``."""
        value = self.attributes.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def partition_size(self, kind: int) -> int:
        """Bytes of the root's partitions of that kind; 0 where it has none."""
        return sum(partition.size for partition in self.partitions if partition.kind == kind)

    @property
    def flags(self) -> dict[str, str]:
        """The flags of the recorded command line, without dashes; empty where it is not recorded."""
        return split_flags(self.atc_cmdline or "")

    @property
    def aipp(self) -> str | None:
        """``static`` or ``dynamic`` where the model was compiled with AIPP and says so; else None."""
        if any(tensor.name == DYNAMIC_AIPP_INPUT for tensor in self.inputs):
            return "dynamic"
        if any(tensor.aipp_shape for tensor in self.inputs) or self.flags.get("insert_op_conf"):
            return "static"
        return None

    @cached_property
    def operators(self) -> tuple[Operator, ...]:
        """Every operator of every model of the file; reads the whole graph.

        Raises:
            OmFileError: the graph is damaged.
        """
        with self._open() as source:
            return tuple(_operators(source, self.models))

    @cached_property
    def histogram(self) -> Mapping[str, int]:
        """How many operators of each type, most frequent first."""
        counts = Counter(operator.type for operator in self.operators)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @cached_property
    def kernels(self) -> tuple[Kernel, ...]:
        """The device binaries, AI Core first.

        Raises:
            OmFileError: their table is damaged.
        """
        with self._open() as source:
            return tuple(_kernels(source, self.models))

    @cached_property
    def host_libraries(self) -> tuple[str, ...]:
        """Names of the host libraries it carries (dynamic-shape models)."""
        with self._open() as source:
            return tuple(_host_libraries(source, self.models))

    @cached_property
    def submodels(self) -> tuple[tuple[str, OmModel], ...]:
        """The OMs inside a flow model, each with the engine it is for; empty for every other kind.

        Raises:
            OmFileError: one of them is damaged.
        """
        with self._open() as source:
            found: list[tuple[str, OmModel]] = []
            for partition in self.partitions:
                if partition.kind != FLOW_SUBMODEL:
                    continue
                engine = ""
                for item in fields(source, partition.start, partition.end):
                    if item.number == 2 and item.wire == LENGTH:
                        engine = source.read(item.start, item.end - item.start).decode("utf-8", "replace")
                    elif item.number == 3 and item.wire == LENGTH:
                        part = Part(source, item.start, item.end, f"{self.path}[{len(found)}]")
                        inner = replace(_read(part, self.path), offset=self.offset + item.start)
                        found.append((engine, inner))
            return tuple(found)

    def model_def(self, index: int = 0) -> dict[str, Any]:
        """The whole ModelDef of one model as plain values, attribute names restored; reads all of it.

        Raises:
            OmFileError: it is damaged or absent.
        """
        with self._open() as source:
            part = _model_def(self.models[index])
            if part is None:
                raise OmFileError("omfile.no-model", where=str(self.path))
            names = _Names(source, self.models)
            definition: dict[str, Any] = names.restore(decode(source, part.start, part.end, "ModelDef"), index)
            return definition

    def contains(self, texts: frozenset[str]) -> frozenset[str]:
        """Which of ``texts`` occur anywhere in the model definitions, as a substring."""
        found: set[str] = set()
        with self._open() as source:
            for model in self.models:
                part = _model_def(model)
                if part is None:
                    continue
                blob = b"".join(
                    source.read(at, min(16 * 2**20, part.end - at)) for at in range(part.start, part.end, 16 * 2**20)
                )
                found.update(text for text in texts - found if text.encode() in blob)
        return frozenset(found)

    @contextmanager
    def _open(self) -> Iterator[Source]:
        with Source(self.path) as source:
            if self.offset + self.size > source.size:
                raise OmFileError("omfile.changed", where=str(self.path))
            yield Part(source, self.offset, self.offset + self.size, str(self.path)) if self.offset else source

    def _text(self, name: str) -> str | None:
        value = self.attributes.get(name)
        return value if isinstance(value, str) and value else None


def read_om(path: Path) -> OmModel:
    """Read an ``.om``: header, partition tables, attributes, inputs and outputs.

    Weights, kernels, tasks and the graph stay unread (a graph without MODEL_INOUT_INFO is walked for its Data and
    NetOutput operators), so that it costs some tens of KiB whatever the file's size.

    Raises:
        OmFileError: the file is not an OM or is damaged.
    """
    with Source(path) as source:
        return _read(source, path)


def split_flags(command: str) -> dict[str, str]:
    """The flags of a command line as atc stores it: quotes are gone already, so words are split at `` --``."""
    flags = {}
    for word in (" " + command).split(" --")[1:]:
        name, equals, value = word.partition("=")
        if not equals:
            name, _, value = word.partition(" ")
        flags[name.strip().replace("-", "_")] = value.strip().strip("\"'")
    return flags


def _read(source: Source, path: Path) -> OmModel:
    header = read_header(source)
    if header.encrypted:
        raise OmFileError("omfile.encrypted", where=source.where)
    models = read_partitions(source, header)
    attributes: dict[str, Any] = {}
    part = _model_def(models[0])
    if part is not None:
        attributes = _small_attributes(source, part)
    records = next((item for item in models[0] if item.kind == INOUT_INFO), None)
    inout = read_inout(source, records) if records else InOut()
    inputs, outputs = inout.inputs, inout.outputs
    if records is None and part is not None:
        inputs, outputs = _inout_of_graph(source, models, attributes)
    return OmModel(
        path=path,
        size=source.size,
        header=header,
        models=models,
        attributes=MappingProxyType(attributes),
        inputs=inputs,
        outputs=outputs,
        inout=inout,
        from_records=records is not None,
        fetched=getattr(source, "fetched", 0),
    )


def _model_def(model: tuple[Partition, ...]) -> Partition | None:
    return next((partition for partition in model if partition.kind == MODEL_DEF), None)


def _attribute_entries(source: Source, part: Partition) -> Iterator[tuple[bytes, Field]]:
    """Name and value field of each model attribute; the graphs between them are passed over."""
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


def _small_attributes(source: Source, part: Partition) -> dict[str, Any]:
    return {
        name.decode("utf-8", "replace"): plain(decode(source, value.start, value.end, "AttrDef"))
        for name, value in _attribute_entries(source, part)
        if value.end - value.start <= _EAGER
    }


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


class _Names:
    """Restores attribute names and shared strings (``om_compress_version`` >= 1).

    A compressed name is a zero byte and base-127 digits, least significant first, each stored plus one; the number
    indexes ``attr_name_enum``. Submodels' tables may hold names that are compressed themselves: those index the root's.
    CANN graph engine, ``model_compress_manager.cc`` and ``enum_attr_utils.cc``.
    """

    def __init__(self, source: Source, models: tuple[tuple[Partition, ...], ...]) -> None:
        self._tables = [self._table(source, _model_def(model)) for model in models]

    @staticmethod
    def _table(source: Source, part: Partition | None) -> tuple[list[bytes], list[bytes], list[bool]]:
        names: list[bytes] = []
        values: list[bytes] = []
        shared: list[bool] = []
        if part is not None:
            for name, field in _attribute_entries(source, part):
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
        """The name ``raw`` stands for, and the table of shared strings when its integers index one."""
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
    """An attribute whose integers index the table of shared strings, with the strings in their place."""
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


def _operators(source: Source, models: tuple[tuple[Partition, ...], ...]) -> Iterator[Operator]:
    names = _Names(source, models)
    for index, model in enumerate(models):
        part = _model_def(model)
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
    """One operator; of its dozens of attributes only the names it was made of are decoded."""
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


def _inout_of_graph(
    source: Source, models: tuple[tuple[Partition, ...], ...], attributes: Mapping[str, Any]
) -> tuple[tuple[OmTensor, ...], tuple[OmTensor, ...]]:
    """Inputs from the Data operators by their ``index``, outputs from NetOutput's inputs: files without records."""
    part = _model_def(models[0])
    assert part is not None
    with source.leaping():
        graph = next(_graphs(source, part), None)
        if graph is None:
            return (), ()
        kinds = [_operator_type(source, item) for item in graph[1]]
    names = _Names(source, models[:1])
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


def _kernels(source: Source, models: tuple[tuple[Partition, ...], ...]) -> Iterator[Kernel]:
    units = {TBE_KERNELS: "aicore", AICPU_KERNELS: "aicpu"}
    parts = [partition for model in models for partition in model if partition.kind in units]
    for part in sorted(parts, key=lambda partition: partition.kind):
        at = part.start
        while at < part.end:
            if part.end - at < 12:
                raise OmFileError("omfile.bad-kernels", where=source.where, at=at)
            magic, name_size, size = source.unpack("III", at)
            if magic != _KERNEL_MAGIC or name_size > 4096 or 12 + name_size + size > part.end - at:
                raise OmFileError("omfile.bad-kernels", where=source.where, at=at)
            name = source.read(at + 12, name_size).decode("utf-8", "replace")
            yield Kernel(name, size, units[part.kind])
            at += 12 + name_size + size


def _host_libraries(source: Source, models: tuple[tuple[Partition, ...], ...]) -> Iterator[str]:
    for part in (partition for model in models for partition in model if partition.kind == SO_BINS):
        if part.size < 4:
            continue
        (count,) = source.unpack("I", part.start)
        at = part.start + 4
        for _ in range(count):
            if part.end - at < 16:
                raise OmFileError("omfile.bad-kernels", where=source.where, at=at)
            magic, sizes, vendor, size = source.unpack("IIII", at)
            name_size = sizes & 0xFFFF
            if magic != _KERNEL_MAGIC or 16 + name_size + vendor + size > part.end - at:
                raise OmFileError("omfile.bad-kernels", where=source.where, at=at)
            yield source.read(at + 16, name_size).decode("utf-8", "replace")
            at += 16 + name_size + vendor + size
