"""Evidence as a run writes it, made up: every verdict on every ground, and as many records as a test wants."""

from __future__ import annotations

import hashlib
import random

from pth2om.evidence import Finding, GateRecord, Limit, RunRecord, StageRecord
from pth2om.language import Message
from pth2om.session import Provenance

SOC = "Ascend310B1"
HOST = Provenance("onnxruntime", "1.31.1", "host")
TORCH = Provenance("torch", "2.13.0", "host")
EMULATOR = Provenance("emulator", "0.1.0", "emulated", SOC)
DEVICE = Provenance("cann", "8.0.RC3", "device", SOC)
DOUBLE = Provenance("double", "1", "double", SOC)
EDGES = [0.0, *(10.0**power for power in range(-9, 1))]


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def run_record(run="20261121-040213-Ascend310B1"):
    return RunRecord(
        run,
        "2026-11-21T04:02:13+00:00",
        ("pytest", "-k", "resnet20 or yolov6lite", "--soc", SOC, "--data-dir", "/data/my models"),
        {
            "pth2om": "0.1.0",
            "python": "3.11.2",
            "system": "Linux 6.1",
            "processor": "AMD EPYC 7B13",
            "cores": 2,
            "memory_bytes": 25276510208,
            "packages": {"torch": "2.13.0", "onnx": "1.23.0", "onnxruntime": "1.31.1", "numpy": "2.4.0"},
        },
    )


def stage(model, variant, name, provenance=HOST, command=(), findings=(), cached=False, details=None):
    return StageRecord(
        model,
        variant,
        name,
        sha(f"{model}{variant}{name}"),
        sha(f"key{model}{variant}{name}"),
        cached,
        0.42 if name == "checkpoint" else 7.31,
        provenance,
        command,
        findings,
        details or {},
    )


def gate(model, variant, question, check, measured, limit, verdict, provenance=HOST, **more):
    return GateRecord(
        model,
        variant,
        provenance.soc,
        question,
        check,
        measured,
        more.pop("unit", ""),
        limit,
        verdict,
        provenance.ground,
        provenance=provenance,
        measured_at="2026-11-21T04:03:00+00:00",
        host="1f0a22b7c3d4",
        **more,
    )


def closeness(model, variant, pair, name, provenance, scale=1.0, fail=False, seed=0):
    """The gates of one pair on one slice, as the comparing room writes them."""
    rng = random.Random(f"{model}{variant}{pair}{name}{seed}")
    cosine = 1 - (0.02 if fail else 1.7e-5 * scale * rng.uniform(0.5, 1.5))
    relative = 0.21 if fail else 0.004 * scale * rng.uniform(0.5, 1.5)
    centre = 2 + (4 if scale > 0.1 else 1)
    counts = [int(4e5 * 2.0 ** (-2 * abs(index - centre))) for index in range(len(EDGES) - 1)]
    metrics = {
        "cosine": cosine,
        "relative_l2": relative,
        "mean_abs": relative * 0.11,
        "max_abs": relative * 9,
        "sqnr_db": 47.8 - 10 * scale,
        "within_tolerance": 0.9987 if not fail else 0.71,
        "nan_new": 0,
    }
    details = {
        "pair": pair,
        "slice": name,
        "sample": f"real-{rng.randrange(8)}",
        "histogram": {"edges": EDGES, "counts": counts},
        "metrics": metrics,
    }
    tight = pair == "torch~onnx"
    limits = {
        "cosine": Limit(">=", 0.99999 if tight else 0.999),
        "relative_l2": Limit("<=", 1e-4 if tight else 0.05),
        "nan_new": Limit("<=", 0),
    }
    if tight:
        limits["mean_abs"] = Limit("<=", 1e-3)
    for metric, limit in limits.items():
        value = metrics[metric]
        bands = {"fused": value * 1.00001 if metric == "cosine" else value * 0.8, "unfused": value}
        yield gate(
            model,
            variant,
            "closeness",
            f"{pair}/{name}/{metric}",
            float(value),
            limit,
            "passed" if limit.holds(value) else "failed",
            provenance,
            details={**details, "bands": bands} if provenance is EMULATOR else details,
            seed=0,
        )


