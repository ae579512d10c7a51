"""`convert`: prepare, ask, deliver; and the `Conversion` that it returns."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om import __version__
from pth2om.conversion.int8_delivery import int8_files
from pth2om.conversion.pipeline import Pipeline, RunSettings
from pth2om.errors import Pth2omError
from pth2om.escaping import shell_line
from pth2om.evidence import Finding, GateRecord, StageRecord, to_json
from pth2om.files import from_here
from pth2om.language import Message
from pth2om.onefile import asking, delivering, preparing
from pth2om.onefile.options import Options
from pth2om.onefile.scoring import dataset_name
from pth2om.own_words import in_own_words
from pth2om.progress import Progress, terminal
from pth2om.store import Store
from pth2om.toolchain import Access

if TYPE_CHECKING:
    from pth2om.onefile.preparing import Prepared
    from pth2om.session import Ground


@dataclass(frozen=True)
class Conversion:
    """What a conversion came to.

    Attributes:
        name: of the files and the model.
        source: the file.
        soc: compiled for; None: not compiled.
        said: what was found and assumed, in words.
        stages: what was made.
        gates: what was asked, and each verdict.
        files: role -> what was written: ``onnx``, ``om`` or ``emulated``, ``conversion`` (the record), INT8's files.
        options: as asked.
        command: the atc command for the written ONNX file, program first; empty where nothing is compiled.
        ground: of what was compiled: ``emulated``, ``double``, ``device``; None where nothing was.
        model: files of the model that `Options.save_spec` wrote, the spec first.
    """

    name: str
    source: Path
    soc: str | None
    said: tuple[Message, ...]
    stages: tuple[StageRecord, ...]
    gates: tuple[GateRecord, ...]
    files: Mapping[str, Path]
    options: Options = field(default_factory=Options)
    command: tuple[str, ...] = ()
    ground: Ground | None = None
    model: tuple[Path, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the stages noticed, each once."""
        found: dict[str, Finding] = {}
        for stage in self.stages:
            for finding in stage.findings:
                own = dataclasses.replace(finding, message=in_own_words(finding.message, "convert"))
                found.setdefault(f"{finding.rule} {finding.node} {finding.message.render()}", own)
        return tuple(found.values())

    @property
    def failed(self) -> tuple[GateRecord, ...]:
        """The gates that contradict the model, or that were not reached because of one."""
        return tuple(gate for gate in self.gates if gate.verdict in ("failed", "not_reached"))

    @property
    def status(self) -> int:
        """0: nothing contradicts the model. 1: a gate failed or was not reached."""
        return int(bool(self.failed) or not any(gate.verdict == "passed" for gate in self.gates))

    @property
    def atc(self) -> str:
        """The command as typed in a shell; empty where nothing is compiled."""
        return shell_line(self.command) if self.command else ""


def convert(
    file: Path, soc: str | None = None, options: Options | None = None, *, progress: Progress | None = None
) -> Conversion:
    """Convert one file and check what comes out, as an acceptance run would.

    Args:
        file: a checkpoint, TorchScript or ONNX file, recognized by its content.
        soc: such as ``Ascend310B1``; None: that of the board or machine that runs the OM, and where there is none only
            the ONNX file is made and checked.
        options: whatever else is asked.
        progress: is told of each step of this conversion, and can cancel it.

    Raises:
        Pth2omError: the file or the options are not usable, or files cannot be written; then nothing was written.
        Cancelled: `Progress.cancel` was called; no file was written, and finished stages stay in the store.
    """
    try:
        return _convert(file, soc, options or Options(), progress or Progress())
    except Pth2omError as error:
        error.message = in_own_words(error.message, "convert")
        raise


def _convert(file: Path, soc: str | None, options: Options, shown: Progress) -> Conversion:
    options.check()
    soc = soc or _soc_of_the_machine(options)
    names = delivering.Names(
        (options.output or Path(f"{preparing.name_for(file, options)}-converted")).absolute(),
        preparing.name_for(file, options),
        options.quantizes,
    )
    with tempfile.TemporaryDirectory(prefix="pth2om-") as folder, shown.following(terminal):
        scratch = Path(folder)
        settings = RunSettings(
            models=scratch / "models",
            calib=scratch / "calib",
            data_roots=options.data_roots,
            soc=soc,
            toolchain=options.chosen_toolchain,
            access=Access(boards=options.boards),
            cann=options.cann,
            trust=frozenset({names.name}) if options.trust else frozenset(),
            datasets={dataset_name(names.name): options.dataset} if options.dataset is not None else {},
        )
        assert settings.target  # an unknown SoC is reported now
        preparing.check_save(names.name, options)
        prepared = preparing.prepare(file, options, scratch)
        pipeline = Pipeline(prepared.spec, settings, Store())
        if soc is not None:
            assert pipeline.toolchain().compiler  # what is not installed is reported now
        delivering.check(names, file, force=options.force)
        try:
            gates = tuple(asking.asked(asking.steps(pipeline, prepared.variants, options), terminal))
            return _delivered(prepared, pipeline, options, names, gates, scratch)
        finally:
            pipeline.close()


