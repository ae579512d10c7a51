"""The spec itself: all tables of one model, and what must be consistent between them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, field_validator, model_validator

from pth2om.spec.compiling import Compiling
from pth2om.spec.custom_ops import CustomOp
from pth2om.spec.gates import Dataset, Gates
from pth2om.spec.tables import (
    Aipp,
    Export,
    Input,
    Name,
    Postprocess,
    Preprocess,
    Quantize,
    Slice,
    Source,
    Table,
    Task,
)
from pth2om.spec.torchscript import TorchScript
from pth2om.spec.variants import Shape, Variant
from pth2om.spec.volume import Volume


class Spec(Table):
    """One model: what it is and what must hold.

    Attributes:
        name: the folder's name.
        folder: where the spec lies; relative paths in it start here.
        text: the file ``model.toml`` as it was read; empty where the spec was made in Python.
    """

    _text: str = PrivateAttr("")

    name: Name
    folder: Path
    task: Task
    title: str = ""
    description: str = ""
    licence: str = ""
    source: Source
    inputs: tuple[Input, ...] = Field(min_length=1)
    export: Export = Export()
    preprocess: Preprocess | None = None
    postprocess: Postprocess = Postprocess()
    slices: tuple[Slice, ...] = ()
    variants: tuple[Variant, ...] = (Variant(precision="fp16"),)
    aipp: Aipp = Aipp()
    datasets: tuple[Dataset, ...] = ()
    gates: Gates = Gates()
    quantize: Quantize = Quantize()
    custom_ops: tuple[CustomOp, ...] = ()
    torchscript: TorchScript | None = None
    volume: Volume | None = None
    compile: Compiling = Compiling()

    @field_validator("variants", mode="before")
    @classmethod
    def _product(cls, value: object) -> object:
        """``[variants] precision = [...], batch = [...]`` means every combination; ``[[variants]]`` lists them.

        In a list, ``"int8-bs4"`` and ``"fp16-bs1-aipp"`` are short for a table.
        """
        if isinstance(value, list):
            if any(isinstance(entry, Mapping) and "gear" in entry for entry in value):
                raise ValueError("unknown key 'gear': write gears")
            return [_variant(entry) if isinstance(entry, str) else entry for entry in value]
        if isinstance(value, Mapping):
            extra = set(value) - {"precision", "batch"}
            if extra:
                raise ValueError(f"unknown key {sorted(extra)[0]!r}: a [variants] table has precision and batch")
            precisions, batches = value.get("precision", ["fp16"]), value.get("batch", [1])
            if not isinstance(precisions, list) or not isinstance(batches, list):
                raise ValueError('[variants] takes lists: precision = ["fp16"], batch = [1]')
            return [{"precision": precision, "batch": batch} for precision in precisions for batch in batches]
        return value

    @field_validator("variants", mode="after")
    @classmethod
    def _one_a_gear(cls, value: tuple[Variant, ...]) -> tuple[Variant, ...]:
        """A variant with gears stands for one variant a gear."""
        # A Spec that is validated again has them already.
        return tuple(each for entry in value for each in (entry.expanded() if entry.gear == 0 else ()))

    @model_validator(mode="after")
    def _consistent(self) -> Spec:
        names = [variant.name for variant in self.variants]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"variant {name} is listed twice")
        for variant in self.variants:
            if variant.gears is not None:
                variant.gears.check(self.inputs)
        known = [entry.name for entry in self.inputs]
        fed = self.preprocess.input if self.preprocess else None
        if fed is not None and fed not in known:
            raise ValueError(f"preprocess.input {fed!r} is not an input; inputs are {', '.join(known)}")
        for name in (*self.gates.reference_fps, *self.gates.latency_ms):
            if name not in names:
                raise ValueError(f"gates name the variant {name!r}; variants are {', '.join(names)}")
        slices = [entry.name for entry in self.slices]
        for name in self.gates.slices:
            if name not in slices:
                raise ValueError(f"gates.slices names {name!r}; slices are {', '.join(slices) or '(none)'}")
        labels = [entry.label for entry in self.custom_ops]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"custom operator {label} is listed twice")
        if self.custom_ops and self.export.exporter != "torchscript":
            raise ValueError('[[custom_ops]] needs [export] exporter = "torchscript"')
        pictured = [entry for entry in self.datasets if not entry.arrays]
        if pictured and self.preprocess is None and self.volume is None:
            raise ValueError("datasets need a [preprocess], or of volumes a [volume]; of arrays write arrays = true")
        if len(pictured) < len(self.datasets) and (self.preprocess is not None or self.volume is not None):
            raise ValueError("datasets of arrays go without [preprocess] and [volume]: their rows are the inputs")
        if self.preprocess is not None and self.volume is not None:
            raise ValueError("[preprocess] is for images and [volume] for volumes; give one of them")
        others = [name for name in known if name != self.fed_input]
        if pictured and others:
            raise ValueError(
                f"datasets feed images to {self.fed_input}, and nothing to {', '.join(others)}: "
                "remove [[datasets]], and score the model with a test of your own"
            )
        if self.volume is not None:
            self.volume.check(self.inputs[0].shape)
            if self.quantize.max_drop is not None:
                raise ValueError("[quantize] max_drop scores images; it does not go with [volume]")
            if self.postprocess.decoder != "argmax":
                raise ValueError('a [volume] is segmented: write decoder = "argmax" in [postprocess]')
        if self.preprocess is not None:
            shape = next(entry.shape for entry in self.inputs if entry.name == self.fed_input)
            channels = (1 if self.preprocess.color == "GRAY" else 3) + (self.preprocess.extra != "none")
            if shape != (channels, *self.preprocess.size):
                raise ValueError(
                    f"preprocess makes {[channels, *self.preprocess.size]} but the input's shape is {list(shape)}"
                )
        return self

    @property
    def fed_input(self) -> str:
        """The input that images are fed to: the one that ``[preprocess]`` names, else the first."""
        named = self.preprocess.input if self.preprocess is not None else None
        return named or self.inputs[0].name

    @property
    def text(self) -> str:
        """See the class."""
        return self._text

    @cached_property
    def digest(self) -> str:
        """sha256 of the file ``model.toml``; empty where the spec was made in Python."""
        return hashlib.sha256(self._text.encode()).hexdigest() if self._text else ""

    def written_as(self, text: str) -> Spec:
        """The spec with the text that it was read from."""
        found = self.model_copy()
        found._text = text
        return found

    @cached_property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes of the variants of one shape, ascending; else the smallest of all."""
        plain = sorted({variant.batch for variant in self.variants if variant.gears is None})
        return tuple(plain) or (min((variant.batch for variant in self.variants), default=1),)

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes at which exported files are run: each batch size, and each gear of each file with gears."""
        geared = {variant.shape.name: variant.shape for variant in self.variants if variant.gears is not None}
        plain = any(variant.gears is None for variant in self.variants)
        return (*(Shape(batch) for batch in self.batches if plain), *geared.values())

    def at(self, shape: Shape) -> Spec:
        """The spec with the sizes of one gear: of its inputs, and of the picture that ``[preprocess]`` makes."""
        if shape.gears is None:
            return self
        inputs = tuple(shape.sized(entry) for entry in self.inputs)
        changed: dict[str, Any] = {"inputs": inputs}
        if self.preprocess is not None and shape.gears.image:
            size = next(entry.shape[1:] for entry in inputs if entry.name == self.fed_input)
            changed["preprocess"] = self.preprocess.model_copy(update={"size": size})
        return self.model_copy(update=changed)


def _variant(name: str) -> dict[str, Any]:
    match = re.fullmatch(r"([a-z0-9_]+)-bs(\d+)(-aipp)?", name)
    if match is None:
        raise ValueError(f"{name!r} is no variant: write it like fp16-bs1, int8-bs4 or fp16-bs1-aipp")
    return {"precision": match[1], "batch": int(match[2]), "aipp": match[3] is not None}
