"""Quantization with an external tool: amct_onnx, or the user's own command.

Both produce a deploy model that is used like ours. Commands are argument lists, printed before they run; no shell is
used. Options and file names are those of the amct_onnx command line (CANN AMCT guide, "amct_onnx calibration").
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pth2om.errors import QuantizeError
from pth2om.escaping import shell_line
from pth2om.evidence import Finding
from pth2om.host import end_group
from pth2om.language import say
from pth2om.quantize.bins import InputShape
from pth2om.quantize.settings import QuantizeResult

_PLACE = re.compile(r"\{([a-z_]+)\}")
PLACES = ("onnx_in", "onnx_out", "calib_dir")
"""The placeholders of a template; each also with ``_q``, the shell-quoted spelling in existing templates."""
_TAIL = 4000
PROGRAM = "amct_onnx"
"""Name of the vendor's tool."""


@dataclass(frozen=True)
class Command:
    """A command to run.

    Attributes:
        arguments: the argument list.
        produces: the deploy model that it must write.
    """

    arguments: tuple[str, ...]
    produces: Path

    def preview(self) -> str:
        """The command as typed in a shell."""
        return shell_line(self.arguments)


def calibration_command(
    model: Path,
    prefix: Path,
    *,
    inputs: Sequence[InputShape] = (),
    bins: Sequence[Path] = (),
    batches: int = 1,
    evaluator: Path | None = None,
    config: Path | None = None,
    program: str = PROGRAM,
) -> Command:
    """``amct_onnx calibration`` with bins or an evaluator file.

    Args:
        model: float ONNX file.
        prefix: folder plus file prefix of the results.
        inputs: the model's inputs with their whole shapes, for bins.
        bins: one folder per input.
        batches: files per folder that are used.
        evaluator: Python file with an evaluator object, instead of bins.
        config: simplified configuration (``.cfg``).
        program: name or path of the tool.

    Raises:
        QuantizeError: neither bins nor evaluator are given, or a shape is not fixed.
    """
    words = [program, "calibration", "--model", str(model), "--save_path", str(prefix)]
    if evaluator is not None:
        words += ["--evaluator", str(evaluator)]
    else:
        if not inputs or len(bins) != len(inputs):
            raise QuantizeError("bins.folders", count=len(bins), inputs=", ".join(entry.name for entry in inputs))
        shapes = []
        for entry in inputs:
            if any(size is None for size in entry.shape):
                raise QuantizeError("bins.open-shape", input=entry.name, shape=str(entry.shape))
            shapes.append(f"{entry.name}:{','.join(str(size) for size in entry.shape)}")
        words += ["--input_shape", ";".join(shapes)]
        words += ["--data_dir", ";".join(str(folder) for folder in bins)]
        words += ["--data_types", ";".join(entry.dtype for entry in inputs)]
    if config is not None:
        words += ["--calibration_config", str(config)]
    words += ["--batch_num", str(batches)]
    return Command(tuple(words), prefix.with_name(f"{prefix.name}_deploy_model.onnx"))


def convert_command(model: Path, prefix: Path, program: str = PROGRAM) -> Command:
    """``amct_onnx convert``: a QAT (QDQ) model into a deploy model."""
    words = (program, "convert", "--model", str(model), "--save_path", str(prefix))
    return Command(words, prefix.with_name(f"{prefix.name}_deploy_model.onnx"))


def as_typed(words: Sequence[str], save_path: str, program: str = PROGRAM) -> Command:
    """The user's own line for the tool.

    Args:
        words: of the line, without the program.
        save_path: its ``--save_path``.
        program: name or path of the tool.
    """
    prefix = Path(save_path)
    return Command((program, *words), prefix.with_name(f"{prefix.name}_deploy_model.onnx"))


