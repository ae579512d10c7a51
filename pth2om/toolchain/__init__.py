"""Who compiles and runs an OM: one protocol for the emulator and for CANN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pth2om.session import Provenance, Session

if TYPE_CHECKING:
    from pth2om.ascend.atc_options import AtcOptions


@dataclass(frozen=True)
class CompiledModel:
    """What a toolchain made of an ONNX file.

    Attributes:
        path: the ``.om`` file, or the emulator's folder (``compiled.json`` and one ordinary ONNX per band).
        digest: sha256 of what will run.
        provenance: who compiled it.
        bands: the ways it can be opened; ``("",)`` for a real OM, ``("fused", "unfused")`` for an emulated one.
        details: toolchain specific JSON values: mode, counts, notes.
    """

    path: Path
    digest: str
    provenance: Provenance
    bands: tuple[str, ...] = ("",)
    details: Mapping[str, Any] = field(default_factory=dict)


class Toolchain(Protocol):
    """Compiles ONNX files and opens what came of them."""

    @property
    def provenance(self) -> Provenance:
        """Name, version, SoC, and whether it is a device or emulated."""

    def compile(self, model: Path, options: AtcOptions, destination: Path) -> CompiledModel:
        """Compile ``model`` into the folder ``destination``.

        Raises:
            ToolchainError: the model cannot be compiled as asked.
        """

    def bands(self, compiled: CompiledModel) -> tuple[str, ...]:
        """The ways to open ``compiled``; gates judge the worst of them."""

    def open(self, compiled: CompiledModel, band: str = "") -> Session:
        """A session that runs ``compiled``.

        Raises:
            ToolchainError: it cannot be opened.
        """
