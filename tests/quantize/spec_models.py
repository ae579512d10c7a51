"""A small classifier with a spec that asks for INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from pth2om import spec as specs
from pth2om.conversion.pipeline import Pipeline
from pth2om.conversion.settings import RunSettings
from pth2om.store import Store
from tests.quantize.quantize_nets import model, tensor

SPEC = """\
task = "classification"
variants = ["int8-bs1", "int8-bs1-aipp"]

[source]
onnx = "net.onnx"

[[inputs]]
name = "x"
shape = [3, 16, 16]

[preprocess]
size = [16, 16]

[[datasets]]
name = "dots"
metric = "top1"

[quantize]
images = 8
"""


def classifier(tmp_path):
    """A classifier of three convolutions, the second of which INT8 ruins, and images it labels itself."""
    import onnxruntime

    g = np.random.default_rng(0)

    def w(*shape):
        return (g.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    # Channels that differ by a factor of 3000 share one range: the small ones, which decide, are rounded off.
    spread = np.where(np.arange(32) % 2, 1.0, 1 / 3000.0).astype(np.float32)
    body = w(32, 32, 3, 3)
    body[:, 1::2] = 0
    body[:, ::2] *= 3000
    nodes = [
        onnx.helper.make_node("Conv", ["x", "stem"], ["a"], name="stem", strides=[2, 2]),
        onnx.helper.make_node("Tanh", ["a"], ["b"], name="tanh"),
        onnx.helper.make_node("Mul", ["b", "spread"], ["c"], name="spread_out"),
        onnx.helper.make_node("Conv", ["c", "body"], ["d"], name="body"),
        onnx.helper.make_node("Tanh", ["d"], ["e"], name="tanh2"),
        onnx.helper.make_node("Conv", ["e", "head"], ["f"], name="head"),
        onnx.helper.make_node("GlobalAveragePool", ["f"], ["h"], name="gap"),
        onnx.helper.make_node("Flatten", ["h"], ["y"], name="flat"),
    ]
    weights = [
        tensor("stem", w(32, 3, 3, 3)),
        tensor("spread", spread.reshape(1, 32, 1, 1)),
        tensor("body", body),
        tensor("head", w(10, 32, 1, 1)),
    ]
    net = model(nodes, weights, [("x", [1, 3, 16, 16])], [("y", [1, 10])])
    folder, dots = tmp_path / "models" / "tiny", tmp_path / "calib" / "dots"
    folder.mkdir(parents=True)
    dots.mkdir(parents=True)
    (folder / "model.toml").write_text(SPEC)
    onnx.save(net, folder / "net.onnx")
    # Each picture a colour of its own: of mere noise the means are alike, and so would be all labels.
    pixels = np.clip(g.integers(0, 256, (300, 1, 1, 3)) + g.integers(-40, 40, (300, 16, 16, 3)), 0, 255).astype(
        np.uint8
    )
    session = onnxruntime.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"])
    labels = [
        int(session.run(None, {"x": picture.transpose(2, 0, 1)[None].astype(np.float32) / 255})[0].argmax())
        for picture in pixels
    ]
    assert len(set(labels)) > 3
    (dots / "dataset.toml").write_text('kind = "npz"\nnames = ["0","1","2","3","4","5","6","7","8","9"]\n')
    np.savez(dots / "dots.npz", x=pixels, y=np.asarray(labels))
    return tmp_path


def pipeline(root: Path, **quantize):
    spec = specs.load(root / "models" / "tiny")
    table = spec.quantize.model_copy(update=quantize)
    settings = RunSettings(root / "models", root / "calib", soc="Ascend310P3")
    return Pipeline(spec.model_copy(update={"quantize": table}), settings, Store(root / "store"))


def layers(built):
    return {layer["name"]: layer for layer in built.record.details["layers"]}
