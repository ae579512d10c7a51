"""A graph with other columns than the decoder reads fails at its export, before anything is scored."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from onnx import helper

from pth2om.errors import DataError
from pth2om.questions.columns import columns
from pth2om.questions.subject import Subject
from pth2om.session import Provenance
from pth2om.spec import Dataset, Postprocess, Volume
from pth2om.store import Store


def gates(folder: Path, shape, *, decoder="yolov6", classes=80, metric="mAP50", here=True, volume=None, fed=()):
    value = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    file = folder / "model.onnx"
    onnx.save(helper.make_model(graph), file)

    def dataset(_name, _subset):
        if not here:
            raise DataError("accuracy.no-decoder")
        return SimpleNamespace(classes=classes)

    spec = SimpleNamespace(
        digest="",
        name="toy",
        datasets=[Dataset(name="toy", metric=metric)],
        postprocess=Postprocess(decoder=decoder),
        volume=volume,
        inputs=[SimpleNamespace(shape=fed)],
        source=SimpleNamespace(num_classes=None if here else classes),
    )
    pipeline = SimpleNamespace(
        source=SimpleNamespace(digest=""),
        records={},
        spec=spec,
        data=SimpleNamespace(dataset=dataset),
        settings=SimpleNamespace(soc=None, calib=folder),
        store=Store(folder / "store"),
    )
    record = SimpleNamespace(digest=f"{shape}", provenance=Provenance("torch", "2", "host"), stage="onnx")
    return columns(Subject(pipeline), SimpleNamespace(file=file, record=record))


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ([1, 100, 96], {}, "91 score columns"),
        ([1, 100, 8], {}, "3 score columns"),
        ([1, 84, 100], {}, "(1, 4 + classes, boxes)"),
        ([1, 84, 100], {"here": False}, "(1, 4 + classes, boxes)"),
        ([1, 1001], {"decoder": "softmax", "metric": "top1", "classes": 1000}, "1001 values"),
        ([1, 9], {"decoder": "softmax", "metric": "top1", "classes": 10}, "9 values"),
        ([1, 5, 32, 32], {"decoder": "argmax", "metric": "dice", "classes": 3}, "5 channels"),
        (
            [1, 2, 8, 8, 8],
            {"decoder": "argmax", "metric": "dice", "classes": 3, "volume": Volume(), "fed": (1, 8, 8, 8)},
            "3x8x8x8 is wanted",
        ),
    ],
)
def test_other_columns_than_classes_fail(tmp_path, shape, options, said):
    (gate,) = gates(tmp_path, shape, **options)
    assert (gate.question, gate.check, gate.verdict) == ("export", "onnx/columns/toy", "failed")
    assert said in str(gate.message)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ([1, 100, 85], {}),
        (["n", 100, 85], {}),
        ([1, 10], {"decoder": "softmax", "metric": "top1", "classes": 10}),
        ([1, 1, 32, 32], {"decoder": "argmax", "metric": "dice", "classes": 1}),
        (
            [1, 3, 8, 8, 8],
            {"decoder": "argmax", "metric": "dice", "classes": 3, "volume": Volume(), "fed": (1, 8, 8, 8)},
        ),
    ],
)
def test_the_right_columns_pass(tmp_path, shape, options):
    (gate,) = gates(tmp_path, shape, **options)
    assert gate.verdict == "passed"


def test_an_open_shape_is_not_measured(tmp_path):
    (gate,) = gates(tmp_path, [1, "boxes", 85], metric="mAP50")
    assert (gate.check, gate.verdict, gate.measured) == ("onnx/columns/toy", "not_measured", None)
    assert "1 x ? x 85" in str(gate.message)


def test_what_is_not_scored_gets_no_gate(tmp_path):
    assert gates(tmp_path, [1, 84, 100], metric="agreement") == []
