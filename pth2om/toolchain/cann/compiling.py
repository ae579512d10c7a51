"""One run of ``atc`` on a machine: what is sent, what comes back, and whether the OM is what was asked for.

The command line is `AtcOptions.command_line`, which the emulator's front end checks too; only the places of its files
differ, because each run has a folder of its own.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pth2om.ascend.atc_options import AtcOptions
from pth2om.errors import AtcError, CrashError, GraphError, OmFileError, ToolchainError
from pth2om.evidence import Finding
from pth2om.files import is_file
from pth2om.language import say
from pth2om.session import Provenance, TensorSpec
from pth2om.store import file_digest
from pth2om.toolchain import CompiledModel
from pth2om.toolchain.cann.agent.frames import Header
from pth2om.toolchain.cann.board import Board, last

_FILES = (
    "insert_op_conf", "keep_dtype", "modify_mixlist", "op_precision_mode", "customize_dtypes", "fusion_switch_file",
    "compression_optimize_conf", "compress_weight_conf", "cal_conf", "op_name_map", "op_debug_config", "raw_ge_options",
)  # fmt: skip
"""Flags whose value may name a file that has to lie beside the compile."""

_MODEL = "model.onnx"
_LEAST_ROOM = 1 << 20  # bytes: with less atc cannot write its log
_KEPT = ("fusion_result.json", "check_result.json", "stdout.txt", "stderr.txt")
_SUCCESS = re.compile(r"^ATC run success", re.MULTILINE)
_NO_PARSER = ("E13010", "EZ9010", "E19010", "E16002", "E76002")
_UNREGISTERED = re.compile(r"ai\.onnx::(?P<opset>\d+)::(?P<type>\w+)")


@dataclass(frozen=True)
class Asked:
    """What one run of atc is given.

    Attributes:
        model: the ONNX file.
        options: of it.
        limit: seconds.
        packages: folders of operator packages, for ``ASCEND_CUSTOM_OPP_PATH``.
        environment: variables that are set for it; those that are not follow from the machine's free memory.
    """

    model: Path
    options: AtcOptions
    limit: float
    packages: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def files(self) -> tuple[dict[str, Path], AtcOptions]:
        """What has to be sent, by its name there, and the options with these names.

        Raises:
            GraphError: the ONNX file cannot be read.
        """
        files = {_MODEL: self.model, **external_files(self.model)}
        changed: dict[str, Any] = {"model": _MODEL}
        for flag in _FILES:
            value = getattr(self.options, flag)
            if value and is_file(path := Path(value)):
                suffix = path.suffix if re.fullmatch(r"[.]\w+", path.suffix, re.ASCII) else ""
                name = f"given-{flag}{suffix}"
                files[name], changed[flag] = path, name
        for number, folder in enumerate(self.packages):
            for entry in sorted(folder.rglob("*")):
                if entry.is_file():
                    files[f"package-{number}/{entry.relative_to(folder).as_posix()}"] = entry
        return files, replace(self.options, **changed)


@dataclass(frozen=True)
class Ran:
    """One run of atc.

    Attributes:
        answer: of the agent.
        kept: what it left, by its path there.
    """

    answer: Header
    kept: Mapping[str, Path] = field(default_factory=dict)


def run_atc(board: Board, asked: Asked, folder: Path, progress: Callable[[Header], None] | None = None) -> Ran:
    """Run atc, and fetch what it left into ``folder``.

    Args:
        board: where.
        asked: of it.
        folder: for its files.
        progress: see `Link.receive`.

    Raises:
        AtcError: it refused.
        CrashError: it was ended: by a signal, by the time limit, or for want of memory.
        ToolchainError: see `Board.ask`.
        GraphError: the ONNX file cannot be read.
    """
    files, options = asked.files()
    if options.mode in (None, 0):
        options = replace(options, output=f"out/{asked.options.output or 'model'}")
    elif options.mode == 3:
        options = replace(options, output=None, check_report="check_result.json")
    packages = [f"package-{number}" for number, _ in enumerate(asked.packages)]
    request: dict[str, Any] = {
        "kind": "compile",
        "program": "atc",
        "files": board.upload(files),
        "arguments": options.command_line()[1:],
        "limit": asked.limit,
        "environment": dict(asked.environment),
        "folders": {"ASCEND_CUSTOM_OPP_PATH": packages} if packages else {},
    }
    answer, _ = board.ask(request, limit=asked.limit, progress=progress)
    kept = {}
    for entry in answer["files"]:
        path = str(entry["path"])
        if path in _KEPT or path.startswith("out/"):
            target = folder / Path(path).name
            board.download(str(answer["job"]), path, int(entry["size"]), target)
            if file_digest(target) != entry["sha256"]:
                raise CrashError("cann.changed", where=board.name, file=path)
            kept[path] = target
    board.ask({"kind": "drop", "job": answer["job"]})
    _judge(answer, board.name, asked.limit)
    return Ran(answer, kept)


def _judge(answer: Header, where: str, limit: float) -> None:
    """Raise unless atc ended well."""
    said = str(answer["stdout"])
    ended, signal = answer["ended"], answer["signal"]
    if ended == "time":
        raise CrashError("cann.compile-time", where=where, seconds=round(limit), text=last(said))
    if ended == "memory":
        raise CrashError("cann.compile-memory", where=where, peak=_megabytes(answer), settings=_settings(answer))
    if ended:
        raise CrashError("cann.compile-ended", where=where)
    if signal == "SIGKILL":
        raise CrashError("cann.compile-killed", where=where, peak=_megabytes(answer), settings=_settings(answer))
    if signal:
        text = last(f"{said}\n{answer['stderr']}")
        raise CrashError("cann.compile-crash", where=where, signal=signal, code=str(answer["code"]), text=text)
    if answer["code"] != 0 or not _SUCCESS.search(said):
        error = refusal(said, str(answer["stderr"]), int(answer["code"]))
        room = int(answer.get("room", _LEAST_ROOM))
        if room < _LEAST_ROOM and error.message.key == "cann.atc-failed":  # it could not write its reason either
            raise CrashError("cann.board-full", where=where, reason=f"{room >> 10} KB")
        raise error


def refusal(stdout: str, stderr: str, code: int) -> AtcError:
    """The error for a run that atc ended itself: its first coded line, and the line that says most."""
    from pth2om.explain import coded_lines

    text = f"{stdout}\n{stderr}"
    coded = [line for line in coded_lines(text) if line.code.startswith("E")]
    own = [line for line in coded if not line.code.endswith(("9999", "8888"))] or coded
    log = last(text, 12, 2000)
    lacking = _UNREGISTERED.search(own[0].text) if own and own[0].code in _NO_PARSER else None
    if lacking is not None:
        return AtcError(
            "cann.atc-opset",
            where=f"atc: {own[0].code}: {own[0].text.strip()}",
            type=lacking["type"],
            opset=int(lacking["opset"]),
        )
    if own:
        return AtcError("cann.atc-refuses", where=f"atc: {own[0].code}: {own[0].text.strip()}", log=log)
    return AtcError("cann.atc-failed", where="atc", code=code, log=log)


def prechecked(board: Board, asked: Asked, folder: Path) -> list[Finding]:
    """What ``--mode=3`` finds: one error for each node that ``check_result.json`` lists as failed.

    Args:
        board: where.
        asked: its options have mode 3.
        folder: for its files.

    Raises:
        CrashError: see `run_atc`.
        ToolchainError: see `Board.ask`.
    """
    try:
        run_atc(board, asked, folder)
    except AtcError as error:
        found = [_failed(entry) for entry in _report(folder / "check_result.json") if entry.get("result") == "failed"]
        whole = raised(error)
        if found and error.message.key == "cann.atc-opset":  # the opset is in the log alone
            found[0] = replace(found[0], details={**found[0].details, **whole.details})
        return found or [whole]
    return []


def _report(path: Path) -> list[dict[str, Any]]:
    """The operators of a ``check_result.json``; none where there is no such file, or another one."""
    import json

    try:
        entries = json.loads(path.read_text(encoding="utf-8", errors="replace")).get("op", [])
    except (OSError, ValueError, AttributeError, RecursionError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)]


def _failed(entry: Mapping[str, Any]) -> Finding:
    causes = [cause for cause in entry.get("cause", ()) if isinstance(cause, dict)]
    text = "; ".join(str(cause.get("message", "")) for cause in causes) or "-"
    name, kind = str(entry.get("name", "")), str(entry.get("type", ""))
    message = say("cann.precheck", name=name, type=kind, text=text)
    return Finding("atc.precheck", "error", message, name or None, {"type": kind, "text": text})


def compiled(board: Board, asked: Asked, destination: Path, provenance: Provenance) -> CompiledModel:
    """Compile, read the OM back, and check it.

    Args:
        board: where.
        asked: of atc.
        destination: the artifact's folder.
        provenance: who compiled.

    Raises:
        AtcError: atc refused, or the OM is not what was asked for.
        CrashError: see `run_atc`.
        ToolchainError: see `Board.ask`.
    """
    from pth2om.progress import counted

    logs = destination / "atc"
    logs.mkdir(parents=True, exist_ok=True)
    with counted(say("cann.compiling", where=board.name).render(), None) as seen:
        ran = run_atc(board, asked, logs, lambda state: seen(round(float(state["seconds"]))))
    models = [path for name, path in ran.kept.items() if name.endswith(".om")]
    if len(models) != 1:
        names = ", ".join(sorted(path.name for path in models)) or "-"
        raise AtcError("cann.no-om", where=board.name, found=names, log=last(str(ran.answer["stdout"])))
    path = destination / "model.om"
    named = models[0].name
    shutil.move(models[0], path)
    weights = {}
    for name, entry in ran.kept.items():
        # With --external_weight=1 a file a constant in weight/, with 2 one file beside the OM.
        if "/weight/" in name or entry.name.endswith("_weight_combined"):
            beside = f"weight/{entry.name}" if "/weight/" in name else entry.name
            (destination / beside).parent.mkdir(exist_ok=True)
            shutil.move(entry, destination / beside)
            weights[beside] = file_digest(destination / beside)
    inputs, outputs, findings = as_asked(path, asked)
    answer = ran.answer
    details = {
        "inputs": [spec.to_json() for spec in inputs],
        "outputs": [spec.to_json() for spec in outputs],
        "om": named,
        "seconds": answer["seconds"],
        "peak_memory_mb": int(answer["peak_bytes"]) >> 20,
        "settings": dict(answer["settings"]),
        "machine": board.name,
        "findings": [finding.to_json() for finding in findings],
        **({"weights": weights} if weights else {}),
    }
    model = CompiledModel(path, file_digest(path), provenance, details=details)
    return model.write(destination)


def as_asked(path: Path, asked: Asked) -> tuple[list[TensorSpec], list[TensorSpec], list[Finding]]:
    """Inputs and outputs of an OM under the ONNX file's names, and what was noticed.

    Raises:
        AtcError: it is for another SoC, has other inputs or outputs, computes in other types, or cannot be read.
    """
    from pth2om.omfile import check, check_against, read_om

    try:
        om = read_om(path)
        wanted, graph_outputs = specs_of(asked)
        gears = bool(om.inout.batches or om.inout.image_sizes or om.inout.dims)
        found_inputs = [tensor for tensor in om.inputs if tensor.name != "ascend_mbatch_shape_data"]
        aipp = bool(asked.options.insert_op_conf)
        outputs = [
            TensorSpec(spec.name, _known(spec.shape, tensor.shape, fixed=not gears), _dtype(tensor.dtype, spec.dtype))
            for spec, tensor in zip(graph_outputs, om.outputs, strict=False)
        ]
        findings = check(om) + check_against(
            om,
            soc=asked.options.soc_version,
            # With gears the file has one input more, with AIPP two forms of one: the session looks at their sizes.
            inputs=None if gears or aipp else wanted,
            outputs=None if gears else outputs if len(outputs) == len(graph_outputs) else graph_outputs,
            precision=_mode(asked.options),
        )
        if _is_deploy_model(asked.model):
            findings += [found for found in check_against(om, precision="int8") if found.rule == "om.no-int8"]
    except OmFileError as error:
        raise AtcError("cann.bad-om", where=path.name, reason=error.message.render()) from None
    if len(found_inputs) != len(wanted):
        message = say("omfile.wrong-input-count", asked=len(wanted), found=len(found_inputs))
        findings.append(Finding("om.wrong-input-count", "error", message))
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise AtcError("cann.not-as-asked", where=path.name, reason=" ".join(e.message.render() for e in errors[:3]))
    return wanted, outputs, findings


def _is_deploy_model(model: Path) -> bool:
    """Whether a model has quantized layers, so that an OM without any is another one."""
    from pth2om.onnxfile.reading import read

    return any(node.op_type == "AscendQuant" for node in read(model).graph.node)


def _mode(options: AtcOptions) -> str:
    """The precision mode that was asked for, as `check_against` takes it."""
    from pth2om.omfile.checks import DEFAULT_MODE

    return options.precision_mode or options.precision_mode_v2 or DEFAULT_MODE


def specs_of(asked: Asked) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Inputs, with the shapes that were asked for, and outputs of what is compiled; open sizes are None."""
    import tempfile

    from pth2om.ascend.shapes import given_shapes
    from pth2om.onnxfile.reading import read
    from pth2om.onnxfile.types import element_name

    source = asked.model
    with tempfile.TemporaryDirectory() as folder:
        if asked.options.insert_op_conf:
            from pth2om.aipp import emulate_graph, read_config

            source = Path(folder) / "aipp.onnx"
            config = read_config(Path(asked.options.insert_op_conf))
            emulate_graph(asked.model, config, source, soc=asked.options.soc_version)
        graph = read(source).graph
    given = {} if asked.options.insert_op_conf else given_shapes(asked.options.input_shape or "")
    initial = {tensor.name for tensor in graph.initializer}
    sides: list[list[TensorSpec]] = []
    for values in (graph.input, graph.output):
        specs = []
        for value in values:
            if value.name in initial:
                continue
            kind = value.type.tensor_type
            shape: tuple[int | None, ...] = tuple(
                dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim
            )
            if values is graph.input and value.name in given:
                shape = tuple(size if size > 0 else None for size in given[value.name])
            specs.append(TensorSpec(value.name, shape, np.dtype(element_name(kind.elem_type))))
        sides.append(specs)
    return sides[0], sides[1]


