"""The embedded toolchain: what an OM would compute, computed on this machine and said to be emulated."""

from __future__ import annotations

import functools
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.ascend.shapes import given_shapes
from pth2om.errors import AtcError, ToolchainError
from pth2om.evidence import Finding
from pth2om.files import state_of
from pth2om.language import say
from pth2om.session import Provenance
from pth2om.toolchain import CompiledModel
from pth2om.toolchain.emulator.numerics.compiled import VERSION

if TYPE_CHECKING:
    from pth2om.ascend.atc_options import AtcOptions
    from pth2om.ascend.target import Target
    from pth2om.toolchain.emulator.front_end.texts import AtcFailure
    from pth2om.toolchain.emulator.gears import GearedOmSession
    from pth2om.toolchain.emulator.numerics.compiled import Compiled
    from pth2om.toolchain.emulator.numerics.emulation import Join
    from pth2om.toolchain.emulator.session import EmulatedOmSession

_PLAIN_PATH = re.compile(r"[A-Za-z0-9./_\-\u4e00-\u9fa5]*")


class EmulatorToolchain:
    """Compiles to, and runs, rewritten ONNX graphs (`pth2om.toolchain.emulator.numerics`).

    Args:
        target: the SoC whose rules are followed, and the CANN whose front end checks the options and the graph.
        threads: intra-op threads of its sessions; None leaves ONNX Runtime's own choice.
        join: see `compile_numerics`: `pth2om.quantize.join_int8` for models with INT8 layers.
    """

    def __init__(self, target: Target, *, threads: int | None = None, join: Join | None = None) -> None:
        self.target = target
        self.soc = target.soc or ""
        self._threads = threads
        self._join = join

    @property
    def provenance(self) -> Provenance:
        """The emulator of this version, for `soc`."""
        return Provenance("emulator", VERSION, "emulated", self.soc)

    @property
    def compiler(self) -> Mapping[str, str]:
        """The emulator's version, and the target that its front end checks for; the SoC is among the options."""
        return {"name": "emulator", "version": VERSION, **self.target.compiler}

    @property
    def device(self) -> Mapping[str, str]:
        """Empty: no device is measured."""
        return {}

    def compile(self, model: Path, options: AtcOptions, destination: Path) -> CompiledModel:
        """Check the options and the model as atc would, then write the bands of ``model`` into ``destination``.

        With gears every one of them is compiled, into a folder of its own. The numerics read precision_mode(_v2),
        keep_dtype, modify_mixlist, is_weight_clip, output_type and the shapes.

        Raises:
            AtcError: what atc would refuse, in its words.
            ToolchainError: see `compile_numerics`; or a file that an option names cannot be read.
        """
        from pth2om.toolchain.emulator.gears import compile_geared, gears_asked
        from pth2om.toolchain.emulator.numerics.compiling import compile_numerics

        self._check(model, options, destination)
        numerics = functools.partial(
            compile_numerics,
            precision_mode=options.precision_mode or options.precision_mode_v2 or "",
            soc=options.soc_version or self.soc,
            keep_dtype=_lines(options.keep_dtype),
            modify_mixlist=_json(options.modify_mixlist),
            output_type=options.output_type,
            weight_clip=options.is_weight_clip != 0,
            join=self._join,
        )

        def build(folder: Path, sizes: dict[str, tuple[int, ...]]) -> Compiled:
            if not options.insert_op_conf:
                return numerics(model, folder, input_shapes=sizes)
            from pth2om.aipp import emulate_graph, read_config

            # The inputs that AIPP feeds are uint8 NHWC, and the graph says so itself.
            folder.mkdir(parents=True, exist_ok=True)
            source, config = folder / "with_aipp.onnx", read_config(Path(options.insert_op_conf))
            emulate_graph(model, config, source, soc=options.soc_version or self.soc, shapes=sizes)
            return numerics(source, folder, input_shapes=None)

        gears = gears_asked(model, options)
        if gears:
            return compile_geared(destination, gears, build).model()
        return build(destination, _fixed_shapes(options.input_shape or "")).model()

    def refuses(self, model: Path, options: AtcOptions) -> list[Finding]:
        """What atc's front end would refuse, each with its code and text.

        Raises:
            AtcError: an option that atc does not have.
        """
        with tempfile.TemporaryDirectory() as folder:
            failures = self._failures(model, options, Path(folder))
        found = []
        for number, failure in enumerate(failures):
            message = failure.advice or say("emulator.atc-refuses", more=len(failures) - 1 - number)
            details = {"code": failure.code, "text": failure.text}
            found.append(
                Finding(f"atc.{failure.code.lower()}" if failure.code else "atc", "error", message, None, details)
            )
        return found

    def _check(self, model: Path, options: AtcOptions, destination: Path) -> None:
        failures = self._failures(model, options, destination)
        if failures:
            first = failures[0]
            said = f"atc: {first.code}: {first.text}" if first.text else "atc"
            if first.advice is not None:
                raise AtcError(first.advice.key, where=said, **first.advice.values)
            raise AtcError("emulator.atc-refuses", where=said, more=len(failures) - 1)

    def _failures(self, model: Path, options: AtcOptions, destination: Path) -> list[AtcFailure]:
        """What the front end refuses; that it refuses nothing is remembered: what compiles was asked about before."""
        from pth2om.preflight.remembered import remembered

        def nothing() -> None:
            failures = self._found(model, options, destination)
            if failures:
                raise _RefusedError(failures)

        asked = self._asked(options)
        try:
            if asked is None:
                nothing()
            else:
                remembered(model, asked, nothing)
        except _RefusedError as refused:
            return refused.failures
        return []

    def _asked(self, options: AtcOptions) -> tuple[object, ...] | None:
        """What an answer of the front end depends on besides the model; None where it reads further files."""
        given = {name: value for name, value in options.to_json().items() if name not in ("model", "insert_op_conf")}
        text = json.dumps(given, sort_keys=True)
        if "/" in text or "\\" in text:
            return None
        config = options.insert_op_conf
        try:
            state = (str(Path(config).resolve()), state_of(config)) if config else None
        except OSError:
            return None
        return "front end", tuple(sorted(self.compiler.items())), text, state

    def _found(self, model: Path, options: AtcOptions, destination: Path) -> list[AtcFailure]:
        from pth2om.toolchain.emulator.front_end import check_model

        with tempfile.TemporaryDirectory() as clean:
            asked = replace(options, model=_acceptable_path(model, Path(clean)))
            if options.insert_op_conf:
                asked = replace(asked, insert_op_conf=_acceptable_path(Path(options.insert_op_conf), Path(clean)))
            with self.target.operators.known():
                return check_model(asked, self.target.cann, destination)

    def compiled(self, folder: Path) -> CompiledModel:
        """What `compile` made in ``folder``; gates judge the worse of its two bands.

        Raises:
            ToolchainError: the folder holds no emulated model.
        """
        from pth2om.toolchain.emulator.gears import read_geared
        from pth2om.toolchain.emulator.numerics.compiled import read_compiled

        return (read_geared(folder) or read_compiled(folder)).model()

    def open(self, compiled: CompiledModel, band: str) -> EmulatedOmSession | GearedOmSession:
        """A session of one band; with gears, the shapes that are fed choose among them.

        Raises:
            ToolchainError: the folder holds no emulated model, or no such band.
        """
        from pth2om.toolchain.emulator.gears import GearedOmSession, read_geared
        from pth2om.toolchain.emulator.session import EmulatedOmSession

        geared = read_geared(compiled.path)
        if geared is not None:
            return GearedOmSession(geared, band, threads=self._threads)
        return EmulatedOmSession(compiled, band, threads=self._threads)

    def close(self) -> None:
        """Nothing is held."""


class _RefusedError(Exception):
    """What the front end refuses."""

    def __init__(self, failures: list[AtcFailure]) -> None:
        super().__init__()
        self.failures = failures


def _acceptable_path(path: Path, folder: Path) -> str:
    """``path``; a copy in ``folder`` if atc would refuse its characters, which the place of the store may bring in."""
    resolved = path.resolve()
    if _PLAIN_PATH.fullmatch(resolved.as_posix()):
        return resolved.as_posix()
    for file in resolved.parent.glob(f"{resolved.name}*"):  # external data lies beside its model
        shutil.copyfile(file, folder / file.name)
    return (folder / resolved.name).as_posix()


def _fixed_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """The inputs of an ``--input_shape`` value whose sizes are all given; the others stay as the model has them."""
    shapes = given_shapes(text)
    return {name: sizes for name, sizes in shapes.items() if all(size > 0 for size in sizes)}


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
