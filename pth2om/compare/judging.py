"""Holding a measured closeness against the limits of its pair of sessions.

Default limits: PyTorch against ONNX Runtime in float32 differ by rounding only; an fp16 OM keeps a cosine of 0.999 and
a relative L2 of 0.05 (common practice on Ascend; Huawei's msit calls a node suspect below a cosine of 0.99 or above a
relative Euclidean distance of 0.05). Those of an int8 OM follow from the number of its quantized layers
(`int8_limits`), and where a metric on labelled images judges the same model, it decides and these only warn. Cosine
alone never passes: it is blind to scale, so a limit on the size of the error always stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pth2om.compare.figures import EDGES, HIGHER_IS_BETTER, METRICS
from pth2om.compare.rounding import Own, excused, plain_name
from pth2om.compare.spread import FOLLOWED, Spread, share, undecided
from pth2om.evidence import Judgement, Limit, Verdict
from pth2om.language import say
from pth2om.spec import Closeness, Gates

Pair = Literal["torch~onnx", "onnx~om", "torch~om"]

FLOAT32 = ("torch~onnx", "torch~torchscript", "torchscript~onnx")
"""Pairs of which both sides compute in float32: the limits of the first hold for all."""

DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "torch~onnx": {"cosine": 0.99999, "relative_l2": 1e-4, "mean_abs": 1e-3},
    "float": {"cosine": 0.999, "relative_l2": 0.05, "shift_pixels": 2.0},
}
"""Limits by pair. ``shift_pixels`` is at a 640-pixel input and scales with its size: relative L2 does not see boxes
that are all moved by a few pixels, while YOLOv6Lite in fp16 stays below 0.8."""

INT8_LEAST, INT8_MOST = 0.1, 0.3
"""Ends of the relative L2 that `int8_limits` gives: below some 16 layers a single badly filled layer decides, not the
depth; beyond 0.3 only a metric can tell what the noise costs."""

_INT8_BITS, _INT8_CREST = 8, 4.0
_INT8_WORST = 2.0
_INT8_SHIFT = 35.0

LABELS = {"torch~onnx": 0.9999, "float": 0.995, "int8": 0.98}
"""Least share of equal elements of a slice of kind ``labels``: class numbers have no distances."""

INTEGERS = {"torch~onnx": 0.9999, "float": 0.999, "int8": 0.99}
"""The same for whole numbers of which the spec does not say that they are labels: they may be indices or counts."""

COLUMN = 0.5
"""Largest relative L2 of one column of an output whose columns differ in scale and have no slices: beyond it a column
is lost or another's. INT8 may round small columns to nothing, so it is not judged by this."""

SMALLEST_NORMAL = 2.0**-14
"""Of fp16. A row whose reference never exceeds it cannot keep its relative precision in fp16."""

SMALLEST_SUBNORMAL = 2.0**-24
"""Of fp16: the distance of its smallest numbers."""

_WHOLE = ("labels", "integers")
"""Kinds that are judged by equality."""

_RELATIVE = ("cosine", "relative_l2", "sqnr_db")
_UNITS = {"sqnr_db": "dB", "shift_pixels": "pixels"}
_SPEC_NAMES = {"topk_agreement": "top1_agreement"}
_SIZED = ("relative_l2", "mean_abs", "max_abs", "sqnr_db", "within_tolerance")


def int8_limits(layers: int) -> dict[str, float]:
    """Default limits of an int8 OM by the noise that its quantized layers add.

    A uniform quantizer of b bits over +-X has a signal-to-noise ratio of 6.02 b + 4.77 - 20 log10(X / rms) dB (Bennett
    1948, Bell System Technical Journal 27:446; Oppenheim and Schafer, Discrete-Time Signal Processing, section 4.8.3).
    With 8 bits and X of 4 rms, where a calibrated range usually ends, that is 40.9 dB: a relative error of 0.009 per
    quantized tensor. A layer has two, its input and its weight; the errors of n layers are independent, so their powers
    add up: 0.009 sqrt(2 n). The worst sample is allowed twice that: 0.0255 sqrt(n), 0.18 for MobileNetV2's 52 layers.

    Noise without correlation to the signal leaves a cosine of 1 / sqrt(1 + r^2). The shift of boxes is proportional to
    r: 3.5 pixels at r = 0.1.

    Args:
        layers: that run in INT8.
    """
    ratio_db = 6.02 * _INT8_BITS + 4.77 - 20 * math.log10(_INT8_CREST)
    noise = _INT8_WORST * 10 ** (-ratio_db / 20) * math.sqrt(2 * max(layers, 0))
    # Two digits: they are read by people.
    relative = round(min(max(noise, INT8_LEAST), INT8_MOST), 2)
    cosine = math.floor(1000 / math.sqrt(1 + relative * relative)) / 1000
    return {"cosine": min(cosine, 0.99), "relative_l2": relative, "shift_pixels": round(_INT8_SHIFT * relative, 1)}


