"""What a user asks of a model beyond what its file says, as tables of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pth2om.errors import CheckpointError
from pth2om.escaping import toml_string
from pth2om.spec import Aipp, Dataset, Export, Preprocess, Quantize, Task, Variant, Volume
from pth2om.spec.tables import Table
from pth2om.spec.torchscript import TorchScript


@dataclass(frozen=True)
class Asked:
    """The user's part of a spec; what is None or empty is left to the file, or to the defaults.

    Attributes:
        task: instead of the guess.
        net: Python file with the architecture.
        num_classes: handed to the net's ``build``.
        ranges: input -> what random samples are drawn from.
        variants: what is compiled; default one, ``fp16`` at the file's batch size.
        export, preprocess, volume, aipp, quantize, torchscript: tables of the spec.
        axes: input -> names of its axes, for gears.
        datasets: labelled data that the model is scored on.
    """

    task: Task | None = None
    net: Path | None = None
    num_classes: int | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()
    export: Export | None = None
    preprocess: Preprocess | None = None
    volume: Volume | None = None
    aipp: Aipp | None = None
    quantize: Quantize | None = None
    torchscript: TorchScript | None = None
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    datasets: tuple[Dataset, ...] = ()

    def lines(self) -> list[str]:
        """The tables as TOML, only what was set in each.

        Raises:
            CheckpointError: a file name holds what TOML cannot.
        """
        lines: list[str] = []
        names = ("export", "torchscript", "preprocess", "volume", "aipp", "quantize")
        tables: dict[str, Table | None] = {name: getattr(self, name) for name in names}
        for name, table in tables.items():
            if table is not None and table.model_fields_set:
                lines += ["", f"[{name}]", *_entries(table)]
        for name, rows in {"variants": self.variants, "datasets": self.datasets}.items():
            for row in rows:
                lines += ["", f"[[{name}]]", *_entries(row)]
        return lines


def text_value(value: str) -> str:
    """A TOML string.

    Raises:
        CheckpointError: only a file name can hold what TOML cannot.
    """
    try:
        return toml_string(value)
    except UnicodeEncodeError:
        raise CheckpointError("starter.undecodable", where=value) from None


def _entries(table: Table) -> list[str]:
    given = table.model_dump(mode="json", include=table.model_fields_set, exclude_unset=True)
    return [f"{name} = {_value(given[name])}" for name in type(table).model_fields if given.get(name) is not None]


def _value(value: Any) -> str:  # noqa: ANN401 - JSON
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return text_value(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{text_value(name)} = {_value(entry)}' for name, entry in value.items())} }}"
    return repr(value)
