"""``atc`` without CANN: the same arguments, checks, lines and status; no .om is written.

`run_atc` is what ``pth2om atc`` calls; `check_model` is what the emulator asks before it computes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pth2om.ascend.atc_options import FLAGS, AtcOptions
from pth2om.ascend.versions import generation
from pth2om.errors import AtcError, OmFileError
from pth2om.escaping import visible_lines
from pth2om.language import Message, joined, say
from pth2om.onnxfile.walking import tensors
from pth2om.toolchain.emulator.front_end import arguments as argument_checks
from pth2om.toolchain.emulator.front_end import onnx_model
from pth2om.toolchain.emulator.front_end.convert import check_soc, convert, write_json
from pth2om.toolchain.emulator.front_end.flags import DEFAULTS, RANGES, Flags, LexicalError, lex
from pth2om.toolchain.emulator.front_end.raw_options import with_raw_options
from pth2om.toolchain.emulator.front_end.texts import (
    BANNER,
    FAILURE,
    STATUS_FAILED,
    SUCCESS,
    TEXTS,
    AtcFailure,
    AtcRefusedError,
    block,
    failure,
)

_SHOWN_DATA = 1024
"""Tensors of more bytes than this are written to JSON without their data, as ATC leaves weights out."""


@dataclass(frozen=True)
class AtcResult:
    """How a run ended.

    Attributes:
        status: what a shell sees: 0, or 255.
        text: standard output.
        failures: ATC's messages with what pth2om adds to them.
        report: the ``check_result.json`` or JSON file that was written.
        notes: what ATC passes over in silence.
    """

    status: int
    text: str
    failures: tuple[AtcFailure, ...] = ()
    report: Path | None = None
    notes: tuple[Message, ...] = ()

    @property
    def errors(self) -> list[tuple[str, str]]:
        """Code and text of each message."""
        return [(item.code, item.text) for item in self.failures]


@dataclass
class _Console:
    """Standard output as ATC writes it, kept and passed on line by line."""

    stream: TextIO | None
    lines: list[str] = field(default_factory=list)

    def print(self, text: str) -> None:
        text = visible_lines(text)
        self.lines.append(text)
        if self.stream is not None:
            print(text, file=self.stream, flush=True)

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


@dataclass
class _Outcome:
    report: Path | None = None
    notes: list[Message] = field(default_factory=list)
    last: Message | None = None
    shown: list[str] = field(default_factory=list)


def run_atc(
    arguments: Sequence[str],
    *,
    cann: str = "9.x",
    cwd: Path | None = None,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> AtcResult:
    """Do what ``atc`` does up to the compilation of kernels.

    Args:
        arguments: as given to ``atc``, without the program.
        cann: whose rules and texts: ``7.0``, ``8.0`` or ``9.x``.
        cwd: where relative paths begin; default the process's.
        stdout: gets every line as it comes; None keeps them in the result only.
        stderr: gets what ATC writes there.

    Raises:
        AtcError: something that is not emulated: a framework other than ONNX, a graph dump.
        ToolchainError: `cann` is no version that is known.
    """
    generation(cann)
    folder = (cwd or Path()).absolute()
    console = _Console(stdout)
    try:
        flags = lex(arguments, cann)
    except LexicalError as error:
        console.print(BANNER)
        if stderr is not None:
            print(visible_lines(str(error)), file=stderr)
        return _refused(console, (), cann, notes=(say("atc.lexer", reason=_said(error)),))
    except AtcRefusedError as refused:
        console.print(BANNER)
        return _refused(console, refused.failures, cann, dots=True)
    if "help" in flags:
        console.print(usage())
        return AtcResult(0, console.text)
    console.print(BANNER)
    if flags["input_shape_range"]:
        console.print(
            "WARNING: Option input_shape_range is deprecated and will be removed in future version,"
            "please use input_shape instead"
        )
    try:
        outcome = _dispatch(flags, folder)
    except AtcRefusedError as refused:
        return _refused(console, refused.failures, cann, dots=True)
    if generation(cann) > 7:
        console.print("...")
    for line in outcome.shown:
        console.print(line)
    console.print(SUCCESS)
    for note in outcome.notes:
        console.print(joined(("pth2om", note.render()), ": "))
    if outcome.last is not None:
        console.print(joined(("pth2om", outcome.last.render()), ": "))
    return AtcResult(0, console.text, (), outcome.report, tuple(outcome.notes))


def check_model(options: AtcOptions, cann: str = "9.x", cwd: Path | None = None) -> list[AtcFailure]:
    """What ATC would refuse of these options and their model; writes nothing.

    Args:
        options: as for a compilation.
        cann: whose rules and texts.
        cwd: where relative paths begin; default the process's.

    Returns:
        ATC's messages in order, headline first; empty when it would go on to compile.

    Raises:
        AtcError: a flag that is none, or a framework that is not emulated.
    """
    try:
        convert(lex(options.command_line()[1:], cann), (cwd or Path()).absolute(), write=False)
    except AtcRefusedError as refused:
        return list(refused.failures)
    except LexicalError as error:
        raise AtcError("atc.lexer", reason=_said(error)) from None
    return []


def _said(error: LexicalError) -> str:
    """What atc prints of a command line that it cannot read, on one line."""
    return "; ".join(line.removeprefix("ERROR: ") for line in str(error).splitlines())


def usage() -> str:
    """What ``--help`` prints: every flag, its default and the values it takes."""
    lines = ["usage: atc <args>", "example: atc --model=./m.onnx --framework=5 --output=./m --soc_version=Ascend310B1"]
    for name in FLAGS:
        values = "|".join(RANGES[name]) if name in RANGES else "VALUE"
        default = f"  (default {DEFAULTS[name]})" if name in DEFAULTS and name != "framework" else ""
        lines.append(f"  --{name}={values}{default}")
    return "\n".join(lines)


def _refused(
    console: _Console,
    failures: Sequence[AtcFailure],
    cann: str,
    *,
    dots: bool = False,
    notes: tuple[Message, ...] = (),
) -> AtcResult:
    if dots and generation(cann) > 7:
        console.print("...")
    console.print(FAILURE)
    console.print(block(failures, cann))
    shown = set()
    for message in (*_advice(failures), *notes):
        text = message.with_fix()
        if text not in shown:
            shown.add(text)
            console.print(joined(("pth2om", text), ": "))
    return AtcResult(STATUS_FAILED, console.text, tuple(failures), notes=notes)


def _advice(failures: Sequence[AtcFailure]) -> list[Message]:
    """What to do, in order; the general sentence of a code only where nothing better is said of the failure."""
    given = [item.advice for item in failures if item.advice is not None]
    special = [message for message in given if message.key.removeprefix("atc.") not in TEXTS]
    return special or given[:1]


def _dispatch(written: Flags, folder: Path) -> _Outcome:
    flags = with_raw_options(written, folder)
    if flags["singleop"]:
        return _single_operator(flags, folder)
    if flags.mode in argument_checks.CONVERTING:
        done = convert(flags, folder)
        last = say("atc.checked-only") if flags.mode == 3 else say("atc.emulated", cann=flags.cann)
        return _Outcome(done.report, done.notes, last)
    argument_checks.check_early(flags)
    if flags.mode == 1:
        return _to_json(flags, folder)
    if flags.mode == 6:
        return _show_om(flags, folder)
    for name in ("om", "json"):
        if not flags[name]:
            raise AtcRefusedError(failure("E10004", name, cann=flags.cann))
    if not flags["om"].endswith(".txt"):
        reason = "The file must be a text graph (.txt)."
        raise AtcRefusedError(failure("E10001", flags["om"], "--om", reason, cann=flags.cann))
    raise AtcError("atc.mode-not-emulated", mode=flags.mode)


def _single_operator(flags: Flags, folder: Path) -> _Outcome:
    cann, text = flags.cann, flags["singleop"]
    argument_checks.check_early(flags)
    if "framework" in flags:
        reason = "It cannot be set together with --singleop."
        raise AtcRefusedError(failure("E10001", flags["framework"], "--framework", reason, cann=cann))
    for name in ("output", "soc_version"):
        if not flags[name]:
            raise AtcRefusedError(failure("E10054", f"--{name}", cann=cann, advice=say("atc.required", flag=name)))
    path = folder / text
    if not path.is_file():
        raise AtcRefusedError(failure("E10023", text, cann=cann))
    try:
        data = json.loads(path.read_bytes())
    except OSError:
        raise AtcRefusedError(failure("E10024", text, cann=cann)) from None
    except (ValueError, RecursionError) as error:
        raise AtcRefusedError(failure("E10025", path, str(error)[:200], cann=cann)) from None
    operators = data if isinstance(data, list) else [data]
    if any(not (isinstance(item, dict) and item.get("op")) for item in operators):
        raise AtcRefusedError(failure("E10026", cann=cann))
    check_soc(flags)
    return _Outcome(last=say("atc.emulated", cann=cann))


def _to_json(flags: Flags, folder: Path) -> _Outcome:
    """Mode 1: the model's own structure as JSON."""
    cann = flags.cann
    if "framework" in flags and flags.framework not in (0, 3, 5):
        reason = "The value must be 0(Caffe) or 3(TensorFlow) or 5(Onnx)."
        raise AtcRefusedError(failure("E10001", flags.framework, "--framework", reason, cann=cann))
    for name in ("om", "json"):
        if not flags[name]:
            raise AtcRefusedError(failure("E10004", name, cann=cann))
    source = argument_checks.check_readable("om", flags, folder)
    argument_checks.check_output(flags["json"], "json", folder, cann)
    if "framework" not in flags:
        data: object = _om_json(source, cann)
    elif flags.framework == 5:
        data = _graph_json(source, cann)
    else:
        raise AtcError("atc.framework-not-emulated", framework=flags.framework)
    write_json(folder / flags["json"], data, "json", cann)
    return _Outcome(folder / flags["json"])