def limits(
    pair: str, gates: Gates, *, slice_name: str = "", kind: str = "values", int8: bool = False, layers: int = 0
) -> dict[str, float]:
    """The limits of one slice: the pair's defaults, overridden by the spec's, overridden by the slice's own.

    Args:
        pair: ``torch~onnx``, or any pair with an OM.
        gates: of the spec.
        slice_name: name of the slice.
        kind: of the slice; ``integers``: whole numbers that the spec does not name.
        int8: whether the OM is quantized.
        layers: how many of its layers are.
    """
    table = "torch~onnx" if pair in FLOAT32 else "int8" if int8 else "float"
    equal = INTEGERS[table] if kind == "integers" else LABELS[table]
    defaults = int8_limits(layers) if table == "int8" else DEFAULTS[table]
    # What TorchScript is compared with has the limits that PyTorch has.
    named = pair.replace("torchscript~", "torch~").replace("~", "_")
    chosen = {**defaults, "equal": equal} | _given(getattr(gates, named, Closeness()))
    if table == "int8":
        chosen |= _given(gates.int8)
    # A limit for all slices only holds for those it means something to; a slice's own is taken as it is.
    chosen = {name: value for name, value in chosen.items() if (kind in _WHOLE) == (name == "equal")}
    for name, only in (("shift_pixels", "boxes"), ("top1_agreement", "scores")):
        if kind != only:
            chosen.pop(name, None)
    if pair not in FLOAT32 and slice_name in gates.slices:
        chosen |= _given(gates.slices[slice_name])
    return chosen


def _given(table: Closeness) -> dict[str, float]:
    return {_SPEC_NAMES.get(name, name): value for name, value in table.model_dump(exclude_none=True).items()}


def judge(
    measured: Mapping[str, Any],
    *,
    pair: str,
    gates: Gates,
    int8: bool = False,
    layers: int = 0,
    metric: str = "",
    own: Own | None = None,
) -> list[Judgement]:
    """Judge every slice of a measurement.

    Args:
        measured: what `pth2om.compare.measure` (or `worse`) returned.
        pair: ``torch~onnx``, ``onnx~om``, ``torch~om``; the first part of each check's name.
        gates: of the spec.
        int8: whether the OM is quantized.
        layers: how many of its layers are.
        metric: which metric judges the same quantized model on labelled images; then what is beyond a default limit is
            shown with a warning, and only limits that the spec itself gives can fail.
        own: the reference's own rounding on each sample, up to which differences are excused (`compare.rounding`).

    Returns:
        One judgement per slice and limit, of the worst row; the first of each slice has all figures in its details.
    """
    judgements = [
        Judgement(
            f"{pair}/{entry['output']}/shape",
            None,
            "",
            None,
            "failed",
            message=say(
                "compare.shape", **{key: entry[key] for key in ("output", "reference", "candidate") if key in entry}
            ),
            details=dict(entry),
        )
        for entry in measured["mismatch"]
    ]
    for name, part in measured["slices"].items():
        found = _judge_slice(name, part, measured, pair, gates, int8=int8, layers=layers, own=(own or {}).get(name, {}))
        if int8 and metric:
            found = [each for each in found if not each.check.endswith("/follows")]
            given = {f"{pair}/{name}/{entry}" for entry in _own(gates, pair, name, int8=True)}
            found = [each if each.check in given else _left_to(metric, each) for each in found]
        judgements += found
    judgements += _constant(measured, pair)
    if not judgements:
        judgements.append(Judgement(f"{pair}/samples", 0, "samples", None, "failed", message=say("compare.nothing")))
    return judgements


