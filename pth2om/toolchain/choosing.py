"""The toolchains that there are, by name.

A toolchain of another package registers itself with `register`, or by an entry point of the group
``pth2om.toolchains`` that names a function like `Maker`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Protocol

from pth2om.errors import ToolchainError
from pth2om.toolchain import Access, Toolchain

if TYPE_CHECKING:
    from pth2om.ascend.target import Target
    from pth2om.toolchain.emulator.numerics.emulation import Join


class Maker(Protocol):
    """Makes a toolchain."""

    def __call__(self, target: Target, *, threads: int | None, join: Join | None, access: Access) -> Toolchain:
        """The toolchain for one target.

        Args:
            target: the SoC, and the CANN version whose rules are followed.
            threads: intra-op threads, where it computes on this machine.
            join: makes the INT8 layers of a deploy model single operators, where it computes on this machine.
            access: the machines, where it needs real ones.

        Raises:
            ToolchainError: it is not installed.
        """


def _emulator(target: Target, *, threads: int | None, join: Join | None, access: Access) -> Toolchain:  # noqa: ARG001 - all makers are called alike
    from pth2om.toolchain.emulator import EmulatorToolchain

    return EmulatorToolchain(target, threads=threads, join=join)


def _cann(target: Target, *, threads: int | None, join: Join | None, access: Access) -> Toolchain:  # noqa: ARG001 - all makers are called alike
    from pth2om.toolchain.cann import CannToolchain

    return CannToolchain(target, access)


_MAKERS: dict[str, Maker] = {"emulator": _emulator, "cann": _cann}


def register(name: str, maker: Maker) -> Callable[[], None]:
    """Add a toolchain under ``name``.

    Returns:
        A function that takes it away again.
    """
    before = _MAKERS.get(name)
    _MAKERS[name] = maker

    def undo() -> None:
        if before is None:
            _MAKERS.pop(name, None)
        else:
            _MAKERS[name] = before

    return undo


def names() -> tuple[str, ...]:
    """The names that `choose` takes, the emulator first."""
    installed = metadata.entry_points(group="pth2om.toolchains")
    return tuple(dict.fromkeys([*_MAKERS, *(entry.name for entry in installed)]))


def named(asked: str | None, boards: Sequence[str]) -> str:
    """Who compiles and runs: as asked; with a board ``cann``, else the emulator.

    Args:
        asked: a toolchain's name, or None.
        boards: ``ssh://user@host`` of machines with an NPU.

    Raises:
        ToolchainError: boards for a toolchain that uses none.
    """
    if boards and asked not in (None, "cann"):
        raise ToolchainError("toolchain.board-unused", toolchain=asked)
    return asked or ("cann" if boards else "emulator")


def choose(
    name: str,
    target: Target,
    *,
    threads: int | None = None,
    join: Join | None = None,
    access: Access | None = None,
) -> Toolchain:
    """The toolchain of that name.

    Args:
        name: one of `names`.
        target: see `Maker`.
        threads: see `Maker`.
        join: see `Maker`.
        access: see `Maker`; None: this machine.

    Raises:
        ToolchainError: there is none of that name, or it is not installed.
    """
    maker = _MAKERS.get(name)
    if maker is None:
        for entry in metadata.entry_points(group="pth2om.toolchains", name=name):
            maker = entry.load()
    if maker is None:
        raise ToolchainError("pipeline.no-toolchain", name=name, names=", ".join(names()))
    return maker(target, threads=threads, join=join, access=access or Access())
