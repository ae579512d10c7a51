"""The cost of scoring: `pth2om.accuracy.measure` compared with a bare ONNX Runtime loop.

    python benchmarks/accuracy_loop.py MODEL.onnx [--images 64] [--size 224] [--pairs 15]

Without a model, a convolutional net of MobileNet's size is generated. Both sides run over the same preprocessed images,
in alternating order. Target: at most 1.05 times the bare loop.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from pth2om.accuracy import measure
from pth2om.data import Preprocessor, batches, open_dataset
from pth2om.sessions.onnx import OnnxSession
from pth2om.spec import Postprocess, Preprocess


def made(path: Path, size: int) -> None:
    """Depth-wise separable blocks, about 300 MFLOP at 224 x 224, 1,000 classes."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    stream, nodes, weights, last, channels = np.random.default_rng(0), [], [], "image", 3

    def conv(out: int, kernel: int, stride: int, group: int) -> None:
        nonlocal last, channels
        name = f"c{len(weights)}"
        shape = (out, channels // group, kernel, kernel)
        weights.append(
            numpy_helper.from_array((stream.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype("f4"), name)
        )
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [last, name], [name + "y"], pads=pads, strides=[stride] * 2, group=group))
        nodes.append(helper.make_node("Relu", [name + "y"], [name + "r"]))
        last, channels = name + "r", out

    conv(32, 3, 2, 1)
    for out, stride in [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2)]:
        conv(channels, 3, stride, channels)
        conv(out, 1, 1, 1)
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pool"]))
    nodes.append(helper.make_node("Flatten", ["pool"], ["flat"]))
    weights.append(numpy_helper.from_array(stream.normal(size=(1024, 1000)).astype("f4"), "w"))
    nodes.append(helper.make_node("MatMul", ["flat", "w"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1000])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        if arguments.model is None:
            arguments.model = folder / "made.onnx"
            made(arguments.model, arguments.size)
        place = folder / "calib" / "drawn"
        place.mkdir(parents=True)
        (place / "dataset.toml").write_text('kind = "npz"\n')
        stream = np.random.default_rng(0)
        shape = (arguments.images, arguments.size, arguments.size, 3)
        np.savez(place / "drawn.npz", x=stream.integers(0, 256, shape, np.uint8), y=np.zeros(arguments.images, int))
        dataset = open_dataset("drawn", calib_root=folder / "calib")
        preprocessor = Preprocessor(Preprocess(size=(arguments.size, arguments.size)))
        ready = list(batches(dataset, preprocessor, 1))
        with OnnxSession(arguments.model, threads=arguments.threads) as session:
            compare(session, dataset, preprocessor, ready, arguments.pairs)


def compare(session: OnnxSession, dataset, preprocessor: Preprocessor, ready: list, pairs: int) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = session._threads or 0, 1
    bare_session = onnxruntime.InferenceSession(str(session.path), options, providers=["CPUExecutionProvider"])
    name = session.inputs[0].name

    def bare() -> None:
        for piece in ready:
            bare_session.run(None, {name: piece.array})

    def scored() -> None:
        measure(session, dataset, preprocessor, Postprocess(), source=lambda: iter(ready))

    for warm_up in (bare, scored):
        warm_up()
    times: dict[str, list[float]] = {"bare": [], "scored": []}
    for _ in range(pairs):
        for label, function in (("bare", bare), ("scored", scored)):
            started = time.perf_counter()
            function()
            times[label].append(time.perf_counter() - started)
    ratios = [b / a for a, b in zip(times["bare"], times["scored"], strict=True)]
    print(f"{len(ready)} images, {pairs} alternating pairs")
    for label, values in times.items():
        print(f"{label:8}{1e3 * statistics.median(values) / len(ready):9.3f} ms an image")
    print(f"ratio   {statistics.median(ratios):9.3f} (min {min(ratios):.3f}, max {max(ratios):.3f}; target 1.05)")


if __name__ == "__main__":
    main()
