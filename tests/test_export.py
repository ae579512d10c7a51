"""torch -> ONNX: the ladder, what is found on the way, and what is said when nothing works."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pth2om.errors import ExportError
from pth2om.export import Purpose, export, take
from pth2om.export_probe import example, relative_l2
from pth2om.sessions.torch import TorchSession
from pth2om.spec import Export, Input

IMAGE = (Input(name="image", shape=(3, 8, 8)),)


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x)).mean((2, 3))


def net(module: type[torch.nn.Module] = Small) -> torch.nn.Module:
    torch.manual_seed(0)
    return module().eval()


def opset_of(path: Path) -> int:
    return {entry.domain: entry.version for entry in onnx.load(path).opset_import}[""]


def rules(made) -> set[str]:
    return {finding.rule for finding in made.findings}


def test_the_highest_registered_opset_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    made = export(net(), IMAGE, Export(outputs=("logits",)), 2, path)
    assert made.opset == opset_of(path) == 17
    assert [attempt.outcome for attempt in made.attempts] == ["taken"]
    assert max(made.probes) < 1e-5
    assert list(tmp_path.iterdir()) == [path]
    session = onnxruntime.InferenceSession(path)
    assert [entry.name for entry in session.get_outputs()] == ["logits"]
    assert session.get_inputs()[0].shape == [2, 3, 8, 8]
    json.dumps(made.to_json())


def test_the_ladder_steps_down_past_a_hole(tmp_path: Path) -> None:
    class Norm(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.vector_norm(x, dim=1)

    # ATC has no ReduceL2 at opset 18 (a hole), but at 17.
    made = export(net(Norm), IMAGE, Export(opsets=(18, 17)), 1, tmp_path / "m.onnx")
    assert made.opset == 17
    assert made.attempts[0].outcome == "not-registered"
    assert "ReduceL2" in made.attempts[0].reason


def test_an_operator_nobody_knows_is_an_error_finding_and_the_file_is_written(tmp_path: Path) -> None:
    class Quantized(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127)

    made = export(net(Quantized), IMAGE, Export(opsets=(17, 16)), 1, tmp_path / "m.onnx")
    (finding,) = (finding for finding in made.findings if finding.rule == "export.not-registered")
    assert "QuantizeLinear" in str(finding.message)
    assert [attempt.outcome for attempt in made.attempts] == ["taken", "not-registered"]
    assert (tmp_path / "m.onnx").exists()


def test_dynamo_that_leaves_the_opset_at_18_is_caught(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="opset 18"):
        export(net(), IMAGE, Export(exporter="dynamo", opsets=(13,)), 1, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_control_flow_frozen_by_tracing_is_found(tmp_path: Path) -> None:
    class Branch(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.mean() > 0.5 else x * 3

    made = export(net(Branch), IMAGE, Export(), 1, tmp_path / "m.onnx")
    assert {"export.frozen", "export.tracer-warning"} <= rules(made)


def test_an_input_the_net_ignores_is_found(tmp_path: Path) -> None:
    class Ignores(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + 1

    inputs = (Input(name="x", shape=(2,)), Input(name="y", shape=(2,)))
    assert "export.unused-input" in rules(export(net(Ignores), inputs, Export(), 1, tmp_path / "m.onnx"))


def test_nested_outputs_have_names_and_order(tmp_path: Path) -> None:
    class Nested(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return {"a": x + 1, "b": [x + 2, (x + 3, None)]}

    made = export(net(Nested), IMAGE, Export(), 1, tmp_path / "m.onnx")
    assert made.outputs == ("output0", "output1", "output2")
    feeds = example(IMAGE, 1, 5)
    ours = TorchSession(lambda: net(Nested), IMAGE, (), digest="d").run(feeds)
    theirs = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, feeds)
    assert list(ours) == ["output0", "output1", "output2"]
    for a, b in zip(ours.values(), theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_several_inputs_of_several_types(tmp_path: Path) -> None:
    class Mixed(torch.nn.Module):
        def forward(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            return x[torch.arange(x.shape[0]), index.squeeze(1)]

    inputs = (Input(name="x", shape=(5,)), Input(name="index", shape=(1,), dtype="int64", range=(0, 4)))
    made = export(net(Mixed), inputs, Export(), 3, tmp_path / "m.onnx")
    assert max(made.probes) == 0.0


def test_a_dynamic_batch(tmp_path: Path) -> None:
    export(net(), IMAGE, Export(dynamic_batch=True), 2, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    assert session.get_inputs()[0].shape[0] == "batch"
    assert session.run(None, example(IMAGE, 5, 0))[0].shape[0] == 5


@pytest.mark.parametrize(
    ("inputs", "asked", "key"),
    [
        ((Input(name="image", shape=(4, 8, 8)),), Export(), "export.forward-failed"),
        (IMAGE, Export(outputs=("a", "b")), "export.output-count"),
    ],
)
def test_a_spec_that_does_not_fit_the_net_is_said(tmp_path: Path, inputs, asked, key) -> None:
    with pytest.raises(ExportError) as caught:
        export(net(), inputs, asked, 1, tmp_path / "m.onnx")
    assert caught.value.message.key == key
    assert list(tmp_path.iterdir()) == []


def test_a_net_that_returns_no_tensor_is_said(tmp_path: Path) -> None:
    class Text(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> str:
            return "cat"

    with pytest.raises(ExportError, match="str"):
        export(net(Text), IMAGE, Export(), 1, tmp_path / "m.onnx")


def test_a_given_onnx_is_taken_with_its_batch_fixed(tmp_path: Path) -> None:
    given = tmp_path / "given.onnx"
    export(net(), IMAGE, Export(dynamic_batch=True), 1, given)
    made = take(given, IMAGE, 4, tmp_path / "taken.onnx")
    assert made["exporter"] == "given"
    assert onnxruntime.InferenceSession(tmp_path / "taken.onnx").get_inputs()[0].shape == [4, 3, 8, 8]
    assert onnxruntime.InferenceSession(given).get_inputs()[0].shape[0] == "batch"


@pytest.mark.parametrize(
    ("inputs", "key"),
    [
        ((Input(name="picture", shape=(3, 8, 8)),), "export.no-such-input"),
        ((Input(name="image", shape=(3, 8)),), "export.rank"),
        ((Input(name="image", shape=(3, 9, 8)),), "export.fixed-shape"),
    ],
)
def test_a_given_onnx_that_does_not_fit_the_spec_is_said(tmp_path: Path, inputs, key) -> None:
    export(net(), IMAGE, Export(), 1, tmp_path / "given.onnx")
    with pytest.raises(ExportError) as caught:
        take(tmp_path / "given.onnx", inputs, 1, tmp_path / "taken.onnx")
    assert caught.value.message.key == key


def test_a_file_that_is_no_onnx_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"<html>")
    with pytest.raises(ExportError, match="not a readable ONNX"):
        take(tmp_path / "x.onnx", IMAGE, 1, tmp_path / "y.onnx")


@pytest.mark.parametrize("how", ["traced", "scripted", "frozen"])
def test_a_torchscript_file_is_exported(tmp_path: Path, how: str) -> None:
    """Wrapped in another module and traced, PyTorch refused it: "not part of the active trace"."""
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    script = torch.jit.trace(module, torch.rand(1, 3, 8, 8)) if how == "traced" else torch.jit.script(module)
    torch.jit.save(torch.jit.freeze(script) if how == "frozen" else script, str(tmp_path / "m.pt"))
    loaded = torch.jit.load(str(tmp_path / "m.pt")).eval()
    made = export(loaded, [Input(name="image", shape=(3, 8, 8))], Export(), 2, tmp_path / "m.onnx")
    assert made.opset == 17
    assert made.findings == ()
    assert max(made.probes) < 1e-5


def test_the_parser_of_the_target_decides(tmp_path: Path) -> None:
    class Fold(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.fold(x.flatten(2), (4, 4), (2, 2), stride=2)

    inputs = [Input(name="x", shape=(8, 2, 2))]
    made = {
        cann: export(net(Fold), inputs, Export(opsets=(18,)), 1, tmp_path / f"{cann}.onnx", Purpose(cann=cann))
        for cann in ("9.x", "8.0")
    }
    assert not made["9.x"].findings
    (finding,) = made["8.0"].findings
    assert (finding.rule, finding.severity) == ("export.registration-unknown", "warning")
    assert "ai.onnx::18::Col2Im" in str(finding.message)


@pytest.mark.parametrize("what", ["encoder", "masked encoder", "attention"])
def test_attention_that_pytorch_fuses_in_eval_mode_is_exported(what: str, tmp_path: Path) -> None:
    class Attending(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = torch.nn.TransformerEncoder(layer, 1)
            self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if what == "attention":
                return self.attention(x, x, x)[0]
            return self.encoder(x, mask=torch.ones(5, 5).triu(1).bool() if "masked" in what else None)

    before = torch.backends.mha.get_fastpath_enabled()
    made = export(net(Attending), (Input(name="x", shape=(5, 8)),), Export(opsets=(17,)), 1, tmp_path / "m.onnx")
    assert made.attempts[0].outcome == "taken"
    assert max(made.probes) < 1e-5  # the reference is PyTorch's own way, fused or not
    assert torch.backends.mha.get_fastpath_enabled() == before


@given(arrays(np.float32, (2, 3, 4), elements=st.floats(width=32)), st.integers(0, 2))
def test_the_distance_is_that_of_what_is_finite_in_both(array: np.ndarray, axis: int) -> None:
    a, b = np.moveaxis(array, axis, 0), np.moveaxis(array[:, ::-1], axis, 0)
    both = np.isfinite(a) & np.isfinite(b)
    apart = float(np.linalg.norm(a[both].astype(np.float64) - b[both]))
    wanted = apart / max(float(np.linalg.norm(a[both].astype(np.float64))), 1e-12)
    assert relative_l2(a, b) == (wanted if np.array_equal(np.isfinite(a), np.isfinite(b)) else float("inf"))
