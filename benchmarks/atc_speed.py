"""The time for checking a command line and a graph, including the start of the process.

::

    python benchmarks/atc_speed.py [MODEL.onnx]

Measures the process time (user + system) and the wall time of ``pth2om atc --help``, of ``pth2om atc`` on a model of
YOLOv6n's size (4.3 M parameters, 230 nodes; or the given model), and of ``pth2om check`` on a graph of 6,261 nodes, the
size of an unsimplified Swin export. Best and median of five runs.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RUNS = 5


def yolo_sized(path: Path) -> None:
    """A chain of convolutions and activations with 4.3 M weights."""
    nodes, weights = [], []
    channels, name = 3, "images"
    for layer, width in enumerate([16, 32, 32, 64, 64, 64, 128, 128, 128, 256, 256] * 7):
        kernel = 3 if layer % 8 == 0 else 1
        values = np.full((width, channels, kernel, kernel), 0.01, np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes.append(
            helper.make_node(
                "Conv",
                [name, f"w{layer}"],
                [f"c{layer}"],
                f"conv{layer}",
                kernel_shape=[kernel] * 2,
                pads=[kernel // 2] * 4,
            )
        )
        nodes.append(helper.make_node("Sigmoid", [f"c{layer}"], [f"s{layer}"], f"sigmoid{layer}"))
        nodes.append(helper.make_node("Mul", [f"c{layer}", f"s{layer}"], [f"a{layer}"], f"mul{layer}"))
        channels, name = width, f"a{layer}"
    _save(path, nodes, weights, name, [1, 3, 640, 640])


def swin_sized(path: Path, count: int = 6261) -> None:
    """Shape arithmetic, transposes, matrix products and masks, as in an unsimplified transformer export."""
    nodes, weights, name = [], [], "images"
    weights.append(numpy_helper.from_array(np.full((96, 96), 0.01, np.float32), "w"))
    weights.append(numpy_helper.from_array(np.array([1, 56 * 56, 96], np.int64), "to"))
    weights.append(numpy_helper.from_array(np.array(0, np.int64), "zero"))
    weights.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
    weights.append(numpy_helper.from_array(np.array([0], np.int64), "axis"))
    block = 0
    while len(nodes) < count - 10:
        b = str(block)
        nodes += [
            helper.make_node("Shape", [name], ["shape" + b], f"shape{b}"),
            helper.make_node("Gather", ["shape" + b, "zero"], ["batch" + b], f"gather{b}"),
            helper.make_node("Mul", ["batch" + b, "one"], ["m" + b], f"mulshape{b}"),
            helper.make_node("Unsqueeze", ["m" + b, "axis"], ["u" + b], f"unsqueeze{b}"),
            helper.make_node("MatMul", [name, "w"], ["p" + b], f"matmul{b}"),
            helper.make_node("Transpose", ["p" + b], ["t" + b], f"transpose{b}", perm=[0, 2, 1]),
            helper.make_node("Transpose", ["t" + b], ["q" + b], f"back{b}", perm=[0, 2, 1]),
            helper.make_node("Reshape", ["q" + b, "to"], ["r" + b], f"reshape{b}"),
            helper.make_node("Softmax", ["r" + b], ["f" + b], f"softmax{b}", axis=-1),
            helper.make_node("Add", ["f" + b, name], ["out" + b], f"add{b}"),
        ]
        name, block = "out" + b, block + 1
    while len(nodes) < count:
        nodes.append(helper.make_node("Relu", [name], [f"tail{len(nodes)}"], f"relu{len(nodes)}"))
        name = f"tail{len(nodes) - 1}"
    _save(path, nodes, weights, name, [1, 56 * 56, 96])


def _save(path: Path, nodes: list, weights: list, output: str, shape: list[int]) -> None:
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    onnx.save(model, str(path))


def timed(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Process time and wall time of one run, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pth2om", *arguments], cwd=folder, stdout=subprocess.DEVNULL, check=False)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else folder / "yolo.onnx"
        if len(sys.argv) < 2:
            yolo_sized(model)
        swin_sized(folder / "swin.onnx")
        convert = ["--framework=5", "--output=out", "--soc_version=Ascend310B1", "--output_type=FP32"]
        rows = [
            ("pth2om atc --help", ["atc", "--help"], 0.3),
            ("pth2om atc, YOLOv6n-sized", ["atc", "--", f"--model={model}", *convert], 1.5),
            ("pth2om check, YOLOv6n-sized", ["check", str(model), "--soc", "Ascend310B1"], 1.5),
            ("pth2om check, 6261 nodes", ["check", str(folder / "swin.onnx"), "--soc", "Ascend310B1"], 2.0),
        ]
        for title, arguments, limit in rows:
            runs = [timed(arguments, folder) for _ in range(RUNS)]
            cpu, wall = ([run[place] for run in runs] for place in (0, 1))
            print(
                f"{title:32s} process {min(cpu):.2f} s (median {statistics.median(cpu):.2f}), "
                f"wall {min(wall):.2f} s (median {statistics.median(wall):.2f}), limit {limit} s"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
