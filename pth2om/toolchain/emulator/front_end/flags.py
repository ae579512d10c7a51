"""ATC's flags: how an argument list is cut into them, and which values the enumerated ones take.

Rules of ``cmd_flag_info.cc`` (CANN GE sources): the value table is consulted for each flag as it is met, before any
other check, and also for an empty value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pth2om.ascend.atc_options import FLAGS
from pth2om.toolchain.emulator.front_end.getopt import Reader, formatted
from pth2om.toolchain.emulator.front_end.texts import AtcRefusedError, failure

FRAMEWORKS = "0(Caffe) or 1(MindSpore) or 3(TensorFlow) or 5(Onnx)"

_SWITCH = ("0", "1")

RANGES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "status_check",
            "deterministic",
            "display_model_info",
            "atomic_clean_policy",
            "dump_mode",
            "disable_reuse_memory",
            "sparsity",
            "virtual_type",
        ),
        _SWITCH,
    ),
    "external_weight": ("0", "1", "2"),
    "deterministic_level": ("0", "1", "2", "3"),
    "framework": ("0", "1", "3", "5"),
    "mode": ("0", "1", "3", "5", "6", "7", "30"),
    "op_debug_level": ("0", "1", "2", "3", "4"),
    "jit_compile": ("0", "1", "2"),
    "core_type": ("AiCore", "VectorCore"),
    "log": ("debug", "info", "warning", "error", "null"),
    "op_compiler_cache_mode": ("enable", "disable", "force"),
    "buffer_optimize": ("l1_optimize", "l2_optimize", "off_optimize"),
    "shape_generalized_build_mode": ("shape_generalized", "shape_precise"),
    "op_select_implmode": (
        "high_precision",
        "high_performance",
        "high_precision_for_all",
        "high_performance_for_all",
    ),
    "precision_mode": (
        "force_fp16",
        "force_fp32",
        "cube_fp16in_fp32out",
        "allow_mix_precision",
        "allow_mix_precision_fp16",
        "allow_mix_precision_bf16",
        "allow_fp32_to_fp16",
        "allow_fp32_to_bf16",
        "must_keep_origin_dtype",
    ),
    "precision_mode_v2": (
        "fp16",
        "origin",
        "cube_fp16in_fp32out",
        "mixed_float16",
        "mixed_bfloat16",
        "cube_hif8",
        "mixed_hif8",
    ),
}
"""The values that an enumerated flag takes; compared exactly."""

_SWITCH_CODE = frozenset(
    {
        "status_check",
        "deterministic",
        "display_model_info",
        "atomic_clean_policy",
        "dump_mode",
        "disable_reuse_memory",
        "sparsity",
        "external_weight",
    }
)
"""Flags whose value outside the table is E10006 instead of E10001."""

_OPTIONAL_ARGUMENT = frozenset({"help", "raw_ge_options_ignore_unsupported"})
_TRUE = frozenset({"1", "t", "true", "y", "yes", ""})
_FALSE = frozenset({"0", "f", "false", "n", "no"})

KNOWN = frozenset(FLAGS) | {"help"}

_LONG = {name: name not in _OPTIONAL_ARGUMENT for name in sorted(KNOWN)} | {"h": False}

DEFAULTS: dict[str, str] = {
    "mode": "0",
    "framework": "-1",
    "check_report": "check_result.json",
    "jit_compile": "1",
    "core_type": "AiCore",
    "buffer_optimize": "l2_optimize",
    "op_compiler_cache_mode": "disable",
    "enable_compress_weight": "false",
    "enable_attr_compression": "true",
    "oo_level": "O3",
    **dict.fromkeys(
        (
            "dump_mode",
            "disable_reuse_memory",
            "virtual_type",
            "enable_small_channel",
            "sparsity",
            "ac_parallel_enable",
            "tiling_schedule_optimize",
            "status_check",
            "display_model_info",
            "device_id",
            "atomic_clean_policy",
            "external_weight",
            "deterministic",
            "deterministic_level",
        ),
        "0",
    ),
}


class LexicalError(Exception):
    """An argument that is no flag; ATC says so on standard error, without a code."""


@dataclass(frozen=True)
class Flags:
    """A command line, cut into flags.

    Attributes:
        given: what was written, the last of repeated flags.
        cann: whose rules hold.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    cann: str = "9.x"

    def __getitem__(self, name: str) -> str:
        """The value of a flag: as given, else its default, else empty."""
        return self.given.get(name, DEFAULTS.get(name, ""))

    def __contains__(self, name: object) -> bool:
        """Whether the flag was written."""
        return name in self.given

    @property
    def mode(self) -> int:
        """The number of ``--mode``."""
        return int(self["mode"])

    @property
    def framework(self) -> int:
        """The number of ``--framework``; -1 when it was not written."""
        return int(self["framework"])


def lex(arguments: Sequence[str], cann: str = "9.x") -> Flags:
    """Cut an argument list into flags as ATC does, which uses GNU ``getopt_long`` (`getopt.Reader`).

    ``--name=value``, ``--name value`` and ``-name=value`` are one, a hyphen behind the fourth character of a name is an
    underscore, a name may be shortened as long as it is unique, ``-h`` is ``--help``. Each value is checked as its flag
    is met; ``--help`` ends the reading; stray words come last.

    Args:
        arguments: without the program.
        cann: whose rules hold.

    Raises:
        LexicalError: an unknown flag, a missing argument or a stray word.
        AtcRefusedError: a value outside an enumerated flag's table.
    """
    given: dict[str, str] = {}
    reader = Reader([formatted(word) for word in arguments], _LONG, "h")
    for option in reader:
        if option.problem == "missing":
            description = f"flag description: --{option.name}=VALUE"
            raise LexicalError(f"ERROR: flag '{option.word}' is missing its argument; {description}")
        if option.problem is not None:
            raise LexicalError(f"ERROR: unknown command line flag '{option.word.lstrip('-').partition('=')[0]}'")
        name = "help" if option.name == "h" else option.name
        check_value(name, option.value, cann)
        given[name] = option.value
        if name == "help":
            if option.value.lower() not in _FALSE:
                return Flags({"help": option.value}, cann)
            del given[name]
    if reader.rest:
        raise LexicalError("\n".join(f"ERROR: Non-option parameter: {word}" for word in reader.rest))
    return Flags(given, cann)


def check_value(name: str, value: str, cann: str) -> None:
    """The check that every value of a flag goes through as it is set.

    Raises:
        AtcRefusedError: it is outside an enumerated flag's table, or no true or false.
    """
    _check_range(name, value, cann)
    if name in _OPTIONAL_ARGUMENT and value.lower() not in _TRUE | _FALSE:
        raise AtcRefusedError(failure("E10003", value, name, "The value type must be [bool].", cann=cann))


def _check_range(name: str, value: str, cann: str) -> None:
    allowed = RANGES.get(name)
    if allowed is None or value in allowed:
        return
    if name == "framework":
        raise AtcRefusedError(failure("E10007", "framework", FRAMEWORKS, cann=cann))
    if name == "log":
        raise AtcRefusedError(failure("E10010", value, cann=cann))
    if name in _SWITCH_CODE:
        raise AtcRefusedError(failure("E10006", value, name, cann=cann))
    choices = " ".join(f"[{choice}]" for choice in allowed)
    reason = f"The value is not within the range of values. The valid range is {choices}."
    raise AtcRefusedError(failure("E10001", value, f"--{name}", reason, cann=cann))
