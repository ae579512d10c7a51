"""Errors read in either language and cross process borders."""

from __future__ import annotations

import pickle

import pytest

from pth2om.errors import Absent, Pth2omError, StoreError, first_line


def test_an_error_says_where_what_and_what_to_do() -> None:
    error = StoreError("store.no-space", where="/store", stage="onnx")
    assert str(error).startswith("/store: There is no space")
    assert "\n  → Free some space" in str(error)
    assert "磁盘" in error.render("zh")


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(
        pickle.dumps(Absent("pipeline.weights-absent", where="net", file="a.pth", model="net", fetch=""))
    )
    assert isinstance(error, Absent)
    assert isinstance(error, Pth2omError)
    assert "a.pth" in str(error)


SOURCE = "/onnxruntime_src/onnxruntime/core"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (ValueError("\x1b[31mwrong size\x1b[0m\nlong story"), "wrong size"),
        (ValueError("\n \n  late\n"), "late"),
        (ValueError(""), "ValueError"),
        (
            RuntimeError("Error(s) in loading state_dict for Net:\n\tMissing key(s) in state_dict: a.\n\tMore"),
            "Error(s) in loading state_dict for Net: Missing key(s) in state_dict: a.",
        ),
        (RuntimeError("only a headline:"), "only a headline:"),
        (
            RuntimeError("It failed in the TorchScript interpreter.\nTraceback...\nRuntimeError: sizes"),
            "RuntimeError: sizes",
        ),
        (StoreError("store.not-a-size", text="x"), "'x' is not a size."),
        ("[ONNXRuntimeError] : 1 : FAIL : Load model from a.onnx failed", "Load model from a.onnx failed"),
        (
            f"[ONNXRuntimeError] : 1 : FAIL : It failed: {SOURCE}/model.cc:18 Model(const T&) Opset 9 (old) is",
            "It failed: Opset 9 (old) is",
        ),
        (f"Status Message: {SOURCE}/kernel.h:42 T* Input(int) const [with T = A] No w", "Status Message: No w"),
        (r"D:\a\_work\1\s\onnxruntime\core\graph.cc:12 onnxruntime::Graph::Resolve() Node is bad", "Node is bad"),
        (f"{SOURCE}/graph.cc:12 plain words", "plain words"),
        ("no (place) /home/a.py:3 here (b) c", "no (place) /home/a.py:3 here (b) c"),
        ("", ""),
        ("x" * 400, "x" * 297 + "..."),
    ],
)
def test_a_reason_is_the_line_that_says_what(said: BaseException | str, line: str) -> None:
    assert first_line(said) == line
