"""An emulated OM that serves several shapes: gears, each compiled by itself, or a range of sizes.

The folder holds one folder a gear, as `compile_numerics` writes it, and a ``compiled.json`` that lists them. As on an
NPU, the shapes that are fed decide which gear runs, and shapes between gears are refused.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pth2om.ascend.shapes import Range, is_range, range_shapes
from pth2om.errors import ToolchainError
from pth2om.session import Array, Feeds, Provenance, TensorSpec
from pth2om.sessions.onnx import check_feeds, ways_of
from pth2om.toolchain import RECORD, CompiledModel
from pth2om.toolchain.emulator.numerics.compiled import Compiled, read_compiled
from pth2om.toolchain.emulator.session import EmulatedOmSession

if TYPE_CHECKING:
    from pth2om.ascend.atc_options import AtcOptions

_FORMAT = 1
Ranges = Mapping[str, tuple[Range, ...]]
"""Input -> smallest and largest size of each axis; equal ones are a gear's."""


@dataclass(frozen=True)
class Gear:
    """One shape, or one range of shapes, that was compiled.

    Attributes:
        folder: its name within the compiled folder.
        ranges: the shapes that it takes.
    """

    folder: str
    ranges: Ranges

    def takes(self, feeds: Feeds) -> bool:
        """Whether these feeds have its shapes."""
        return all(
            name in feeds
            and len(sizes) == feeds[name].ndim
            and all(
                low <= size and (high < 0 or size <= high)
                for size, (low, high) in zip(feeds[name].shape, sizes, strict=True)
            )
            for name, sizes in self.ranges.items()
        )

    def __str__(self) -> str:
        def text(low: int, high: int) -> str:
            return str(low) if low == high else f"{low}~{high}" if high >= 0 else "any"

        return "; ".join(f"{name} {'x'.join(text(*size) for size in sizes)}" for name, sizes in self.ranges.items())


@dataclass(frozen=True)
class Geared:
    """The record of a compiled folder with gears.

    Attributes:
        folder: where it lies.
        gears: what was compiled.
        compiled: the record of each.
    """

    folder: Path
    gears: tuple[Gear, ...]
    compiled: tuple[Compiled, ...]

    def digest(self, band: str = "") -> str:
        """sha256 over the gears' digests, of one band or of all."""
        found = [record.band(band).digest if band else record.digest for record in self.compiled]
        shapes = [str(gear) for gear in self.gears]
        return hashlib.sha256(json.dumps([found, shapes]).encode()).hexdigest()

    def write(self) -> Geared:
        """Write ``compiled.json`` into the folder; returns itself."""
        rows = [
            {
                "folder": gear.folder,
                "inputs": {name: [list(size) for size in sizes] for name, sizes in gear.ranges.items()},
            }
            for gear in self.gears
        ]
        text = json.dumps({"format": _FORMAT, "gears": rows}, ensure_ascii=False, indent=1)
        (self.folder / RECORD).write_text(text, encoding="utf-8")
        return self

    def model(self) -> CompiledModel:
        """As the toolchains hand it on; the counts are of the first gear, the findings of all."""
        models = [record.model() for record in self.compiled]
        first = models[0]
        findings = {json.dumps(found, sort_keys=True): found for model in models for found in model.details["findings"]}
        details = {**first.details, "findings": list(findings.values()), "gears": [str(gear) for gear in self.gears]}
        return CompiledModel(self.folder, self.digest(), first.provenance, first.bands, details)


