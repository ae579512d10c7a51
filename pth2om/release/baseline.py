"""Baselines: what accepted runs measured, per evidence id, as JSON that is sorted and reads well in a diff.

A baseline is made anew from the runs it is given, the last of which is the reference; the others, runs of the same
models with other seeds or of other nights, tell how much a figure varies when nothing changed. A run that failed, that
regressed, that is not whole, or that this baseline itself judged makes none.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pth2om.errors import DataError
from pth2om.evidence import GateRecord
from pth2om.files import write_text
from pth2om.release.causes import Made, made_of
from pth2om.release.night import Night

if TYPE_CHECKING:
    from pth2om.release.results import Results

FORMAT = 1
MOST_BYTES = 256 << 20
Kind = Literal["accuracy", "closeness", "latency", "count"]


@dataclass(frozen=True)
class Entry:
    """One evidence id of a baseline.

    Attributes:
        model, variant, soc, question, check, dataset, unit: as in the gate.
        kind: how it is compared.
        values: one per run, oldest first; the last is the reference.
        interval: of the last value.
        n: images behind it; None where it has none.
        ground: of the last value.
        host: the machine that measured it.
        toolchain: name and version of who computed it.
        digests: of what took part.
        result: where the store keeps its per-image results.
        flips: (images that flipped, images) between runs of other artifacts.
    """

    model: str
    variant: str
    soc: str | None
    question: str
    check: str
    dataset: str
    unit: str
    kind: Kind
    values: tuple[float, ...]
    interval: tuple[float, float] | None
    n: int | None
    ground: str
    host: str
    toolchain: str
    digests: Mapping[str, str]
    result: str
    flips: tuple[tuple[int, int], ...] = ()

    @property
    def value(self) -> float:
        """The reference."""
        return self.values[-1]


@dataclass(frozen=True)
class Baseline:
    """See the module.

    Attributes:
        runs: ids of the runs it was made from.
        entries: by evidence id.
        made: (model/variant) -> what its artifacts were made of.
        digest: sha256 of the file.
    """

    runs: tuple[str, ...]
    entries: Mapping[str, Entry]
    made: Mapping[str, Made] = field(default_factory=dict)
    digest: str = ""

    def text(self) -> str:
        """The file."""
        entries = {}
        for name, one in sorted(self.entries.items()):
            entries[name] = {key: value for key, value in asdict(one).items() if value not in (None, "", (), {})}
        data = {
            "format": FORMAT,
            "runs": self.runs,
            "made": {name: asdict(one) for name, one in sorted(self.made.items())},
            "entries": entries,
        }
        return json.dumps(data, ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False) + "\n"


def kind_of(gate: GateRecord) -> Kind | None:
    """How a gate's figure is compared; None where it is not: frames per second are the latency again."""
    if gate.question == "latency":
        return None if gate.unit == "fps" else "latency"
    if gate.question == "accuracy" and gate.unit in ("points", "%") and not gate.check.endswith("/expected"):
        return "accuracy"
    if gate.question == "closeness" and gate.check.rpartition("/")[2] in ("cosine", "relative_l2", "mean_abs"):
        return "closeness"
    return "count"


def make(nights: Sequence[Night], results: Results | None = None, replaced: Baseline | None = None) -> Baseline:
    """The baseline of runs, the last of which is the reference.

    Args:
        nights: oldest first.
        results: reads per-image results, for the rate at which images flip.
        replaced: the baseline that is there already.

    Raises:
        DataError: a run must not make one, with the reason.
    """
    known: set[str] = set()
    for night in nights:
        _accept(night, replaced)
        names = {run.run for run in night.runs}
        if twice := sorted(names & known):
            raise DataError("release.run-twice", where=twice[0])
        known |= names
    return of(nights, results)


def of(nights: Sequence[Night], results: Results | None = None) -> Baseline:
    """As `make`, of runs that may have failed: for comparing two runs."""
    *_, last = nights
    entries: dict[str, Entry] = {}
    for name, gate in last.gates.items():
        kind = kind_of(gate)
        if kind is None or gate.measured is None:
            continue
        same = [each.gates[name] for each in nights if name in each.gates]
        same = [one for one in same if _alike(one, gate) and one.measured is not None]
        entries[name] = entry(gate, kind, [float(one.measured or 0.0) for one in same])
        if kind == "accuracy" and results is not None:
            entries[name] = _with_flips(entries[name], same, results)
    made = {f"{model}/{variant}": made_of(last, model, variant) for model, variant in _subjects(last)}
    return Baseline(tuple(dict.fromkeys(night.run.run for night in nights)), entries, made)


def entry(gate: GateRecord, kind: Kind, values: Sequence[float]) -> Entry:
    """The entry of a gate that was measured."""
    provenance = gate.provenance
    dataset, images = gate.details.get("dataset"), gate.details.get("images")
    return Entry(
        gate.model,
        gate.variant,
        gate.soc,
        gate.question,
        gate.check,
        dataset if isinstance(dataset, str) else "",
        gate.unit,
        kind,
        tuple(values),
        gate.interval,
        images if isinstance(images, int) else None,
        gate.ground,
        gate.host,
        f"{provenance.name} {provenance.version}" if provenance is not None else "",
        dict(gate.digests),
        str(gate.details.get("result", "")),
    )


