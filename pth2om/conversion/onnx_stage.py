"""The ONNX stage: the module exported, or the spec's own ONNX file taken, cleaned up for ATC."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pth2om.conversion.modules import module_names
from pth2om.conversion.source import Source
from pth2om.conversion.stage import Shown, Work, key_of, run
from pth2om.conversion.torchscript_stage import PROGRAM, TorchScriptStage
from pth2om.evidence import Finding
from pth2om.files import write_text
from pth2om.session import Provenance
from pth2om.spec import Export, Shape
from pth2om.store import Artifact, file_digest, version_of

MODULES = "modules.json"
"""Beside an exported file: tensor -> name of the torch module that made it."""


@dataclass(frozen=True)
class Exported:
    """The result of the exporter and the clean-up.

    Attributes:
        findings: what was noticed.
        details: exporter, opset, passes, ``sha256`` and ``bytes`` of the file, ``version`` of who made it.
    """

    findings: tuple[Finding, ...]
    details: Mapping[str, Any]

    def to_json(self) -> Any:  # noqa: ANN401 - JSON
        """As plain JSON values."""
        return {"findings": [finding.to_json() for finding in self.findings], "details": dict(self.details)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Exported:
        """From what `to_json` gave."""
        return cls(tuple(Finding.from_json(entry) for entry in data["findings"]), data["details"])


@dataclass(frozen=True)
class OnnxStage:
    """Export at one batch size, or once for all gears.

    Attributes:
        source: checkpoint and net.
        shape: images per inference, or any shape of the gears.
        opsets: to try instead of the spec's, after atc refused one of these; empty: the spec's.
    """

    source: Source
    shape: Shape
    opsets: tuple[int, ...] = ()
    name = "onnx"
    version = 4  # here and not in `pth2om.export`, which a run that finds its files in the store does not import

    @property
    def libraries(self) -> tuple[str, ...]:
        """See `Stage.libraries`."""
        common = ("pth2om", "onnx", "onnxslim")
        return (*common, "torch", "onnxruntime") if self.source.has_torch else common

    @property
    def label(self) -> str:
        """See `Stage.label`."""
        return f"{self.source.spec.name}-{self.shape.file}"

    @property
    def variant(self) -> str:
        """See `Conversion.variant`."""
        return self.shape.name

    def inputs(self) -> Mapping[str, str]:
        """See `Stage.inputs`."""
        return self.source.digests

    def options(self) -> Mapping[str, Any]:
        """See `Stage.options`."""
        from pth2om import graph

        table = self.source.spec.torchscript
        through = (
            {} if table is None else {"torchscript": key_of(TorchScriptStage(self.source, self.shape.batch)).digest}
        )
        return {
            **through,
            **self.source.options(),
            "graph": graph.VERSION,
            "inputs": self.source.inputs(),
            "export": self._export.model_dump(mode="json"),
            "target": dict(self.source.target.parser),
            **(
                {"batch": self.shape.batch}
                if self.shape.gears is None
                else {"gears": self.shape.gears.model_dump(mode="json"), "file": self.shape.file}
            ),
        }

    @property
    def _export(self) -> Export:
        """The spec's table, with other opsets where some were given."""
        table = self.source.spec.export
        return table.model_copy(update={"opsets": self.opsets}) if self.opsets else table

    def build(self, work: Work) -> Exported:
        """See `Stage.build`."""
        from pth2om.graph import simplifier

        with self.source.target.operators.known(), simplifier.started(self.source.spec.export.simplify):
            return self._build(work)

    def _build(self, work: Work) -> Exported:
        from pth2om import export, graph

        spec, source = self.source.spec, self.source
        target = source.target
        cann, batch = target.cann, self.shape.batch
        purpose = export.Purpose(self.shape.gears, cann, target.operators.declared, source.bodies)
        raw, file = work.folder / "exported.onnx", work.folder / "model.onnx"
        if source.has_torch:
            source.module()
            with source.watching():
                module = source.deployed()
                if module is not source.module():
                    source.use_bodies(module)
                if spec.torchscript is not None:
                    from pth2om.sessions.torchscript import load_program

                    program = run(TorchScriptStage(source, batch), source.store)
                    module = load_program(program.artifact.file(PROGRAM))
                made = export.export(module, spec.inputs, self._export, batch, raw, purpose)
            details = made.to_json() | {"version": version_of("torch")}
            write_text(work.folder / MODULES, json.dumps(module_names(raw, module), ensure_ascii=False))
        else:
            details = export.take(source.given_onnx(), spec.inputs, batch, raw, purpose)
        cleaned = graph.clean(raw, file, simplify=spec.export.simplify, cann=cann)
        findings = [Finding.from_json(entry) for entry in details.pop("findings")]
        details |= {"passes": cleaned.to_json(), "sha256": file_digest(file), "bytes": file.stat().st_size}
        for extra in work.folder.glob(f"{raw.name}*"):  # with its external data
            extra.unlink()
        return Exported((*findings, *cleaned.findings), details)

    def restored(self, value: Any) -> Exported:  # noqa: ANN401 - JSON
        """See `Stage.restored`."""
        return Exported.from_json(value)

    def shown(self, result: Exported, artifact: Artifact) -> Shown:
        """See `Conversion.shown`."""
        noticed = preprocess_findings(self.source, artifact.file("model.onnx"), result.details["sha256"])
        return Shown(
            artifact.file("model.onnx"),
            result.details["sha256"],
            Provenance("torch" if self.source.has_torch else "onnx", result.details["version"], "host"),
            [*self.source.stand_ins(), *result.findings, *noticed],
            result.details,
        )


def preprocess_findings(source: Source, model: Path, digest: str, config: Path | None = None) -> Sequence[Finding]:
    """Whether the spec's numbers look right, and whether host, AIPP and graph together normalize once.

    Args:
        source: of the model.
        model: the ONNX file.
        digest: of that file.
        config: the AIPP configuration, where the variant has one.
    """
    from pth2om.conversion.stage import Measurement

    spec = source.spec
    preprocess = spec.preprocess
    if preprocess is None:
        return []
    table = preprocess
    fed = spec.fed_input

    def measure(_: Work) -> Any:  # noqa: ANN401 - JSON
        from pth2om.aipp import diagnose, read_config
        from pth2om.data.preprocess import plausibility

        findings = [] if config else plausibility(table)
        given = read_config(config) if config else None
        findings = [*findings, *diagnose(model, given, preprocess=table, input_name=fed)]
        return [finding.to_json() for finding in findings]

    inputs = {"onnx": digest} | ({"aipp": source.store.digest(config)} if config else {})
    asked = {"preprocess": table.model_dump(mode="json"), "input": fed}
    stage = Measurement("preprocessing", 1, ("pth2om", "onnx"), spec.name, inputs, asked, measure)
    return [Finding.from_json(entry) for entry in run(stage, source.store).result.value]
