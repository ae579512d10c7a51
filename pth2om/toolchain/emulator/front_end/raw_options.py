"""``--raw_ge_options``: options of the graph engine from a JSON file, set where the command line does not set them.

Rules of ``main_impl.cc`` (CANN GE sources): only ``compile options`` counts; its ``graph`` overrides ``session``, which
overrides ``global``. An option that stands for a flag of atc is checked as that flag is; another one is refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pth2om.ascend.atc_options import FLAGS
from pth2om.toolchain.emulator.front_end.flags import Flags, check_value
from pth2om.toolchain.emulator.front_end.texts import AtcRefusedError, failure

_LEVELS = ("global", "session", "graph")
_EXPLICIT = ("model", "output", "framework", "soc_version")
_TRUE = ("", "1", "t", "true", "y", "yes")
_OTHER_NAMES = {
    "enginetype": "core_type",
    "outputdatatype": "output_type",
    "insertopfile": "insert_op_conf",
    "outputnodename": "out_nodes",
    "calibrationconffile": "cal_conf",
    "frameworktype": "framework",
    "inputnodessetfp16": "input_fp16_nodes",
    "disablereusedmemory": "disable_reuse_memory",
    "enablesparsematrixweight": "sparsity",
    "tunedeviceids": "device_id",
    "buildconfig": "build_config",
}
"""Options whose name differs from their flag's by more than its spelling."""

_BY_SPELLING = {name.replace("_", ""): name for name in FLAGS if not name.startswith("raw_")} | _OTHER_NAMES


def flag_of(option: str) -> str | None:
    """The flag that an option stands for (``ge.exec.precision_mode``: ``precision_mode``); None when none does."""
    plain = re.sub(r"^(ge\.)?(exec\.)?", "", option)
    return _BY_SPELLING.get(re.sub(r"[._]", "", plain).lower())


def with_raw_options(flags: Flags, folder: Path) -> Flags:
    """The flags with what the file of ``--raw_ge_options`` adds to them; the same flags where there is none.

    Args:
        flags: the command line.
        folder: where relative paths begin.

    Raises:
        AtcRefusedError: E13001, E10032, E10055, E10001, or the code of a value.
    """
    text, cann = flags["raw_ge_options"], flags.cann
    if not text:
        return flags
    given = dict(flags.given)
    ignored = (
        flags["raw_ge_options_ignore_unsupported"].lower() in _TRUE and "raw_ge_options_ignore_unsupported" in flags
    )
    for option, (value, level) in sorted(_read(folder / text, text, cann).items()):
        name = flag_of(option)
        if name is None:
            if ignored:
                continue
            reason = f"RawGeOptions[{option}:{value}] in level [{level}] is not supported in ATC. Please do not set it."
            raise AtcRefusedError(failure("E10055", reason, cann=cann))
        check_value(name, value, cann)
    for option, (value, _) in sorted(_read(folder / text, text, cann).items()):
        name = flag_of(option)
        if name is None or name in flags:
            continue
        if name in _EXPLICIT:
            reason = "This option must be set explicitly by command line and cannot be replaced by raw_ge_options."
            raise AtcRefusedError(failure("E10001", value, f"--{name}", reason, cann=cann))
        given[name] = value
    return Flags(given, cann)


def _read(path: Path, text: str, cann: str) -> dict[str, tuple[str, str]]:
    """Option to its value and the level that it comes from."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AtcRefusedError(failure("E13001", text, reason, cann=cann)) from None
    try:
        read: Any = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AtcRefusedError(failure("E10032", text, str(error)[:200], cann=cann)) from None
    groups = read.get("compile options") if isinstance(read, dict) else None
    if not isinstance(groups, dict):
        raise AtcRefusedError(failure("E10055", f'{text} has no object "compile options"', cann=cann))
    for level, group in groups.items():
        if level not in _LEVELS or not isinstance(group, dict):
            reason = f'{text}: "compile options" holds the objects global, session and graph, not {level!r}'
            raise AtcRefusedError(failure("E10055", reason, cann=cann))
    found: dict[str, tuple[str, str]] = {}
    for level in _LEVELS:
        for option, value in groups.get(level, {}).items():
            if not option or not isinstance(value, str):
                reason = f"{text}: the value of option {option!r} in level {level} must be a string"
                raise AtcRefusedError(failure("E10055", reason, cann=cann))
            found[option] = (value, level)
    return found