def _accept(night: Night, replaced: Baseline | None) -> None:
    where = night.run.run
    if night.coverage.is_shard:
        raise DataError("release.is-shard", where=where, shard=", ".join(night.coverage.shards))
    if not night.whole:
        raise DataError("release.not-whole", where=where)
    failed = [gate for gate in (*night.gates.values(), *night.compared) if gate.verdict in ("failed", "not_reached")]
    if failed:
        key = "release.regressed" if failed[0].question == "regression" else "release.failed"
        raise DataError(key, where=where, count=len(failed), first=failed[0].id)
    if not any(gate.measured is not None for gate in night.gates.values()):
        raise DataError("release.nothing-measured", where=where)
    judged = {str(gate.details.get("baseline", "")) for gate in night.compared}
    if replaced is not None and replaced.digest and replaced.digest in judged:
        raise DataError("release.judged-by-it", where=where)


def _alike(one: GateRecord, other: GateRecord) -> bool:
    """Whether two nights measured the same: on one ground, with the same data, and latency on one machine."""
    data = one.digests.get("dataset") == other.digests.get("dataset")
    return one.ground == other.ground and data and (one.question != "latency" or one.host == other.host)


def _with_flips(found: Entry, gates: Sequence[GateRecord], results: Results) -> Entry:
    from dataclasses import replace

    pairs = itertools.pairwise(gates)
    named = [(str(a.details.get("result", "")), str(b.details.get("result", ""))) for a, b in pairs]
    counts = [results.flipped(a, b, found.check) for a, b in named if a and b and a != b]
    return replace(found, flips=tuple(one for one in counts if one is not None))


def _subjects(night: Night) -> list[tuple[str, str]]:
    return sorted({(gate.model, gate.variant) for gate in night.gates.values()})


def check_soc(baseline: Baseline, socs: Collection[str], where: str) -> None:
    """Refuse a baseline of other SoCs, of which every figure would be missing, and every one of the run new.

    Args:
        baseline: what to compare with.
        socs: of the run; none where it has none.
        where: the baseline's name.

    Raises:
        DataError: they have none in common.
    """
    own = {one.soc for one in baseline.entries.values() if one.soc}
    if own and socs and not own & set(socs):
        names = {"before": ", ".join(sorted(own)), "after": ", ".join(sorted(socs))}
        raise DataError("release.other-soc", where=where, **names)


def write(baseline: Baseline, path: Path) -> None:
    """Write it whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, baseline.text())
    except OSError as error:
        raise DataError("release.unwritable", where=str(path), reason=error.strerror or str(error)) from None


def read(path: Path) -> Baseline:
    """A baseline from its file.

    Raises:
        DataError: it cannot be read, is too large, is of another version, or is none, with the reason: such files are
            edited, merged and copied by people.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError("release.too-large", where=str(path), most=MOST_BYTES)
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError("release.no-file", where=str(path)) from None
    except OSError as error:
        raise DataError("release.unreadable", where=str(path), reason=error.strerror or str(error)) from None
    try:
        # The same file, whatever an editor or git made of its line ends.
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
        return _parsed(text, str(path))
    except (ValueError, RecursionError) as error:
        raise DataError("release.baseline-damaged", where=str(path), reason=_first(error)) from None


def _parsed(text: str, where: str) -> Baseline:
    """The baseline of a file's text.

    Raises:
        DataError: it is of another version.
        ValueError: it is none.
    """
    import pydantic

    data = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    if not isinstance(data, dict) or type(data.get("format")) is not int:
        raise DataError("release.no-baseline", where=where)
    if data["format"] != FORMAT:
        raise DataError("release.baseline-format", where=where, format=data["format"], known=FORMAT)
    filled = data.get("entries")
    if isinstance(filled, dict):
        filled = {name: _DEFAULTS | one if isinstance(one, dict) else one for name, one in filled.items()}
    entries = pydantic.TypeAdapter(dict[str, Entry]).validate_python(filled)
    made = pydantic.TypeAdapter(dict[str, Made]).validate_python(data.get("made", {}))
    runs = pydantic.TypeAdapter(tuple[str, ...]).validate_python(data.get("runs"))
    if not entries:
        raise ValueError("entries: {}")
    for name, one in entries.items():
        if problem := _problem(name, one):
            raise ValueError(f"{name}: {problem}")
    return Baseline(runs, entries, made, hashlib.sha256(text.encode()).hexdigest())


def _problem(name: str, one: Entry) -> str:
    """The field of an entry that cannot be as `make` wrote it; empty where there is none."""
    where = f"{one.model}/{one.variant or '-'}/{one.soc or '-'}/{one.question}/{one.check}"
    if name != (f"{where}@{one.dataset}" if one.dataset else where):
        return "id"
    least = 0.0 if one.kind == "latency" else -math.inf
    if not one.values or not all(math.isfinite(value) and value >= least for value in one.values):
        return "values"
    low, high = one.interval or (0.0, 0.0)
    return "" if low <= high and math.isfinite(high - low) else "interval"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of which no name stands twice: of two entries of one id nobody knows which one counts."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name}: 2 x")
        found[name] = value
    return found


def _no_number(name: str) -> float:
    raise ValueError(name)


def _first(error: Exception) -> str:
    """What is wrong, in one line."""
    import pydantic

    if isinstance(error, pydantic.ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))[:300]
    return " ".join(str(error).split())[:300] or type(error).__name__


_DEFAULTS: dict[str, Any] = {
    "variant": "", "soc": None, "dataset": "", "unit": "", "interval": None, "n": None, "host": "", "toolchain": "",
    "digests": {}, "result": "", "flips": (),
}  # fmt: skip
