"""What a question is asked about: its name in evidence, and the sides of a comparison."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

import pth2om.questions
from pth2om.errors import DataError
from pth2om.evidence import Judgement, Question
from pth2om.questions import QUESTIONS
from pth2om.questions.candidate import Candidate, pair
from pth2om.questions.subject import Subject, answers
from pth2om.session import Provenance
from pth2om.spec import Gears, Shape, Variant

HOST = {name: Provenance(name, "1", "host") for name in ("torch", "onnxruntime", "fake-quant", "int8-weights")}


def session(name="onnxruntime", digest="d"):
    return SimpleNamespace(provenance=HOST[name], digest=digest)


GEARS = Gears(batch=(1, 4))


def test_questions_are_listed_once():
    assert set(QUESTIONS) == set(get_args(Question))


@pytest.mark.parametrize(
    ("variant", "shape", "case"),
    [
        (None, None, ""),
        (None, Shape(4), "bs4"),
        (None, Shape(4, GEARS, 1), "gears1_4-bs4"),
        (Variant(precision="fp16", gears=GEARS, batch=4, gear=1), None, "fp16-gears1_4-bs4"),
        (Variant(precision="fp16"), None, "fp16-bs1"),
        (Variant(precision="int8", batch=2, aipp=True), Shape(9), "int8-bs2-aipp"),
    ],
)
def test_evidence_calls_a_subject_by_its_variant_or_shape(variant, shape, case):
    subject = Subject(None, variant, shape)
    assert subject.case == case


@pytest.mark.parametrize(
    ("name", "role"),
    [("torch", "torch"), ("onnxruntime", "onnx"), ("fake-quant", "fake-quant"), ("int8-weights", "int8-weights")],
)
def test_a_session_has_the_role_of_who_computes(name, role):
    candidate = Candidate.of(session(name))
    assert (candidate.role, list(candidate.bands)) == (role, [""])


def test_bands_are_compared_with_their_own():
    plain = Candidate.of({band: session(digest=f"plain-{band}") for band in ("fused", "unfused")})
    om = Candidate.of({band: session(digest=band) for band in ("fused", "unfused")})
    onnx = Candidate.of(session())
    assert (om.role, om.session.digest) == ("om", "fused")
    assert [plain.band(band).digest for band in om.bands] == ["plain-fused", "plain-unfused"]
    assert [onnx.band(band).digest for band in om.bands] == ["d", "d"]
    assert (pair(onnx, om), pair(plain, om)) == ("onnx~om", "plain~aipp")


def test_no_question_imports_the_others_in_a_circle():
    folder = Path(pth2om.questions.__file__).parent
    uses = {}
    for path in folder.glob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        prefix = "pth2om.questions."
        names = [node.module.removeprefix(prefix) for node in nodes if node.module.startswith(prefix)]
        names += [a.name for node in nodes if node.module == "pth2om.questions" for a in node.names]
        uses[path.stem] = {name for name in names if (folder / f"{name}.py").is_file()}
    while uses:
        done = [name for name, others in uses.items() if not others & set(uses)]
        assert done, f"circle: {sorted(uses)}"
        for name in done:
            del uses[name]


def test_an_error_that_nobody_foresaw_is_a_failed_gate_with_a_sentence(caplog):
    pipeline = SimpleNamespace(spec=SimpleNamespace(name="net", digest=""), settings=SimpleNamespace(soc=None))

    @answers("accuracy")
    def ask(subject, error):
        raise error

    (gate,) = ask(Subject(pipeline), KeyError("right\x1b[31m"))
    assert (gate.question, gate.check, gate.verdict) == ("accuracy", "accuracy/ask", "failed")
    assert "KeyError" in str(gate.message)
    assert "\x1b" not in str(gate.message)
    assert "Traceback" in caplog.text
    with pytest.raises(DataError):
        ask(Subject(pipeline), DataError("compare.nothing"))


def test_a_gate_names_what_its_side_was_made_of():
    def record(digest, **details):
        return SimpleNamespace(digest=digest, details=details)

    pipeline = SimpleNamespace(
        spec=SimpleNamespace(name="net", digest="s"),
        settings=SimpleNamespace(soc="Ascend310B1"),
        device=lambda: {"driver": "24.1"},
        source=SimpleNamespace(digest="c"),  # named also by a process that has not read it
        records={
            ("bs1", "onnx"): record("x"),
            ("int8-bs1", "quantized"): record("q", calibration_digest="k"),
            ("int8-bs1-aipp", "om"): record("o8"),
            ("fp16-bs1", "om"): record("o"),
        },
    )
    int8, fp16 = Variant(precision="int8", aipp=True), Variant(precision="fp16")

    def digests(variant, provenance, own=None):
        judged = Judgement("om/x", 1.0, "", None, "shown")
        return Subject(pipeline, variant).gate("accuracy", judged, provenance, own or {}, provenance.ground)

    npu, emulated = Provenance("cann", "8", "device"), Provenance("emulator", "1", "emulated")
    host = {"spec": "s", "checkpoint": "c"}
    assert digests(int8, npu).digests == {**host, "onnx": "x", "quantized": "q", "calibration": "k", "om": "o8"}
    assert digests(fp16, emulated).digests == {**host, "onnx": "x", "om": "o"}
    assert digests(fp16, HOST["onnxruntime"]).digests == {**host, "onnx": "x"}
    assert digests(int8, HOST["fake-quant"]).digests == {**host, "onnx": "x", "quantized": "q", "calibration": "k"}
    assert digests(fp16, HOST["torch"], {"checkpoint": "written"}).digests == {"spec": "s", "checkpoint": "written"}
    assert digests(int8, npu).details == {"device": {"driver": "24.1"}}
    assert digests(fp16, emulated).details == {}


def test_a_device_is_in_the_keys_of_a_variants_measurements_alone():
    def key(device, variant):
        pipeline = SimpleNamespace(spec=SimpleNamespace(name="m"), device=lambda: device)
        stage = Subject(pipeline, variant).measurement("latency", 1, {}, {"batch": 1}, (), lambda _: None)
        return dict(stage.options())

    variant = Variant(precision="fp16")
    assert key({}, variant) == {"batch": 1}
    assert key({"driver": "24.1"}, variant) == {"batch": 1, "device": {"driver": "24.1"}}
    assert key({"driver": "24.1"}, None) == {"batch": 1}
