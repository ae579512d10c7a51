"""One model's way from spec to sessions: each stage a pure function of its inputs, kept in the store.

The pytest fixtures, the CLI verbs and later the GUI all call this; none of them knows how a stage is done. Nothing
heavy is imported before a stage has to be built: a run that finds all in the store imports neither torch nor onnx.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.conversion.data import ModelData
from pth2om.errors import Absent, Pth2omError, StoreError, ToolchainError
from pth2om.escaping import shell_line
from pth2om.evidence import Finding, StageRecord
from pth2om.language import say
from pth2om.session import Feeds, Provenance, Remembering, Session
from pth2om.spec import PRECISION_MODES, Quantize, Spec, Variant
from pth2om.store import Artifact, Key, Store, version_of

if TYPE_CHECKING:
    import torch

    from pth2om.aipp import AippConfig
    from pth2om.ascend.atc_options import AtcOptions
    from pth2om.quantize.calibration_data import CalibrationData
    from pth2om.sessions.onnx import OnnxSession
    from pth2om.toolchain import Toolchain

_CHECKPOINT_VERSION = 1
_OM_VERSION = 1
_AIPP_VERSION = 1


@dataclass(frozen=True)
class Settings:
    """What a run was asked, besides the specs.

    Attributes:
        models: the folder of specs.
        calib: the folder of datasets.
        data_roots: further places where weights and datasets may lie.
        soc: ``Ascend310B1``...; None: nothing is compiled.
        toolchain: ``emulator`` or ``cann``.
        cann: whose rules the emulator follows: ``7.0``, ``8.0``, ``9.x``.
        weights: model name -> file, from ``--weights``.
        datasets: dataset name -> folder, from ``--dataset``.
        trust: models whose pickled architecture may run.
        subset: at most that many labelled images.
        threads: of PyTorch and ONNX Runtime.
        providers: of ONNX Runtime.
        seed: of random samples and seeded weights.
    """

    models: Path
    calib: Path
    data_roots: tuple[Path, ...] = ()
    soc: str | None = None
    toolchain: str = "emulator"
    cann: str = "9.x"
    weights: Mapping[str, Path] = field(default_factory=dict)
    datasets: Mapping[str, Path] = field(default_factory=dict)
    trust: frozenset[str] = frozenset()
    subset: int | None = None
    threads: int | None = None
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    seed: int = 0


@dataclass(frozen=True)
class Built:
    """A stage's artifact and what the evidence says of it.

    Attributes:
        artifact: its folder in the store.
        file: its main file.
        record: for the evidence.
    """

    artifact: Artifact
    file: Path
    record: StageRecord


class Pipeline:
    """The stages of one model.

    Args:
        spec: the model.
        settings: the run.
        store: where artifacts are kept.

    Attributes:
        data: the model's datasets, samples and calibration data.
    """

    def __init__(self, spec: Spec, settings: Settings, store: Store) -> None:
        self.spec = spec
        self.settings = settings
        self.store = store
        self.records: dict[tuple[str, str], StageRecord] = {}
        self._module: torch.nn.Module | None = None
        self._sessions: dict[str, Session] = {}
        self._references: dict[str, Remembering] = {}
        self._failed: dict[str, Pth2omError] = {}
        self.data = ModelData(spec, settings, store)

    # --- where it comes from ------------------------------------------------------------------------------------

    @functools.cached_property
    def weights(self) -> Path | None:
        """The checkpoint (or ONNX) file; None where it is absent."""
        from pth2om.checkpoint import find_weights

        return find_weights(self.spec, overrides=self.settings.weights, data_roots=self.settings.data_roots)

    @property
    def seeded(self) -> bool:
        """Whether the weights are random stand-ins because the file is absent."""
        return self.weights is None and self.spec.source.seeded

    @functools.cached_property
    def source_digests(self) -> dict[str, str]:
        """sha256 of what the model is made of: ``checkpoint`` (or ``onnx``), the net and what it imports.

        Raises:
            Absent: the weights are not here and the spec does not allow seeded ones.
        """
        role = "onnx" if self.spec.source.onnx else "checkpoint"
        if self.weights is not None:
            digests = {role: self.store.digest(self.weights)}
        elif self.spec.source.seeded:
            from pth2om.checkpoint import seeding

            digests = {role: f"seeded-{seeding.VERSION}-{self.settings.seed}"}
        else:
            raise self.weights_absent()
        if self.net is not None:
            from pth2om.checkpoint import net_files

            digests |= {f"net/{file.name}": self.store.digest(file) for file in net_files(self.net)}
        return digests

    def weights_absent(self) -> Absent:
        """The error that says which file is missing and how to get it."""
        name = self.spec.source.checkpoint or self.spec.source.onnx or ""
        key = "pipeline.weights-absent-fetch" if self.spec.source.fetch else "pipeline.weights-absent"
        return Absent(key, where=self.spec.name, file=name, model=self.spec.name, fetch=self.spec.source.fetch or "")

    @functools.cached_property
    def net(self) -> Path | None:
        """The net's Python file; None where the checkpoint brings its own architecture."""
        if self.spec.source.net is not None:
            return (self.spec.folder / self.spec.source.net).resolve()
        own = self.spec.folder / "net.py"
        return own if own.is_file() else None

    @property
    def has_torch(self) -> bool:
        """Whether there is a PyTorch side at all (an ONNX source has none)."""
        return self.spec.source.onnx is None

    # --- stages -------------------------------------------------------------------------------------------------

    def checkpoint(self) -> Built:
        """Read the checkpoint, fit it to its net, and say what was found."""
        source = self.spec.source
        key = self._key(
            "checkpoint",
            _CHECKPOINT_VERSION,
            self.source_digests,
            {**self._source_options(), "inputs": [entry.model_dump(mode="json") for entry in self.spec.inputs]},
            ("torch", "numpy"),
            self.spec.name,
        )

        def build(folder: Path) -> None:
            if not self.has_torch:
                report: dict[str, Any] = {"findings": [], "details": {"kind": "onnx"}}
            else:
                report = self._load()
            (folder / "report.json").write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")

        artifact = self._artifact(key, build)
        report = artifact.json("report.json")
        file = self.weights or artifact.file("report.json")
        return self._built(
            artifact,
            file,
            "",
            "checkpoint",
            digest=next(iter(self.source_digests.values())),
            provenance=Provenance("torch", version_of("torch"), "host"),
            findings=report["findings"],
            details={**report["details"], "file": file.name, "bytes": file.stat().st_size, "seeded": self.seeded}
            | ({"fetch": source.fetch} if source.fetch else {}),
        )

    def module(self) -> torch.nn.Module:
        """The module with its weights: float32, eval mode; kept until `close`."""
        if self._module is None:
            self._load()
        assert self._module is not None
        return self._module

    def onnx_key(self, batch: int) -> Key:
        """What the exported ONNX of this batch size depends on."""
        from pth2om import export, graph

        options = {
            **self._source_options(),
            "graph": graph.VERSION,
            "inputs": [entry.model_dump(mode="json") for entry in self.spec.inputs],
            "export": self.spec.export.model_dump(mode="json"),
            "batch": batch,
        }
        libraries = ("torch", "onnx", "onnxruntime", "onnxslim") if self.has_torch else ("onnx", "onnxslim")
        label = f"{self.spec.name}-bs{batch}"
        return self._key("onnx", export.VERSION, self.source_digests, options, libraries, label)

    def onnx(self, batch: int) -> Built:
        """Export at ``batch`` (or take the spec's ONNX), cleaned up for ATC."""
        artifact = self._artifact(self.onnx_key(batch), lambda folder: self._export(batch, folder))
        details = artifact.json("export.json")
        file = artifact.file("model.onnx")
        return self._built(
            artifact,
            file,
            f"bs{batch}",
            "onnx",
            digest=details["sha256"],
            provenance=Provenance("torch" if self.has_torch else "onnx", details["version"], "host"),
            findings=[*self._stand_ins(), *details["findings"]],
            details={name: value for name, value in details.items() if name != "findings"},
        )

    def quantized(self, batch: int) -> Built:
        """INT8: calibrate the exported ONNX, and write the deploy model with its twins.

        Its folder also holds ``fake_quant.onnx`` and, where the checkpoint is a state dict, ``int8_as_fp32.pth``.

        Raises:
            Absent: the calibration images are not here.
            QuantizeError: the model cannot be quantized.
        """
        from pth2om import quantize

        source = self.onnx(batch)
        table = self.spec.quantize
        data = None if table.onnx is not None else self.data.calibration(batch)
        inputs = {"onnx": source.record.digest, **self.source_digests, **self._quantize_files()}
        # The ONNX file does not tell: one with a symbolic batch axis serves every size, its deploy model only one.
        # Paths say where, not what: the files behind them count by their content.
        asked = table.model_dump(mode="json", exclude={"config", "bins", "onnx"})
        options: dict[str, Any] = {"quantize": asked, "batch": batch}
        if data is not None:
            inputs["dataset"] = data.digest
            options["preprocess"] = self.spec.preprocess.model_dump(mode="json") if self.spec.preprocess else None
        if table.max_drop is not None:
            # The search decides by the metric: by its images and by how outputs become predictions.
            metric_search, metric = self.data.scored()
            inputs["scored"] = metric_search.digest
            options |= {"metric": metric, "postprocess": self.spec.postprocess.model_dump(mode="json")}
        key = self._key(
            "quantized",
            quantize.VERSION,
            inputs,
            options,
            ("onnx", "onnxruntime", "numpy"),
            f"{self.spec.name}-int8-bs{batch}",
        )
        artifact = self._artifact(key, lambda folder: self._quantize(source.file, data, batch, folder, key))
        report = artifact.json("quantize.json")
        return self._built(
            artifact,
            artifact.file("deploy.onnx"),
            f"int8-bs{batch}",
            "quantized",
            digest=report["sha256"],
            provenance=Provenance("pth2om", version_of("pth2om"), "host"),
            findings=report["findings"],
            details={**report["details"], "layers": report["layers"], "dataset": data.name if data else ""},
        )

    def fake_quant_session(self, batch: int) -> Session:
        """The INT8 model's twin of standard operators, in ONNX Runtime without fusion: the mathematical level."""

        def make() -> Session:
            from pth2om.sessions.onnx import OnnxSession

            built = self.quantized(batch)
            provenance = Provenance("fake-quant", version_of("onnxruntime"), "host")
            return OnnxSession(
                built.artifact.file("fake_quant.onnx"),
                digest=f"{built.record.digest}-fake-quant",
                threads=self.settings.threads,
                optimize="none",
                provenance=provenance,
            )

        return self._session(f"fake-quant-bs{batch}", make)

    def compiled_from(self, variant: Variant) -> Built:
        """What a variant is compiled from: the ONNX, or for int8 the deploy model."""
        return self.quantized(variant.batch) if variant.precision == "int8" else self.onnx(variant.batch)

    def aipp(self) -> Artifact:
        """The AIPP configuration: the spec's own file, or derived from its ``[preprocess]``.

        Raises:
            AippError: AIPP cannot do what the spec's preprocessing does.
        """
        from pth2om import aipp

        table, preprocess = self.spec.aipp, self.data.preprocess()
        given = (self.spec.folder / table.config) if table.config else None
        inputs = {"config": self.store.digest(given)} if given else {}
        options = {"input_format": table.input_format, "preprocess": preprocess.model_dump(mode="json")}
        key = self._key("aipp", _AIPP_VERSION, inputs, options, (), self.spec.name)

        def build(folder: Path) -> None:
            config = aipp.read_config(given) if given else aipp.derive(preprocess, table.input_format)
            aipp.save_config(config, folder / "aipp.cfg")

        return self._artifact(key, build)

    def atc_options(self, variant: Variant, model: Path) -> AtcOptions:
        """What atc is asked for this variant; the same for the emulator and the real tool."""
        from pth2om.ascend.atc_options import AtcOptions

        shapes = ";".join(
            f"{entry.name}:{','.join(str(size) for size in (variant.batch, *entry.shape))}"
            for entry in self.spec.inputs
        )
        rank = max(len(entry.shape) + 1 for entry in self.spec.inputs)
        return AtcOptions(
            model=model.as_posix(),
            output=f"{self.spec.name}-{variant.name}",
            soc_version=self.settings.soc,
            input_format={4: "NCHW", 5: "NCDHW"}.get(rank, "ND"),
            input_shape=shapes,
            precision_mode=PRECISION_MODES[variant.precision],
            insert_op_conf=self.aipp().file("aipp.cfg").as_posix() if variant.aipp else None,
            extra=variant.atc,
        )

    def toolchain(self) -> Toolchain:
        """The toolchain of the run.

        Raises:
            Absent: no SoC was asked for.
            ToolchainError: the toolchain is not installed.
        """
        if self.settings.soc is None:
            raise Absent("pipeline.no-soc", where=self.spec.name)
        if self.settings.toolchain == "cann":
            raise ToolchainError("pipeline.no-cann")
        from pth2om.quantize import join_int8
        from pth2om.toolchain.emulator import EmulatorToolchain

        return EmulatorToolchain(
            self.settings.soc, cann=self.settings.cann, threads=self.settings.threads, join=join_int8
        )

    def om(self, variant: Variant) -> Built:
        """Compile one variant.

        Raises:
            Absent: no SoC was asked for.
            AtcError: what atc refuses.
        """
        toolchain = self.toolchain()
        source = self.compiled_from(variant)
        options = self.atc_options(variant, source.file)
        # Paths say where, not what: the files behind them count by their content.
        asked = {name: value for name, value in options.to_json().items() if name not in ("model", "insert_op_conf")}
        inputs = {"onnx": source.record.digest}
        if options.insert_op_conf:
            inputs["aipp"] = self.store.digest(Path(options.insert_op_conf))
        provenance = toolchain.provenance
        key = self._key(
            "om",
            _OM_VERSION,
            inputs,
            {"atc": asked, "toolchain": provenance.name, "version": provenance.version, "cann": self.settings.cann},
            ("onnx", "onnxruntime"),
            f"{self.spec.name}-{variant.name}",
        )

        def build(folder: Path) -> None:
            compiled = toolchain.compile(source.file, options, folder)
            findings = list(compiled.details.get("findings", ()))
            if options.insert_op_conf:
                from pth2om.aipp import read_config

                noticed = self._preprocess_findings(source.file, read_config(Path(options.insert_op_conf)))
                findings += [finding.to_json() for finding in noticed]
            description = {
                # Relative: the folder is renamed when the artifact is finished.
                "path": compiled.path.relative_to(folder).as_posix(),
                "digest": compiled.digest,
                "bands": list(toolchain.bands(compiled)),
                "details": {**compiled.details, "findings": findings},
            }
            (folder / "om.json").write_text(json.dumps(description, ensure_ascii=False), encoding="utf-8")

        artifact = self._artifact(key, build)
        description = artifact.json("om.json")
        details = description["details"]
        return self._built(
            artifact,
            artifact.path / description["path"],
            variant.name,
            "om",
            digest=description["digest"],
            provenance=provenance,
            command=options.command_line(),
            findings=details.get("findings", []),
            details={name: value for name, value in details.items() if name != "findings"},
        )

    def plan(self, variant: Variant) -> list[str]:
        """What a dry run says of a variant: the files it starts from and the exact atc command."""
        weights = str(self.weights) if self.weights else say("pipeline.plan-absent").render()
        model = self.store.place(self.onnx_key(variant.batch)) / "model.onnx"
        files = {"weights": weights, "onnx": str(model)}
        lines = [say(f"pipeline.plan-{name}", path=path).render() for name, path in files.items()]
        if self.settings.soc is None:
            return [*lines, say("pipeline.no-soc").render()]
        if variant.precision == "int8":
            model = Path("deploy.onnx")  # its place follows from the ONNX, which a dry run does not export
            lines.append(say("pipeline.plan-int8", images=self.spec.quantize.images, model=model.name).render())
        return [*lines, shell_line(self.atc_options(variant, model).command_line())]

    # --- sessions -----------------------------------------------------------------------------------------------

    def torch_session(self) -> Session:
        """PyTorch, opened on its first run.

        Raises:
            Absent: the source is an ONNX file, or the weights are not here.
        """
        if not self.has_torch:
            raise Absent("pipeline.no-torch", where=self.spec.name)
        from pth2om.sessions.torch import TorchSession

        parts = [self.source_digests, self._source_options(), version_of("torch")]
        return self._session(
            "torch",
            lambda: TorchSession(
                self.module,
                self.spec.inputs,
                self.spec.export.outputs,
                digest=hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(),
                threads=self.settings.threads,
            ),
        )

    def reference_session(self) -> Session:
        """The original model, which the others must score like: PyTorch, or the ONNX file that the spec starts from.

        Raises:
            Absent: the weights are not here.
        """
        return self.torch_session() if self.has_torch else self.onnx_session(self.spec.batches[0])

    def onnx_session(self, batch: int) -> Session:
        """ONNX Runtime over the exported file."""

        def make() -> OnnxSession:
            from pth2om.sessions.onnx import OnnxSession

            built = self.onnx(batch)
            providers = self.settings.providers
            # What another provider computes is another measurement.
            suffix = "" if providers == ("CPUExecutionProvider",) else f"@{','.join(providers)}"
            return OnnxSession(
                built.file, digest=built.record.digest + suffix, threads=self.settings.threads, providers=providers
            )

        return self._session(f"onnx-bs{batch}", make)

    def om_sessions(self, variant: Variant) -> dict[str, Session]:
        """The compiled variant, by band: ``fused`` and ``unfused`` on the emulator, ``device`` on an NPU."""
        from pth2om.toolchain import CompiledModel

        toolchain = self.toolchain()
        built = self.om(variant)
        description = built.artifact.json("om.json")
        bands = tuple(description["bands"])
        compiled = CompiledModel(built.file, description["digest"], toolchain.provenance, bands, description["details"])

        def opened(band: str) -> Session:
            session = toolchain.open(compiled, band)
            if not variant.aipp:
                return session
            from pth2om.data.pixels import PixelFed

            preprocess = self.data.preprocess()
            return PixelFed(session, preprocess, preprocess.input or self.spec.inputs[0].name)

        return {band: self._session(f"om-{variant.name}-{band}", functools.partial(opened, band)) for band in bands}

    def remembering(self, session: Session) -> Session:
        """``session`` with a memory of its answers, for a reference that is compared with many candidates."""
        if session.digest not in self._references:
            self._references[session.digest] = Remembering(session)
        return self._references[session.digest]

    def close(self) -> None:
        """Close the sessions and drop the module."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self._references.clear()
        self._module = None

    # ------------------------------------------------------------------------------------------------------------

    def _load(self) -> dict[str, Any]:
        """Load the module; what the checkpoint stage reports of it."""
        from pth2om import checkpoint
        from pth2om.export import example

        if self.weights is not None:
            loaded = checkpoint.load_module(
                self.spec, self.weights, trust=self.spec.name in self.settings.trust, net=self.net
            )
            self._module = loaded.module
            return {"findings": [finding.to_json() for finding in loaded.findings], "details": dict(loaded.details)}
        if self.net is None:
            raise self.weights_absent()
        import torch

        net = checkpoint.load_net(self.net)
        module = net.build(self.spec.source.num_classes, **self.spec.source.arguments)
        feeds = example(self.spec.inputs, 2, self.settings.seed)
        examples = [torch.from_numpy(feeds[entry.name]) for entry in self.spec.inputs]
        checkpoint.seed_module(module, examples, seed=self.settings.seed)
        self._module = module.float().eval()
        return {"findings": self._stand_ins(), "details": {"kind": "seeded", "template": net.name}}

    def _stand_ins(self) -> list[dict[str, Any]]:
        """The finding that weights are random; of the ONNX too: its figures are not those of the trained model."""
        message = say("pipeline.seeded", file=self.spec.source.checkpoint, model=self.spec.name)
        return [Finding("checkpoint.seeded", "warning", message).to_json()] if self.seeded else []

    def _export(self, batch: int, folder: Path) -> None:
        from pth2om import export, graph
        from pth2om.store import file_digest

        raw, cann = folder / "exported.onnx", self.settings.cann
        if self.has_torch:
            from pth2om import checkpoint

            module = self.module()
            if self.net is not None:
                module = checkpoint.load_net(self.net).deployed(module)
            made = export.export(module, self.spec.inputs, self.spec.export, batch, raw, cann=cann)
            details = made.to_json() | {"version": version_of("torch")}
        else:
            details = export.take(self._given_onnx(), self.spec.inputs, batch, raw, cann=cann)
        cleaned = graph.clean(raw, folder / "model.onnx", simplify=self.spec.export.simplify, cann=cann)
        noticed = [*cleaned.findings, *self._preprocess_findings(folder / "model.onnx")]
        details["findings"] = [*details["findings"], *(finding.to_json() for finding in noticed)]
        details["passes"] = cleaned.to_json()
        details["sha256"] = file_digest(folder / "model.onnx")
        details["bytes"] = (folder / "model.onnx").stat().st_size
        for file in folder.glob(f"{raw.name}*"):  # with its external data
            file.unlink()
        (folder / "export.json").write_text(json.dumps(details, ensure_ascii=False), encoding="utf-8")

    def _table(self) -> Quantize:
        """``[quantize]``, with the files that its command names where they were found."""
        table = self.spec.quantize
        words = []
        for word in table.command:
            path = self.data.found(word)
            words.append(str(path) if path is not None and path.is_file() else word)
        return table.model_copy(update={"command": tuple(words)})

    def _artifact(self, key: Key, build: Callable[[Path], None]) -> Artifact:
        """The store's artifact; a stage that failed is not tried again, which can take an hour, but fails the same."""
        if key.digest in self._failed:
            raise copy.copy(self._failed[key.digest])
        try:
            return self.store.artifact(key, build)
        except StoreError:
            raise  # a full disk may have been emptied
        except Pth2omError as error:
            self._failed[key.digest] = copy.copy(error)  # without the traceback, which would hold what it failed on
            raise

    def _quantize_files(self) -> dict[str, str]:
        """Digests of the files that ``[quantize]`` names, also in its command, and of the tool it wants."""
        from pth2om.quantize import stage

        table = self._table()
        named = {"config": table.config, "given": table.onnx}
        digests = {role: self.store.digest(self.data.find(name)) for role, name in named.items() if name is not None}
        written = zip(self.spec.quantize.command, table.command, strict=True)
        digests |= {f"command/{name}": self.store.digest(Path(found)) for name, found in written if found != name}
        tool = stage.program(table)
        return digests | ({"tool": self.store.digest(tool)} if tool is not None else {})

    def _quantize(self, model: Path, data: CalibrationData | None, batch: int, folder: Path, key: Key) -> None:
        from pth2om.progress import counted
        from pth2om.quantize import metric_search, stage

        table = self._table()
        # Outside of the artifact's folder, which goes when the build is interrupted: calibration is resumed from it.
        state = self.store.root / "resume" / f"{key.digest}.npz"
        state.parent.mkdir(parents=True, exist_ok=True)
        findings = list(data.findings) if data is not None else []
        if data is not None and data.name in [entry.name for entry in self.spec.datasets]:
            message = say("pipeline.calibrated-on-scored", dataset=data.name, images=data.images)
            findings.append(Finding("pipeline.calibrated-on-scored", "info", message))

        def search(plan: Any, first: Sequence[Feeds]) -> None:  # noqa: ANN401 - Plan, whose module imports onnx
            preprocess = self.data.preprocess()
            fed = preprocess.input or self.spec.inputs[0].name
            limit = table.max_drop or 0.0
            metric_search.search(plan, *self.data.scored(), preprocess, self.spec.postprocess, first, limit, batch, fed)

        task = stage.Task(
            model,
            table,
            self.spec.name,
            data,
            config=self.data.find(table.config) if table.config else None,
            given=self.data.find(table.onnx) if table.onnx else None,
            checkpoint=self.weights if self.has_torch else None,
            state=state,
            search=search if table.max_drop is not None else None,
            findings=findings,
        )
        with counted(f"{self.spec.name} int8", data.count if data else 1) as seen:
            stage.build(task, folder, seen and (lambda done, _: seen(done)))

    def _preprocess_findings(self, model: Path, config: AippConfig | None = None) -> list[Finding]:
        """Whether the spec's numbers look right, and whether host, AIPP and graph together normalize once."""
        preprocess = self.spec.preprocess
        if preprocess is None:
            return []
        from pth2om.aipp import diagnose
        from pth2om.data.preprocess import plausibility

        fed = preprocess.input or self.spec.inputs[0].name
        findings = [] if config else plausibility(preprocess)
        return [*findings, *diagnose(model, config, preprocess=preprocess, input_name=fed)]

    def _given_onnx(self) -> Path:
        if self.weights is None:
            raise self.weights_absent()
        return self.weights

    def _source_options(self) -> dict[str, Any]:
        source = self.spec.source
        return {
            "num_classes": source.num_classes,
            "arguments": source.arguments,
            "trust": self.spec.name in self.settings.trust,
        }

    def _key(
        self,
        stage: str,
        version: int,
        inputs: Mapping[str, str],
        options: Mapping[str, Any],
        libraries: Sequence[str],
        label: str,
    ) -> Key:
        return Key(
            stage,
            version,
            inputs,
            options,
            {"pth2om": version_of("pth2om")} | {name: version_of(name) for name in libraries},
            label,
        )

    def _session(self, name: str, make: Callable[[], Session]) -> Session:
        if name not in self._sessions:
            self._sessions[name] = make()
        return self._sessions[name]

    def _built(
        self,
        artifact: Artifact,
        file: Path,
        variant: str,
        stage: str,
        *,
        digest: str,
        provenance: Provenance,
        findings: Sequence[Mapping[str, Any]],
        details: Mapping[str, Any],
        command: Sequence[str] = (),
    ) -> Built:
        record = StageRecord(
            model=self.spec.name,
            variant=variant,
            stage=stage,
            digest=digest,
            key=artifact.key,
            cached=artifact.cached,
            seconds=artifact.seconds,
            provenance=provenance,
            command=tuple(command),
            findings=tuple(Finding.from_json(finding) for finding in findings),
            details=details,
        )
        # The first record says whether this run built it; later look-ups of the same run would all say "cached".
        record = self.records.setdefault((variant, stage), record)
        return Built(artifact, file, record)
