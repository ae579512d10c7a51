"""``[[variants]]``: precision x batch size, or precision x the gears (or range of shapes) that one OM serves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Annotated

from pydantic import Field, model_validator

from pth2om.spec.tables import Input, Precision, Table

Size = Annotated[int, Field(ge=1)]

MOST_GEARS = 100
"""ATC's documented limit; its sources never check it (E10036)."""
_LONGEST_NAME = 48


class Gears(Table):
    """``gears`` of a variant: the shapes that one OM serves; exactly one of the four kinds.

    Attributes:
        batch: sizes of the batch axis: ``--dynamic_batch_size``.
        image: (height, width) of the inputs of four dimensions: ``--dynamic_image_size``.
        dims: one table a gear, axis name -> size, such as ``{seq = 16}``: ``--dynamic_dims``. The inputs' ``axes`` say
            which axis has which name; ``batch`` is the batch axis.
        range: axis name -> ``"1~8"``: no gears, any size between; ``--input_shape`` with ``~``.
    """

    batch: tuple[Size, ...] = ()
    image: tuple[tuple[Size, Size], ...] = ()
    dims: tuple[dict[str, Size], ...] = ()
    range: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> Gears:
        given = [name for name in ("batch", "image", "dims", "range") if getattr(self, name)]
        if not given:
            raise ValueError("gears need one of batch, image, dims and range")
        if len(given) > 1:
            raise ValueError(f"gears have {' and '.join(given)}; ATC takes one kind at a time (E10009)")
        if self.range:
            for axis in self.range:
                self._ends(axis)
            return self
        points = self.points
        if len(points) < 2:
            raise ValueError("a single gear: ATC wants at least 2 (E10035); for one shape, use batch and shape")
        if len(points) > MOST_GEARS:
            raise ValueError(f"{len(points)} gears; ATC takes at most {MOST_GEARS} (E10036)")
        for point in points[1:]:
            if set(point) != set(points[0]):
                raise ValueError(
                    f"one gear sets {', '.join(points[0]) or 'nothing'}, another {', '.join(point) or 'nothing'}; "
                    "all must set the same axes (E10037)"
                )
        if len({tuple(sorted(point.items())) for point in points}) < len(points):
            raise ValueError("the same gear is listed twice (E10039)")
        return self

    def _ends(self, axis: str) -> tuple[int, int]:
        match = re.fullmatch(r"\s*([1-9]\d{0,8})\s*~\s*([1-9]\d{0,8})\s*", self.range[axis])
        if match is None or int(match[1]) >= int(match[2]):
            raise ValueError(f'range of {axis} is {self.range[axis]!r}; write a smaller and a larger size, like "1~8"')
        return int(match[1]), int(match[2])

    @property
    def ranged(self) -> bool:
        """Whether any size of a range is served, and not only the gears."""
        return bool(self.range)

    @cached_property
    def points(self) -> tuple[Mapping[str, int], ...]:
        """Axis -> size of each gear; of a range its two ends, which are what is tested."""
        if self.batch:
            return tuple({"batch": size} for size in self.batch)
        if self.image:
            return tuple({"height": height, "width": width} for height, width in self.image)
        if self.dims:
            return self.dims
        ends = {axis: self._ends(axis) for axis in self.range}
        return tuple({axis: both[end] for axis, both in ends.items()} for end in (0, 1))

    @cached_property
    def name(self) -> str:
        """``gears1_2_4``, ``gears224x224_256x320``, ``gears_seq16_32`` or ``range_seq1to64``.

        Without commas, so that ``-k`` of pytest takes it.
        """
        if self.range:
            parts = ["to".join(map(str, self._ends(axis))) for axis in self.range]
            name = "range_" + "x".join(f"{axis}{part}" for axis, part in zip(self.range, parts, strict=True))
        else:
            name = f"gears{self._axes}" + "_".join("x".join(map(str, point.values())) for point in self.points)
        if len(name) <= _LONGEST_NAME:
            return name
        return f"{name[: _LONGEST_NAME - 9].rstrip('_x')}_{sha256(name.encode()).hexdigest()[:8]}"

    @property
    def _axes(self) -> str:
        return "" if self.batch or self.image else "_" + "x".join(self.points[0])

    def point_name(self, number: int) -> str:
        """``bs2``, ``224x224`` or ``seq16``: one gear, within its `name`."""
        text = "x".join(str(self.points[number][axis]) for axis in self.points[0])
        return f"bs{text}" if self.batch else f"{'x'.join(self.points[0])}{text}" if not self.image else text

    def open_axes(self, entry: Input) -> tuple[str | None, ...]:
        """The name of each axis of an input, batch first; None where its size is fixed."""
        rank = len(entry.shape_of(1))
        if self.image:
            return (None, None, "height", "width") if rank == 4 else (None,) * rank
        names: Sequence[str | None] = entry.axes or (None,) * len(entry.shape)
        names = ("batch", *names) if entry.batched else names
        return tuple(name if name in self.points[0] else None for name in names)

    def input_shape(self, inputs: Sequence[Input], batch: int) -> str:
        """The value of ``--input_shape``: -1 where gears fill in a size, or ranges."""
        entries = []
        for entry in inputs:
            sizes = [
                str(size) if axis is None else f"{'~'.join(map(str, self._ends(axis)))}" if self.range else "-1"
                for size, axis in zip(entry.shape_of(batch), self.open_axes(entry), strict=True)
            ]
            entries.append(f"{entry.name}:{','.join(sizes)}")
        return ";".join(entries)

    def flags(self, inputs: Sequence[Input]) -> dict[str, str]:
        """ATC's flag and its value; empty for a range, which ``--input_shape`` itself holds."""
        if self.range:
            return {}
        if self.batch:
            return {"dynamic_batch_size": ",".join(map(str, self.batch))}
        if self.image:
            return {"dynamic_image_size": ";".join(f"{height},{width}" for height, width in self.image)}
        # One value for each -1, in the order of the inputs.
        places = [axis for entry in inputs for axis in self.open_axes(entry) if axis is not None]
        return {"dynamic_dims": ";".join(",".join(str(point[axis]) for axis in places) for point in self.points)}

    def check(self, inputs: Sequence[Input]) -> None:
        """Refuse gears of axes that no input has.

        Raises:
            ValueError: with ATC's code.
        """
        found = {axis for entry in inputs for axis in self.open_axes(entry)}
        missing = [axis for axis in self.points[0] if axis not in found]
        if missing and self.image:
            raise ValueError("gears.image needs an input of three sizes, such as shape = [3, 224, 224] (E10019)")
        if missing:
            names = sorted({"batch", *(axis for entry in inputs for axis in entry.axes)})
            raise ValueError(
                f"gears set the axis {missing[0]!r}, and no input has an axis of that name ({', '.join(names)}): "
                "name it with axes of [[inputs]] (ATC: E10001, no -1 in --input_shape)"
            )