def atc(model, variant):
    return (
        "atc",
        "--framework=5",
        f"--model={model}.onnx",
        f"--output={model}_{variant}",
        "--input_format=NCHW",
        "--input_shape=images:1,3,320,320",
        f"--soc_version={SOC}",
        "--output_type=FP32",
        "--op_select_implmode=high_precision",
        "--precision_mode=force_fp16",
    )


def drop(model, variant, dataset, metric, n, reference, candidate, interval, verdict, provenance, **details):
    return gate(
        model,
        variant,
        "accuracy",
        f"{metric}/drop",
        reference - candidate,
        Limit("<=", 1.0),
        verdict,
        provenance,
        unit="points",
        interval=interval,
        details={
            "dataset": dataset,
            "metric": metric,
            "n": n,
            "reference": reference,
            "candidate": candidate,
            **details,
        },
    )


def latency(model, variant, subject, p50, provenance, batch=1, verdict="passed", **details):
    measured = verdict != "not_measured"
    figures = {"p50_ms": p50, "p90_ms": p50 * 1.04, "p99_ms": p50 * 1.31, "fps": 1000 * batch / p50, "runs": 160}
    return gate(
        model,
        variant,
        "latency",
        f"{subject}/p50_ms",
        p50 if measured else None,
        details.pop("limit", None),
        verdict,
        provenance,
        unit="ms",
        message=details.pop("message", None),
        details={"batch": batch, **(figures if measured else {}), **details},
    )


def small_run(pictures=()):
    """A run of two models that holds every verdict and every ground."""
    tracer = Finding(
        "export.tracer-warning",
        "warning",
        Message("export.tracer-warning", {"text": "Converting a tensor to a Python boolean", "place": "net.py:41"}),
    )
    yield run_record()
    for model in ("resnet20", "yolov6lite"):
        yield stage(model, "", "checkpoint", TORCH, details={"branch": "state_dict", "tensors": 133, "bytes": 1115317})
        yield stage(model, "bs1", "onnx", TORCH, findings=(tracer, tracer), details={"opset": 17, "exporter": "torch"})
        yield gate(model, "", "checkpoint", "checkpoint/findings", 0.0, Limit("==", 0), "passed", TORCH, unit="errors")
        yield gate(model, "bs1", "export", "onnx/findings", 0.0, Limit("==", 0), "passed", TORCH, unit="errors")
        slices = ("boxes", "scores") if model == "yolov6lite" else ("logits",)
        for name in slices:
            yield from closeness(model, "bs1", "torch~onnx", name, HOST, 0.01)
        yield latency(model, "bs1", "torch", 8.4, TORCH)
        yield latency(model, "bs1", "onnx", 3.1, HOST)
    yield from _classifier()
    yield from _detector(pictures)


def _classifier():
    model = "resnet20"
    for variant, provenance in (("fp16-bs1", EMULATOR), ("origin-bs1", DEVICE), ("mixed-bs1", DOUBLE)):
        yield stage(model, variant, "om", provenance, atc(model, variant), cached=True)
        yield gate(model, variant, "preflight", "preflight/errors", 0.0, Limit("==", 0), "passed", unit="errors")
        for pair in ("onnx~om", "torch~om"):
            yield from closeness(model, variant, pair, "logits", provenance)
    disagreements = [
        {"image": f"{index:05d}.png", "reference": "cat 0.51", "candidate": "dog 0.50"} for index in (17, 108)
    ]
    yield drop(model, "fp16-bs1", "cifar10_249", "top1", 249, 90.36, 90.36, (-0.9, 1.6), "inconclusive", EMULATOR,
               disagreements=disagreements, needed_images=420)  # fmt: skip
    yield drop(model, "origin-bs1", "cifar10_249", "top1", 249, 90.36, 90.36, (-0.4, 0.6), "passed", DEVICE)
    yield latency(
        model, "fp16-bs1", "om", 1.0, EMULATOR, verdict="not_measured", message=Message("latency.no-device"),
        roofline_ms=0.061,
    )  # fmt: skip
    yield latency(model, "origin-bs1", "om", 0.412, DEVICE, limit=Limit("<=", 0.5), roofline_ms=0.061)