def _soc_of_the_machine(options: Options) -> str | None:
    """The SoC of the machine that is to run the OM, as its driver names it; None for the emulator, or without a driver.

    Raises:
        ToolchainError: a board cannot be reached, or two of them differ.
    """
    if options.chosen_toolchain != "cann":
        return None
    from pth2om.toolchain.cann import survey

    return survey(Access(boards=options.boards)).soc or None


def _delivered(
    prepared: Prepared,
    pipeline: Pipeline,
    options: Options,
    names: delivering.Names,
    gates: tuple[GateRecord, ...],
    scratch: Path,
) -> Conversion:
    """Copy what was made, and record it; a stage that failed has left nothing to copy."""
    variant = prepared.variants[0]  # with gears: the others share its files
    sources: dict[str, tuple[Path, Path]] = {}
    made = {stage: record for (_, stage), record in pipeline.records.items()}
    if "onnx" in made:
        sources["onnx"] = (pipeline.onnx(variant.shape).file, names.onnx)
        for extra in sources["onnx"][0].parent.glob("model.onnx.data"):
            sources[extra.name] = (extra, names.folder / extra.name)
    model = names.onnx
    if "torchscript" in made and options.torchscript is not None:
        program = pipeline.torchscript(variant.batch).file
        sources["torchscript"] = (program, names.torchscript)
    if "quantized" in made:
        quantized = pipeline.quantized(variant.shape)
        found = int8_files(quantized, names.name, prepared.file.stem)
        sources |= {role: (path, names.folder / target) for role, (path, target) in found.items()}
        model = sources["deploy"][1]
    calibration = scratch / preparing.CALIBRATION
    if calibration.is_dir():
        sources["calibration"] = (calibration, names.calibration)
    command: tuple[str, ...] = ()
    # Without the file that it names, there is no line to copy: a float model is no INT8 one.
    if pipeline.settings.soc is not None and ("quantized" if variant.quantized else "onnx") in made:
        command, config = atc_command(pipeline, prepared, names, model)
        if config is not None:
            sources["aipp"] = config
    ground: Ground | None = None
    if "om" in made:
        ground = made["om"].provenance.ground
        om = pipeline.om(variant)
        if ground == "emulated":
            sources["emulated"] = (om.artifact.path, names.emulated)
        else:
            sources["om"] = (om.file, names.om)
    files = delivering.deliver(sources, names, prepared.file, force=options.force)
    stages = tuple(pipeline.records.values())
    soc = pipeline.settings.soc
    done = Conversion(names.name, prepared.file, soc, prepared.said, stages, gates, files, options, command, ground)
    record = delivering.write_record(names, files, _record(done, prepared, options, pipeline))
    saved: tuple[Path, ...] = ()
    if options.save_spec is not None:
        saved = preparing.save_spec(prepared, options, files.get("calibration"))
    return dataclasses.replace(done, files={**files, "conversion": record}, model=saved)


def atc_command(
    pipeline: Pipeline, prepared: Prepared, names: delivering.Names, model: Path
) -> tuple[tuple[str, ...], tuple[Path, Path] | None]:
    """The atc command for the delivered files, and the AIPP configuration that it names."""
    try:
        asked = pipeline.atc_options(prepared.variants[0], model)
    except Pth2omError:
        return (), None  # an AIPP configuration that cannot be made is a failed gate already
    config = None
    if asked.insert_op_conf is not None:
        config = (Path(asked.insert_op_conf), names.aipp)
        asked = dataclasses.replace(asked, insert_op_conf=from_here(config[1]).as_posix())
    written = from_here(names.om.with_name(names.stem)).as_posix()
    asked = dataclasses.replace(asked, model=from_here(model).as_posix(), output=written)
    return tuple(asked.command_line()), config


def _record(done: Conversion, prepared: Prepared, options: Options, pipeline: Pipeline) -> Mapping[str, Any]:
    toolchain = pipeline.toolchain().provenance if done.soc is not None else None
    return {
        "pth2om": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": {
            "file": str(prepared.file),
            "kind": prepared.kind,
            "bytes": prepared.file.stat().st_size,
            "sha256": pipeline.store.digest(prepared.file),
        },
        "options": options.to_json(),
        "target": {"soc": done.soc, "cann": pipeline.settings.cann},
        "toolchain": dataclasses.asdict(toolchain) if toolchain is not None else None,
        "ground": done.ground,
        "status": done.status,
        "atc": list(done.command),
        "said": [message.to_json() for message in done.said],
        "stages": [to_json(record) for record in done.stages],
        "gates": [to_json(gate) for gate in done.gates],
    }