def _known(shape: tuple[int | None, ...], found: tuple[int, ...], *, fixed: bool) -> tuple[int | None, ...]:
    """A graph's shape; where it leaves a size open, what the OM says, whose -1 (of a range) is open too."""
    if not fixed or len(shape) != len(found):
        return shape if shape else tuple(size if size >= 0 else None for size in found)
    both = zip(shape, found, strict=True)
    return tuple(size if size is not None else other if other >= 0 else None for size, other in both)


def _dtype(ge: str, wanted: np.dtype[Any]) -> np.dtype[Any]:
    """What the OM gives out: floating outputs must be what the graph has (float32), others are as the OM says."""
    if wanted.kind == "f":
        return wanted
    names = {"FLOAT": "float32", "DOUBLE": "float64"}
    try:
        return np.dtype(names.get(ge, ge.lower()))
    except TypeError:
        return wanted


def external_files(model: Path) -> dict[str, Path]:
    """The files beside an ONNX file that hold its weights."""
    from pth2om.onnxfile.reading import all_tensors, external_location, external_place, read

    found = {}
    for tensor in all_tensors(read(model)):
        location = external_location(tensor)
        if location is not None and location not in found:
            if external_place(model.parent, location) != "inside":
                raise GraphError("onnxfile.external-missing", where=str(model), name=tensor.name, location=location)
            found[location] = model.parent / location
    return found


def _megabytes(answer: Header) -> int:
    return int(answer["peak_bytes"]) >> 20


def _settings(answer: Header) -> str:
    return ", ".join(f"{name}={value}" for name, value in answer["settings"].items()) or "-"


def raised(error: ToolchainError) -> Finding:
    """A refusal of atc as a finding."""
    code = re.match(r"atc: ([EW][A-Z0-9]\d{4}): (.*)", error.where or "")
    details: dict[str, Any] = {"code": code[1], "text": code[2]} if code else {}
    if error.message.key == "cann.atc-opset":
        details |= {name: error.message.values[name] for name in ("type", "opset")}
    return Finding(f"atc.{code[1].lower()}" if code else "atc", "error", error.message, None, details)