def _left_to(metric: str, judgement: Judgement) -> Judgement:
    """A default limit that does not hold, left to the metric; all else as it is."""
    limit = judgement.limit
    counted = judgement.check.rpartition("/")[2] in ("new_nonfinite", "lost_nonfinite")
    if judgement.verdict != "failed" or counted or limit is None or judgement.measured is None:
        return judgement
    values: dict[str, Any] = {"name": judgement.check.partition("/")[2], "metric": metric, "limit": str(limit)}
    message = say("compare.left-to-metric", measured=limit.beside(judgement.measured), **values)
    return replace(judgement, verdict="shown", limit=None, message=message)


def _judge_slice(
    name: str,
    part: Mapping[str, Any],
    measured: Mapping[str, Any],
    pair: str,
    gates: Gates,
    *,
    int8: bool,
    layers: int,
    own: Mapping[str, Mapping[str, float | None]],
) -> list[Judgement]:
    chosen = limits(pair, gates, slice_name=name, kind=part["kind"], int8=int8, layers=layers)
    if "shift_pixels" in chosen and "shift_pixels" not in _own(gates, pair, name, int8=int8):
        chosen["shift_pixels"] *= (measured.get("pixels") or 640) / 640
    tiny = _tiny(part) if pair not in FLOAT32 else frozenset()
    bands = measured.get("bands") or ()
    details = {**summary(part, bands, tiny), "bands": list(bands) or None, "rows_too_small_for_fp16": len(tiny)}
    judgements = [_nonfinite(name, part, pair, details), _lost(name, part, pair)]
    if len(tiny) > len(part["samples"]) / 2:
        message = say("compare.mostly-tiny", name=name, count=len(tiny), samples=len(part["samples"]))
        judgements.append(
            Judgement(f"{pair}/{name}/too-small", float(len(tiny)), "samples", None, "inconclusive", message=message)
        )
    if pair not in FLOAT32 and not int8 and any(value is not None for value in part["column_l2"]):
        chosen = {"column_l2": COLUMN} | chosen
    for metric, value in chosen.items():
        skipped = tiny if metric in _RELATIVE else frozenset()
        judgements.append(_judge_metric(name, part, pair, metric, value, skipped, own))
    if part["kind"] not in _WHOLE and not any(math.isfinite(chosen.get(metric, math.inf)) for metric in _SIZED):
        message = say("compare.cosine-alone", name=name)
        judgements.append(Judgement(f"{pair}/{name}/size", None, "", None, "inconclusive", message=message))
    if part["output"] not in measured["constant"]:  # `_constant` judges those
        judgements += _followed(name, part["spread"], pair, chosen)
    return judgements


def _followed(name: str, spread: Spread, pair: str, chosen: Mapping[str, float]) -> list[Judgement]:
    """One on the error beside the distance between samples, where a constant answer would meet the limits."""
    bounds = {key: Limit(">=" if key in HIGHER_IS_BETTER else "<=", value) for key, value in chosen.items()}
    if not undecided(spread, bounds):
        return []
    found, limit = share(spread), Limit("<=", FOLLOWED)
    met = limit.holds(found)
    details = {"spread": dict(spread)}
    values = {"name": name, "share": f"{found:.2g}", "limit": str(limit)}
    message = say("compare.followed" if met else "compare.hardly-depends", **values)
    check = f"{pair}/{name}/follows"
    return [Judgement(check, found, "", limit, "passed" if met else "inconclusive", message=message, details=details)]


def _own(gates: Gates, pair: str, name: str, *, int8: bool) -> set[str]:
    """The limits that the spec itself gives for a slice."""
    tables = [getattr(gates, pair.replace("~", "_"), Closeness())]
    if int8:
        tables.append(gates.int8)
    if pair not in FLOAT32 and name in gates.slices:
        tables.append(gates.slices[name])
    return {entry for table in tables for entry in _given(table)}


