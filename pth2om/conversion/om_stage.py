"""The OM stage: the AIPP configuration of a variant, its atc options, and what the toolchain compiles of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.conversion.data import ModelData
from pth2om.conversion.onnx_stage import preprocess_findings
from pth2om.conversion.settings import RunSettings
from pth2om.conversion.source import Source
from pth2om.conversion.stage import Built, Shown, Value, Work
from pth2om.errors import AtcError
from pth2om.evidence import Finding
from pth2om.files import is_file
from pth2om.language import say
from pth2om.spec import PRECISION_MODES, Spec, Variant
from pth2om.store import Artifact
from pth2om.toolchain import NO_OM

if TYPE_CHECKING:
    from pth2om.ascend.atc_options import AtcOptions
    from pth2om.toolchain import Toolchain


@dataclass(frozen=True)
class AippStage:
    """The AIPP configuration: the spec's own file, or derived from its ``[preprocess]``.

    Attributes:
        source: the model's.
        data: the model's.
        sized: whether a derived one names the size of the picture.
    """

    source: Source
    data: ModelData
    sized: bool = True
    name = "aipp"
    version = 2
    libraries = ("pth2om",)

    @property
    def label(self) -> str:
        """See `Stage.label`."""
        return self.source.spec.name

    def inputs(self) -> Mapping[str, str]:
        """See `Stage.inputs`."""
        given = self._given()
        return {"config": self.source.store.digest(given)} if given else {}

    def options(self) -> Mapping[str, Any]:
        """See `Stage.options`."""
        preprocess = self.data.preprocess()
        return {
            "input_format": self.source.spec.aipp.input_format,
            "preprocess": preprocess.model_dump(mode="json"),
            **({} if self.sized else {"sized": False}),
        }

    def build(self, work: Work) -> Value:
        """See `Stage.build`.

        Raises:
            AippError: AIPP cannot express the spec's preprocessing.
        """
        from pth2om import aipp

        given = self._given()
        table = self.source.spec.aipp
        config = (
            aipp.read_config(given)
            if given
            else aipp.derive(self.data.preprocess(), table.input_format, sized=self.sized)
        )
        aipp.save_config(config, work.folder / "aipp.cfg")
        return Value({})

    def restored(self, value: Any) -> Value:  # noqa: ANN401 - JSON
        """See `Stage.restored`."""
        return Value(value)

    def _given(self) -> Path | None:
        config = self.source.spec.aipp.config
        return (self.source.spec.folder / config) if config else None


def atc_options(spec: Spec, settings: RunSettings, variant: Variant, model: Path, aipp: Path | None) -> AtcOptions:
    """The atc options of this variant; the same for the emulator and the real tool.

    Args:
        spec: the model.
        settings: the run: its SoC.
        variant: precision and batch.
        model: the ONNX file.
        aipp: the AIPP configuration of a variant that has one.
    """
    from pth2om.ascend.atc_options import AtcOptions

    gears = variant.gears
    if gears is None:
        shapes = ";".join(
            f"{entry.name}:{','.join(str(size) for size in entry.shape_of(variant.batch))}" for entry in spec.inputs
        )
    else:
        shapes = gears.input_shape(spec.inputs, variant.batch)
    rank = max(len(entry.shape_of(1)) for entry in spec.inputs)
    options = AtcOptions(
        model=model.as_posix(),
        output=f"{spec.name}-{variant.om}",
        soc_version=settings.soc,
        input_format={4: "NCHW", 5: "NCDHW"}.get(rank, "ND"),
        input_shape=shapes,
        precision_mode=PRECISION_MODES[variant.precision],
        insert_op_conf=aipp.as_posix() if aipp else None,
        **(gears.flags(spec.inputs) if gears is not None else {}),  # type: ignore[arg-type]  # each flag is text
    )
    return options.given(variant.atc)


@dataclass(frozen=True)
class OmStage:
    """Compile one variant.

    Attributes:
        source: the model's.
        variant: precision and batch.
        compiled_from: the ONNX file, or the deploy model.
        atc: the atc options.
        toolchain: compiles.
        noticed: on the way to `compiled_from`.
    """

    source: Source
    variant_: Variant
    compiled_from: Built
    atc: AtcOptions
    toolchain: Toolchain
    noticed: tuple[Finding, ...] = ()
    name = "om"
    version = 2
    libraries = ("pth2om", "onnx", "onnxruntime")

    @property
    def label(self) -> str:
        """See `Stage.label`."""
        return f"{self.source.spec.name}-{self.variant}"

    @property
    def variant(self) -> str:
        """See `Conversion.variant`."""
        return self.variant_.name

    @property
    def _prechecked(self) -> bool:
        return self.source.spec.compile.precheck

    def inputs(self) -> Mapping[str, str]:
        """See `Stage.inputs`."""
        inputs = {"onnx": self.compiled_from.record.digest}
        if self.atc.insert_op_conf:
            inputs["aipp"] = self.source.store.digest(Path(self.atc.insert_op_conf))
        for word in self.variant_.atc:  # a mix list, shapes of gears: files count by their content
            flag, _, value = word.partition("=")
            if value and is_file(file := Path(value)):
                inputs[f"atc/{flag.lstrip('-')}"] = self.source.store.digest(file)
        return inputs

    def options(self) -> Mapping[str, Any]:
        """See `Stage.options`."""
        first = {"precheck": True} if self._prechecked else {}
        return {"atc": asked(self.atc), "toolchain": dict(self.toolchain.compiler), **first}

    def build(self, work: Work) -> Value:
        """See `Stage.build`.

        Raises:
            AtcError: atc refuses it, in its pre-check where the spec asks for one.
        """
        if self._prechecked:
            _refuse(self.toolchain.refuses(self.compiled_from.file, self.atc))
        self.toolchain.compile(self.compiled_from.file, self.atc, work.folder)
        return Value({})

    def restored(self, value: Any) -> Value:  # noqa: ANN401 - JSON
        """See `Stage.restored`."""
        return Value(value)

    def shown(self, result: Value, artifact: Artifact) -> Shown:  # noqa: ARG002 - a Conversion's
        """See `Conversion.shown`."""
        compiled = self.toolchain.compiled(artifact.path)
        details = {"compiler": dict(self.toolchain.compiler), **compiled.details}
        if self._prechecked:
            details["precheck"] = True
        findings = [*self.noticed, *(Finding.from_json(entry) for entry in details.pop("findings", ()))]
        if self.atc.insert_op_conf:
            model, config = self.compiled_from, Path(self.atc.insert_op_conf)
            findings += preprocess_findings(self.source, model.file, model.record.digest, config)
        return Shown(
            compiled.path,
            compiled.digest,
            self.toolchain.provenance,
            findings,
            details,
            self.atc.command_line() if compiles(self.toolchain) else (),
        )


def compiles(toolchain: Toolchain) -> bool:
    """Whether an atc is run, a real or an emulated one; not where ONNX Runtime compiles the ONNX file itself."""
    return toolchain.compiler.get("name") != NO_OM


def _refuse(findings: Sequence[Finding]) -> None:
    """Raise the error of a pre-check that found some: of a parser that is missing, as a compile would."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    for finding in errors:
        if {"type", "opset"} <= finding.details.keys():
            kind, opset = str(finding.details["type"]), int(finding.details["opset"])
            raise AtcError("cann.atc-opset", where=str(finding.details.get("text", "")) or None, type=kind, opset=opset)
    nodes = ", ".join(dict.fromkeys(finding.node for finding in errors if finding.node))
    first = errors[0].message
    raise AtcError(first.key, where=f"atc --mode=3: {nodes}" if nodes else "atc --mode=3", **first.values)


