"""An OM that runs on a board, as a session."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pth2om.errors import LostError, ToolchainError
from pth2om.session import Array, Feeds, Provenance, TensorSpec
from pth2om.toolchain import CompiledModel
from pth2om.toolchain.cann.agent.frames import ahead
from pth2om.toolchain.cann.ways import described, files_of

if TYPE_CHECKING:
    from pth2om.toolchain.cann.board import Board
    from pth2om.toolchain.cann.boards import Boards

_NUMBERS = itertools.count()
_MOST_TIMES = 10_000


class CannSession:
    """Runs a compiled model on whichever board is free, within a lease.

    The first run takes a board, sends the OM there if its content is not there yet, and loads it in a new worker;
    `close` ends that worker and gives the board back, and the next run begins anew.

    Args:
        boards: to choose from.
        compiled: what runs.
        provenance: what evidence calls it.
        by: how it is run, one of `pth2om.toolchain.WAYS`.

    Raises:
        ToolchainError: this way cannot run it.
    """

    def __init__(self, boards: Boards, compiled: CompiledModel, provenance: Provenance, by: str = "acl") -> None:
        self._boards = boards
        self._compiled = compiled
        self._provenance = provenance
        self._board: Board | None = None
        self._name = f"{os.getpid()}-{next(_NUMBERS)}"
        self._inputs = tuple(TensorSpec.from_json(entry) for entry in compiled.details["inputs"])
        self._outputs = tuple(TensorSpec.from_json(entry) for entry in compiled.details["outputs"])
        self._way: dict[str, Any] = {}
        if by != "acl":
            self._way = described(compiled, by)
        self.times: deque[Mapping[str, int]] = deque(maxlen=_MOST_TIMES)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the OM records, under the ONNX file's names; sizes in which gears differ are None."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Likewise."""
        return self._outputs

    @property
    def digest(self) -> str:
        """Of the compiled model."""
        return self._compiled.digest

    @property
    def provenance(self) -> Provenance:
        """The board's."""
        return self._provenance

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """One inference.

        Raises:
            LostError: the connection was lost, or no board became free in time.
            CrashError: the worker crashed or hung, or the device reported an error; the next run gets a new worker.
            ToolchainError: the feeds do not fit the OM.
        """
        board = self._ready()
        outputs, times = board.receive_run(self._name, board.send_run(self._name, feeds))
        self.times.append(times)
        return self._named(outputs)

    def stream(self, each: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
        """Many inferences, in order; the inputs of the next travel while one is computed.

        Raises:
            ToolchainError: see `run`; where a connection was lost, those that had no answer yet are sent once more.
        """
        waiting: list[tuple[int, Feeds]] = []
        source = iter(each)
        exhausted = False
        room = 1
        while True:
            board = self._ready()
            try:
                while not exhausted and len(waiting) < room:
                    feeds = next(source, None)
                    if feeds is None:
                        exhausted = True
                    else:
                        waiting.append((-1, feeds))
                        room = ahead(sum(array.nbytes for array in feeds.values()))
                        waiting[-1] = (board.send_run(self._name, feeds), feeds)
                if not waiting:
                    return
                outputs, times = board.receive_run(self._name, waiting[0][0])
            except LostError:
                board = self._ready()
                waiting = [(board.send_run(self._name, feeds), feeds) for _, feeds in waiting]
                outputs, times = board.receive_run(self._name, waiting[0][0])
            waiting.pop(0)
            self.times.append(times)
            yield self._named(outputs)

    def device_times(self) -> list[int]:
        """Nanoseconds of ``acl.mdl.execute`` in each run since this was asked last, without the copies.

        Empty where the way of running does not tell them.
        """
        found = [int(times["execute"]) for times in self.times if "execute" in times]
        self.times.clear()
        return found

    def readings(self) -> list[Mapping[str, Any]]:
        """Clocks, power, memory and processes of each chip now, as the driver reports them; empty where it does not."""
        board = self._ready()
        answer, _ = board.ask({"kind": "readings"})
        chips = answer["readings"].get("chips")
        return [chip for chip in chips if isinstance(chip, dict)] if isinstance(chips, list) else []

    def close(self) -> None:
        """End the device job.

        Raises:
            CrashError: the worker crashed or hung while it left.
        """
        board, self._board = self._board, None
        if board is not None and (board.has(self._name) or board.is_idle):
            board.rest()

    def __enter__(self) -> CannSession:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _ready(self) -> Board:
        """A leased board on which the model is loaded."""
        if self._board is None or not self._board.has(self._name):
            self._board = board = self._boards.free()
            main, files = files_of(self._compiled)
            try:
                board.load(self._name, files, main, self._way)
            except BaseException:  # an interrupt too: the lease is given back
                self._board = None
                if board.is_idle:
                    with contextlib.suppress(ToolchainError):
                        board.rest()
                raise
        return self._board

    def _named(self, outputs: list[tuple[str, Array]]) -> dict[str, Array]:
        if len(outputs) != len(self._outputs):
            where, found = str(self._compiled.path), len(outputs)
            raise ToolchainError("cann.output-count", where=where, found=found, wanted=len(self._outputs))
        named = {}
        for spec, (_, array) in zip(self._outputs, outputs, strict=True):
            known = [given if size is None else size for size, given in zip(spec.shape, array.shape, strict=False)]
            if array.dtype != spec.dtype or list(array.shape) != known or array.ndim != len(spec.shape):
                came, wanted = (f"{each.dtype.name} {tuple(each.shape)}" for each in (array, spec))
                where = str(self._compiled.path)
                raise ToolchainError("cann.output-form", where=where, name=spec.name, found=came, wanted=wanted)
            named[spec.name] = array
        return named
