"""Time and memory of calibration and quantization, compared with ``onnxruntime.quantization.quantize_static``.

Each job runs in a separate process, in alternating order; reported are wall seconds and peak resident memory. The
models have seeded random weights (their ranges are meaningless, their sizes are real): YOLOv6n at 640 x 640 and a
ResNet-50. Usage::

    python benchmarks/quantize_speed.py                 # all
    python benchmarks/quantize_speed.py --jobs ours-yolov6n-8 ours-yolov6n-256 --repeats 3
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parents[1]
JOBS = (
    "plain-yolov6n-64",
    "ours-yolov6n-8",
    "ours-yolov6n-64",
    "ours-yolov6n-256",
    "ort-entropy-yolov6n-64",
    "ours-resnet50-64",
    "ort-minmax-resnet50-64",
    "errors-resnet50-32",
)


def yolov6n():
    import torch

    path = REPO / "models" / "yolov6n" / "net.py"
    module_spec = importlib.util.spec_from_file_location("net_yolov6n", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    torch.manual_seed(0)
    return module.deploy(module.build(80).eval()), (1, 3, 640, 640)


def resnet50():
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self, inside, width, stride):
            super().__init__()
            out = 4 * width

            def unit(i, o, k, s):
                return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o))

            self.body = nn.Sequential(
                unit(inside, width, 1, 1), nn.ReLU(), unit(width, width, 3, stride), nn.ReLU(), unit(width, out, 1, 1)
            )
            self.skip = unit(inside, out, 1, stride) if stride != 1 or inside != out else nn.Identity()

        def forward(self, x):
            return torch.relu(self.body(x) + self.skip(x))

    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inside = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            layers.append(Block(inside, width, stride if number == 0 else 1))
            inside = 4 * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)]
    return nn.Sequential(*layers).eval(), (1, 3, 224, 224)


def export(name, folder):
    import torch

    net, shape = {"yolov6n": yolov6n, "resnet50": resnet50}[name]()
    torch.onnx.export(
        net, torch.rand(shape), folder / f"{name}.onnx", opset_version=13, dynamo=False, input_names=["images"]
    )


def feeds(shape, count):
    for number in range(count):
        yield {"images": np.random.default_rng(number).random(shape, dtype=np.float32)}


def work(job, folder):
    """One job in this process; prints its figures as JSON."""
    kind, model, count = job.rsplit("-", 2)
    path, shape = folder / f"{model}.onnx", (1, 3, 640, 640) if model == "yolov6n" else (1, 3, 224, 224)
    started = time.perf_counter()
    if kind == "plain":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for one in feeds(shape, int(count)):
            session.run(None, one)
    elif kind == "ours":
        from pth2om.quantize import quantize

        quantize(path, feeds(shape, int(count)), destination=folder / "out")
    elif kind == "errors":
        from pth2om.quantize.network import read_model
        from pth2om.quantize.plan import make_plan
        from pth2om.quantize.sensitivity import layer_errors
        from pth2om.quantize.settings import QuantizeSettings

        plan = make_plan(read_model(path), feeds(shape, 4), QuantizeSettings())
        layer_errors(plan, feeds(shape, int(count)))
    else:
        ort(kind.removeprefix("ort-"), path, shape, int(count), folder)
    seconds = time.perf_counter() - started
    # Not ru_maxrss: its initial value is the size of the parent process.
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    print(json.dumps({"seconds": round(seconds, 2), "peak_mb": round(peak)}))


def ort(method, path, shape, count, folder):
    import logging

    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.data = feeds(shape, count)

        def get_next(self):
            return next(self.data, None)

    logging.disable(logging.WARNING)
    sys.stdout = sys.stderr
    quantize_static(
        path,
        folder / "qdq.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["Conv", "ConvTranspose", "Gemm", "MatMul"],
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method={"entropy": CalibrationMethod.Entropy, "minmax": CalibrationMethod.MinMax}[method],
    )
    sys.stdout = sys.__stdout__


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker[0], Path(arguments.worker[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in sorted({job.rsplit("-", 2)[1] for job in arguments.jobs}):
            export(model, folder)
        figures = {job: [] for job in arguments.jobs}
        for _ in range(arguments.repeats):
            for job in arguments.jobs:
                command = [sys.executable, "-W", "ignore", __file__, "--worker", job, str(folder)]
                result = subprocess.run(command, capture_output=True, text=True, check=False)
                if result.returncode:
                    print(f"{job:26} failed: {result.stderr.strip().splitlines()[-1:]}")
                    continue
                figures[job].append(json.loads(result.stdout.strip().splitlines()[-1]))
        for job, rows in figures.items():
            if rows:
                seconds = sorted(row["seconds"] for row in rows)
                peak = max(row["peak_mb"] for row in rows)
                print(f"{job:26} {seconds[len(seconds) // 2]:8.2f} s  peak {peak:6.0f} MB")
        for job, rows in figures.items():
            for peer, others in figures.items():
                if job.startswith("ours-") and peer.startswith("ort-") and peer.endswith(job.removeprefix("ours")):
                    pairs = sorted(a["seconds"] / b["seconds"] for a, b in zip(rows, others, strict=False))
                    if pairs:
                        middle = pairs[len(pairs) // 2]
                        print(f"{job} / {peer}: {middle:.2f} ({pairs[0]:.2f} to {pairs[-1]:.2f}) of the time")


if __name__ == "__main__":
    main()
