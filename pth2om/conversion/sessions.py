"""The sessions of one model: PyTorch, ONNX Runtime, the INT8 twins, and the compiled variants; opened once each."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pth2om.conversion.data import ModelData
from pth2om.conversion.settings import RunSettings
from pth2om.conversion.source import Source
from pth2om.conversion.stage import Built
from pth2om.errors import Absent, CrashError
from pth2om.session import Provenance, Remembering, Room, Session, TensorSpec, innermost
from pth2om.spec import Shape, Spec, Variant
from pth2om.store import version_of

if TYPE_CHECKING:
    import torch

    from pth2om.sessions.onnx import OnnxSession
    from pth2om.sessions.torch import TorchSession
    from pth2om.toolchain import Toolchain


class Sessions:
    """Open sessions by name.

    Args:
        source: checkpoint and net.
        data: the model's datasets, for what an AIPP variant is fed.
    """

    def __init__(self, source: Source, data: ModelData) -> None:
        self._source = source
        self._data = data
        self._open: dict[str, Session] = {}
        self._memories: dict[tuple[str, Provenance], Remembering] = {}
        self._room = Room()
        self._on_devices: list[Session] = []

    @property
    def _settings(self) -> RunSettings:
        return self._source.settings

    @property
    def _spec(self) -> Spec:
        return self._source.spec

    def torch(self) -> Session:
        """PyTorch, opened on its first run.

        Raises:
            Absent: the source is an ONNX file, or the weights are not here.
        """
        source = self._source
        if not source.has_torch:
            raise Absent("pipeline.no-torch", where=self._spec.name)
        digests = source.digests

        def make() -> TorchSession:
            from pth2om.sessions.torch import TorchSession

            parts = [digests, source.options(), version_of("torch")]
            return TorchSession(
                source.module,
                self._spec.inputs,
                self._spec.export.outputs,
                digest=hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(),
                threads=self._settings.threads,
                around=source.watching,
            )

        return self._session("torch", make)

    def int8_weights(self, built: Built) -> Session:
        """PyTorch with the INT8 weights and FP32 activations: what the FP32 checkpoint computes in the user's script.

        Args:
            built: the quantized artifact.

        Raises:
            Absent: the weights are not here, or are no state dict, so no such checkpoint was written.
        """
        from pth2om import checkpoint
        from pth2om.sessions.torch import TorchSession

        source, path = self._source, self.fp32_checkpoint(built)

        def load() -> torch.nn.Module:
            with source.watching():
                return checkpoint.load_module(source.spec, path, net=source.net).module

        return TorchSession(
            load,
            source.spec.inputs,
            source.spec.export.outputs,
            digest=f"{self.torch().digest}-{source.store.digest(path)}",
            threads=self._settings.threads,
            provenance=Provenance(INT8_WEIGHTS, version_of("torch"), "host"),
            around=source.watching,
        )

    def fp32_checkpoint(self, built: Built) -> Path:
        """The FP32 checkpoint with the INT8 weights that quantization wrote.

        Raises:
            Absent: the weights are not here, or are no state dict.
        """
        written = sorted(built.artifact.path.glob("int8_as_fp32.*"))
        if written:
            return written[0]
        if not self._source.has_torch:
            raise Absent("pipeline.no-torch", where=self._spec.name)
        if self._source.weights is None:
            raise self._source.absent()
        raise Absent("pipeline.no-fp32-checkpoint", where=self._spec.name)

    def onnx(self, shape: Shape, exported: Callable[[], Built]) -> Session:
        """ONNX Runtime over the exported file.

        Args:
            shape: images per inference, or one gear of the file.
            exported: makes the file where it is not open yet.
        """

        def make() -> OnnxSession:
            from pth2om.sessions.onnx import OnnxSession

            built = exported()
            providers = self._settings.providers
            # What another provider computes is another measurement.
            suffix = "" if providers == ("CPUExecutionProvider",) else f"@{','.join(providers)}"
            return OnnxSession(
                built.file, digest=built.record.digest + suffix, threads=self._settings.threads, providers=providers
            )

        # All gears have one file; sharing the session shares the memory.
        session = self._session(f"onnx-{shape.file}", make)
        return session if shape.gears is None else self._at_gear(f"onnx-{shape.name}", session, shape)

    def _at_gear(self, name: str, session: Session, shape: Shape) -> Session:
        from pth2om.sessions.gears import AtGear

        return self._session(name, lambda: AtGear(session, shape, self._spec.inputs))

    def torchscript(self, batch: int, made: Callable[[], Built]) -> Session:
        """The TorchScript program.

        Args:
            batch: images per inference.
            made: makes the file where it is not open yet.
        """

        def make() -> TorchSession:
            from pth2om.sessions.torchscript import torchscript_session

            built, spec = made(), self._spec
            return torchscript_session(
                built.file,
                spec.inputs,
                spec.export.outputs,
                digest=built.record.digest,
                threads=self._settings.threads,
            )

        return self._session(f"torchscript-bs{batch}", make)

    def fake_quant(self, shape: Shape, quantized: Callable[[], Built]) -> Session:
        """The INT8 model's twin of standard operators, in ONNX Runtime without fusion: the mathematical level.

        Args:
            shape: images per inference, or one gear of the file.
            quantized: makes the file where it is not open yet.
        """

        def make() -> OnnxSession:
            import numpy as np

            from pth2om.sessions.onnx import OnnxSession, ways_of

            built, threads = quantized(), self._settings.threads
            sizes = [TensorSpec(each.name, shape.of(each), np.dtype(each.dtype)) for each in self._spec.inputs]
            return OnnxSession(
                built.artifact.file("fake_quant.onnx"),
                digest=f"{built.record.digest}-fake-quant",
                threads=threads,
                optimize="none",
                provenance=Provenance("fake-quant", version_of("onnxruntime"), "host"),
                ways=ways_of(sizes, threads),
            )

        session = self._session(f"fake-quant-{shape.file}", make)
        return session if shape.gears is None else self._at_gear(f"fake-quant-{shape.name}", session, shape)

    def om(self, variant: Variant, built: Built, toolchain: Toolchain, *, alone: bool = False) -> dict[str, Session]:
        """The compiled variant, by band: ``fused`` and ``unfused`` on the emulator, ``device`` on an NPU.

        Args:
            variant: what is run.
            built: its OM.
            toolchain: opens it.
            alone: whether the OM is the static twin of one gear.
        """
        compiled = toolchain.compiled(built.artifact.path)

        def make(band: str) -> Session:
            session: Session
            if toolchain.provenance.ground == "emulated":
                session = toolchain.open(compiled, band)
            else:
                from pth2om.sessions.reopening import Reopening

                session = Reopening(functools.partial(toolchain.open, compiled, band))
                self._on_devices.append(session)
            if not variant.aipp:
                return session
            from pth2om.data.pixels import PixelFed

            preprocess, table = self._data.preprocess(), self._spec.aipp
            if table.config is None:
                return PixelFed(session, preprocess, self._spec.fed_input, table.input_format)
            from pth2om.aipp import read_config
            from pth2om.aipp.csc import settings

            given = settings(read_config(self._spec.folder / table.config).op(0), preprocess.size)
            return PixelFed(session, preprocess, self._spec.fed_input, given.input_format, x_first=given.swap_ax)

        name = f"{variant.name}-alone" if alone else variant.om
        found = {band: self._session(f"om-{name}-{band}", functools.partial(make, band)) for band in compiled.bands}
        if toolchain.provenance.ground == "emulated":
            _in_order([innermost(session) for session in found.values()])
        if variant.gears is None or alone:
            return found
        return {
            band: self._at_gear(f"om-{variant.name}-{band}", session, variant.shape) for band, session in found.items()
        }

    def remembering(self, session: Session) -> Session:
        """``session`` with a memory of its answers: several questions ask the same of it.

        Sessions of one digest and one tool compute the same, so they share it; an NPU's answers are its own, whatever
        file it was given.
        """
        name = session.digest, session.provenance
        if name not in self._memories:
            self._memories[name] = Remembering(session, self._room)
        return self._memories[name]

    def rest(self) -> None:
        """Close those that run on a device, all of them even if one fails; each opens again when it runs.

        Raises:
            CrashError: a worker crashed or hung while it left.
        """
        failed: CrashError | None = None
        for session in self._on_devices:
            try:
                session.close()
            except CrashError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Close all of them."""
        for session in self._open.values():
            session.close()
        self._open.clear()
        self._memories.clear()
        self._room = Room()
        self._on_devices.clear()

    def _session(self, name: str, make: Callable[[], Session]) -> Session:
        if name not in self._open:
            self._open[name] = make()
        return self._open[name]


def _in_order(bands: Sequence[Session]) -> None:
    """Who runs one band runs the next: that one is opened while the first computes."""
    from pth2om.toolchain.emulator.session import EmulatedOmSession

    for first, second in itertools.pairwise(bands):
        if isinstance(first, EmulatedOmSession) and isinstance(second, EmulatedOmSession):
            first.before(second)


INT8_WEIGHTS = "int8-weights"
"""What evidence calls PyTorch with INT8 weights and FP32 activations."""
