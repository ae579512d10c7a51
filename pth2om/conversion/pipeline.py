"""One model's way from spec to sessions; the pytest fixtures, the CLI verbs and the GUI all call this.

Nothing heavy is imported before a stage has to be built: a run that finds all in the store imports neither torch nor
onnx.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.conversion.data import ModelData
from pth2om.conversion.int8_stage import Int8Stage
from pth2om.conversion.om_stage import AippStage, OmStage, atc_options, lower_opsets, lowered
from pth2om.conversion.onnx_stage import OnnxStage
from pth2om.conversion.sessions import Sessions
from pth2om.conversion.settings import RunSettings
from pth2om.conversion.source import CheckpointStage, Source
from pth2om.conversion.stage import Built, Conversion, built, key_of, run
from pth2om.conversion.torchscript_stage import TorchScriptStage
from pth2om.errors import Absent, AtcError
from pth2om.escaping import shell_line
from pth2om.language import say
from pth2om.session import Session
from pth2om.spec import Shape, Spec, Variant
from pth2om.store import Artifact, Key, Store

if TYPE_CHECKING:
    import torch

    from pth2om.ascend.atc_options import AtcOptions
    from pth2om.evidence import Finding, StageRecord
    from pth2om.toolchain import Toolchain

    Records = MutableMapping[tuple[str, str], StageRecord]

__all__ = ["Built", "Pipeline", "RunSettings"]


class Pipeline:
    """The stages and sessions of one model.

    Args:
        spec: the model.
        settings: the run.
        store: where artifacts are kept.

    Attributes:
        source: the model's checkpoint, net and module.
        data: the model's datasets, samples and calibration data.
        sessions: what is open.
        records: (variant, stage) -> record of each stage of this run.
    """

    def __init__(self, spec: Spec, settings: RunSettings, store: Store) -> None:
        self.spec = spec
        self.settings = settings
        self.store = store
        self.source = Source(spec, settings, store)
        self.data = ModelData(spec, settings, store)
        self.sessions = Sessions(self.source, self.data)
        self.records: dict[tuple[str, str], StageRecord] = {}
        self._made: dict[str, Built] = {}

    # --- where it comes from ------------------------------------------------------------------------------------

    @property
    def weights(self) -> Path | None:
        """See `Source.weights`."""
        return self.source.weights

    @property
    def seeded(self) -> bool:
        """See `Source.seeded`."""
        return self.source.seeded

    @property
    def source_digests(self) -> dict[str, str]:
        """See `Source.digests`."""
        return self.source.digests

    @property
    def net(self) -> Path | None:
        """See `Source.net`."""
        return self.source.net

    @property
    def has_torch(self) -> bool:
        """See `Source.has_torch`."""
        return self.source.has_torch

    def weights_absent(self) -> Absent:
        """See `Source.absent`."""
        return self.source.absent()

    def module(self) -> torch.nn.Module:
        """See `Source.module`."""
        return self.source.module()

    # --- stages -------------------------------------------------------------------------------------------------

    def checkpoint(self) -> Built:
        """Read the checkpoint, fit it to its net, and tell what was found."""
        return self._once("checkpoint", lambda: self._built(CheckpointStage(self.source)))

    def onnx_key(self, shape: int | Shape) -> Key:
        """What the exported ONNX of this batch size, or of all gears, depends on."""
        return key_of(OnnxStage(self.source, _shape(shape)))

    def onnx(self, shape: int | Shape) -> Built:
        """Export (or take the spec's ONNX), cleaned up for ATC.

        Args:
            shape: the batch size, or one gear: all gears have one file.
        """
        return self._once(f"onnx {_shape(shape)}", lambda: self._built(OnnxStage(self.source, _shape(shape))))

    def _built(self, stage: Conversion[Any]) -> Built:
        return built(stage, self.store, self.spec.name, self.records)

    def _once(self, asked: str, make: Callable[[], Built]) -> Built:
        """What was made before, as long as its files are as they were: many tests ask for the same.

        Args:
            asked: the stage and all that the caller chose for it; what the model and the run choose stays.
            make: finds or builds it.
        """
        known = self._made.get(asked)
        if known is None or not self.store.holds(known.artifact):
            known = self._made[asked] = make()
        return known

    def torchscript(self, batch: int) -> Built:
        """The TorchScript program at ``batch``, compared with PyTorch.

        Raises:
            ExportError: no program can be made of the net.
        """
        return self._once(f"torchscript {batch}", lambda: self._built(TorchScriptStage(self.source, batch)))

    def quantized(self, shape: int | Shape) -> Built:
        """INT8: calibrate the exported ONNX, and write the deploy model with its twins.

        Args:
            shape: the batch size, or one gear: all gears have one deploy model, calibrated at one of them.

        Raises:
            Absent: the calibration images are not here.
            QuantizeError: the model cannot be quantized.
        """
        return self._once(f"int8 {_shape(shape)}", lambda: self._quantized(shape, self.onnx(shape), self.records))

    def _quantized(self, shape: int | Shape, exported: Built, records: Records) -> Built:
        calibration = None if self.spec.quantize.onnx is not None else self.data.calibration(_shape(shape))
        stage = Int8Stage(self.source, self.data, exported, _shape(shape), calibration)
        return built(stage, self.store, self.spec.name, records)

    def compiled_from(self, variant: Variant) -> Built:
        """What a variant is compiled from: the ONNX, or for int8 the deploy model."""
        return self.quantized(variant.shape) if variant.quantized else self.onnx(variant.shape)

    def aipp(self, *, sized: bool = True) -> Artifact:
        """The AIPP configuration: the spec's own file, or derived from its ``[preprocess]``.

        Args:
            sized: whether a derived one names the size of the picture, which gears of the picture forbid.

        Raises:
            AippError: AIPP cannot do what the spec's preprocessing does.
        """
        return run(AippStage(self.source, self.data, sized=sized), self.store).artifact

    def atc_options(self, variant: Variant, model: Path) -> AtcOptions:
        """What atc is asked for this variant; the same for the emulator and the real tool."""
        sized = variant.gears is None or not variant.gears.image
        aipp = self.aipp(sized=sized).file("aipp.cfg") if variant.aipp else None
        return atc_options(self.spec, self.settings, variant, model, aipp)

    def toolchain(self) -> Toolchain:
        """The toolchain of the run.

        Raises:
            Absent: no SoC was asked for.
            ToolchainError: the toolchain is not installed.
        """
        if self.settings.soc is None:
            raise Absent("pipeline.no-soc", where=self.spec.name)
        from pth2om.quantize import join_int8
        from pth2om.toolchain.choosing import choose

        settings = self.settings
        access = settings.access
        return choose(settings.toolchain, self.source.target, threads=settings.threads, join=join_int8, access=access)

    def device(self) -> Mapping[str, str]:
        """The parts of the toolchain that a variant's measurements depend on; empty where no OM runs on a device."""
        return {} if self.settings.soc is None else self.toolchain().device

    def om(self, variant: Variant) -> Built:
        """Compile one variant.

        Raises:
            Absent: no SoC was asked for.
            AtcError: what atc refuses.
        """
        asked = f"om {variant.model_dump_json()}"
        return self._once(asked, lambda: self._compiled(variant, lambda options: options, self.records))

    def _compiled(self, variant: Variant, asked: Callable[[AtcOptions], AtcOptions], records: Records) -> Built:
        """Compile; where atc has no parser for an operator at the export's opset, from an export at a lower one.

        The records of that export go nowhere: what is said of the ONNX file is said of the spec's own opset, whoever
        asks first. The OM's record names the lower opset and the file's digest.
        """
        toolchain, model = self.toolchain(), self.compiled_from(variant)
        noticed: tuple[Finding, ...] = ()
        while True:
            options = asked(self.atc_options(variant, model.file))
            stage = OmStage(self.source, variant, model, options, toolchain, noticed)
            try:
                return built(stage, self.store, self.spec.name, records)
            except AtcError as error:
                opsets = lower_opsets(self.source, error)
                if not opsets:
                    raise
                exported = built(OnnxStage(self.source, variant.shape, opsets), self.store, self.spec.name, {})
                noticed = (*noticed, lowered(error, exported))
                model = self._quantized(variant.shape, exported, {}) if variant.quantized else exported

    def plan(self, variant: Variant) -> list[str]:
        """What a dry run prints for a variant: the files it starts from and the exact atc command."""
        weights = str(self.weights) if self.weights else say("pipeline.plan-absent").render()
        with self.source.dry():
            model = self.store.place(self.onnx_key(variant.shape)) / "model.onnx"
        files = {"weights": weights, "onnx": str(model)}
        lines = [say(f"pipeline.plan-{name}", path=path).render() for name, path in files.items()]
        if self.settings.soc is None:
            return [*lines, say("pipeline.no-soc").render()]
        if variant.quantized:
            model = Path("deploy.onnx")  # its place follows from the ONNX, which a dry run does not export
            lines.append(say("pipeline.plan-int8", images=self.spec.quantize.images, model=model.name).render())
        return [*lines, shell_line(self.atc_options(variant, model).command_line())]

    # --- sessions -----------------------------------------------------------------------------------------------

    def torch_session(self) -> Session:
        """See `Sessions.torch`."""
        return self.sessions.torch()

    def reference_session(self) -> Session:
        """The original model, which the others must score like: PyTorch, or the ONNX file that the spec starts from.

        Raises:
            Absent: the weights are not here.
        """
        return self.torch_session() if self.has_torch else self.onnx_session(self.spec.batches[0])

    def onnx_session(self, shape: int | Shape) -> Session:
        """ONNX Runtime over the exported file; see `onnx`."""
        return self.sessions.onnx(_shape(shape), lambda: self.onnx(shape))

    def torchscript_session(self, batch: int) -> Session:
        """The TorchScript program, run by PyTorch."""
        return self.sessions.torchscript(batch, lambda: self.torchscript(batch))

    def fake_quant_session(self, shape: int | Shape) -> Session:
        """See `Sessions.fake_quant`."""
        return self.sessions.fake_quant(_shape(shape), lambda: self.quantized(shape))

    def int8_weights_session(self, quantized: Built) -> Session:
        """See `Sessions.int8_weights`."""
        return self.sessions.int8_weights(quantized)

    def om_sessions(self, variant: Variant) -> dict[str, Session]:
        """The compiled variant, by band: ``fused`` and ``unfused`` on the emulator, ``device`` on an NPU."""
        return self.sessions.om(variant, self.om(variant), self.toolchain())

    def twin_sessions(self, variant: Variant) -> dict[str, Session]:
        """An OM compiled from the same ONNX as a variant with gears, for its gear alone; by band."""
        sizes = ";".join(f"{e.name}:{','.join(map(str, variant.shape.of(e)))}" for e in self.spec.inputs)

        def alone(options: AtcOptions) -> AtcOptions:
            return replace(
                options,
                input_shape=sizes,
                output=f"{self.spec.name}-{variant.name}",
                dynamic_batch_size=None,
                dynamic_image_size=None,
                dynamic_dims=None,
            )

        # Its record goes nowhere: the evidence is about the OM with gears.
        return self.sessions.om(variant, self._compiled(variant, alone, {}), self.toolchain(), alone=True)

    def remembering(self, session: Session) -> Session:
        """See `Sessions.remembering`."""
        return self.sessions.remembering(session)

    def rest(self) -> None:
        """End the device job: its worker leaves, and the board is given back; the next run begins another.

        Raises:
            CrashError: the worker crashed or hung while it left.
        """
        self.sessions.rest()

    def close(self) -> None:
        """Close the sessions and drop the module."""
        self.sessions.close()
        self.source.close()


def _shape(shape: int | Shape) -> Shape:
    return Shape(shape) if isinstance(shape, int) else shape
