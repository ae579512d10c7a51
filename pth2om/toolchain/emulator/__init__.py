"""The embedded toolchain: what an OM would compute, computed on this machine and said to be emulated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om import __version__
from pth2om.errors import ToolchainError
from pth2om.session import Provenance
from pth2om.toolchain import CompiledModel

if TYPE_CHECKING:
    from pth2om.toolchain.atc_options import AtcOptions
    from pth2om.toolchain.emulator.session import EmulatedOmSession


class EmulatorToolchain:
    """Compiles to, and runs, rewritten ONNX graphs (`pth2om.toolchain.emulator.numerics`).

    Args:
        soc: the SoC whose rules are followed.
        threads: intra-op threads of its sessions; None leaves ONNX Runtime's own choice.
    """

    VERSION = 1
    """Raised when the emulation changes what it makes; part of the store's keys."""

    def __init__(self, soc: str, *, threads: int | None = None) -> None:
        self.soc = soc
        self._threads = threads

    @property
    def provenance(self) -> Provenance:
        """The emulator of this version, for `soc`."""
        return Provenance("emulator", __version__, "emulated", self.soc)

    def compile(self, model: Path, options: AtcOptions, destination: Path) -> CompiledModel:
        """Write the bands of ``model`` into the folder ``destination``, as ``options`` say.

        Of the options it reads precision_mode(_v2), keep_dtype, modify_mixlist, is_weight_clip, input_shape and
        output_type; whether atc would take them at all is the front end's question.

        Raises:
            ToolchainError: see `compile_numerics`; or a file that an option names cannot be read.
        """
        from pth2om.toolchain.emulator.numerics.compiling import compile_numerics

        compiled = compile_numerics(
            model,
            destination,
            precision_mode=options.precision_mode or options.precision_mode_v2 or "",
            soc=options.soc_version or self.soc,
            keep_dtype=_lines(options.keep_dtype),
            modify_mixlist=_json(options.modify_mixlist),
            input_shapes=shapes(options.input_shape or ""),
            output_type=options.output_type,
            weight_clip=options.is_weight_clip != 0,
        )
        return compiled.model()

    def bands(self, compiled: CompiledModel) -> tuple[str, ...]:
        """``fused`` and ``unfused``; gates judge the worse of the two."""
        return compiled.bands

    def open(self, compiled: CompiledModel, band: str = "fused") -> EmulatedOmSession:
        """A session of one band.

        Raises:
            ToolchainError: the folder holds no emulated model, or no such band.
        """
        from pth2om.toolchain.emulator.session import EmulatedOmSession

        return EmulatedOmSession(compiled, band or "fused", threads=self._threads)


def shapes(text: str) -> dict[str, tuple[int, ...]]:
    """The static shapes of an ``--input_shape`` value; inputs with a dimension of -1 stay dynamic and are left out."""
    found: dict[str, tuple[int, ...]] = {}
    for entry in filter(None, text.strip("\"' ").split(";")):
        name, _, sizes = entry.rpartition(":")
        numbers = [part.strip() for part in sizes.split(",") if part.strip()]
        if name and all(part.isdigit() and int(part) > 0 for part in numbers):
            found[name.strip()] = tuple(int(part) for part in numbers)
    return found


def _lines(path: str | None) -> tuple[str, ...]:
    if not path:
        return ()
    return tuple(line.strip() for line in _text(path).splitlines() if line.strip())


def _json(path: str | None) -> Any:  # noqa: ANN401 - JSON
    if not path:
        return None
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise ToolchainError("emulator.mixlist", where=path, reason=str(error)) from None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ToolchainError("emulator.option-file", where=path, reason=str(error)) from None
