"""Questions of one comparison, and of the next, ask the same of a session: it computes each answer once."""

from __future__ import annotations

import hashlib
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from pth2om.conversion.sessions import Sessions
from pth2om.data.samples import samples
from pth2om.questions.candidate import Candidate
from pth2om.questions.closeness import closeness
from pth2om.questions.subject import Subject
from pth2om.session import Provenance
from pth2om.spec import Input, Shape
from pth2om.store import Store
from tests.questions.asking import model

WEIGHT = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
INPUT = Input(name="x", shape=(8,))


class Counting:
    """Computes a product, and counts the runs of each input."""

    def __init__(self, name: str, digest: str, ground: str = "host", noise: float = 0.0) -> None:
        self.provenance = Provenance(name, "1", ground)
        self.digest = digest
        self.runs: Counter[str] = Counter()
        self._noise = noise
        self._stream = np.random.default_rng(0)

    def run(self, feeds):
        self.runs[hashlib.sha256(feeds["x"].tobytes()).hexdigest()] += 1
        y = feeds["x"] @ WEIGHT
        return {"y": (y + self._noise * self._stream.random(y.shape)).astype(np.float32)}


def asked(tmp_path, torch, bands, *, batch=4):
    """The gates of all three comparisons at a batch size, and the session of ONNX Runtime."""
    onnx = Counting("onnxruntime", "onnx")
    remembering = Sessions(SimpleNamespace(), SimpleNamespace()).remembering
    pipeline = model(INPUT, torch, Store(tmp_path / "store"), remembering=remembering)
    fed = samples(pipeline.spec, None, batch=batch, seed=0)
    subject = Subject(pipeline, shape=Shape(batch))
    sides = [Candidate.of(torch), Candidate.of(onnx), Candidate("om", bands)]
    gates = [
        gate
        for reference, candidate in ((0, 1), (1, 2), (0, 2))
        for gate in closeness(subject, sides[reference], sides[candidate], fed)
    ]
    return gates, onnx


@pytest.mark.parametrize("batch", [1, 4])
def test_only_the_question_whether_it_repeats_itself_computes_an_answer_again(tmp_path, batch):
    torch = Counting("torch", "torch")
    bands = {name: Counting("emulator", "om", "emulated") for name in ("fused", "unfused")}
    gates, onnx = asked(tmp_path, torch, bands, batch=batch)
    assert {gate.verdict for gate in gates} == {"passed"}
    assert {gate.check for gate in gates} >= {"torch/repeats", "onnx/repeats", "om/repeats"}
    for session in (torch, onnx, bands["fused"]):
        assert Counter(session.runs.values()) == {2: 1, 1: len(session.runs) - 1}
    # Bands of one digest compute the same: the second never runs, and both are in the evidence.
    assert not bands["unfused"].runs
    compared = [gate for gate in gates if gate.check.startswith("onnx~om")]
    assert any(str(gate.details.get("worst")).endswith("[fused]") for gate in compared)
    assert not any(gate.cached for gate in gates if "~" in gate.check)


def test_an_answer_that_is_kept_does_not_hide_chance(tmp_path):
    torch = Counting("torch", "torch", noise=1e-4)
    bands = {"device": Counting("emulator", "om", "emulated", noise=1e-4)}
    gates, _ = asked(tmp_path, torch, bands)
    said = {gate.check: gate.verdict for gate in gates}
    assert (said["torch/repeats"], said["onnx/repeats"], said["om/repeats"]) == ("failed", "passed", "failed")


def test_a_device_given_the_same_file_answers_for_itself() -> None:
    """ONNX Runtime's CANN provider runs the very ONNX file that the session on this CPU runs."""
    sessions = Sessions(SimpleNamespace(), SimpleNamespace())
    host, device = Counting("onnxruntime", "same"), Counting("cann/onnxruntime-cann", "same", "device")
    feeds = {"x": np.ones((1, 8), np.float32)}
    for session in (host, device, host, device):
        sessions.remembering(session).run(feeds)
    assert (sum(host.runs.values()), sum(device.runs.values())) == (1, 1)
