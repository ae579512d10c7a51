"""What draws random numbers while it runs is found before anything is compared with it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from pth2om.compare.repeating import judge_repeats, repeated
from pth2om.data.samples import Sample
from pth2om.questions.candidate import Candidate
from pth2om.questions.closeness import closeness
from pth2om.questions.subject import Subject
from pth2om.sessions.onnx import OnnxSession
from pth2om.sessions.torch import TorchSession
from pth2om.spec import Input
from pth2om.store import Store
from tests.questions.asking import model

INPUT = Input(name="x", shape=(8,))
FED = Sample(("random-0",), {"x": np.random.default_rng(0).normal(size=(1, 8)).astype(np.float32)})


class Dropping(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.01, training=True)


class Training(nn.Module):
    """Switched back into training mode by its own forward."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return self.drop.train()(x)


class Drawing(nn.Module):
    def forward(self, x):
        return x + 1e-5 * torch.rand_like(x)


class Growing(nn.Module):
    def forward(self, x):
        return x[:, : int(torch.randint(1, 9, ()))]


class Seeded(nn.Module):
    def forward(self, x):
        torch.manual_seed(0)
        return x + torch.rand_like(x)


def of_torch(module: nn.Module) -> TorchSession:
    return TorchSession(lambda: module, [INPUT], [], digest=type(module).__name__)


def of_graph(folder, kind: str, **attributes) -> OnnxSession:
    nodes = [
        helper.make_node(kind, ["x"], ["noise"], **attributes),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 8]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, folder / "model.onnx")
    return OnnxSession(folder / "model.onnx")


def verdict(session) -> str:
    measured = repeated(session, FED)
    json.dumps(measured)
    return judge_repeats(measured, "torch").verdict


@pytest.mark.parametrize("module", [Dropping, Training, Drawing, Growing])
def test_a_module_that_draws_random_numbers_fails(module):
    # Dropout of 1 % leaves eight numbers alone more often than not, so a wider input is fed.
    wide = Sample(("random-0",), {"x": np.ones((1, 4096), np.float32)})
    judged = judge_repeats(repeated(of_torch(module()), wide if module is not Growing else FED, 5), "torch")
    assert judged.verdict == "failed"
    assert "not deterministic" in str(judged.message)


@pytest.mark.parametrize("module", [nn.Linear(8, 3), nn.Dropout(0.5), Seeded()])
def test_a_module_that_repeats_itself_passes(module):
    assert verdict(of_torch(module)) == "passed"


@pytest.mark.parametrize("kind", ["RandomNormalLike", "RandomUniformLike"])
def test_random_nodes_in_a_graph_fail(tmp_path, kind):
    assert (
        verdict(of_graph(tmp_path, kind, **{"scale": 1e-4} if kind == "RandomNormalLike" else {"high": 1e-4}))
        == "failed"
    )


def test_a_graph_without_them_passes(tmp_path):
    assert verdict(of_graph(tmp_path, "Relu")) == "passed"


class Sometimes:
    """Not finite every other time, or another output."""

    def __init__(self, *answers):
        self.answers = [*answers]

    def run(self, feeds):
        self.answers.append(self.answers.pop(0))
        return self.answers[-1]


@pytest.mark.parametrize("again", [{"y": np.array([np.nan, 1.0])}, {"y": np.ones(3)}, {"z": np.ones(2)}])
def test_other_shapes_names_and_nan_are_no_repetition(again):
    assert verdict(Sometimes({"y": np.ones(2)}, again)) == "failed"


def test_chance_is_reported_as_such_and_excuses_nothing(tmp_path):
    """A float64 twin would take it for rounding, and every sample for ill-conditioned."""
    from pth2om.data.samples import samples

    module = Drawing()
    reference = of_torch(module)
    onnx_session = of_graph(tmp_path, "Relu")
    given, store = Input(name="x", shape=(8,)), Store(tmp_path / "store")
    pipeline = model(given, reference, store, module=lambda: module, remembering=lambda one: one)
    fed = samples(pipeline.spec, None, batch=1, seed=0)
    gates = closeness(Subject(pipeline), Candidate.of(reference), Candidate.of(onnx_session), fed)
    said = {gate.check: gate for gate in gates}
    assert said["torch/repeats"].verdict == "failed"
    assert said["onnx/repeats"].verdict == "passed"
    assert not any("ill-conditioned" in str(gate.message) for gate in gates)
