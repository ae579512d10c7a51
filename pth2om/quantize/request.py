"""The arguments of ``pth2om quantize`` as typed, and which of them contradict each other; no heavy imports."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field, fields
from pathlib import Path

from pth2om.errors import QuantizeError, reason_of
from pth2om.spec.tables import Activations, Balancing, Weights

_EVERYWHERE = frozenset({"model", "output", "prefix", "json"})
_WAYS: dict[str, frozenset[str]] = {
    "--amct --convert": frozenset({"amct", "convert", "preview"}),
    "--convert": frozenset({"convert"}),
    "--amct": frozenset({"amct", "calib", "images", "evaluator", "cfg", "preview"}),
    "--command": frozenset({"command", "calib", "preview"}),
}
"""The arguments that each external way of quantizing reads, in addition to `_EVERYWHERE`."""
_EITHER = (frozenset({"calib", "evaluator"}), frozenset({"calib", "random_calibration"}))
_NEEDS = {
    "labels": ("max_drop", "--max-drop"),
    "preview": ("-", "--amct / --command"),
    "evaluator": ("-", "--amct"),
    "batch": ("preprocess", "--preprocess"),
}
"""Arguments that our own way reads only together with another one; "-" means never given."""


@dataclass(frozen=True)
class Request:
    """The arguments of the verb, as typed."""

    model: Path
    calib: list[Path] = field(default_factory=list)
    preprocess: Path | None = None
    images: int | None = None
    batch: int | None = None
    random_calibration: bool = False
    activations: Activations | None = None
    weights: Weights | None = None
    symmetric: bool = False
    skip: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)
    balance: Balancing | None = None
    equalize: bool = False
    no_bias_correction: bool = False
    small_channels: bool = False
    cfg: Path | None = None
    max_drop: str | None = None
    labels: Path | None = None
    convert: bool = False
    amct: bool = False
    evaluator: Path | None = None
    command: str | None = None
    preview: bool = False
    output: Path | None = None
    prefix: str | None = None
    checkpoint: Path | None = None
    sensitivity: bool = False
    json: bool = False

    @property
    def destination(self) -> Path:
        """Folder of the files."""
        return self.output or self.model.parent

    @property
    def name(self) -> str:
        """Prefix of the file names."""
        return self.prefix or self.model.stem

    @property
    def given(self) -> set[str]:
        """The arguments that were typed."""
        empty = Request(self.model)
        return {entry.name for entry in fields(self) if getattr(self, entry.name) != getattr(empty, entry.name)}


def check(request: Request) -> None:
    """Refuse arguments without meaning before any file is read.

    Raises:
        QuantizeError: arguments contradict each other, have no effect here, or have an impossible value; the
            destination cannot be written.
    """
    given = request.given
    way = next((name for name in _WAYS if {word.strip("-") for word in name.split()} <= given), None)
    if way is not None:
        _refuse(given - _EVERYWHERE - _WAYS[way], way)
    else:
        for flag, (other, name) in _NEEDS.items():
            if flag in given and other not in given:
                raise QuantizeError("quantize.flag-needs", flag=_flag(flag), other=name)
    for pair in _EITHER:
        if pair <= given:
            raise QuantizeError("quantize.flags-contradict", flags=", ".join(sorted(map(_flag, pair))))
    _check_values(request)
    check_writable(request.destination)


def check_flags(request: Request, known: frozenset[str], way: str) -> None:
    """Refuse arguments without meaning for one way of quantizing.

    Args:
        request: as typed.
        known: the fields that this way reads.
        way: its name.

    Raises:
        QuantizeError: another flag was given, or a value is impossible.
    """
    _refuse(request.given - known, way)
    _check_values(request)


def _refuse(unused: set[str], way: str) -> None:
    if unused:
        names = ", ".join(sorted(map(_flag, unused)))
        key = "quantize.flag-unused-images" if "preprocess" in unused else "quantize.flag-unused"
        raise QuantizeError(key, flags=names, way=way)


def _check_values(request: Request) -> None:
    for flag in ("images", "batch"):
        number = getattr(request, flag)
        if number is not None and number < 1:
            raise QuantizeError("quantize.flag-value", flag=_flag(flag), value=str(number))
    if request.prefix is not None and (not request.prefix or Path(request.prefix).name != request.prefix):
        raise QuantizeError("quantize.flag-value", flag="--prefix", value=request.prefix)
    if request.max_drop is not None:
        percent_points(request.max_drop)


def percent_points(text: str) -> float:
    """``--max-drop`` in percentage points: a fraction below one (``0.01``) or a percentage with its sign (``1%``).

    Raises:
        QuantizeError: it is neither; a ``1`` without a sign could mean both and is refused.
    """
    sign = text.strip().endswith(("%", "％"))
    try:
        number = float(text.strip().rstrip("%％"))
    except ValueError:
        number = math.nan
    if not (0 <= number <= 100) or (number >= 1 and not sign):
        raise QuantizeError("quantize.max-drop-value", value=text)
    return round(number if sign else 100 * number, 9)


def check_writable(destination: Path) -> None:
    """Check that the destination can be written before an hour of calibration, not after it.

    Raises:
        QuantizeError: nothing can be written there.
    """
    place = destination.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise QuantizeError("quantize.not-a-folder", where=str(place))
    try:
        with tempfile.TemporaryFile(dir=place):  # permissions alone do not show that a disk is mounted read-only
            pass
    except OSError as error:
        raise QuantizeError("quantize.not-writable", where=str(destination), reason=reason_of(error)) from None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