def _graph_json(path: Path, cann: str) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]  # protobuf has no types

    model = onnx_model.load(path, cann)
    for _, tensor, _ in tensors(model):
        if tensor.ByteSize() > _SHOWN_DATA:
            for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(name)
    found: dict[str, Any] = MessageToDict(model, preserving_proto_field_name=True)
    return found


def _show_om(flags: Flags, folder: Path) -> _Outcome:
    cann = flags.cann
    if not flags["om"]:
        raise AtcRefusedError(failure("E10004", "om", cann=cann))
    if "framework" in flags:
        raise AtcRefusedError(failure("E10057", "om", "mode", cann=cann))
    return _Outcome(shown=_om_lines(argument_checks.check_readable("om", flags, folder), cann))


def _om_json(path: Path, cann: str) -> dict[str, Any]:
    from pth2om.omfile import model_json, read_om

    try:
        return model_json(read_om(path))
    except OmFileError as error:
        raise AtcRefusedError(failure("E10041", path, cann=cann, advice=error.message)) from None


def _om_lines(path: Path, cann: str) -> list[str]:
    from pth2om.omfile import model_info_text, read_om

    try:
        return model_info_text(read_om(path)).splitlines()
    except OmFileError as error:
        raise AtcRefusedError(failure("E10041", path, cann=cann, advice=error.message)) from None
