"""The real CANN: atc and an NPU on this machine, or on boards over SSH.

One path for both: an agent (`pth2om.toolchain.cann.agent`) runs beside CANN, here as a child, on a board behind one ssh
process. ``device`` is the ground of a machine that proves its NPU; whatever else runs an OM is a ``double``.
"""

from __future__ import annotations

import atexit
import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pth2om.errors import LostError, ToolchainError
from pth2om.session import Provenance
from pth2om.toolchain import DEVICE, NO_OM, WAYS, Access, CompiledModel
from pth2om.toolchain.cann.board import Board, Facts, Limits
from pth2om.toolchain.cann.boards import Boards, busy
from pth2om.toolchain.cann.place import Place

if TYPE_CHECKING:
    from pth2om.ascend.atc_options import AtcOptions
    from pth2om.ascend.target import Target
    from pth2om.evidence import Finding
    from pth2om.toolchain.cann.session import CannSession

T = TypeVar("T")
_CUT = ("cann.lost", "cann.ssh-")
HERE, BOARD = "here", "board"
"""The places to compile that a user may name."""

_OPEN: dict[str, Board] = {}
"""The machines that this process knows; a toolchain is made anew for each question, its connections are not."""


def machine(url: str = "", limits: Limits | None = None) -> Board:
    """The board behind ``url``, or this machine; one connection for the whole process.

    Raises:
        ToolchainError: that is no ``ssh://user@host:port``.
    """
    if url not in _OPEN:
        _OPEN[url] = Board(Place.of(url) if url else Place(), limits)
    return _OPEN[url]


def known() -> dict[str, dict[str, Any]]:
    """What this process has read of its machines, by their URL, for `remember` in another one of the same run."""
    return {url: asdict(board.known) for url, board in _OPEN.items() if board.known is not None}


def remember(found: Mapping[str, Mapping[str, Any]]) -> None:
    """Take over what `known` told; a machine that was started anew since is still noticed."""
    for url, facts in found.items():
        rows: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()
        }
        machine(url).known = Facts(**rows)


@atexit.register
def close_all() -> None:
    """End every connection."""
    while _OPEN:
        _, board = _OPEN.popitem()
        with contextlib.suppress(OSError, ToolchainError):
            board.close()


def survey(access: Access) -> Facts:
    """What the machines of a run are; read once, before anything runs.

    Raises:
        LostError: one cannot be reached.
        ToolchainError: they differ, or an agent cannot run there.
    """
    toolchain_boards = Boards([machine(url) for url in access.boards or ("",)], Limits().wait)
    toolchain_boards.check()
    return toolchain_boards.all[0].facts


