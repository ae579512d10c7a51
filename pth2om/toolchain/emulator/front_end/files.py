"""The files that flags name and that ATC's engines read once the SoC is known.

``--op_precision_mode`` (ini), ``--modify_mixlist`` (JSON), ``--keep_dtype`` and ``--customize_dtypes`` (lines),
``--fusion_switch_file`` (lines or JSON). Formats of the "ATC guide"; read errors are E21001, wrong contents E21002.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pth2om.language import Message, say
from pth2om.toolchain.emulator.front_end.flags import Flags
from pth2om.toolchain.emulator.front_end.texts import AtcRefusedError, failure

IMPLEMENTATIONS = frozenset(
    {
        "high_precision",
        "high_performance",
        "super_performance",
        "enable_float_32_execution",
        "enable_hi_float_32_execution",
        "support_out_of_bound_index",
        "keep_fp16",
    }
)
"""Values of an ``op_precision_mode`` file; which of them an operator has depends on the SoC."""

_LIMIT = 16 * 2**20


def check_files(flags: Flags, folder: Path) -> None:
    """The contents of the engine files.

    Raises:
        AtcRefusedError: E21001, E21002 or E10001.
    """
    if flags["op_precision_mode"]:
        read_op_precision(folder / flags["op_precision_mode"], flags.cann)
    if flags["modify_mixlist"]:
        read_mixlist(folder / flags["modify_mixlist"], flags.cann)
    if flags["fusion_switch_file"]:
        _check_fusion_switch(folder / flags["fusion_switch_file"], flags.cann)


def read_op_precision(path: Path, cann: str = "9.x") -> dict[str, dict[str, str]]:
    """Sections ``ByOpType`` and ``ByNodeName`` of an ``op_precision_mode`` file, name to implementation.

    Raises:
        AtcRefusedError: E21002 with the line.
    """
    sections: dict[str, dict[str, str]] = {}
    current: dict[str, str] | None = None
    for number, line in enumerate(_text(path, cann).splitlines(), 1):
        words = line.split("#", 1)[0].split(";", 1)[0].strip()
        if not words:
            continue
        head = re.fullmatch(r"\[\s*(\w+)\s*\]", words)
        if head:
            if head[1] not in ("ByOpType", "ByNodeName"):
                _wrong(path, f"line {number}: section [{head[1]}] is not ByOpType or ByNodeName", cann)
            current = sections.setdefault(head[1], {})
            continue
        name, equals, value = (part.strip() for part in words.rpartition("="))
        if current is None or not equals or not name:
            _wrong(path, f"line {number}: {words!r} is not a name=value under [ByOpType] or [ByNodeName]", cann)
        elif value not in IMPLEMENTATIONS:
            _wrong(path, f"line {number}: {value!r} is not an implementation mode", cann)
        else:
            current[name] = value
    return sections


def read_mixlist(path: Path, cann: str = "9.x") -> dict[str, dict[str, list[str]]]:
    """``black-list``, ``white-list`` and ``gray-list`` of a mixed precision file, each ``to-add`` and ``to-remove``.

    Raises:
        AtcRefusedError: E21002 naming the key, or an operator that is in two lists.
    """
    data = _json(path, cann)
    if not isinstance(data, dict):
        _wrong(path, "the file is not a JSON object", cann)
    lists: dict[str, dict[str, list[str]]] = {}
    for name, group in data.items():
        if name not in ("black-list", "white-list", "gray-list"):
            _wrong(path, f"key {name!r} is not black-list, white-list or gray-list", cann)
        if not isinstance(group, dict):
            _wrong(path, f"{name} is not an object", cann)
        lists[name] = {}
        for action, types in group.items():
            if action not in ("to-add", "to-remove"):
                _wrong(path, f"key {action!r} of {name} is not to-add or to-remove", cann)
            if not isinstance(types, list) or not all(isinstance(item, str) for item in types):
                _wrong(path, f"{action} of {name} is not a list of operator types", cann)
            lists[name][action] = list(types)
    both = set(lists.get("black-list", {}).get("to-add", ())) & set(lists.get("white-list", {}).get("to-add", ()))
    if both:
        _wrong(path, f"{', '.join(sorted(both))} is added to black-list and white-list", cann)
    return lists


def read_keep_dtype(path: Path, cann: str = "9.x") -> tuple[list[str], list[str]]:
    """Node names and operator types (``OpType::Type`` lines) of a ``keep_dtype`` file."""
    names, types = [], []
    for line in _text(path, cann).splitlines():
        word = line.strip()
        if word.startswith("OpType::"):
            types.append(word.removeprefix("OpType::").strip())
        elif word:
            names.append(word)
    return names, types


def keep_dtype_misses(path: Path, nodes: Mapping[str, Sequence[str]], cann: str = "9.x") -> list[Message]:
    """What a ``keep_dtype`` file names and the graph lacks; ATC passes over it without a word.

    Args:
        path: the file.
        nodes: name to the types it goes by, ONNX's and GE's.
        cann: whose texts.
    """
    names, types = read_keep_dtype(path, cann)
    present = {kind for kinds in nodes.values() for kind in kinds}
    missing = [name for name in names if name not in nodes] + [kind for kind in types if kind not in present]
    return [say("atc.keep-dtype-miss", file=path.name, name=name) for name in missing]


def _check_fusion_switch(path: Path, cann: str) -> None:
    text = _text(path, cann)
    if text.lstrip().startswith("{"):
        data = _json(path, cann)
        if not isinstance(data, dict) or not isinstance(data.get("Switch"), dict):
            _wrong(path, 'the file has no object "Switch"', cann)
        for name, group in data["Switch"].items():
            if not isinstance(group, dict) or not all(value in ("on", "off") for value in group.values()):
                _wrong(path, f"a switch of {name} is not on or off", cann)
        return
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if words and words.rpartition(":")[2].strip() not in ("on", "off"):
            _wrong(path, f"line {number}: {words!r} does not end in :on or :off", cann)


def _text(path: Path, cann: str) -> str:
    try:
        if path.stat().st_size > _LIMIT:
            _wrong(path, "the file is larger than 16 MiB", cann)
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            _wrong(path, "the file is not UTF-8 text", cann)
        raise AtcRefusedError(failure("E21001", path, cann=cann)) from None


def _json(path: Path, cann: str) -> Any:  # noqa: ANN401 - JSON of any shape
    try:
        return json.loads(_text(path, cann))
    except (ValueError, RecursionError) as error:
        _wrong(path, str(error)[:200], cann)


def _wrong(path: Path, reason: str, cann: str) -> NoReturn:
    raise AtcRefusedError(failure("E21002", path, reason, cann=cann))