def lower_opsets(source: Source, error: AtcError) -> tuple[int, ...]:
    """The opsets of ``[export] opsets`` below the one at which atc has no parser for an operator.

    Args:
        source: of the model; a spec that begins with an ONNX file has nothing to export again.
        error: of a compile.

    Returns:
        In the spec's order; empty where another export would not help.
    """
    refused = error.message.values.get("opset")
    if error.message.key != "cann.atc-opset" or not isinstance(refused, int) or not source.has_torch:
        return ()
    return tuple(opset for opset in source.spec.export.opsets if opset < refused)


def lowered(error: AtcError, exported: Built) -> Finding:
    """That an OM was compiled from an export at a lower opset.

    Args:
        error: of the compile at the spec's opset.
        exported: the lower export.
    """
    values = error.message.values
    opset = exported.record.details.get("opset")
    details = {"type": values["type"], "refused": values["opset"], "opset": opset, "onnx": exported.record.digest}
    refused, taken = str(values["opset"]), str(opset)
    message = say("pipeline.opset-lowered", type=str(values["type"]), refused=refused, opset=taken)
    return Finding("atc.opset-lowered", "warning", message, None, details)


def asked(options: AtcOptions) -> dict[str, Any]:
    """The options as a part of keys: with the content of the files instead of their paths."""
    return {name: value for name, value in options.to_json().items() if name not in ("model", "insert_op_conf")}