def _tiny(part: Mapping[str, Any]) -> frozenset[int]:
    """Rows whose reference is below fp16's normal range, unless that is all of them.

    A row that fp16 still holds with two bits and that comes out with the opposite sign is no rounding, and is judged.
    """
    rows = frozenset(
        index
        for index, (peak, largest, cosine) in enumerate(
            zip(part["reference_peak"], part["max_abs"], part["cosine"], strict=True)
        )
        if peak is not None
        and peak < SMALLEST_NORMAL
        and largest < SMALLEST_NORMAL
        and not (peak >= 4 * SMALLEST_SUBNORMAL and cosine < -0.5)
    )
    return rows if len(rows) < len(part["samples"]) else frozenset()


def _nonfinite(name: str, part: Mapping[str, Any], pair: str, details: Mapping[str, Any]) -> Judgement:
    total = int(sum(part["new_nonfinite"]))
    worst, _ = worst_row(part, "new_nonfinite")
    message = None
    if total:
        key = "compare.nonfinite-float32" if pair in FLOAT32 else "compare.nonfinite"
        message = say(key, name=name, count=total, sample=part["samples"][worst])
    return Judgement(
        f"{pair}/{name}/new_nonfinite",
        total,
        "values",
        Limit("<=", 0),
        "failed" if total else "passed",
        message=message,
        details=details,
    )


def _lost(name: str, part: Mapping[str, Any], pair: str) -> Judgement:
    """Positions where the reference is NaN or infinite, so that nothing else of the slice is judged by them.

    Equal infinities are compared like any value. NaN says nothing of the other side: where it stands on the sample of
    zeros alone, the rest decides and this does not; elsewhere it fails.
    """
    lost, undefined = int(sum(part["lost_nonfinite"])), int(sum(part["undefined"]))
    check = f"{pair}/{name}/lost_nonfinite"
    limit = Limit("<=", 0)
    if not lost and not undefined:
        return Judgement(check, 0, "values", limit, "passed")
    metric = "lost_nonfinite" if lost else "undefined"
    worst, _ = worst_row(part, metric)
    values = {"name": name, "count": lost or undefined, "sample": part["samples"][worst]}
    touched = {sample for sample, count in zip(part["samples"], part["undefined"], strict=True) if count}
    zeros = {sample for sample in part["samples"] if _is_zeros(sample)}
    verdict: Verdict = "failed" if lost or not touched <= zeros or zeros == set(part["samples"]) else "inconclusive"
    message = say(f"compare.{'lost' if lost else 'undefined'}", **values)
    return Judgement(check, float(lost + undefined), "values", limit, verdict, message=message)


def _is_zeros(sample: str) -> bool:
    """Whether a row is the sample of zeros, by its name; a band may follow it."""
    return sample.partition(" [")[0] == "zeros"


def _constant(measured: Mapping[str, Any], pair: str) -> list[Judgement]:
    """One that decides nothing where no output of the reference ever changes: any two dead networks are equal."""
    outputs = {part["output"] for part in measured["slices"].values()}
    if not outputs or not outputs <= set(measured["constant"]):
        return []
    message = say("compare.constant", outputs=", ".join(sorted(outputs)))
    return [Judgement(f"{pair}/constant", float(len(outputs)), "outputs", None, "inconclusive", message=message)]


def _judge_metric(
    name: str,
    part: Mapping[str, Any],
    pair: str,
    metric: str,
    value: float,
    skipped: frozenset[int],
    own: Mapping[str, Mapping[str, float | None]],
) -> Judgement:
    check = f"{pair}/{name}/{metric}"
    limit = Limit(">=" if metric in HIGHER_IS_BETTER else "<=", value)
    unit = _UNITS.get(metric, "")
    worst, measured = worst_row(part, metric, skipped)
    if measured is not None and not limit.holds(measured) and own:
        let_off = excused(part, own, metric, limit, half=pair not in FLOAT32) - skipped
        worst, rest = worst_row(part, metric, skipped | let_off)
        if let_off and (rest is None or limit.holds(rest)):
            return _let_off(name, part, check, metric, limit, let_off, (worst, rest), own)
        worst, measured = worst_row(part, metric, skipped if rest is None else skipped | let_off)
    if measured is None:
        message = say("compare.not-applicable", name=name, metric=metric)
        return Judgement(check, None, unit, limit, "not_measured", message=message)
    sample = part["samples"][worst]
    if limit.holds(measured):
        return Judgement(check, measured, unit, limit, "passed", details={"worst": sample})
    values = {"name": name, "metric": metric, "measured": limit.beside(measured), "limit": limit.text, "sample": sample}
    key = "too-low" if limit.relation == ">=" else "too-high"
    rounding = own.get(plain_name(sample, own), {}).get("relative_l2")
    if rounding is not None:
        key, values["own"] = f"{key}-own", f"{rounding:.1e}"
    peak = part["reference_peak"][worst]
    if pair not in FLOAT32 and metric in _RELATIVE and peak is not None and peak < SMALLEST_NORMAL:
        key, values["peak"], values["limit"] = "below-fp16", f"{peak:.1e}", str(limit)
    message = say(f"compare.{key}", **values)
    return Judgement(check, measured, unit, limit, "failed", message=message, details={"worst": sample})


