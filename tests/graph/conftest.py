"""Small models in ONNX's text form, and their outputs by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from pth2om.graph.contract import PassSettings
from pth2om.graph.document import Document
from pth2om.graph.runner import Outcome, run


def parse_model(text: str, opset: int = 17, ir: int = 8, imports: str = "") -> onnx.ModelProto:
    head = f'<ir_version: {ir}, opset_import: ["" : {opset}{imports}]>'
    model: onnx.ModelProto = onnx.parser.parse_model(f"{head} {text}")
    return model


def answer(model: onnx.ModelProto, seed: int = 7, **feeds: np.ndarray) -> list[Any]:
    """Outputs by ONNX Runtime with its own optimizations off: the reference is not the code under test."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(seed)
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64,
             "tensor(int32)": np.int32, "tensor(bool)": np.bool_, "tensor(double)": np.float64}  # fmt: skip
    made = {}
    for value in session.get_inputs():
        kind = kinds[value.type]
        if value.name in feeds:
            made[value.name] = feeds[value.name].astype(kind)
        else:
            shape = [size if isinstance(size, int) else 3 for size in value.shape]
            low = random.standard_normal(shape)
            made[value.name] = np.asarray(low * 3).astype(kind)
    return session.run(None, made)


class Bench:
    """Runs passes on a model and holds the result to the model itself."""

    parse = staticmethod(parse_model)
    answer = staticmethod(answer)

    def apply(self, model: onnx.ModelProto, *names: str, **settings: Any) -> Outcome:
        return run(Document.of(model), names, PassSettings(**settings))

    def same(
        self, model: onnx.ModelProto, *names: str, close: float = 0.0, feeds: dict[str, Any] | None = None, **kept: Any
    ) -> onnx.ModelProto:
        """Apply, expect all of them applied, and compare the outputs before and after; the model after."""
        outcome = self.apply(model, *names, **kept)
        assert set(outcome.applied) == set(names), [str(finding.message) for finding in outcome.findings]
        after = outcome.document.model
        onnx.checker.check_model(outcome.document.light(), full_check=True)
        for one, other in zip(answer(model, **(feeds or {})), answer(after, **(feeds or {})), strict=True):
            assert one.shape == other.shape
            if close:
                np.testing.assert_allclose(one, other, rtol=close, atol=close)
            else:
                np.testing.assert_array_equal(one, other)
        return after


@pytest.fixture(scope="session")
def bench() -> Bench:
    return Bench()


@pytest.fixture(scope="session")
def op_types() -> Callable[[onnx.ModelProto], list[str]]:
    return lambda model: [node.op_type for node in model.graph.node]
