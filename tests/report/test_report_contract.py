"""What the measuring rooms write today is what the report reads."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from pth2om import accuracy, compare, evidence, latency
from pth2om.accuracy.reference import Lead
from pth2om.compare.figures import METRICS, NORMS
from pth2om.compare.figures import closeness as closeness_of
from pth2om.evidence import GateRecord
from pth2om.report import collect
from pth2om.report.html import render_html
from pth2om.report.tables import closeness, scores, speeds
from pth2om.session import Provenance
from pth2om.spec import Gates

EMULATED = Provenance("emulator", "0.1.0", "emulated", "Ascend310B1")


def gates(question, judgements, variant="fp16-bs1", provenance=EMULATED):
    """As the acceptance room makes evidence of judgements, and as it comes back from a file."""
    for one in judgements:
        fields = {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}
        record = GateRecord(
            model="m",
            variant=variant,
            soc=provenance.soc,
            question=question,
            ground=provenance.ground,
            provenance=provenance,
            **fields,
        )
        yield evidence.from_json(json.loads(json.dumps(evidence.to_json(record))))


def measured_closeness(error):
    rng = np.random.default_rng(3)
    rows = [rng.normal(size=50) for _ in range(4)]
    part = {"output": "out", "kind": "values", "elements": 50, "samples": [f"real-{row}" for row in range(4)]}
    figures = [closeness_of(row, row + error * rng.normal(size=50)) for row in rows]
    names = {name for values, _ in figures for name in values}
    part |= {name: [values.get(name) for values, _ in figures] for name in METRICS}
    assert names <= {*METRICS, *NORMS}
    part["spread"] = {}
    part["histogram"] = [sum(counts) for counts in zip(*(histogram for _, histogram in figures), strict=True)]
    return {"slices": {"boxes": part}, "mismatch": [], "pixels": None, "constant": []}


@pytest.mark.parametrize("error", [0.0, 1e-4, 10.0])
def test_closeness(error):
    found = list(gates("closeness", compare.judge(measured_closeness(error), pair="onnx~om", gates=Gates())))
    table = closeness(collect(found).cards[0])[0]
    assert table.name == "boxes"
    judged = {gate.check.split("/")[-1] for gate in found}
    assert judged <= set(table.rows)
    assert table.sides[0].sample.startswith("real-")
    assert sum(table.sides[0].counts) == 200
    assert {"max_abs", "sqnr_db"} <= set(table.rows)
    page = render_html(collect(found), "en")
    assert ('id="failed"' in page) == (error == 10.0)


def test_an_error_beyond_the_last_bin_is_drawn():
    part = measured_closeness(1e9)
    found = list(gates("closeness", compare.judge(part, pair="onnx~om", gates=Gates())))
    side = closeness(collect(found).cards[0])[0].sides[0]
    assert sum(side.counts) == 200
    assert side.edges[-1] > 1e4


def difference(lost, gained):
    return {
        "version": 1, "metric": "top1", "images": 249, "reference": 90.36, "candidate": 90.0, "unreadable": 0,
        "seed": 0, "drop": 0.4, "interval": [-0.9, 1.6], "bounds": [-0.9, 1.6], "level": 0.95, "method": "exact",
        "lost_count": 70, "gained_count": 0, "lead": Lead("chance", 10.0, 80.36, 75.0).to_json(),
        "lost": lost, "gained": gained, "changed_count": 3,
    }  # fmt: skip


def test_accuracy():
    lost = [{"image": 3, "file": "a.png", "label": 5, "reference": 5, "candidate": 7}] * 50
    judged = dataclasses.replace(accuracy.judge(difference(lost, []), 1.0), check="om/top1/drop")
    found = list(gates("accuracy", [judged]))
    score = scores(found)[0]
    assert (score.metric, score.n, score.reference, score.candidate) == ("top1", 249, 90.36, 90.0)
    assert score.columns == ("file", "label", "reference", "candidate")
    assert score.disagreements[0] == ("a.png", "5", "5", "7")
    assert (len(score.disagreements), score.more) == (50, 20)
    assert found[0].verdict == "inconclusive"
    assert score.needed > 249
    page = render_html(collect(found), "en")
    assert f"about {score.needed} images would settle it" in page
    assert "<circle" in page


def test_latency():
    measured = latency.summarize([3.0, 3.1, 3.2, 3.3, 9.0], 4)
    host = Provenance("onnxruntime", "1", "host")
    timed = list(gates("latency", latency.judge(measured, subject="onnx", ground="host"), provenance=host))
    estimate = {"milliseconds": 0.7, "fps": 1428.0, "soc": "Ascend310B1"}
    om = list(gates("latency", latency.judge(None, subject="om", ground="emulated", estimate=estimate)))
    first, second = speeds(timed + om)
    assert (first.subject, first.p50, first.batch, first.runs) == ("onnx", 3.2, 4, 5)
    assert first.fps == pytest.approx(1250)
    assert (second.subject, second.p50, second.roofline, second.gate.verdict) == ("om", None, 0.7, "not_measured")
    page = render_html(collect(timed + om), "en")
    assert "≥ 0.7 ms, estimate" in page


def test_a_report_of_volumes_says_volumes() -> None:
    judgement = evidence.Judgement(
        "om/dice/drop",
        0.5,
        "points",
        evidence.Limit("<=", 1.0),
        "inconclusive",
        details={"dataset": "mine", "images": 7, "samples_are": "volumes", "reference": 90.0, "candidate": 89.5}
        | {"metric": "dice", "images_needed": 300},
    )
    records = list(gates("accuracy", [judgement], variant="int8-bs1"))
    page = render_html(collect(records), "en")
    assert "about 300 volumes would settle it" in page
    assert "约 300 个体数据可得出结论" in page
    assert "7 volumes" in page
    assert "<i lang=en>Volumes</i>" in page