def _let_off(
    name: str,
    part: Mapping[str, Any],
    check: str,
    metric: str,
    limit: Limit,
    rows: frozenset[int],
    worst: tuple[int, float | None],
    own: Mapping[str, Mapping[str, float | None]],
) -> Judgement:
    """What is left when some samples are excused: the others decide; without any, nothing does."""
    unit = _UNITS.get(metric, "")
    names = list(dict.fromkeys(plain_name(part["samples"][row], own) for row in sorted(rows)))
    rounding = {sample: own[sample]["relative_l2"] for sample in names}
    details: dict[str, Any] = {
        "ill_conditioned": {
            part["samples"][row]: {
                "measured": part[metric][row],
                "own_rounding": rounding[plain_name(part["samples"][row], own)],
            }
            for row in sorted(rows)
        }
    }
    most = max(value for value in rounding.values() if value is not None)
    values = {"name": name, "samples": ", ".join(names[:5]), "own": f"{most:.1e}"}
    row, rest = worst
    if rest is None:
        message = say("compare.all-ill-conditioned", **values)
        return Judgement(check, None, unit, limit, "inconclusive", message=message, details=details)
    details["worst"] = part["samples"][row]
    return Judgement(
        check, rest, unit, limit, "passed", message=say("compare.ill-conditioned", **values), details=details
    )


def worst_row(part: Mapping[str, Any], metric: str, skipped: frozenset[int] = frozenset()) -> tuple[int, float | None]:
    """The row of a slice with the worst value of a metric, NaN being worst of all; None where it does not apply."""
    rows = [(index, value) for index, value in enumerate(part[metric]) if value is not None and index not in skipped]
    if not rows:
        return 0, None
    sign = -1.0 if metric in HIGHER_IS_BETTER else 1.0
    return max(rows, key=lambda row: math.inf if math.isnan(row[1]) else sign * row[1])


def summary(
    part: Mapping[str, Any], bands: Sequence[str] = (), skipped: frozenset[int] = frozenset()
) -> dict[str, Any]:
    """What a report shows of a slice: the worst value of each metric with its row, the mean, the error histogram.

    Args:
        part: a slice of a measurement.
        bands: the names that `worse` gave to the rows of either measurement; the worst value of each is shown too.
        skipped: rows that do not count in relative metrics, as in judging.
    """
    table: dict[str, dict[str, Any]] = {}
    for metric in METRICS:
        index, value = worst_row(part, metric)
        if value is None:
            continue
        finite = [entry for entry in part[metric] if entry is not None and math.isfinite(entry)]
        mean = sum(finite) / len(finite) if finite else None
        table[metric] = {"worst": value, "sample": part["samples"][index], "mean": mean}
        if bands:
            table[metric]["bands"] = _by_band(part, metric, bands, skipped if metric in _RELATIVE else frozenset())
    return {
        "output": part["output"],
        "kind": part["kind"],
        "elements": part["elements"],
        "samples": len(part["samples"]),
        "metrics": table,
        "histogram": {"log10_edges": list(EDGES), "counts": list(part["histogram"])},
    }


def _by_band(
    part: Mapping[str, Any], metric: str, bands: Sequence[str], skipped: frozenset[int]
) -> dict[str, float | None]:
    found = {}
    for band in bands:
        others = {row for row, name in enumerate(part["samples"]) if not name.endswith(f" [{band}]")}
        found[band] = worst_row(part, metric, skipped | others)[1]
    return found
