"""Modes 0, 3, 7 and 30: a framework's model, checked as far as ATC checks it before kernels are compiled."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from pth2om.ascend import socs
from pth2om.ascend.atc_options import AtcOptions
from pth2om.ascend.target import soc_problem
from pth2om.errors import AtcError
from pth2om.files import write_text
from pth2om.language import Message, say
from pth2om.onnxfile.walking import NamedNode
from pth2om.toolchain.emulator.front_end import arguments, files, onnx_model, outputs, products
from pth2om.toolchain.emulator.front_end.flags import Flags
from pth2om.toolchain.emulator.front_end.onnx_model import ParsedModel, Report
from pth2om.toolchain.emulator.front_end.raw_options import with_raw_options
from pth2om.toolchain.emulator.front_end.shapes import GEAR_FLAGS, InputShapes, check_gears, parse_static
from pth2om.toolchain.emulator.front_end.texts import AtcFailure, AtcRefusedError, failure, hidden

ONNX = 5

_SAID = frozenset({"preflight.shape-other", "preflight.baked-batch"})
"""Warnings of pre-flight about the shapes that the command line asks for."""


@dataclass
class Conversion:
    """What came out of a check.

    Attributes:
        parsed: the model; None where the mode stops before it.
        shapes: of the command line.
        report: the path of ``check_result.json`` where one was written.
        notes: what ATC passes over in silence, and pth2om says.
    """

    parsed: ParsedModel | None = None
    shapes: InputShapes = field(default_factory=InputShapes)
    report: Path | None = None
    notes: list[Message] = field(default_factory=list)


def convert(flags: Flags, folder: Path, *, write: bool = True) -> Conversion:
    """Every check of a conversion, in ATC's order.

    Args:
        flags: the command line.
        folder: where relative paths begin.
        write: whether ``check_result.json`` may be written.

    Returns:
        The parsed model and what was noticed.

    Raises:
        AtcRefusedError: ATC stops, with its messages.
        AtcError: a framework other than ONNX, whose parser is not emulated.
    """
    flags = with_raw_options(flags, folder)
    done = Conversion(shapes=arguments.check(flags, folder))
    check_soc(flags)
    files.check_files(flags, folder)
    if flags["input_shape"] and not done.shapes:
        done.shapes = InputShapes(static=parse_static(flags["input_shape"], flags.cann))
    outputs.check_layouts(flags)
    wanted = outputs.read_out_nodes(flags)
    if flags.framework != ONNX:
        raise AtcError("atc.framework-not-emulated", framework=flags.framework)
    path = (folder / flags["model"]).resolve()
    report = Report()
    try:
        model = onnx_model.load(path, flags.cann)
        parsed = onnx_model.precheck(model, flags.cann, report)
    except AtcRefusedError as refused:
        if write and (flags.mode == 3 or any(entry["result"] == "failed" for entry in report.entries)):
            write_report(flags, folder, report)
        raise AtcRefusedError(*refused.failures, *_trace(flags)) from None
    done.parsed = parsed
    if flags.mode == 3:
        if write:
            done.report = write_report(flags, folder, report)
        return done
    try:
        onnx_model.build(parsed, path.parent, flags.cann, done.shapes.static)
        outputs.check_names(flags, parsed, done.shapes)
        outputs.check_out_nodes(flags, parsed, wanted)
    except AtcRefusedError as refused:
        raise AtcRefusedError(*refused.failures, *_trace(flags)) from None
    outputs.check_output_type(flags, wanted)
    _check_aipp(flags, folder, parsed, done)
    check_gears(done.shapes, flags.cann)
    _check_soundness(flags, path, parsed, done.shapes)
    _check_graph(flags, path, parsed, done)
    _note(flags, folder, parsed, done)
    return done


def check_soc(flags: Flags) -> None:
    """The name of the SoC, and the cores asked of it.

    Raises:
        AtcRefusedError: EE1011 (EE1001), E20101 or E20103.
    """
    name, cann = flags["soc_version"], flags.cann
    advice = soc_problem(name, cann)
    if advice is not None:
        reason = "The input SoC version is not supported."
        raise AtcRefusedError(failure("EE1011", name, reason, cann=cann, advice=advice))
    cores = flags["aicore_num"]
    if cores:
        _check_cores(cores, name, cann)


def write_report(flags: Flags, folder: Path, report: Report) -> Path:
    """Write ``check_result.json`` (or ``--check_report``) by a temporary file beside it.

    Raises:
        AtcRefusedError: E10001 with the system's reason.
    """
    target = folder / flags["check_report"]
    if "check_report" not in flags and os.environ.get("ASCEND_WORK_PATH"):
        target = Path(os.environ["ASCEND_WORK_PATH"]) / flags["check_report"]
    write_json(target, report.to_json(), "check_report", flags.cann)
    return target


def write_json(target: Path, data: object, flag: str, cann: str) -> None:
    """Write JSON by a temporary file beside the target.

    Raises:
        AtcRefusedError: E10001 for `flag`, with the system's reason.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, json.dumps(data, indent=4, ensure_ascii=False))
    except OSError as error:
        reason = f"[Errno {error.errno}] {os.strerror(error.errno or 5)}."
        raise AtcRefusedError(failure("E10001", target, f"--{flag}", reason, cann=cann)) from None