def _detector(pictures):
    model, variant = "yolov6lite", "fp16-bs1"
    nodes = Finding(
        "preflight.not-registered",
        "error",
        Message("export.not-registered", {"operators": "Mish", "opset": 17}),
        "/m/Mish",
    )
    yield stage(model, variant, "om", EMULATOR, atc(model, variant))
    for pair in ("onnx~om", "torch~om"):
        yield from closeness(model, variant, pair, "boxes", EMULATOR)
        yield from closeness(model, variant, pair, "scores", EMULATOR, fail=True)
    listed = [{"image": f"{index:012d}.jpg", "reference": "7 boxes", "candidate": "5 boxes"} for index in range(40)]
    yield drop(model, variant, "coco141", "mAP50-95", 141, 26.47, 24.92, (1.12, 1.98), "failed", EMULATOR,
               disagreements=listed,
               pictures=[{"file": name, "caption": "000000000139.jpg"} for name in pictures])  # fmt: skip
    yield latency(
        model,
        variant,
        "om",
        1.0,
        EMULATOR,
        verdict="not_measured",
        message=Message("latency.no-device"),
        roofline_ms=0.83,
    )
    yield stage(model, "int8-bs4", "quantized", HOST, findings=(nodes,))
    yield gate(
        model, "int8-bs4", "quantization", "quantized/findings", 1.0, Limit("==", 0), "failed", HOST, unit="errors",
        message=nodes.message,
    )  # fmt: skip
    yield gate(
        model, "int8-bs4", "accuracy", "mAP50-95/drop", None, None, "not_measured", EMULATOR,
        message=Message("pipeline.weights-absent", {"file": "yolov6lite_s.pth", "model": model}),
    )  # fmt: skip


def large_run(gates=5000, per_variant=30):
    """A run of many models whose gates look like a real run's, one variant in twelve with a failure."""
    yield run_record("20261121-nightly")
    made, index = 0, 0
    while made < gates:
        model, variant = f"model_{index // 6:03d}_from_the_zoo", f"fp16-bs{2 ** (index % 6)}"
        records = [
            stage(model, variant, "onnx", TORCH, details={"opset": 17}),
            stage(model, variant, "om", EMULATOR, atc(model, variant)),
        ]
        found = [gate(model, variant, "preflight", "preflight/errors", 0.0, Limit("==", 0), "passed")]
        for pair, provenance in (("torch~onnx", HOST), ("onnx~om", EMULATOR), ("torch~om", EMULATOR)):
            for name in ("boxes", "scores"):
                fail = index % 12 == 0 and name == "scores" and provenance is EMULATOR
                found += closeness(model, variant, pair, name, provenance, 0.01 if provenance is HOST else 1.0, fail)
        found.append(drop(model, variant, "coco141", "mAP50-95", 141, 26.5, 26.4, (-0.3, 0.5), "passed", EMULATOR))
        found += [
            latency(model, variant, "torch", 8.4, TORCH),
            latency(model, variant, "onnx", 3.1, HOST),
            latency(
                model, variant, "om", 1.0, EMULATOR, verdict="not_measured", message=Message("latency.no-device"),
                roofline_ms=0.7,
            ),
        ]  # fmt: skip
        found = found[: min(per_variant, gates - made)]
        yield from records
        yield from found
        made += len(found)
        index += 1
