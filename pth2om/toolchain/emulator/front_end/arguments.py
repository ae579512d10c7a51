"""The checks of the flags themselves, in ATC's order: before the SoC is looked at and before any model is opened.

Order of ``main_impl.cc`` (CANN GE sources): raw options, tuning, single operators, framework, input format, required
flags, paths, precision, shapes, then the remaining files and switches.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pth2om.ascend import families
from pth2om.language import say
from pth2om.toolchain.emulator.front_end import shapes
from pth2om.toolchain.emulator.front_end.flags import FRAMEWORKS, Flags
from pth2om.toolchain.emulator.front_end.shapes import InputShapes
from pth2om.toolchain.emulator.front_end.texts import AtcFailure, AtcRefusedError, failure

MIX_MODES = frozenset(
    {
        "allow_mix_precision",
        "allow_mix_precision_fp16",
        "allow_mix_precision_bf16",
        "mixed_float16",
        "mixed_bfloat16",
        "mixed_hif8",
    }
)
"""Precision modes that read the black and white lists."""

PATH_LIMIT = 4096
"""Longest path that ATC takes (``MMPA_MAX_PATH``)."""

CONVERTING = (0, 3, 7, 30)
"""Modes that take a model of a framework."""

_FORMATS = {
    0: (("NCHW", "ND"), "The value must be NCHW or ND in Caffe model."),
    5: (("NCHW", "ND", "NCDHW"), "The value must be NCHW, ND or NCDHW in ONNX model."),
    3: (
        ("NCHW", "NHWC", "ND", "NCDHW", "NDHWC"),
        "The value must be NCHW, NHWC, ND, NCDHW or NDHWC in TensorFlow model.",
    ),
}
_GOOD_PATH = re.compile(r"[A-Za-z0-9./_\-\u4e00-\u9fa5]*")
_BAD_PATH = "The path can only contain 'a-z' 'A-Z' '0-9' '-' '.' '_' and Chinese characters."


def check(flags: Flags, folder: Path) -> InputShapes:
    """Every check of the flags up to the SoC (steps 3 to 13 of ATC's order), for modes 0, 3, 7 and 30.

    Args:
        flags: the command line.
        folder: where relative paths begin.

    Returns:
        What was read of gears and ranges.

    Raises:
        AtcRefusedError: with ATC's code.
    """
    cann = flags.cann
    check_early(flags)
    if flags.framework == -1:
        raise AtcRefusedError(failure("E10007", "framework", FRAMEWORKS, cann=cann))
    if flags.framework == 0 and not flags["weight"]:
        raise AtcRefusedError(failure("E10008", cann=cann))
    if flags["weight"]:
        check_readable("weight", flags, folder)
    family = families.find(flags["soc_version"])
    nano = family is not None and family.nano
    if nano != (flags.mode == 30):
        reason = f"--mode={flags.mode} and --soc_version={flags['soc_version']} cannot be used together"
        raise AtcRefusedError(failure("E10055", reason, cann=cann))
    _check_format(flags)
    needed = ("soc_version", "model") if flags.mode == 3 else ("soc_version", "output", "model")
    for name in needed:
        if not flags[name]:
            raise AtcRefusedError(failure("E10054", f"--{name}", cann=cann, advice=say("atc.required", flag=name)))
    check_readable("model", flags, folder)
    if flags.mode != 3:
        check_output(flags["output"], "output", folder, cann)
    _check_precision(flags, folder)
    found = shapes.check_flags(flags)
    _check_rest(flags, folder)
    return found


def check_early(flags: Flags) -> None:
    """The checks of every mode: tuning, determinism.

    Raises:
        AtcRefusedError: with ATC's code.
    """
    cann = flags.cann
    if flags["auto_tune_mode"]:
        reason = "The Auto Tune function has been deprecated. Please use the AOE tool for tuning."
        raise AtcRefusedError(failure("E10001", flags["auto_tune_mode"], "--auto_tune_mode", reason, cann=cann))
    if "deterministic_level" in flags and (flags["deterministic"] == "0") != (flags["deterministic_level"] == "0"):
        value = f"{flags['deterministic']}, {flags['deterministic_level']}"
        names = "--deterministic, --deterministic_level"
        raise AtcRefusedError(failure("E10001", value, names, "must both be 0 or both non-zero.", cann=cann))


def check_readable(name: str, flags: Flags, folder: Path) -> Path:
    """The file a flag names, with its links resolved.

    Raises:
        AtcRefusedError: E10001 with the system's reason, or with the letters a path may have.
    """
    text = flags[name]
    try:
        path = (folder / text).resolve(strict=True)
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except (OSError, RuntimeError, ValueError) as error:
        number = getattr(error, "errno", None) or (errno.ELOOP if isinstance(error, RuntimeError) else errno.EINVAL)
        reason = f"[Errno {number}] {os.strerror(number)}."
        raise AtcRefusedError(failure("E10001", text, f"--{name}", reason, cann=flags.cann)) from None
    if not _GOOD_PATH.fullmatch(path.as_posix().replace(":", "") if os.name == "nt" else str(path)):
        raise AtcRefusedError(failure("E10001", path, f"--{name}", _BAD_PATH, cann=flags.cann, advice=say("atc.path")))
    return path


def check_output(text: str, name: str, folder: Path, cann: str) -> None:
    """Whether ATC could write to that path; nothing is made here.

    Raises:
        AtcRefusedError: E10021, E10022 or E10001.
    """
    if len(text) >= PATH_LIMIT:
        raise AtcRefusedError(failure("E10021", name, PATH_LIMIT, cann=cann))
    if text.endswith("/"):
        advice = say("atc.output-is-folder", path=text)
        raise AtcRefusedError(failure("E10022", text, name, cann=cann, advice=advice))
    if not _GOOD_PATH.fullmatch(text.replace("\\", "/").replace(":", "") if os.name == "nt" else text):
        raise AtcRefusedError(failure("E10001", text, f"--{name}", _BAD_PATH, cann=cann, advice=say("atc.path")))
    try:
        place = Path(os.path.abspath(folder / text))  # noqa: PTH100 - resolve() would follow the file itself
        if place.exists():
            good = os.access(place, os.W_OK)
            number = errno.EACCES
        else:
            parent = next(parent for parent in place.parents if parent.exists())
            good = parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
            number = errno.EACCES if parent.is_dir() else errno.ENOTDIR
    except OSError as error:
        good, number = False, error.errno or errno.EINVAL
    if not good:
        reason = f"[Errno {number}] {os.strerror(number)}."
        raise AtcRefusedError(failure("E10001", text, f"--{name}", reason, cann=cann))


def _check_format(flags: Flags) -> None:
    allowed, reason = _FORMATS.get(flags.framework, ((), ""))
    if flags["input_format"] and allowed and flags["input_format"] not in allowed:
        raise AtcRefusedError(failure("E10001", flags["input_format"], "--input_format", reason, cann=flags.cann))


def _check_precision(flags: Flags, folder: Path) -> None:
    cann = flags.cann
    if flags["optypelist_for_implmode"] and not flags["op_select_implmode"]:
        names = "Parameters --op_select_implmode and --optypelist_for_implmode must be set at the same time."
        raise AtcRefusedError(failure("E10001", flags["op_select_implmode"], "--op_select_implmode", names, cann=cann))
    if flags["op_precision_mode"]:
        check_readable("op_precision_mode", flags, folder)
    if flags["is_weight_clip"] not in ("", "0", "1"):
        raise AtcRefusedError(failure("E10006", flags["is_weight_clip"], "is_weight_clip", cann=cann))
    if flags["precision_mode"] and flags["precision_mode_v2"]:
        advice = say("atc.two-precision-modes")
        raise AtcRefusedError(failure("E10056", "--precision_mode", "--precision_mode_v2", cann=cann, advice=advice))
    if flags["modify_mixlist"]:
        mode = flags["precision_mode"] or flags["precision_mode_v2"]
        if mode not in MIX_MODES:
            reason = "Parameter --modify_mixlist can only be set with a mixed precision mode."
            advice = say("atc.mixlist-without-mix", mode=mode or "force_fp16")
            problem = failure("E10001", flags["modify_mixlist"], "--modify_mixlist", reason, cann=cann, advice=advice)
            raise AtcRefusedError(problem)
        check_readable("modify_mixlist", flags, folder)


def _check_rest(flags: Flags, folder: Path) -> None:
    cann = flags.cann
    if flags["insert_op_conf"] and flags["dynamic_dims"]:
        reason = "The dynamic dims function does not support AIPP."
        raise AtcRefusedError(failure("E10001", flags["insert_op_conf"], "--insert_op_conf", reason, cann=cann))
    for name in ("cal_conf", "op_name_map", "insert_op_conf"):
        if flags[name]:
            check_readable(name, flags, folder)
    if flags["enable_compress_weight"] not in ("true", "false"):
        raise AtcRefusedError(failure("E10005", flags["enable_compress_weight"], "enable_compress_weight", cann=cann))
    if flags["enable_compress_weight"] == "true" and flags["compress_weight_conf"]:
        raise AtcRefusedError(failure("E10047", "enable_compress_weight", "compress_weight_conf", cann=cann))
    for name in ("compress_weight_conf", "keep_dtype", "customize_dtypes"):
        if flags[name]:
            check_readable(name, flags, folder)
    if "check_report" in flags:
        check_output(flags["check_report"], "check_report", folder, cann)
    for problem in _switches(flags):
        raise AtcRefusedError(problem)


def _switches(flags: Flags) -> Iterator[AtcFailure]:
    """The remaining flags of two values, and the pairs that exclude each other."""
    cann = flags.cann
    for name in ("save_original_model", "enable_single_stream"):
        if flags[name] not in ("", "true", "false"):
            yield failure("E10005", flags[name], name, cann=cann)
    if flags["enable_single_stream"] == "true" and flags["multi_stream_parallel_mode"]:
        yield failure("E10047", "enable_single_stream", "multi_stream_parallel_mode", cann=cann)
    for name in ("ac_parallel_enable", "tiling_schedule_optimize", "quant_dumpable"):
        if flags[name] not in ("", "0", "1"):
            yield failure("E10006", flags[name], name, cann=cann)
    for name, values in (("host_env_os", ("linux", "minios")), ("host_env_cpu", ("x86_64", "aarch64", "arm64", "arm"))):
        if flags[name] and flags[name] not in values:
            reason = f"The value must be one of {', '.join(values)}."
            yield failure("E10001", flags[name], f"--{name}", reason, cann=cann)
    for name in ("allow_hf32", "enable_attr_compression"):
        if flags[name] not in ("", "true", "false"):
            yield failure("E10005", flags[name], name, cann=cann)
    if flags.mode == 30 and flags["display_model_info"] != "0":
        reason = "It cannot be set when --mode is 30."
        yield failure("E10001", flags["display_model_info"], "--display_model_info", reason, cann=cann)
    limit = flags["static_model_ops_lower_limit"]
    if limit and not (re.fullmatch(r"-?[0-9]{1,19}", limit) and -1 <= int(limit) < 2**63):
        reason = "The value must be an integer not smaller than -1."
        yield failure("E10001", limit, "--static_model_ops_lower_limit", reason, cann=cann)
