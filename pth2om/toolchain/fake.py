"""A scripted toolchain of ground ``double``: for tests of whoever drives a toolchain, where there is no NPU.

::

    def answer(call: Call) -> Mapping[str, Array]:
        if call.number == 3:
            raise LostError("toolchain.lost", reason="the board was unplugged")
        return plain(call)

    undo = register("fake", FakeToolchain.maker(answer))

It compiles nothing: the ONNX file is kept as it is, and by default ONNX Runtime runs it. Whatever it measures is marked
as a double's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pth2om import __version__
from pth2om.errors import ToolchainError
from pth2om.session import Array, Feeds, Provenance, TensorSpec
from pth2om.sessions.onnx import OnnxSession
from pth2om.store import file_digest
from pth2om.toolchain import DEVICE, CompiledModel

if TYPE_CHECKING:
    from pth2om.ascend.atc_options import AtcOptions
    from pth2om.ascend.target import Target
    from pth2om.evidence import Finding
    from pth2om.toolchain.choosing import Maker


@dataclass(frozen=True)
class Call:
    """One inference that a `FakeToolchain` is asked for.

    Attributes:
        model: the ONNX file behind the model.
        feeds: its inputs.
        number: how many inferences this toolchain was asked for before, in all its sessions.
    """

    model: Path
    feeds: Feeds
    number: int


Answer = Callable[[Call], Mapping[str, Array]]


def plain(call: Call) -> dict[str, Array]:
    """What ONNX Runtime computes."""
    with OnnxSession(call.model, threads=1) as session:
        return session.run(call.feeds)


@dataclass
class FakeToolchain:
    """See the module.

    Attributes:
        target: what it pretends to compile for.
        answer: computes an inference, or raises what a board would.
        refusals: what its compiler refuses, see `Toolchain.refuses`.
        failure: raised by `compile`; None: it compiles.
        compiler: see `Toolchain.compiler`.
        device: see `Toolchain.device`.
        compiled_models: how many models were compiled.
        opened: how many sessions were opened.
        calls: how many inferences were asked for.
    """

    target: Target
    answer: Answer = plain
    refusals: Sequence[Finding] = ()
    failure: ToolchainError | None = None
    compiler: Mapping[str, str] = field(default_factory=lambda: {"name": "fake", "version": __version__})
    device: Mapping[str, str] = field(default_factory=dict)
    compiled_models: int = 0
    opened: int = 0
    calls: int = 0

    @classmethod
    def maker(cls, answer: Answer = plain) -> Maker:
        """What `pth2om.toolchain.choosing.register` takes."""

        def make(target: Target, *, threads: int | None, join: object, access: object) -> FakeToolchain:  # noqa: ARG001 - all makers are called alike
            return cls(target, answer)

        return make

    @property
    def provenance(self) -> Provenance:
        """A double, for the target's SoC."""
        return Provenance("fake", __version__, "double", self.target.soc)

    def refuses(self, model: Path, options: AtcOptions) -> Sequence[Finding]:  # noqa: ARG002 - a Toolchain's
        """The `refusals`."""
        return self.refusals

    def compile(self, model: Path, options: AtcOptions, destination: Path) -> CompiledModel:  # noqa: ARG002 - the protocol's
        """Keep the model, with the data beside it.

        Raises:
            ToolchainError: the `failure`.
        """
        if self.failure is not None:
            raise self.failure
        self.compiled_models += 1
        for file in model.parent.glob(f"{model.name}*"):
            shutil.copyfile(file, destination / file.name)
        path = destination / model.name
        return CompiledModel(path, file_digest(path), self.provenance).write(destination)

    def compiled(self, folder: Path) -> CompiledModel:
        """See `Toolchain.compiled`."""
        return CompiledModel.read(folder)

    def open(self, compiled: CompiledModel, band: str) -> FakeSession:
        """See `Toolchain.open`.

        Raises:
            ToolchainError: there is no such band.
        """
        if band != DEVICE:
            raise ToolchainError("emulator.unknown-band", where=str(compiled.path), band=band, bands=DEVICE)
        self.opened += 1
        return FakeSession(self, compiled)

    def close(self) -> None:
        """Nothing is held."""


class FakeSession:
    """Answers by the toolchain's script.

    Args:
        toolchain: whose script.
        compiled: what runs.
    """

    def __init__(self, toolchain: FakeToolchain, compiled: CompiledModel) -> None:
        self._toolchain = toolchain
        self._compiled = compiled
        self._onnx = OnnxSession(compiled.path, threads=1)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The graph's."""
        return self._onnx.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The graph's."""
        return self._onnx.outputs

    @property
    def digest(self) -> str:
        """Of the compiled model."""
        return self._compiled.digest

    @property
    def provenance(self) -> Provenance:
        """The toolchain's."""
        return self._toolchain.provenance

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """What the script answers.

        Raises:
            Pth2omError: what the script raises.
        """
        call = Call(self._compiled.path, feeds, self._toolchain.calls)
        self._toolchain.calls += 1
        return dict(self._toolchain.answer(call))

    def close(self) -> None:
        """Free ONNX Runtime."""
        self._onnx.close()

    def __enter__(self) -> FakeSession:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
