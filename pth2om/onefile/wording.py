"""What is printed of a conversion: what was found, what was made, each verdict, the atc line, the next command."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from pth2om.escaping import visible
from pth2om.evidence import GateRecord
from pth2om.files import from_here
from pth2om.language import SAMPLES_ARE, joined, say
from pth2om.onefile.advice import after
from pth2om.onefile.conversion import Conversion
from pth2om.report import figures
from pth2om.report.lines import line_of

_SHOWN = 3


def lines(done: Conversion) -> Iterator[str]:
    """The whole conversion as text, line by line."""
    for message in done.said:
        yield message.with_fix()
    exports = [stage.details for stage in done.stages if stage.stage == "onnx" and "attempts" in stage.details]
    yield from _export(exports[0]) if exports else ()  # with gears: the same file for all of them
    for finding in done.findings:
        if finding.severity != "info":
            yield finding.line(visible(finding.node or ""))
    yield ""
    for _, group in itertools.groupby(done.gates, key=lambda gate: (gate.question, gate.check.split("/")[0])):
        yield from _verdicts(list(group))
    yield ""
    for role, path in done.files.items():
        yield f"{role:12} {visible(str(from_here(path)))}"
    for path in done.model[:2]:
        yield f"{'spec':12} {visible(str(from_here(path)))}"
    if done.command:
        yield ""
        yield done.atc
    yield ""
    yield _conclusion(done)
    for command in after(done):
        yield say("convert.next", command=command).render()


def summary(done: Conversion) -> dict[str, Any]:
    """The conversion as JSON values; the record holds all of it."""
    return {
        "name": done.name,
        "soc": done.soc,
        "ground": done.ground,
        "status": done.status,
        "files": {role: str(path) for role, path in done.files.items()},
        "atc": list(done.command),
        "gates": [
            {
                "id": gate.id,
                "verdict": gate.verdict,
                "measured": gate.measured,
                "interval": gate.interval,
                "ground": gate.ground,
            }
            for gate in done.gates
        ],
        "next": list(after(done)),
    }


def _export(details: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    tried = [row for row in details.get("attempts", ()) if row["outcome"] != "taken"]
    for row in tried:
        yield say("convert.opset-failed", opset=row["opset"], reason=row["reason"]).render()
    yield say("convert.opset-taken", opset=details["opset"]).render()


def _verdicts(gates: list[GateRecord]) -> Iterator[str]:
    """What passed on one line, with the figure that is nearest to its limit; everything else on its own."""
    if gates[0].question == "accuracy":  # figures that are asked for are printed, also where they are good
        yield from (
            _score(gate, gate.measured) for gate in gates if gate.check.endswith("/drop") and gate.measured is not None
        )
    passed = [gate for gate in gates if gate.verdict == "passed"]
    if passed:
        nearest = max(passed, key=lambda gate: figures.share_used(gate) or 0.0)
        yield say("convert.passed", count=len(passed), line=line_of(nearest, subject=nearest.variant)).render()
    others = [gate for gate in gates if gate.verdict not in ("passed", "shown")]
    for verdict, group in itertools.groupby(sorted(others, key=lambda one: one.verdict), key=lambda one: one.verdict):
        several = list(group)
        word = say(f"convert.verdict-{verdict.replace('_', '-')}").render()
        for gate in several[:_SHOWN]:
            yield joined((word, line_of(gate, subject=gate.variant)), ": ")
        if several[_SHOWN:]:
            yield say("convert.more", count=len(several) - _SHOWN, verdict=word).render()


def _score(gate: GateRecord, lost: float) -> str:
    """Both figures of a metric, what is lost with its interval, and on what ground."""
    found = gate.details
    values: dict[str, str | int] = {
        "variant": gate.variant,
        "metric": str(found["metric"]),
        "images": int(found["images"]),
        "before": f"{found['reference']:.2f}",
        "after": f"{found['candidate']:.2f}",
        "lost": f"{lost:+.2f}",
        "role": gate.check.split("/")[0],
        SAMPLES_ARE: str(found.get(SAMPLES_ARE, "images")),
        "ground": say(f"plugin.ground-{gate.ground}").render(),
    }
    if gate.interval is None:
        return say("convert.score", **values).render()
    low, high = (f"{end:+.2f}" for end in gate.interval)
    return say("convert.score-interval", **values, low=low, high=high).render()


def _conclusion(done: Conversion) -> str:
    if done.status:
        return say("convert.failed", count=len(done.failed)).render()
    if done.soc is None:
        return say("convert.only-onnx").render()
    key = {"emulated": "convert.emulated", "double": "convert.double"}.get(done.ground or "", "convert.done")
    return say(key, soc=done.soc).render()
