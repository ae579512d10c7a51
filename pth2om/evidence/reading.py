"""JSON to records: each record is validated once, here, and against itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pth2om.errors import DataError
from pth2om.evidence.records import (
    FORMAT,
    EndRecord,
    GateRecord,
    MergedRecord,
    OutcomeRecord,
    PlanRecord,
    Record,
    RunRecord,
    StageRecord,
    WaiverRecord,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_KINDS: Mapping[str, type[Record]] = {
    "run": RunRecord,
    "plan": PlanRecord,
    "stage": StageRecord,
    "gate": GateRecord,
    "outcome": OutcomeRecord,
    "waiver": WaiverRecord,
    "end": EndRecord,
    "merged": MergedRecord,
}
_MOST_SHOWN = 200
_SLACK = 1e-6
"""Relative slack of a verdict against its own limit: some gates allow for the rounding of a decimal."""


def from_json(data: object) -> Record:
    """The record that `pth2om.evidence.to_json` made this object of.

    Unknown keys are ignored, so that old readers read newer files of the same format.

    Raises:
        DataError: it is no record, or of a kind or format that this version does not know.
    """
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(kind, str) or kind not in _KINDS:
        raise DataError("evidence.unknown-kind", kind=_short(kind))
    if kind == "run":
        form = data.get("format")
        if isinstance(form, int) and form > FORMAT:
            raise DataError("evidence.newer-format", format=_short(form), known=FORMAT)
    import pydantic

    try:
        record: Record = _adapter(kind).validate_python(data)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or kind
        raise DataError("evidence.wrong-field", kind=kind, name=_short(name), reason=_short(first["msg"])) from None
    return record


def from_line(kind: str, line: bytes) -> Record | None:
    """The record of a line of JSON that names its kind last, as `from_json` makes it, in half the time.

    Returns:
        None where it is none; `from_json` says why.
    """
    try:
        record: Record = _reader(kind)(line)
    except ValueError:  # pydantic's, whose import this saves where nothing is read
        return None
    return record


@functools.cache
def _reader(kind: str) -> Callable[[bytes], Any]:
    read: Callable[[bytes], Any] = _adapter(kind).validator.validate_json
    return read


@functools.cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(_KINDS[kind])


def check(gate: GateRecord) -> None:
    """Compare a verdict with its own figures, and a ground with its own provenance.

    Raises:
        DataError: they cannot both be right.
    """
    limit, measured = gate.limit, gate.measured
    if gate.verdict == "passed" and limit is not None:
        if measured is None:
            raise DataError("evidence.passed-unmeasured", check=_short(gate.check))
        slack = _SLACK * max(abs(limit.value), 1e-3)
        if not (limit.holds(measured) or limit.holds(measured - slack) or limit.holds(measured + slack)):
            raise DataError(
                "evidence.contradiction", check=_short(gate.check), measured=f"{measured:.9g}", limit=str(limit)
            )
    if gate.provenance is not None and gate.provenance.ground != gate.ground:
        raise DataError(
            "evidence.wrong-ground", check=_short(gate.check), ground=gate.ground, provenance=gate.provenance.ground
        )
    if gate.provenance is None and gate.ground == "device":
        raise DataError("evidence.wrong-ground", check=_short(gate.check), ground=gate.ground, provenance="-")


def _short(value: object) -> str:
    """At most 200 characters of a word that a file holds."""
    try:
        text = str(value)
    except ValueError:  # an integer of more digits than Python prints
        text = type(value).__name__
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"