def _trace(flags: Flags) -> list[AtcFailure]:
    name = Path(flags["output"]).name
    graph = [f"Model parse to graph failed, graph name:{name}.[FUNC:ModelParseToGraph][FILE:onnx_parser.cc]"]
    lines = [*(graph if name else ()), "ATC model parse ret fail.[FUNC:ParseGraph][FILE:omg.cc]"]
    return [failure("E19999", line, cann=flags.cann) for line in lines]


def _check_cores(text: str, name: str, cann: str) -> None:
    soc = socs.find(name)
    match = re.fullmatch(r"([0-9]{0,6})\|([0-9]{0,6})", text)
    if match is None or not (match[1] or match[2]):
        reason = 'The value must be formatted as "cube cores|vector cores"'
        raise AtcRefusedError(failure("E20101", text, "--aicore_num", reason, cann=cann))
    cores = (soc.cube_cores, soc.vector_cores) if soc else (None, None)
    for count, most in zip(match.groups(), cores, strict=True):
        if count and most and not 0 < int(count) <= most:
            raise AtcRefusedError(failure("E20103", count, "--aicore_num", most, cann=cann))


def _check_aipp(flags: Flags, folder: Path, parsed: ParsedModel, done: Conversion) -> None:
    """AIPP's configuration against the model's inputs."""
    if not flags["insert_op_conf"]:
        return
    from pth2om.toolchain.emulator.front_end.aipp_checks import check_configuration

    done.notes += check_configuration(flags, folder / flags["insert_op_conf"], parsed, done.shapes)


def _check_soundness(flags: Flags, path: Path, parsed: ParsedModel, shapes: InputShapes) -> None:
    """What ATC's shape inference refuses when it prepares the graph, at the shape or at every gear.

    Raises:
        AtcRefusedError: the judgement that the pre-flight gives too, under ATC's own line.
    """
    from pth2om.preflight.soundness import judge, profiles_of

    ranged = {name: tuple(low if low == high else -1 for low, high in dims) for name, dims in shapes.ranges.items()}
    profiles = profiles_of(parsed.model, {**ranged, **shapes.static}, shapes.gears, shapes.by)
    for finding in judge(path, parsed.model, profiles):
        kind = finding.message.values.get("kind")
        line = f"Call InferShapeAndType for node:{finding.node}({kind}) failed" if kind else "Graph sort failed."
        raise AtcRefusedError(failure("E19999", line, cann=flags.cann, node=finding.node, advice=finding.message))


def _check_graph(flags: Flags, path: Path, parsed: ParsedModel, done: Conversion) -> None:
    """The graph by the rules of pre-flight, which ``check`` and an acceptance run apply too.

    Raises:
        AtcRefusedError: an error that a compilation ends with. The rules do not know ATC's text for it.
    """
    from pth2om.preflight import NOT_OF_THE_COMPILER, check_loaded

    names = ("soc_version", "input_shape", "input_shape_range", *GEAR_FLAGS, "precision_mode", "precision_mode_v2")
    options = AtcOptions.from_json({name: flags[name] for name in names if flags[name]})
    findings = check_loaded(parsed.model, path, options=options, cann=flags.cann)
    wrong = [found for found in findings if found.severity == "error" and found.rule not in NOT_OF_THE_COMPILER]
    if wrong:
        raise AtcRefusedError(*(hidden(found.node, found.message) for found in wrong))
    done.notes += [found.message for found in findings if found.rule in _SAID]


def _note(flags: Flags, folder: Path, parsed: ParsedModel, done: Conversion) -> None:
    if flags["keep_dtype"]:
        nodes = {item.name: _types(item, parsed) for item in parsed.nodes}
        done.notes += files.keep_dtype_misses(folder / flags["keep_dtype"], nodes, flags.cann)
    done.notes += products.notes(flags)
    if flags["output"].endswith(".om"):
        done.notes.append(say("atc.output-has-suffix", path=flags["output"]))
    if done.shapes.static and not done.shapes.by:
        still = [
            name
            for name, (_, sizes) in parsed.inputs.items()
            if name not in done.shapes.static and any(size < 0 for size in sizes)
        ]
        if still:
            done.notes.append(say("atc.shape-left-open", inputs=", ".join(still)))


def _types(item: NamedNode, parsed: ParsedModel) -> tuple[str, ...]:
    """The ONNX type of a node and the GE types its plugin makes of it: a file may name either."""
    from pth2om.onnxfile.walking import imports
    from pth2om.preflight.rules.kernels import ge_types

    opset = imports(parsed.model).get(item.node.domain or "ai.onnx", 0)
    return item.node.op_type, *ge_types(item, opset)
