"""Reads an ``.om``: all that it records, at the cost of a few pages of the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
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
    SO_BINS,
    TBE_KERNELS,
    Header,
    Partition,
    read_header,
    read_partitions,
)
from pth2om.omfile.graph import (
    AttributeNames,
    Operator,
    attribute_entries,
    definition_of,
    inputs_and_outputs,
    operators_of,
    plain,
)
from pth2om.omfile.inout import InOut, OmTensor, read_inout
from pth2om.omfile.schema import decode
from pth2om.omfile.wire import LENGTH, Part, Source, fields

_EAGER = 16 * 1024  # attributes larger than this (the task list, the name tables) are read on first use
_KERNEL_MAGIC = 0x5D776EFD
DYNAMIC_AIPP_INPUT = "ascend_dynamic_aipp_data"


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
    """What an ``.om`` records.

    Attributes:
        path: the file.
        size: of the file, in bytes.
        header: its first 256 bytes.
        models: the partitions of each model of the file; the root's come first.
        attributes: the root model's small attributes as Python values (bytes that are text as ``str``).
        inputs, outputs: in the order in which they are fed.
        inout: gears and the rest of MODEL_INOUT_INFO; empty if the file has none (before about CANN 6).
        from_records: whether inputs and outputs come from MODEL_INOUT_INFO and not from the graph.
        fetched: bytes that were read from the file for this.
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
        """The partitions of the root model."""
        return self.models[0]

    @property
    def soc_version(self) -> str | None:
        """The SoC it was compiled for; files from before CANN 5 do not record it."""
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
        """The command line that compiled it, beginning with the path of ``atc.bin``."""
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
        """``static`` or ``dynamic`` if the model records that it was compiled with AIPP; else None."""
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
            return tuple(operators_of(source, self.models))

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
        """Names of the host libraries in the file (dynamic-shape models)."""
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
            part = definition_of(self.models[index])
            if part is None:
                raise OmFileError("omfile.no-model", where=str(self.path))
            names = AttributeNames(source, self.models)
            definition: dict[str, Any] = names.restore(decode(source, part.start, part.end, "ModelDef"), index)
            return definition

    def contains(self, texts: frozenset[str]) -> frozenset[str]:
        """Which of ``texts`` occur anywhere in the model definitions, as a substring."""
        found: set[str] = set()
        with self._open() as source:
            for model in self.models:
                part = definition_of(model)
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

    Weights, kernels, tasks and the graph are not read (without MODEL_INOUT_INFO the graph is searched for its Data and
    NetOutput operators), so reading takes some tens of KiB whatever the file's size.

    Raises:
        OmFileError: the file is not an OM or is damaged.
    """
    with Source(path) as source:
        return _read(source, path)


def split_flags(command: str) -> dict[str, str]:
    """The flags of a command line as atc stores it: without quotes, so it is split at `` --``."""
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
    part = definition_of(models[0])
    if part is not None:
        attributes = _small_attributes(source, part)
    records = next((item for item in models[0] if item.kind == INOUT_INFO), None)
    inout = read_inout(source, records) if records else InOut()
    inputs, outputs = inout.inputs, inout.outputs
    if records is None and part is not None:
        inputs, outputs = inputs_and_outputs(source, models, attributes)
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


def _small_attributes(source: Source, part: Partition) -> dict[str, Any]:
    return {
        name.decode("utf-8", "replace"): plain(decode(source, value.start, value.end, "AttrDef"))
        for name, value in attribute_entries(source, part)
        if value.end - value.start <= _EAGER
    }


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
