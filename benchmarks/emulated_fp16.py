"""Emulated float16 compared with plain ONNX Runtime, on a detector of YOLOv6n's size at 640.

    python benchmarks/emulated_fp16.py [--pairs 15] [--threads 2] [--soc Ascend310B1] [--model FILE.onnx]

The net is YOLOv6n's deployed form (RepVGG backbone, BiFusion neck, SiLU heads, decoded boxes) with random weights:
about 4.6 million parameters and 11 GFLOP. Runs alternate, so that a busy machine slows down both sides; the ratio is
the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pth2om.sessions.onnx import OnnxSession
from pth2om.toolchain.emulator.numerics import compile_numerics
from pth2om.toolchain.emulator.session import EmulatedOmSession


class Net:
    """Builds the graph node by node; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def constant(self, values: np.ndarray) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def add(self, op_type: str, *inputs: str, outputs: int = 1, **attributes) -> str:
        names = [f"{op_type.lower()}{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, **attributes))
        return names[0]

    def conv(self, x: str, cin: int, cout: int, kernel: int = 3, stride: int = 1, act: str = "Relu") -> str:
        weight = self.random.standard_normal((cout, cin, kernel, kernel)) * np.sqrt(2 / (cin * kernel * kernel))
        bias = self.random.standard_normal(cout) * 0.1
        names = [self.constant(array.astype(np.float32)) for array in (weight, bias)]
        y = self.add("Conv", x, *names, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4)
        if act == "SiLU":
            return self.add("Mul", y, self.add("Sigmoid", y))
        return self.add(act, y) if act else y

    def stage(self, x: str, cin: int, cout: int, repeats: int) -> str:
        for index in range(repeats):
            x = self.conv(x, cin if index == 0 else cout, cout)
        return x

    def join(self, *tensors: str, axis: int = 1) -> str:
        return self.add("Concat", *tensors, axis=axis)

    def bifusion(self, up: str, cup: int, same: str, csame: int, down: str, cdown: int, cout: int) -> str:
        weight = self.random.standard_normal((cup, cup, 2, 2)) * np.sqrt(1 / cup)
        names = [self.constant(weight.astype(np.float32)), self.constant(np.zeros(cup, np.float32))]
        raised = self.add("ConvTranspose", up, *names, kernel_shape=[2, 2], strides=[2, 2])
        lowered = self.conv(self.conv(down, cdown, cout, 1), cout, cout, 3, 2)
        return self.conv(self.join(raised, self.conv(same, csame, cout, 1), lowered), cup + 2 * cout, cout, 1)

    def head(self, x: str, channels: int, size: int, stride: int) -> str:
        cells = size * size
        stem = self.conv(x, channels, channels, 1, act="SiLU")
        scores = self.conv(self.conv(stem, channels, channels, act="SiLU"), channels, 80, 1, act="Sigmoid")
        sides = self.conv(self.conv(stem, channels, channels, act="SiLU"), channels, 4, 1, act="")
        scores = self.add("Reshape", scores, self.constant(np.array([1, 80, cells])))
        sides = self.add("Reshape", sides, self.constant(np.array([1, 4, cells])))
        grid = np.stack(np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)).reshape(1, 2, cells)
        anchors = self.constant(grid.astype(np.float32))
        near = self.add("Split", sides, self.constant(np.array([2, 2])), outputs=2, axis=1)
        far = near.removesuffix("0") + "1"
        low, high = self.add("Sub", anchors, near), self.add("Add", anchors, far)
        centre = self.add("Div", self.add("Add", low, high), self.constant(np.array(2, np.float32)))
        boxes = self.join(centre, self.add("Sub", high, low))
        boxes = self.add("Mul", boxes, self.constant(np.array(stride, np.float32)))
        return self.join(boxes, self.constant(np.ones((1, 1, cells), np.float32)), scores)


def detector(size: int = 640) -> onnx.ModelProto:
    """The complete net."""
    net = Net()
    x = net.conv("images", 3, 16, 3, 2)
    p2 = net.stage(net.conv(x, 16, 32, 3, 2), 32, 32, 2)
    p3 = net.stage(net.conv(p2, 32, 64, 3, 2), 64, 64, 4)
    p4 = net.stage(net.conv(p3, 64, 128, 3, 2), 128, 128, 6)
    x = net.stage(net.conv(p4, 128, 256, 3, 2), 256, 256, 2)
    pools = [net.conv(net.conv(net.conv(x, 256, 128, 1), 128, 128), 128, 128, 1)]
    for _ in range(3):
        pools.append(net.add("MaxPool", pools[-1], kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4))
    pooled = net.conv(net.conv(net.join(*pools), 512, 128, 1), 128, 128)
    p5 = net.conv(net.join(net.conv(x, 256, 128, 1), pooled), 256, 256, 1)
    f0 = net.conv(p5, 256, 64, 1)
    g0 = net.stage(net.bifusion(f0, 64, p4, 128, p3, 64, 64), 64, 64, 4)
    f1 = net.conv(g0, 64, 32, 1)
    n3 = net.stage(net.bifusion(f1, 32, p3, 64, p2, 32, 32), 32, 32, 4)
    n4 = net.stage(net.join(net.conv(n3, 32, 32, 3, 2), f1), 64, 64, 4)
    n5 = net.stage(net.join(net.conv(n4, 64, 64, 3, 2), f0), 128, 128, 4)
    heads = [
        net.head(x, channels, size // stride, stride)
        for x, channels, stride in ((n3, 32, 8), (n4, 64, 16), (n5, 128, 32))
    ]
    output = net.add("Transpose", net.join(*heads, axis=2), perm=[0, 2, 1])
    graph = helper.make_graph(
        net.nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, None, 85])],
        net.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def measure(sessions: dict[str, OnnxSession], pairs: int) -> dict[str, list[float]]:
    """Seconds of every run; the first session runs before each of the others."""
    feeds = {}
    for spec in next(iter(sessions.values())).inputs:
        shape = [size or 1 for size in spec.shape]
        feeds[spec.name] = np.random.default_rng(0).random(shape).astype(spec.dtype)
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for index in range(pairs + 3):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(feeds)
            if index >= 3:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--soc", action="append", help="may be given several times")
    parser.add_argument("--model", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or Path(folder) / "detector.onnx"
        if arguments.model is None:
            onnx.save(detector(), model)
        for soc in arguments.soc or ["Ascend310B1", "Ascend910B1"]:
            start = time.perf_counter()
            compiled = compile_numerics(model, Path(folder) / soc, precision_mode="force_fp16", soc=soc)
            compiling = time.perf_counter() - start
            sessions: dict[str, OnnxSession] = {"plain": OnnxSession(model, threads=arguments.threads)}
            for band in compiled.bands:
                sessions[band] = EmulatedOmSession(compiled, band, threads=arguments.threads)
            seconds = measure(sessions, arguments.pairs)
            version = onnxruntime.__version__
            print(f"{soc}: {arguments.threads} threads, onnxruntime {version}, compiled in {compiling:.2f} s")
            print(f"{'':10}{'median ms':>10}{'ratio':>8}{'min':>7}{'max':>7}")
            for name, runs in seconds.items():
                ratios = [run / base for run, base in zip(runs, seconds["plain"], strict=True)]
                print(
                    f"{name:10}{statistics.median(runs) * 1e3:10.1f}{statistics.median(ratios):8.3f}"
                    f"{min(ratios):7.2f}{max(ratios):7.2f}"
                )


if __name__ == "__main__":
    main()