@dataclass(frozen=True)
class Shape:
    """The shape at which a file is run: a batch size, or one gear of a file that serves several.

    Attributes:
        batch: rows per inference.
        gears: what the file serves; None for a file of one shape.
        number: which of the gears.
    """

    batch: int
    gears: Gears | None = None
    number: int = 0

    @property
    def file(self) -> str:
        """Names the file: ``bs4``, or ``gears1_2_4``."""
        if self.gears is None:
            return f"bs{self.batch}"
        return (
            self.gears.name
            if self.batch == 1 or "batch" in self.gears.points[0]
            else f"{self.gears.name}_n{self.batch}"
        )

    @property
    def name(self) -> str:
        """Names the shape: ``bs4``, or ``gears1_2_4-bs2``."""
        return self.file if self.gears is None else f"{self.file}-{self.gears.point_name(self.number)}"

    def of(self, entry: Input) -> tuple[int, ...]:
        """The sizes of an input, batch first."""
        sizes = entry.shape_of(self.batch)
        if self.gears is None:
            return sizes
        point = self.gears.points[self.number]
        axes = self.gears.open_axes(entry)
        return tuple(size if axis is None else point[axis] for size, axis in zip(sizes, axes, strict=True))

    def sized(self, entry: Input) -> Input:
        """The input with its sizes at this shape."""
        return entry.model_copy(update={"shape": self.of(entry)[1 if entry.batched else 0 :]})

    def others(self) -> tuple[Shape, ...]:
        """The shapes of all gears of the file, itself among them."""
        if self.gears is None:
            return (self,)
        return tuple(
            Shape(point.get("batch", self.batch), self.gears, number) for number, point in enumerate(self.gears.points)
        )


class Variant(Table):
    """One precision x batch, or precision x gear, of a model.

    Attributes:
        precision: see `PRECISION_MODES`.
        batch: images per inference; with gears of the batch axis, the gear's.
        aipp: whether the OM takes uint8 through AIPP.
        atc: further atc arguments, e.g. ``["--enable_small_channel=1"]``.
        gears: the shapes that its OM serves; in a spec one table of ``[[variants]]`` stands for all its gears.
        gear: which of them this is.
    """

    precision: Precision
    batch: Annotated[int, Field(ge=1)] = 1
    aipp: bool = False
    atc: tuple[str, ...] = ()
    gears: Gears | None = None
    gear: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Variant:
        if self.gears is None:
            return self
        if self.aipp and not (self.gears.batch or self.gears.image):
            code = " (E10001)" if self.gears.dims else ""
            raise ValueError(f"aipp goes with gears.batch and gears.image only{code}")
        return self

    @property
    def shape(self) -> Shape:
        """The shape at which it is run."""
        return Shape(self.batch, self.gears, self.gear)

    @property
    def name(self) -> str:
        """``fp16-bs1`` or ``fp16-gears1_2_4-bs2``, with ``-aipp`` where AIPP is in."""
        return f"{self.precision}-{self.shape.name}" + ("-aipp" if self.aipp else "")

    @property
    def om(self) -> str:
        """Names its OM: ``fp16-bs1``; ``fp16-gears1_2_4``, which all its gears share."""
        return f"{self.precision}-{self.shape.file}" + ("-aipp" if self.aipp else "")

    @property
    def quantized(self) -> bool:
        """Whether it is compiled from the INT8 deploy model."""
        return self.precision == "int8"

    @property
    def twin(self) -> Variant:
        """The same without gears, compiled for this one shape."""
        return self.model_copy(update={"gears": None, "gear": 0})

    def expanded(self) -> tuple[Variant, ...]:
        """One variant a gear; itself without gears."""
        return tuple(
            self.model_copy(update={"batch": shape.batch, "gear": shape.number}) for shape in self.shape.others()
        )
