"""Which ONNX operators ATC's parser supports, by the exact key ``domain::opset::Type``.

The parser looks up the *model's* opset, not the operator's since-version: ``Add`` has not changed since opset 14, and
is not found in a model of opset 19 ("CANN GE parser sources", ``onnx_parser.cc``). The table is made by
`pth2om.ascend.make_tables` from the plugin registrations of the public CANN operator repositories.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pth2om.ascend import TABLES, custom_ops
from pth2om.ascend.installed import plugin_keys
from pth2om.ascend.versions import generation

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Status = Literal["registered", "missing", "unknown"]
"""``unknown``: no public source says whether that CANN registers the key."""

ANY_OPSET = frozenset({"Constant"})
"""Standard operators that the parser takes before the versioned lookup."""


@dataclass(frozen=True)
class MissingOperator:
    """One key that the parser does not find, and the nodes that need it.

    Attributes:
        key: ``domain::opset::Type`` as ATC prints it; the opset is ``?`` when the model does not import the domain.
        domain: ``ai.onnx`` for the default domain.
        opset: that the model imports for the domain; None when it does not.
        op_type: of the nodes.
        nodes: their names (``Type_<n>`` for the n-th unnamed node, as ATC names them), in graph order.
        status: ``missing``, or ``unknown`` where no public source decides.
        opsets: at which the operator is registered, ascending; empty when never.
    """

    key: str
    domain: str
    opset: int | None
    op_type: str
    nodes: tuple[str, ...]
    status: Status
    opsets: tuple[int, ...]


@functools.cache
def table() -> dict[str, Any]:
    """The packaged table ``onnx_parsers.json``: ``meta``, ``sources``, ``notes`` and ``operators``."""
    with (TABLES / "onnx_parsers.json").open(encoding="utf-8") as file:
        return cast("dict[str, Any]", json.load(file))


@functools.cache
def opsets(domain: str, op_type: str) -> tuple[int, ...]:
    """The opsets at which the newest known CANN registers the operator, ascending; empty when never.

    Args:
        domain: ``""`` is ``ai.onnx``.
        op_type: the ONNX type.
    """
    row = table()["operators"].get(f"{domain or 'ai.onnx'}::{op_type}")
    return () if row is None else unpack(row.get("opsets", ""))


def status(domain: str, opset: int, op_type: str, cann: str = "9.x") -> Status:
    """Whether that CANN's parser finds ``domain::opset::Type``.

    For CANN 7 and 8 the sources were closed; there a key counts as registered when it is today and either the open
    operator repository of 2022-06 or that release's operator list has it, and as unknown where neither does. What a
    plugin installed on this machine names is registered (`pth2om.ascend.installed`), and what is declared here
    (`pth2om.ascend.custom_ops`).
    """
    judged = _packaged_status(domain or "ai.onnx", opset, op_type, cann)
    if judged != "registered":
        key = f"{domain or 'ai.onnx'}::{opset}::{op_type}"
        if key in plugin_keys() or key in custom_ops.current().keys:
            return "registered"
    return judged


@functools.cache
def _packaged_status(domain: str, opset: int, op_type: str, cann: str) -> Status:
    if domain == "ai.onnx" and op_type in ANY_OPSET:
        return "registered"
    row = table()["operators"].get(f"{domain}::{op_type}")
    if row is None:
        return "missing"
    now = opset in opsets(domain, op_type)
    then = opset in unpack(row.get("opsets_2022", ""))
    if generation(cann) == 9:
        if now:
            return "unknown" if row.get("experimental") else "registered"
        return "unknown" if row.get("unknown") and then else "missing"
    if then:
        return "registered"
    if not now:
        return "missing"
    return "registered" if row.get("listed_8") else "unknown"


def registered(domain: str, opset: int, op_type: str, cann: str = "9.x") -> bool:
    """Whether ATC's parser surely finds ``domain::opset::Type`` (``""`` is ``ai.onnx``)."""
    return status(domain, opset, op_type, cann) == "registered"


def missing_operators(
    model: ModelProto | Path | str, cann: str = "9.x", opset: int | None = None
) -> list[MissingOperator]:
    """The operators of a model that ATC's parser does not find, in the order in which ATC meets them.

    Branches of ``If`` are looked into, as ATC does; bodies of other control flow are not, because ATC refuses those
    nodes themselves. Weights of an external file are not read.

    Args:
        model: a loaded model or its file.
        cann: whose parser: ``7.0``, ``8.0`` or ``9.x``.
        opset: judge the nodes of the default domain as if the model imported this opset.

    Raises:
        GraphError: the file cannot be read.
    """
    loaded = _load(model)
    imports = {item.domain or "ai.onnx": item.version for item in loaded.opset_import}
    if opset is not None:
        imports["ai.onnx"] = opset
    found: dict[str, list[str]] = {}
    rows: dict[str, tuple[str, int | None, str, Status]] = {}
    for name, node in _named_nodes(loaded.graph):
        domain = node.domain or "ai.onnx"
        version = imports.get(domain)
        if domain == "ai.onnx" and node.op_type in ANY_OPSET:
            continue
        judged: Status = "missing" if version is None else status(domain, version, node.op_type, cann)
        if judged == "registered":
            continue
        key = f"{domain}::{'?' if version is None else version}::{node.op_type}"
        found.setdefault(key, []).append(name)
        rows[key] = (domain, version, node.op_type, judged)
    return [
        MissingOperator(key, domain, version, op_type, tuple(found[key]), judged, opsets(domain, op_type))
        for key, (domain, version, op_type, judged) in rows.items()
    ]


def unpack(text: str) -> tuple[int, ...]:
    """``"8-9,11-18"`` to its numbers."""
    numbers: list[int] = []
    for part in text.split(","):
        if part:
            first, _, last = part.partition("-")
            numbers.extend(range(int(first), int(last or first) + 1))
    return tuple(numbers)


def pack(numbers: Sequence[int]) -> str:
    """The inverse of `unpack`; the numbers in any order."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _load(model: ModelProto | Path | str) -> ModelProto:
    if not isinstance(model, str | Path):
        return model
    from pth2om.onnxfile.reading import read

    return read(Path(model))


def _named_nodes(graph: GraphProto) -> Iterator[tuple[str, NodeProto]]:
    """The nodes of the graph and of the branches of its Ifs, unnamed ones named as ATC names them."""
    unnamed = 0
    queue = [graph]
    while queue:
        current = queue.pop(0)
        for node in current.node:
            name = node.name
            if not name:
                name = f"{node.op_type}_{unnamed}"
                unnamed += 1
            yield name, node
            if node.op_type == "If":
                queue.extend(attribute.g for attribute in node.attribute if attribute.HasField("g"))
