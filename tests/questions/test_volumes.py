"""The accuracy question about volumes: every gate that the plan expects, per class, for an original and an OM."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import parser

from pth2om.conversion.pipeline import Pipeline
from pth2om.conversion.settings import RunSettings
from pth2om.questions.accuracy import accuracy, score
from pth2om.questions.candidate import Candidate
from pth2om.questions.expected import Asked, expected
from pth2om.questions.subject import Subject
from pth2om.spec import load
from pth2om.store import Store

# The scores of class k are k x - k^2/2: the best is the nearest whole number.
GRAPH = """<ir_version: 8, opset_import: ["": 13]>
agraph (float[1,1,4,4,4] x) => (float[1,3,4,4,4] y)
<float[3,1,1,1,1] w = {0, 1, 2}, float[3] b = {0, -0.5, -2}> { y = Conv(x, w, b) }"""
SPEC = """task = "segmentation"
[source]
onnx = "net.onnx"
[[inputs]]
name = "x"
shape = [1, 4, 4, 4]
range = [0.0, 2.0]
[postprocess]
decoder = "argmax"
[volume]
channels = [{ normalization = "none" }]
mirror = [0, 2]
[[datasets]]
name = "own"
metric = "dice"
min_score = 50.0
[gates]
drop = 12.0
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    root = tmp_path_factory.mktemp("volumes")
    model, data = root / "models" / "toy", root / "calib" / "own"
    for folder in (model, data / "imagesTs", data / "labelsTs"):
        folder.mkdir(parents=True)
    (model / "model.toml").write_text(SPEC)
    onnx.save(parser.parse_model(GRAPH), model / "net.onnx")
    (data / "dataset.toml").write_text('kind = "volumes"\nnames = ["background", "ball", "box"]\n')
    stream = np.random.default_rng(0)
    for number in range(30):
        truth = stream.integers(0, 3, (5, 4, 6)).astype(np.uint8)
        wrong = np.where(stream.random(truth.shape) < 0.1, (truth + 1) % 3, truth)
        np.save(data / "imagesTs" / f"c{number:02d}.npy", wrong.astype(np.float32))
        np.save(data / "labelsTs" / f"c{number:02d}.npy", truth)
    settings = RunSettings(root / "models", root / "calib", soc="Ascend310P3")
    return Pipeline(load(model), settings, Store(root / "store"))


def test_every_class_has_a_score_and_a_drop(pipeline: Pipeline) -> None:
    spec = pipeline.spec
    (dataset,), variant = spec.datasets, spec.variants[0]
    labelled = pipeline.data.dataset("own")
    own = score(Subject(pipeline), pipeline.reference_session(), labelled, dataset)
    assert [gate.check for gate in own] == ["dice/score", "dice:ball/score", "dice:box/score"]
    assert [gate.verdict for gate in own] == ["passed", "shown", "shown"]
    for gate in own:
        assert gate.interval is not None
        assert gate.interval[0] < gate.measured < gate.interval[1] < 100
    candidate = Candidate("om", pipeline.om_sessions(variant))
    reference = Candidate.of(pipeline.reference_session())
    gates = accuracy(Subject(pipeline, variant), reference, candidate, labelled, dataset)
    drops = ["om/dice/drop", "om/dice:ball/drop", "om/dice:box/drop"]
    assert [gate.check for gate in gates] == [*drops, "om/unreadable"]
    assert {gate.verdict for gate in gates} == {"passed"}
    assert {gate.ground for gate in gates} == {"emulated"}
    assert gates[-1].unit == "volumes"
    for text in (gate.message.render(to) for gate in gates if gate.message for to in ("en", "zh")):
        assert re.search("volumes|体数据", text)
        assert not re.search("images|图片", text)
    for name, roles, found in (("score", (), own), ("accuracy", ("onnx", "om"), gates)):
        planned = list(expected(name, Asked(roles, "accuracy", spec, variant, 1, dataset)))
        assert planned
        for each in planned:
            assert any(each.is_given(gate) for gate in found), each


def test_windows_of_volumes_are_among_the_samples(pipeline: Pipeline) -> None:
    samples = pipeline.data.samples(1)
    first = next(iter(samples))
    assert first.names[0].startswith("real-0 (c00")
    window = np.load(pipeline.settings.calib / "own" / "imagesTs" / "c00.npy")[0:4, :, 1:5]
    assert np.array_equal(first.feeds["x"][0, 0], window)


def test_int8_is_calibrated_on_windows(pipeline: Pipeline) -> None:
    data = pipeline.data.calibration(1)
    assert (data.name, data.images, data.random) == ("own", 30, False)
    feeds = list(data.feeds())
    assert len(feeds) == data.count == 30
    assert feeds[0]["x"].shape == (1, 1, 4, 4, 4)