def read_geared(folder: Path) -> Geared | None:
    """The record of a compiled folder with gears; None for a folder of one shape.

    Raises:
        ToolchainError: the folder holds no emulated model.
    """
    try:
        data = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if "gears" not in data:
            return None
        if data["format"] > _FORMAT or not data["gears"]:
            raise ToolchainError("emulator.not-compiled", where=str(folder))
        gears = tuple(
            Gear(
                Path(row["folder"]).name,  # beside the record, whatever a file claims
                {name: tuple((int(low), int(high)) for low, high in sizes) for name, sizes in row["inputs"].items()},
            )
            for row in data["gears"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ToolchainError("emulator.not-compiled", where=str(folder)) from None
    return Geared(folder, gears, tuple(read_compiled(folder / gear.folder) for gear in gears))


def gears_asked(model: Path, options: AtcOptions) -> list[Ranges]:
    """What the options make of a model: one entry a gear, or the range; empty for one shape.

    Args:
        model: the ONNX file.
        options: accepted by the front end.
    """
    from pth2om.ascend.shapes import static_shapes
    from pth2om.onnxfile.reading import read
    from pth2om.preflight.soundness import gears_of, profiles_of

    gears, by = gears_of(options)
    text = options.input_shape or ""
    if gears:
        proto = read(model)
        given = static_shapes(text, open_sizes=True)
        return [
            {name: tuple((size, size) for size in sizes) for name, sizes in shapes.items() if name in given}
            for shapes in profiles_of(proto, given, gears, by)
        ]
    if options.input_shape_range:
        return [range_shapes(options.input_shape_range, brackets=True)]
    return [range_shapes(text)] if is_range(text) else []


def compile_geared(
    destination: Path, asked: Sequence[Ranges], build: Callable[[Path, dict[str, tuple[int, ...]]], Compiled]
) -> Geared:
    """Compile every gear.

    Args:
        destination: the folder.
        asked: of `gears_asked`.
        build: compiles one shape into a folder; inputs that are not fixed stay open.
    """
    gears, records = [], []
    for number, ranges in enumerate(asked):
        fixed = {
            name: tuple(low for low, _ in sizes)
            for name, sizes in ranges.items()
            if all(low == high for low, high in sizes)
        }
        folder = f"gear-{number}" if len(asked) > 1 else "range"
        record = build(destination / folder, fixed)
        # AIPP changes the sizes and order of the pictures: what is fed are the inputs of what was compiled.
        taken = {entry.name: entry.shape for entry in record.inputs}
        changed = {
            name: tuple((size, size) for size in taken[name] if size is not None)
            for name, sizes in fixed.items()
            if name in taken and taken[name] != sizes and None not in taken[name]
        }
        records.append(record)
        gears.append(Gear(folder, {**ranges, **changed}))
    return Geared(destination, tuple(gears), tuple(records)).write()


class GearedOmSession:
    """One band of an emulated OM with gears; each gear is opened when it is first fed.

    Args:
        record: of the folder.
        band: ``fused`` or ``unfused``.
        threads: of all its inferences at a time, see `EmulatedOmSession`.

    Raises:
        ToolchainError: there is no such band.
    """

    def __init__(self, record: Geared, band: str, *, threads: int | None = None) -> None:
        record.compiled[0].band(band)
        self.compiled = record
        self.band = band
        self._threads = threads
        self._open: dict[str, EmulatedOmSession] = {}
        self._opening = threading.Lock()

    @property
    def ways(self) -> int:
        """As many inferences at a time as the gear that takes the fewest."""
        return min(ways_of(record.inputs, self._threads) for record in self.compiled.compiled)

    @functools.cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The graph's inputs; sizes in which the gears differ are None."""
        return _common([record.inputs for record in self.compiled.compiled])

    @functools.cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The graph's outputs, likewise."""
        return _common([record.outputs for record in self.compiled.compiled])

    @functools.cached_property
    def digest(self) -> str:
        """See `Session.digest`."""
        return self.compiled.digest(self.band)

    @property
    def provenance(self) -> Provenance:
        """The emulator that compiled it."""
        return self.compiled.compiled[0].provenance

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """One inference, by the gear that has the shapes of the feeds.

        Raises:
            ToolchainError: no gear has them; or see `EmulatedOmSession.run`.
        """
        check_feeds(self.inputs, feeds, str(self.compiled.folder))
        for gear, record in zip(self.compiled.gears, self.compiled.compiled, strict=True):
            if gear.takes(feeds):
                with self._opening:
                    if gear.folder not in self._open:
                        self._open[gear.folder] = EmulatedOmSession(record, self.band, threads=self._threads)
                return self._open[gear.folder].run(feeds)
        given = "; ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in feeds.items())
        listed = " | ".join(map(str, self.compiled.gears))
        key = "emulator.no-gear" if len(self.compiled.gears) > 1 else "emulator.out-of-range"
        raise ToolchainError(key, where=str(self.compiled.folder), given=given, gears=listed)

    def close(self) -> None:
        """Close the gears that are open."""
        for session in self._open.values():
            session.close()
        self._open.clear()

    def __enter__(self) -> GearedOmSession:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def _common(each: Sequence[tuple[TensorSpec, ...]]) -> tuple[TensorSpec, ...]:
    """The tensors of all gears, with None where their sizes differ."""
    return tuple(
        TensorSpec(
            specs[0].name,
            tuple(
                sizes[0] if len(set(sizes)) == 1 else None
                for sizes in zip(*(spec.shape for spec in specs), strict=True)
            )
            if len({len(spec.shape) for spec in specs}) == 1
            else (),
            specs[0].dtype,
        )
        for specs in zip(*each, strict=True)
    )