class CannToolchain:
    """Compiles with atc, and runs OMs through ``acl``.

    Args:
        target: SoC and CANN.
        access: the machines.
        limits: how long things may take.
    """

    def __init__(self, target: Target, access: Access | None = None, limits: Limits | None = None) -> None:
        self.target = target
        self.limits = limits or Limits()
        self._access = access or Access()
        self._boards = Boards([machine(url, limits) for url in self._access.boards or ("",)], self.limits.wait)

    @property
    def facts(self) -> Facts:
        """Of the machines that run.

        Raises:
            LostError: one cannot be reached.
            ToolchainError: they differ, or have another SoC than was asked for.
        """
        self._boards.check()
        found = self._boards.all[0].facts
        if self.target.soc and found.soc and found.soc != self.target.soc:
            name = self._boards.all[0].name
            raise ToolchainError("cann.other-soc", where=name, found=found.soc, asked=self.target.soc)
        return found

    @property
    def provenance(self) -> Provenance:
        """CANN of the machine that runs, and by what it runs where not by ``acl``: ``cann/msame``.

        Its ground is ``device`` only if it proves its NPU.
        """
        found, by = self.facts, self._access.run_by
        name = "cann" if by == WAYS[0] else f"cann/{by}"
        return Provenance(name, found.cann or self.target.cann, found.ground, self.target.soc)

    @property
    def compiler(self) -> Mapping[str, str]:
        """CANN and processor of the machine that compiles, its kernels, and operator packages."""
        provider = self._access.run_by == NO_OM
        found = self.facts if provider else self._compiler().facts
        name = NO_OM if provider else "cann"
        return {"name": name, **self.target.compiler, "cann": found.cann, "arch": found.arch}

    @property
    def device(self) -> Mapping[str, str]:
        """SoC, driver and CANN of the machines that run, and how an OM is run."""
        found = self.facts
        known = {"soc": found.soc, "driver": found.driver, "cann": found.cann, "ground": found.ground}
        return {**known, "by": self._access.run_by}

    def _compiler(self) -> Board:
        """The machine that compiles.

        Raises:
            ToolchainError: none can.
        """
        asked, soc = self._access.compile_at, self.target.soc or ""
        local, first = machine(), self._boards.all[0]
        if asked == BOARD:
            return first
        if asked == HERE or not self._access.boards:
            if not local.facts.has_atc:
                raise ToolchainError("cann.no-program", where=local.name, program="atc")
            return local
        return local if local.facts.compiles_for(soc) else first

    @contextlib.contextmanager
    def _job(self, board: Board) -> Iterator[None]:
        """Within this the board is ours; it is given back unless it was ours before.

        A machine of the user's own without an NPU is nobody's to wait for: its compiles run side by side.
        """
        if board.place.is_here and not board.facts.nodes:
            yield
            return
        before = board.is_leased
        holder = board.lease(self.limits.wait)
        if holder is not None:
            raise busy(board.name, self.limits.wait, holder)
        try:
            yield
        finally:
            if not before:
                board.rest()

    def refuses(self, model: Path, options: AtcOptions) -> Sequence[Finding]:
        """What ``atc --mode=3`` refuses: operators without a parser, names that are not unique, a damaged file.

        Where ONNX Runtime compiles by itself no atc is asked; what its provider cannot do is refused.

        Raises:
            CrashError: it was ended before it answered.
            ToolchainError: it cannot be asked.
        """
        from pth2om.evidence import Finding
        from pth2om.toolchain.cann.compiling import Asked, prechecked
        from pth2om.toolchain.cann.ways import refusal

        if self._access.run_by == NO_OM:
            refused = refusal(model, options)
            return [] if refused is None else [Finding(refused.message.key, "error", refused.message)]

        def check(board: Board, folder: str) -> Sequence[Finding]:
            asked = Asked(model, replace(options, mode=3), self.limits.compile, self._packages(folder))
            return prechecked(board, asked, Path(folder))

        return self._on(self._compiler(), check)

    def compile(self, model: Path, options: AtcOptions, destination: Path) -> CompiledModel:
        """See `Toolchain.compile`: the OM is read back and checked against what was asked for.

        Raises:
            AtcError: atc refuses, or the OM is not what was asked for.
            CrashError: atc was ended: by a signal, the time limit, or for want of memory.
            ToolchainError: there is no atc, or the machine cannot be used.
        """
        from pth2om.toolchain.cann.compiling import Asked, compiled
        from pth2om.toolchain.cann.ways import gathered

        provenance = self.provenance
        if self._access.run_by == NO_OM:  # ONNX Runtime compiles by itself, where it runs
            return gathered(Asked(model, options, self.limits.compile), destination, provenance)

        def compile_there(board: Board, folder: str) -> CompiledModel:
            asked = Asked(model, options, self.limits.compile, self._packages(folder))
            return compiled(board, asked, destination, provenance)

        return self._on(self._compiler(), compile_there)

    def _on(self, board: Board, work: Callable[[Board, str], T]) -> T:
        """Do a device job of atc with a folder of its own; once more where the connection was lost in it.

        Raises:
            LostError: it was lost twice, or the board is held by somebody else.
        """
        for last in (False, True):
            try:
                with tempfile.TemporaryDirectory() as folder, self._job(board):
                    return work(board, folder)
            except LostError as error:
                if last or board.place.is_here or not error.message.key.startswith(_CUT):
                    raise
        raise AssertionError("unreachable")

    def _packages(self, scratch: str) -> Sequence[Path]:
        """The folders of the model's operator packages; their content is part of `compiler`."""
        from pth2om.toolchain.cann.packages import vendor_folders

        return vendor_folders((found.path for found in self.target.operators.packages.values()), Path(scratch))

    def compiled(self, folder: Path) -> CompiledModel:
        """See `Toolchain.compiled`."""
        return CompiledModel.read(folder)

    def open(self, compiled: CompiledModel, band: str) -> CannSession:
        """See `Toolchain.open`; no machine is taken before the first run.

        Raises:
            ToolchainError: there is no such band, or no such way of running.
        """
        from pth2om.toolchain.cann.session import CannSession

        if band != DEVICE:
            raise ToolchainError("emulator.unknown-band", where=str(compiled.path), band=band, bands=DEVICE)
        if self._access.run_by not in WAYS:
            raise ToolchainError("cann.no-way", by=self._access.run_by, ways=", ".join(WAYS))
        return CannSession(self._boards, compiled, self.provenance, self._access.run_by)

    def close(self) -> None:
        """End the connections; they are made anew when they are needed."""
        self._boards.close()


__all__ = ["BOARD", "HERE", "CannToolchain", "machine", "survey"]
