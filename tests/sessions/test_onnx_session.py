"""ONNX Runtime behind the Session protocol."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from pth2om.errors import ToolchainError
from pth2om.onnxfile.runtime import open_runtime
from pth2om.session import Session
from pth2om.sessions import onnx as onnx_sessions
from pth2om.sessions.onnx import OnnxSession
from pth2om.store import file_digest


@pytest.fixture
def path(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "s"], ["y"]), helper.make_node("Gather", ["y", "i"], ["z"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("i", TensorProto.INT64, [1]),
        ],
        [
            helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 2]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2]),
        ],
    )
    file = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)
    return file


FEEDS = {
    "x": np.array([[1, 2], [3, 4]], np.float32),
    "s": np.array(2, np.float32),
    "i": np.array([1], np.int64),
}


def test_runs_and_describes_itself(path):
    with OnnxSession(path, threads=1) as session:
        assert isinstance(session, Session)
        assert session.digest == file_digest(path)
        assert session.provenance.name == "onnxruntime"
        assert session.provenance.version == onnxruntime.__version__
        assert session.provenance.ground == "host"
        results = session.run(FEEDS)
        assert list(results) == ["z", "y"] == [spec.name for spec in session.outputs]
        assert results["z"].tolist() == [[6, 8]]
        assert [(spec.name, spec.shape, spec.dtype) for spec in session.inputs] == [
            ("x", (None, 2), np.float32),
            ("s", (), np.float32),
            ("i", (1,), np.int64),
        ]
    with pytest.raises(ToolchainError, match="closed"):
        session.run(FEEDS)


def test_digest_is_known_without_opening(tmp_path):
    assert OnnxSession(tmp_path / "absent.onnx", digest="ab" * 32).digest == "ab" * 32
    with pytest.raises(ToolchainError, match="cannot be read"):
        _ = OnnxSession(tmp_path / "absent.onnx").digest


def test_importing_and_making_one_imports_no_runtime(path):
    code = (
        "import sys; from pathlib import Path; from pth2om.sessions.onnx import OnnxSession; "
        f"OnnxSession(Path({str(path)!r})).digest; "
        "sys.exit(any(name in sys.modules for name in ('onnx', 'onnxruntime', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": None}, r"Input x was not given \(given: s, i\)"),
        ({"w": np.zeros(1)}, "no input w; its inputs are i, s, x"),
        ({"x": np.zeros((2, 2))}, "Input x is float64, but the model requires float32"),
        ({"x": np.zeros((2, 3), np.float32)}, r"Input x is 2x3, but the model requires \?x2"),
        ({"x": np.zeros(2, np.float32)}, r"Input x is 2, but the model requires \?x2"),
        ({"i": np.zeros(2, np.int64)}, "Input i is 2, but the model requires 1"),
        ({"i": np.array([7], np.int64)}, "ONNX Runtime failed"),
    ],
)
def test_feeds_are_checked(path, change, words):
    feeds = {name: value for name, value in {**FEEDS, **change}.items() if value is not None}
    with OnnxSession(path, threads=1) as session, pytest.raises(ToolchainError, match=words) as caught:
        session.run(feeds)
    assert caught.value.render("zh") != caught.value.render("en")


def test_no_silent_fall_back(path):
    absent = next(
        name
        for name in ("CUDAExecutionProvider", "CANNExecutionProvider")
        if name not in onnxruntime.get_available_providers()
    )
    for providers in ((absent,), (absent, "CPUExecutionProvider")):
        with pytest.raises(ToolchainError, match=f"does not have the execution provider {absent}"):
            OnnxSession(path, providers=providers).run(FEEDS)


class _Runtime:
    def __init__(self, *args, **kwargs):
        pass

    def get_providers(self):
        return ["CPUExecutionProvider"]


def test_a_provider_that_gives_way_to_the_cpu_is_an_error(path, monkeypatch):
    entries = {}

    class Options(onnxruntime.SessionOptions):
        def add_session_config_entry(self, key, value):
            entries[key] = value

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", _Runtime)
    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    with pytest.raises(ToolchainError, match="CUDAExecutionProvider was requested, but ONNX Runtime used CPU"):
        OnnxSession(path, providers=("CUDAExecutionProvider",)).run(FEEDS)
    assert entries == {"session.disable_cpu_ep_fallback": "1"}  # and ONNX Runtime refuses single nodes on the CPU


def test_what_cannot_be_opened(tmp_path, path):
    with pytest.raises(ToolchainError, match="ONNX file does not exist"):
        _ = OnnxSession(tmp_path / "absent.onnx").inputs
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ToolchainError, match="cannot open"):
        OnnxSession(path).run(FEEDS)


def test_threads_are_pinned_and_optimization_can_be_off(path, monkeypatch):
    seen = []
    real = onnxruntime.InferenceSession

    def spy(model, options, providers):
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads, options.graph_optimization_level))
        return real(model, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    OnnxSession(path, threads=2, optimize="none").run(FEEDS)
    assert seen == [(2, 1, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)]


def test_a_file_that_is_opened_ahead_is_opened_once(path, monkeypatch):
    opened = []
    monkeypatch.setattr(onnx_sessions, "open_runtime", lambda *a, **k: opened.append(a) or open_runtime(*a, **k))
    with OnnxSession(path, threads=1) as session:
        session.open_ahead()
        session.open_ahead()
        assert session.run(FEEDS)["z"].tolist() == [[6, 8]]
        session.open_ahead()
    session.open_ahead()
    assert len(opened) == 1
    with OnnxSession(path, threads=1) as other:
        other.open_ahead()  # closed while it is opened
    with pytest.raises(ToolchainError, match="closed"):
        session.run(FEEDS)


def test_what_cannot_be_opened_ahead_fails_when_it_is_needed(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    session = OnnxSession(tmp_path / "m.onnx")
    session.open_ahead()
    with pytest.raises(ToolchainError, match=r"m\.onnx"):
        _ = session.inputs
