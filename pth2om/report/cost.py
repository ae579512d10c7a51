"""The loss from INT8: the metric of each INT8 variant compared with the original model, at every measured level."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pth2om.evidence import GateRecord
from pth2om.language import SAMPLES_ARE, Language, Message, Value, language, say
from pth2om.report.figures import MISSING, number
from pth2om.report.tables import needed_images, samples_of
from pth2om.report.wording import in_language

_LEVELS = {"om": "om", "fake-quant": "twin", "int8-weights": "weights"}


@dataclass(frozen=True)
class Cost:
    """One INT8 variant on one dataset.

    Attributes:
        name: ``resnet20-int8-bs1``.
        dataset, metric: what was scored; empty where nothing was.
        om: gate of the OM, the worse band of an emulated one; None where it was not scored.
        twin: of the fake-quant ONNX, which has the loss of weights and activations.
        weights: of PyTorch with the INT8 weights and FP32 activations.
        reason: why nothing was measured, or None.
    """

    name: str
    dataset: str = ""
    metric: str = ""
    om: GateRecord | None = None
    twin: GateRecord | None = None
    weights: GateRecord | None = None
    reason: Message | None = None

    @property
    def judged(self) -> GateRecord | None:
        """The gate with the loss from INT8: that of the OM, else that of the fake-quant ONNX."""
        return self.om or self.twin

    @property
    def reference(self) -> float | None:
        """The original model's score, of any gate that has it."""
        found = (number(gate.details.get("reference")) for gate in (self.om, self.twin, self.weights) if gate)
        return next((value for value in found if value is not None), None)

    @property
    def images(self) -> int | None:
        """How many images were scored."""
        gate = self.judged
        count = number(gate.details.get("images")) if gate is not None else None
        return None if count is None else int(count)

    @property
    def samples_are(self) -> str:
        """What the data set holds."""
        return "images" if self.judged is None else samples_of(self.judged)

    @staticmethod
    def score(gate: GateRecord | None) -> float | None:
        """The metric's value of one level; None where it was not scored."""
        return None if gate is None else number(gate.details.get("candidate"))

    def line(self, to: Language | None = None) -> str:
        """The cost in one sentence.

        Args:
            to: its language; default the reader's.
        """
        gate = self.judged
        if gate is None or gate.measured is None:
            reason = in_language(self.reason, to or language()) if self.reason is not None else MISSING
            return say("report.cost-unknown", name=self.name, reason=reason).render(to)
        by = say(f"report.cost-by-{gate.ground if gate is self.om else 'twin'}").render(to)
        values: dict[str, Value] = {
            "name": self.name,
            "metric": self.metric,
            "dataset": self.dataset,
            "images": self.images or 0,
            "measured": gate.measured,
            SAMPLES_ARE: samples_of(gate),
            "by": by,
        }
        reference, candidate = self.reference, self.score(gate)
        if gate.interval is None or reference is None or candidate is None:
            return say("report.cost-agreement", **values).render(to)
        values |= {"reference": reference, "candidate": candidate, "low": gate.interval[0], "high": gate.interval[1]}
        needed = needed_images(gate)
        if needed is None:
            return say("report.cost-line", **values).render(to)
        return say("report.cost-line-unsettled", **values, needed=needed).render(to)


def costs(gates: Iterable[GateRecord]) -> list[Cost]:
    """One entry per INT8 variant, dataset and metric, in the gates' order; one for a variant that was not scored.

    Args:
        gates: of a run, or of one card.
    """
    scored: dict[tuple[str, str, str | None, str, str], dict[str, GateRecord]] = {}
    missing: dict[tuple[str, str, str | None], GateRecord] = {}
    for gate in gates:
        if gate.question != "accuracy" or not gate.variant.startswith("int8-"):
            continue
        subject, _, rest = gate.check.partition("/")
        variant = (gate.model, gate.variant, gate.soc)
        if gate.measured is None:
            missing.setdefault(variant, gate)
        elif subject in _LEVELS and rest.rpartition("/")[2] in ("drop", "agreement"):
            dataset = gate.details.get("dataset")
            key = (*variant, dataset if isinstance(dataset, str) else "", rest.rpartition("/")[0])
            scored.setdefault(key, {})[_LEVELS[subject]] = gate
    found = []
    for (model, name, _, dataset, metric), levels in scored.items():
        found.append(
            Cost(f"{model}-{name}", dataset, metric, levels.get("om"), levels.get("twin"), levels.get("weights"))
        )
    known = {key[:3] for key in scored}
    for variant, gate in missing.items():
        if variant not in known:
            found.append(Cost(f"{variant[0]}-{variant[1]}", reason=gate.message))
    return found
