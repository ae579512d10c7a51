"""The INT8 stage: the exported ONNX calibrated, and written as the deploy model with its twins."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.conversion.data import ModelData
from pth2om.conversion.source import Source
from pth2om.conversion.stage import Built, Measurement, Shown, Work, run
from pth2om.errors import Absent
from pth2om.evidence import Finding
from pth2om.files import is_file
from pth2om.language import say
from pth2om.session import Feeds, Provenance
from pth2om.spec import Quantize, Shape
from pth2om.store import Artifact, version_of

if TYPE_CHECKING:
    from pth2om.data import Labelled
    from pth2om.quantize.calibration_data import CalibrationData


@dataclass(frozen=True)
class Quantized:
    """What quantization reports.

    Attributes:
        digest: sha256 of ``deploy.onnx``.
        layers: the table of layers.
        findings: what was noticed.
        details: numbers of images, algorithm, search.
    """

    digest: str
    layers: Sequence[Mapping[str, Any]]
    findings: tuple[Finding, ...]
    details: Mapping[str, Any]

    def to_json(self) -> Any:  # noqa: ANN401 - JSON
        """As plain JSON values."""
        findings = [finding.to_json() for finding in self.findings]
        return {"sha256": self.digest, "layers": self.layers, "findings": findings, "details": self.details}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Quantized:
        """From what `to_json` gave."""
        findings = tuple(Finding.from_json(entry) for entry in data["findings"])
        return cls(data["sha256"], data["layers"], findings, data["details"])


@dataclass(frozen=True)
class Int8Stage:
    """Quantize one exported ONNX file.

    Its folder also holds ``fake_quant.onnx`` and, where the checkpoint is a state dict, ``int8_as_fp32.pth``.

    Attributes:
        source: checkpoint and net.
        data: the model's datasets.
        exported: the ONNX file.
        shape: the batch size, or one of the gears, all of which one deploy model serves.
        calibration: what calibrates; None where the spec gives a quantized file.
    """

    source: Source
    data: ModelData
    exported: Built
    shape: Shape
    calibration: CalibrationData | None
    name = "quantized"

    @property
    def version(self) -> int:
        """See `Stage.version`."""
        from pth2om import quantize

        return quantize.VERSION

    @property
    def libraries(self) -> tuple[str, ...]:
        """See `Stage.libraries`."""
        return ("pth2om", "onnx", "onnxruntime", "numpy")

    @property
    def label(self) -> str:
        """See `Stage.label`."""
        return f"{self.source.spec.name}-int8-{self.shape.file}"

    @property
    def variant(self) -> str:
        """See `Conversion.variant`."""
        return f"int8-{self.shape.name}"

    def inputs(self) -> Mapping[str, str]:
        """See `Stage.inputs`."""
        inputs = {"onnx": self.exported.record.digest, **self.source.digests, **self._files()}
        if self.calibration is not None:
            inputs["dataset"] = self.calibration.digest
        if self._table.max_drop is not None:
            # The search depends on the metric: on its images and on how outputs become predictions.
            inputs["scored"] = self.data.scored()[0].digest
        return inputs

    def options(self) -> Mapping[str, Any]:
        """See `Stage.options`."""
        spec = self.source.spec
        # The ONNX file does not tell: one with a symbolic batch axis serves every size, its deploy model only one.
        # A path is not part of the key, but the content of its file is.
        asked = self._table.model_dump(mode="json", exclude={"config", "bins", "onnx"})
        shape = self.shape
        sizes: dict[str, Any] = {"batch": shape.batch}
        if shape.gears is not None:
            sizes = {"gears": shape.gears.model_dump(mode="json"), "file": shape.file}
        options: dict[str, Any] = {"quantize": asked, **sizes, "name": spec.name}
        if self.calibration is not None:
            options["preprocess"] = spec.preprocess.model_dump(mode="json") if spec.preprocess else None
        if self._table.max_drop is not None:
            from pth2om import accuracy

            options |= {"metric": self.data.scored()[1], "postprocess": spec.postprocess.model_dump(mode="json")}
            # How drops are measured and bounded decides which layers stay in floating point.
            options["drop"] = [accuracy.VERSION, accuracy.DIFFERENCE_VERSION]
        return options

    def build(self, work: Work) -> Quantized:
        """See `Stage.build`.

        Raises:
            QuantizeError: the model cannot be quantized.
        """
        from pth2om.quantize import metric_search, stage

        # With gears it is calibrated at one of them.
        at = self.data.calibrated_at(self.shape)
        spec, data = self.source.spec.at(at), self.calibration
        table = self._found_table()

        def search(plan: Any, first: Sequence[Feeds]) -> None:  # noqa: ANN401 - Plan, whose module imports onnx
            preprocess = spec.preprocess or self.data.preprocess()
            fed = spec.fed_input
            limit = table.max_drop or 0.0
            scored = self.data.scored()
            metric_search.search(plan, *scored, preprocess, spec.postprocess, first, limit, at.batch, fed)

        # Outside of the artifact's folder, which goes when the build is interrupted: calibration is resumed from it.
        work.resume.mkdir(parents=True, exist_ok=True)
        task = stage.Task(
            self.exported.file,
            table,
            spec.name,
            data,
            config=self.data.find(table.config) if table.config else None,
            given=self.data.find(table.onnx) if table.onnx else None,
            checkpoint=self.source.weights if self.source.has_torch else None,
            state=work.resume / "calibration.npz",
            search=search if table.max_drop is not None else None,
            findings=list(data.findings) if data is not None else [],
        )
        with work.progress.counted(f"{spec.name} int8", data.count if data else 1) as seen:
            stage.build(task, work.folder, lambda done, _: seen(done))
        return Quantized.from_json(json.loads((work.folder / "quantize.json").read_text(encoding="utf-8")))

    def restored(self, value: Any) -> Quantized:  # noqa: ANN401 - JSON
        """See `Stage.restored`."""
        return Quantized.from_json(value)

    def shown(self, result: Quantized, artifact: Artifact) -> Shown:
        """See `Conversion.shown`."""
        data, findings = self.calibration, list(result.findings)
        if data is not None and data.name in [entry.name for entry in self.source.spec.datasets]:
            message = say("pipeline.calibrated-on-scored", dataset=data.name, images=data.images)
            findings.append(Finding("pipeline.calibrated-on-scored", "info", message))
        elif data is not None:
            findings += self._alike(data)
        return Shown(
            artifact.file("deploy.onnx"),
            result.digest,
            Provenance("pth2om", version_of("pth2om"), "host"),
            findings,
            {**result.details, "layers": result.layers, "dataset": data.name if data else ""},
        )

    def _alike(self, data: CalibrationData) -> Iterator[Finding]:
        """Whether it was calibrated on copies of images that are scored, under another dataset's name."""
        from pth2om.data import alike

        if data.bins or data.random or not (calibration := self.data.dataset(data.name)).has_images:
            return
        for entry in self.source.spec.datasets:
            try:
                scored = self.data.dataset(entry.name, entry.subset)
            except Absent:
                continue
            if not scored.has_images:
                continue
            looked = min(len(scored), alike.MOST_IMAGES)

            def measure(work: Work, scored: Labelled = scored, looked: int = looked) -> Any:  # noqa: ANN401 - JSON
                with work.progress.counted(f"{data.name} ~ {scored.name}", data.images + looked) as seen:
                    return alike.alike(calibration, data.images, scored, seen)

            digests = {"calibration": data.digest, "scored": scored.digest}
            stage = Measurement(
                "alike",
                alike.VERSION,
                ("pth2om", "numpy", "pillow"),
                scored.name,
                digests,
                {"images": data.images},
                measure,
            )
            pairs = run(stage, self.source.store).result.value
            if pairs:
                message = say(
                    "pipeline.calibrated-on-alike",
                    count=len(pairs),
                    images=data.images,
                    calibration=data.name,
                    dataset=scored.name,
                    looked=looked,
                    one=pairs[0][0],
                    other=pairs[0][1],
                )
                yield Finding("pipeline.calibrated-on-alike", "warning", message)

    @property
    def _table(self) -> Quantize:
        return self.source.spec.quantize

    def _found_table(self) -> Quantize:
        """``[quantize]``, with the files that its command names where they were found."""
        words = []
        for word in self._table.command:
            path = self.data.found(word)
            words.append(str(path) if path is not None and is_file(path) else word)
        return self._table.model_copy(update={"command": tuple(words)})

    def _beside(self, script: Path) -> dict[str, str]:
        """Digests of what a script of the command imports from its folder, and of the files of the model's folder."""
        from pth2om.checkpoint import net_files
        from pth2om.checkpoint.reads import folder_files

        source = self.source
        files = net_files(script) if script.suffix == ".py" else ()
        if script.is_relative_to(source.spec.folder.absolute()):
            files = (*files, *folder_files(source.spec.folder))
        return {f"command/{source.role(file)}": source.store.digest(file) for file in files}

    def _files(self) -> dict[str, str]:
        """Digests of the files that ``[quantize]`` names, also in its command, and of the tool it wants."""
        from pth2om.quantize.tool import program

        store, table = self.source.store, self._found_table()
        named = {"config": table.config, "given": table.onnx}
        digests = {role: store.digest(self.data.find(name)) for role, name in named.items() if name is not None}
        written = zip(self._table.command, table.command, strict=True)
        for name, found in written:
            if found != name:
                digests |= {f"command/{name}": store.digest(Path(found)), **self._beside(Path(found))}
        tool = program(table)
        return digests | ({"tool": store.digest(tool)} if tool is not None else {})
