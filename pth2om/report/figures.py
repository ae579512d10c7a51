"""How numbers, digests and times read in a report: short, and never rounded across their limit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pth2om.amounts import duration_text
from pth2om.escaping import visible
from pth2om.evidence import GateRecord, Limit

MISSING = "–"
_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_SIGNS = {">=": "≥", "<=": "≤", "==": "=", "<": "<", ">": ">"}
_NAMED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def number(value: object) -> float | None:
    """A JSON value as a float, or None where it is none.

    Args:
        value: a number, or the names evidence writes for non-finite ones (``NaN``, ``Infinity``, ``-Infinity``).
    """
    if type(value) is float:
        return value
    if isinstance(value, str):
        return _NAMED.get(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number beyond 1e308
        return math.inf if value > 0 else -math.inf


def series(values: object) -> tuple[float, ...]:
    """A JSON list of at most 1000 numbers; empty where it is anything else."""
    if not isinstance(values, list | tuple) or len(values) > 1000:
        return ()
    numbers = [number(value) for value in values]
    return tuple(value for value in numbers if value is not None) if None not in numbers else ()


def text(value: object, digits: int = 4) -> str:
    """A number with `digits` significant digits; close below 1 it keeps two digits of what is missing to 1.

    Up to a million no digit before the point is left out.

    >>> text(0.99998712), text(0.0000321), text(26.4712), text(1513.8, 3), text(1234567.0), text(None)
    ('0.999987', '3.21e-05', '26.47', '1514', '1.235e+06', '–')
    """
    real = number(value)
    if real is None:
        return MISSING
    if math.isnan(real):
        return "NaN"
    if math.isinf(real):
        return "∞" if real > 0 else "−∞"
    if real == int(real) and abs(real) < 1e6:
        return str(int(real))
    if 0.9 < real < 1:
        places = min(max(9, digits), max(digits, 1 - math.floor(math.log10(1 - real))))
        shown = f"{real:.{places}f}"
        return shown if float(shown) < 1 else "1 − " + f"{1 - real:.1e}"
    shown = f"{real:.{digits}g}"
    return f"{real:.0f}" if "e+" in shown and abs(real) < 999_999.5 else shown


def amount(value: object, unit: str, digits: int = 4) -> str:
    """A number with the digits that its unit deserves; the unit itself is not in it.

    >>> amount(0.0213, "points"), amount(58213.7, "fps"), amount(1.67e6, "fps"), amount(26.4712, "ms")
    ('0.02', '58.2 k', '1.67 M', '26.47')
    """
    real = number(value)
    if real is None or not math.isfinite(real):
        return text(value, digits)
    if unit in ("points", "percent") and abs(real) < 1e6:
        shown = f"{real:.{digits - 2}f}"
        return shown.lstrip("-") if float(shown) == 0 else shown
    if unit == "fps":
        for scale, prefix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
            if abs(real) >= scale:
                base = 1e3 if prefix == " k" else scale
                return f"{real / base:.{max(3, digits - 1)}g}{prefix}"
    return text(real, digits)


def measured(gate: GateRecord) -> str:
    """The measured value, with as many digits as it takes to stand on its own side of the limit."""
    if gate.measured is None:
        return MISSING
    if gate.limit is None or not math.isfinite(gate.measured):
        return amount(gate.measured, gate.unit)
    held = gate.limit.holds(gate.measured)
    for digits in range(4, 18):
        shown = amount(gate.measured, gate.unit, digits)
        back = _parsed(shown)
        if back is None or gate.limit.holds(back) == held:
            break
    return shown


def _parsed(shown: str) -> float | None:
    base, _, prefix = shown.partition(" ")
    try:
        return float(base) * _PREFIXES[prefix]
    except (KeyError, ValueError):
        return None


def limit(of: Limit | None) -> str:
    """``≥ 0.999``; empty without a limit."""
    if of is None:
        return ""
    return f"{_SIGNS[of.relation]} {of.text}"


def share_used(gate: GateRecord) -> float | None:
    """How much of its limit a measurement uses up: 0 is perfect, 1 sits on the limit, above 1 is outside.

    ``<= L`` uses m / L. ``>= L`` of a similarity that ends at 1 uses (1 - m) / (1 - L), of another quantity L / m.
    None where that has no meaning (equalities, a limit of zero, nothing measured).
    """
    value, bound = gate.measured, gate.limit
    if value is None or bound is None or not math.isfinite(value):
        return None
    if bound.relation in ("<=", "<"):
        return max(0.0, value / bound.value) if bound.value > 0 else None
    if bound.relation in (">=", ">"):
        if 0 < bound.value < 1 and value <= 1 + 1e-6 and not gate.unit:
            return max(0.0, (1 - value) / (1 - bound.value))
        return bound.value / value if value > 0 and bound.value > 0 else None
    return None


def percent(share: float | None) -> str:
    """``0.123`` as ``12 %``; large shares as ``× 45``."""
    if share is None:
        return ""
    if share >= 2:
        return f"× {share:.3g}"
    if not share > -2:  # of no measurement of ours; a damaged file's, or NaN
        return f"{share:.3g}"
    if 0 < share < 0.01:
        return "< 1 %"
    # A value inside the limit must not read as 100 %, nor one outside.
    whole = round(share * 100)
    if whole == 100 and share != 1:
        whole = 99 if share < 1 else 101
    return f"{whole} %"


def seconds(value: float) -> str:
    """A duration, as `pth2om.amounts.duration_text`; a damaged file's may be none."""
    return duration_text(value) if math.isfinite(value) else MISSING


def short(value: object, most: int = 160) -> str:
    """Text cut to `most` characters, so that one absurd name cannot swell the page."""
    whole = visible(str(value), 100_000)
    return whole if len(whole) <= most else whole[: most - 1] + "…"


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as dotted names and texts, in its own order."""
    rows: list[tuple[str, str]] = []
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            rows.extend(flat(value, path + "."))
        elif isinstance(value, list | tuple):
            rows.append((path, ", ".join(str(item) for item in value)))
        elif value is not None:
            rows.append((path, text(value, 6) if isinstance(value, float) else str(value)))
    return rows