def template_command(template: str | Sequence[str], places: Mapping[str, Path]) -> Command:
    """The user's own command.

    Args:
        template: an argument list, or one line split as a shell would split it; contains ``{onnx_in}``,
            ``{onnx_out}`` and optionally ``{calib_dir}``. ``{onnx_in_q}`` and the like mean the same: a list needs no
            quoting.
        places: values of the three placeholders.

    Raises:
        QuantizeError: unknown or missing placeholders, shell syntax, or unbalanced quotes.
    """
    if isinstance(template, str):
        try:
            words = shlex.split(template)
        except ValueError as error:
            raise QuantizeError("quantize.template", template=template, reason=str(error)) from None
    else:
        words = list(template)
    if not words:
        raise QuantizeError("quantize.template", template=str(template), reason="empty")
    shell = next((word for word in words if word in ("|", "||", "&&", ";", ">", ">>", "<", "&")), None)
    if shell is not None:
        raise QuantizeError("quantize.template-shell", word=shell)
    seen: set[str] = set()

    def fill(match: re.Match[str]) -> str:
        name = match.group(1).removesuffix("_q")
        if name not in PLACES:
            known = ", ".join(f"{{{place}}}" for place in PLACES)
            raise QuantizeError("quantize.template-place", place=match.group(0), known=known)
        if name not in places:
            raise QuantizeError("quantize.template-no-value", place=match.group(0))
        seen.add(name)
        return str(places[name])

    filled = tuple(_PLACE.sub(fill, word) for word in words)
    if "onnx_out" not in seen:
        raise QuantizeError("quantize.template-place", place="{onnx_out}", known="{onnx_in} {onnx_out} {calib_dir}")
    return Command(filled, Path(places["onnx_out"]))


def run_command(command: Command, *, timeout: float = 3600.0, folder: Path | None = None) -> QuantizeResult:
    """Run the command and check that it wrote a deploy model.

    Args:
        command: from one of the functions above.
        timeout: seconds after which it and its children are ended.
        folder: working directory.

    Raises:
        QuantizeError: as in `run_tool`, or the written file is not a deploy model.
    """
    made, output = run_tool(command, timeout=timeout, folder=folder)
    return existing(made, details={"command": list(command.arguments), "output": output})


def run_tool(command: Command, *, timeout: float = 3600.0, folder: Path | None = None) -> tuple[Path, str]:
    """Run the command; returns the file that it wrote, whatever its content, and the end of its output.

    Args:
        command: from one of the functions above.
        timeout: seconds after which it and its children are ended.
        folder: working directory.

    Raises:
        QuantizeError: the tool is not installed, fails, takes too long, or writes no file.
    """
    program = shutil.which(command.arguments[0])
    if program is None:
        key = "quantize.no-tool" if command.arguments[0] == PROGRAM else "quantize.no-command"
        raise QuantizeError(key, tool=command.arguments[0])
    before = command.produces.stat().st_mtime_ns if command.produces.is_file() else None
    output, code = _run([program, *command.arguments[1:]], timeout, folder)
    if code != 0:
        raise QuantizeError("quantize.tool-failed", tool=command.preview(), code=code, output=output[-_TAIL:])
    if not command.produces.is_file() or command.produces.stat().st_mtime_ns == before:
        raise QuantizeError("quantize.tool-left-nothing", tool=command.preview(), file=str(command.produces))
    return command.produces, output[-_TAIL:]


def _run(arguments: Sequence[str], timeout: float, folder: Path | None) -> tuple[str, int]:
    """Output and exit status; on a time-out or Ctrl-C the whole process group is ended."""
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        start_new_session=True,
    )
    try:
        raw, _ = process.communicate(timeout=timeout)
    except BaseException as error:  # an interrupt too: the tool may not outlive us
        end_group(process)
        if isinstance(error, subprocess.TimeoutExpired):
            raise QuantizeError("quantize.tool-too-slow", tool=arguments[0], seconds=round(timeout)) from None
        raise
    return raw.decode("utf-8", "replace"), process.returncode


def existing(deploy: Path, details: Mapping[str, Any] | None = None) -> QuantizeResult:
    """For a quantized ONNX file of the user: check that it is a deploy model and write its fake-quant twin beside it.

    Raises:
        QuantizeError: it is not a deploy model.
    """
    from pth2om.quantize.network import read_model, write_model
    from pth2om.quantize.twins import fake_quant

    model = read_model(deploy)
    stem = deploy.stem.removesuffix("_deploy_model")
    twin = deploy.with_name(f"{stem}_fake_quant_model.onnx")
    standard = fake_quant(model, deploy.name)
    # amct_onnx writes its own twin, which needs its operator library; ours then gets another name.
    if twin.exists():
        twin = deploy.with_name(f"{stem}_standard_fake_quant_model.onnx")
    write_model(standard, twin)
    finding = Finding("quantize.external", "info", say("quantize.external", file=deploy.name))
    return QuantizeResult({"deploy": deploy, "fake_quant": twin}, (), (finding,), dict(details or {}))
