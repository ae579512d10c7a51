"""An emulated OM that runs."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from pth2om.errors import ToolchainError
from pth2om.onnxfile.runtime import open_runtime, run_runtime, runtime_version
from pth2om.session import Array, Feeds, TensorSpec
from pth2om.sessions.onnx import OnnxSession, ways_of
from pth2om.toolchain import CompiledModel
from pth2om.toolchain.emulator.numerics.compiled import Compiled, read_compiled

_AHEAD = 64 << 20  # bytes of a model file; two larger ones are not opened at once, which takes memory


class EmulatedOmSession(OnnxSession):
    """One band of a model that `compile_numerics` wrote.

    Args:
        compiled: the record, the toolchain's `CompiledModel`, or the folder.
        band: ``fused`` or ``unfused``.
        threads: of all its inferences at a time; None: what ``OMP_NUM_THREADS`` says, else one for each core.

    Raises:
        ToolchainError: there is no emulated model, or no such band.
    """

    def __init__(
        self, compiled: Compiled | CompiledModel | Path, band: str = "fused", *, threads: int | None = None
    ) -> None:
        if isinstance(compiled, CompiledModel):
            compiled = compiled.path
        record = read_compiled(compiled) if isinstance(compiled, Path) else compiled
        chosen = record.band(band)
        super().__init__(
            record.folder / chosen.file,
            digest=chosen.digest,
            threads=threads,
            provenance=record.provenance,
            ways=ways_of(record.inputs, threads),
        )
        self.compiled = record
        self.band = band
        self._next: EmulatedOmSession | None = None

    @functools.cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The graph's inputs, known without opening it."""
        return self.compiled.inputs

    @functools.cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The graph's outputs, known without opening it."""
        return self.compiled.outputs

    def before(self, following: EmulatedOmSession) -> None:
        """Name the session that will run after this one: it is opened in a thread while this one is opened and runs."""
        self._next = following if following.digest != self.digest else None

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """One inference; see `OnnxSession.run`.

        Raises:
            ToolchainError: also when this ONNX Runtime drops the roundings.
        """
        _assert_rounding()
        return super().run(feeds)

    def _open(self) -> Any:  # noqa: ANN401 - onnxruntime has no types
        from pth2om.toolchain.emulator.layout import blocked_model

        following, self._next = self._next, None
        if following is not None and self.path.stat().st_size <= _AHEAD:
            following.open_ahead()
        rounds = self.compiled.band(self.band).counts.get("rounded", 0)
        blocked = blocked_model(self.path, self._threads) if rounds else None
        if blocked is None:
            return super()._open()
        # Everything was optimized when the blocked model was made.
        return open_runtime(blocked, threads=self._threads, optimize=False)


@functools.cache
def _assert_rounding() -> None:
    """Once a process: this ONNX Runtime must round where a pair of Casts says so, as NumPy does.

    Older releases took such pairs for superfluous and removed them.

    Raises:
        ToolchainError: it does not.
    """
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["r"]),
            helper.make_node("Cast", ["r"], ["h"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["h"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["f", "f"], ["y"]),
        ],
        "rounding",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    session = open_runtime(model.SerializeToString(), threads=1)
    x = np.array([1 + 2**-11, 1 + 3 * 2**-11, 3e-8, 2.9e-8, 6.1e-5, 65519.0, 65520.0, 1 / 3], np.float32)
    with np.errstate(over="ignore", under="ignore"):
        wanted = x.astype(np.float16).astype(np.float32) ** 2
    if not np.array_equal(run_runtime(session, {"x": x})["y"], wanted):
        raise ToolchainError("emulator.no-rounding", version=runtime_version())
