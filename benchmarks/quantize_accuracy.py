"""Accuracy at equal bits: our default compared with ONNX Runtime's calibrators and AMCT's algorithm (IFMR + ARQ).

All of them quantize the same layers of the same float graph to INT8, weights per channel, on the same calibration
images. No calibration image is scored: they come from the spec's calibration dataset, or are the first images of the
scored one and are then left out of the score.

* ``ours``: the default `QuantizeSettings`;
* ``ifmr+arq``: AMCT's algorithm as documented, computed with our deploy model;
* ``ort-minmax``, ``ort-entropy``, ``ort-percentile``: ``onnxruntime.quantization.quantize_static``, QDQ, run without
  fusion.

Reported per model: SQNR of the outputs in decibels (the smallest over the outputs, and the mean), top-1 and the paired
drop of top-1 against the float model, or of the detector's mAP. Usage::

    python benchmarks/quantize_accuracy.py --data DATA --models resnet20 mobilenet_v2 yolov6lite
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from pth2om.accuracy.bounds import TWO_SIDED, drop_bounds
from pth2om.quantize.network import open_session
from pth2om.quantize.plan import make_plan
from pth2om.quantize.settings import QuantizeSettings
from pth2om.quantize.twins import fake_quant

AMCT = QuantizeSettings(activations="ifmr", weights="arq", bias_correction=False, balance="off")
MODELS = ("resnet20", "resnet56", "mobilenet_v2", "convmixer-digits", "yolov6lite", "yolov6-shapes")
ORT = {"ort-minmax": "MinMax", "ort-entropy": "Entropy", "ort-percentile": "Percentile"}


def without_first(dataset, count):
    """The dataset without its first images."""
    from pth2om.data import Labelled

    source = dataset._source
    kept = {
        name: value[count:]
        for name in ("files", "paths", "labels", "boxes", "masks")
        if (value := getattr(source, name)) is not None
    }
    if source.arrays is not None:
        arrays = source.arrays
        kept["arrays"] = lambda: tuple(None if part is None else part[count:] for part in arrays())
    return Labelled(dataset.manifest, dataset.folder, replace(source, **kept))


def load(name, repo, roots, calibration):
    """(float ONNX, calibration feeds, image -> feed, count, labels, detector's score) of a model under ``models/``.

    ``resnet56`` is the deeper sibling of resnet20 and uses the same net.
    """
    weights = {"resnet56": "resnet56-4bfd9763.th"}.get(name)
    name = "resnet20" if name == "resnet56" else name
    import importlib.util

    import torch

    from pth2om import spec
    from pth2om.data import Preprocessor, open_dataset

    read = spec.load(repo / "models" / name)
    path = repo / "models" / name / (read.source.net or "net.py")
    module_spec = importlib.util.spec_from_file_location(f"net_{name}", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    candidates = [
        folder / (weights or read.source.checkpoint)
        for folder in (read.folder, read.folder / "weights", *roots, *(root / "weights" for root in roots))
    ]
    file = next(path for path in candidates if path.is_file())
    content = torch.load(file, map_location="cpu", weights_only=True)
    state = content.get("state_dict", content.get("model", content))
    state = {key.removeprefix("module."): value.float() for key, value in state.items()}
    arguments = dict(read.source.arguments)
    if hasattr(module, "infer"):
        arguments |= {key: value for key, value in module.infer(state).items() if key != "num_classes"}
    net = module.build(read.source.num_classes or 1000, **arguments).eval()
    net.load_state_dict(state)
    shape = (1, *read.inputs[0].shape)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "m.onnx"
        torch.onnx.export(
            net, torch.rand(shape), target, opset_version=13, dynamo=False, input_names=[read.inputs[0].name]
        )
        model = onnx.load(target)
    preprocess = Preprocessor(read.preprocess)
    scored_name = read.datasets[0].name
    dataset = open_dataset(scored_name, calib_root=repo / "calib", data_roots=roots)
    source = open_dataset(read.quantize.dataset or scored_name, calib_root=repo / "calib", data_roots=roots)
    calibration = min(calibration, len(source))
    feeds = [{read.inputs[0].name: preprocess(source.image(i))[0][None]} for i in range(calibration)]
    if source.name == dataset.name:
        dataset = without_first(dataset, calibration)
    labels = [dataset.label(i) for i in range(len(dataset))] if read.task == "classification" else None
    scored = None
    if read.task == "detection":
        from pth2om.quantize.metric_search import ScoredDrop

        scored = ScoredDrop(model, dataset, preprocess, read.postprocess, optimize="none")
    feed = lambda i: {read.inputs[0].name: preprocess(dataset.image(i))[0][None]}  # noqa: E731 - one line, used once
    return model, feeds, feed, len(dataset), labels, scored


def ort_quantized(model, nodes, feeds, method, folder):
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.data = iter(feeds)

        def get_next(self):
            return next(self.data, None)

    logging.disable(logging.WARNING)
    onnx.save(model, folder / "float.onnx")
    quantize_static(
        folder / "float.onnx",
        folder / "qdq.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "ConvTranspose", "Gemm", "MatMul"],
        nodes_to_quantize=nodes,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=getattr(CalibrationMethod, method),
    )
    return onnx.load(folder / "qdq.onnx")


class Score:
    """Running comparison with the float model."""

    def __init__(self, model, exact=False):
        self.session = open_session(model, exact=exact)
        self.signal = self.noise = None
        self.right = []

    def add(self, feeds, wanted, label):
        values = self.session.run(None, feeds)
        powers = np.asarray([float(np.sum(w.astype(np.float64) ** 2)) for w in wanted])
        pairs = zip(wanted, values, strict=True)
        noises = np.asarray([float(np.sum((w.astype(np.float64) - v) ** 2)) for w, v in pairs])
        self.signal = powers if self.signal is None else self.signal + powers
        self.noise = noises if self.noise is None else self.noise + noises
        if label is not None:
            self.right.append(int(np.argmax(values[0])) == label)

    def table(self, reference):
        sqnr = 10 * np.log10(self.signal / np.maximum(self.noise, 1e-30))
        row = {"sqnr_db": float(sqnr.mean()), "least_sqnr_db": float(sqnr.min())}
        if self.right:
            mine, base = np.asarray(self.right), np.asarray(reference)
            lost, gained = int((base & ~mine).sum()), int((~base & mine).sum())
            low, high, _ = drop_bounds(lost, gained, mine.size, TWO_SIDED)
            row |= {"top1": float(100 * mine.mean()), "drop": 100 * (lost - gained) / mine.size}
            row |= {"interval": [100 * low, 100 * high]}
        return row


def compare(name, repo, roots, calibration, evaluation, ort):
    model, feeds, feed, count, labels, scored = load(name, repo, roots, calibration)
    plans = {"ours": make_plan(model, feeds, QuantizeSettings()), "ifmr+arq": make_plan(model, feeds, AMCT)}
    base = plans["ifmr+arq"].model
    made = {label: fake_quant(plan.deploy()) for label, plan in plans.items()}
    scores = {label: Score(one) for label, one in made.items()}
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for label, method in ORT.items() if ort else ():
            started = time.perf_counter()
            made[label] = ort_quantized(base, list(plans["ifmr+arq"].quantized), feeds, method, Path(folder))
            seconds[label] = time.perf_counter() - started
            scores[label] = Score(made[label], exact=True)
    session = open_session(model)
    reference = []
    for index in range(min(count, evaluation)):
        one = feed(index)
        wanted = session.run(None, one)
        label = None if labels is None else labels[index]
        if label is not None:
            reference.append(int(np.argmax(wanted[0])) == label)
        for score in scores.values():
            score.add(one, wanted, label)
    rows = {label: score.table(reference) for label, score in scores.items()}
    for label, one in made.items() if scored is not None else ():
        drop = scored(one, TWO_SIDED)
        rows[label] |= {"drop": drop.drop, "interval": [drop.low, drop.high]}
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", default=[])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--calibration", type=int, default=32)
    parser.add_argument("--evaluation", type=int, default=10_000)
    parser.add_argument("--no-ort", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    repo = Path(__file__).resolve().parents[1]
    results = {}
    for name in arguments.models:
        results[name] = compare(
            name, repo, arguments.data, arguments.calibration, arguments.evaluation, not arguments.no_ort
        )
        for label, row in results[name].items():
            figures = f"SQNR mean {row['sqnr_db']:6.2f} least {row['least_sqnr_db']:6.2f} dB"
            if "drop" in row:
                low, high = row["interval"]
                figures += f"  drop {row['drop']:+6.2f} points ({low:+.2f} to {high:+.2f})"
            print(f"{name:16} {label:16} {figures}")
    for label in next(iter(results.values())):
        drops = [rows[label]["drop"] for rows in results.values() if "drop" in rows[label]]
        sqnr = np.mean([rows[label]["sqnr_db"] for rows in results.values()])
        print(f"{'mean':16} {label:16} SQNR mean {sqnr:6.2f} dB  drop {np.mean(drops):+6.3f} points")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
