"""Whether an exported file computes what PyTorch computes, on inputs that are drawn from the spec's ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.onnxfile.runtime import RefusedError, open_runtime, run_runtime
from pth2om.session import Array
from pth2om.spec import Input, Shape

if TYPE_CHECKING:
    import torch

PROBE_RELATIVE_L2 = 1e-3
"""Above this relative L2 between torch and ORT the exported graph is considered wrong (float32 noise is < 1e-5)."""


def example(inputs: Sequence[Input], batch: int, seed: int) -> dict[str, Array]:
    """Random feeds of ``batch`` samples drawn uniformly from each input's range.

    Returns:
        One array per input: a batch of its shape, of its dtype.
    """
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for entry in inputs:
        low, high = entry.range
        shape = entry.shape_of(batch)
        if entry.dtype == "bool":
            feeds[entry.name] = random.integers(0, 2, shape).astype(bool)
        elif entry.dtype.startswith("float"):
            feeds[entry.name] = random.uniform(low, high, shape).astype(entry.dtype)
        else:
            feeds[entry.name] = random.integers(int(low), int(high), shape, endpoint=True).astype(entry.dtype)
    return feeds


def mirrored(inputs: Sequence[Input], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """``feeds`` mirrored within each input's range, so that comparisons with the middle change their result."""
    reflected: dict[str, Array] = {}
    for entry in inputs:
        array = feeds[entry.name]
        low, high = (0, 1) if entry.dtype == "bool" else entry.range
        span = low + high if entry.dtype.startswith("float") else int(low) + int(high)
        reflected[entry.name] = np.asarray(
            span - array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
        ).astype(array.dtype)
    return reflected


def at_shape(shape: Shape, inputs: Sequence[Input], seed: int) -> dict[str, Array]:
    """`example` at one shape."""
    sized = [shape.sized(entry) for entry in inputs]
    return example(sized, shape.batch, seed)


def probe(
    path: Path,
    module: torch.nn.Module,
    inputs: Sequence[Input],
    shapes: Sequence[Shape],
    traced: Mapping[str, Array],
    names: Sequence[str],
    findings: list[Finding],
) -> list[float]:
    """Run the tracing input and a second one, its mirror image, through torch and ORT; then one input a gear.

    A graph in which a branch or a size of the tracing input was frozen agrees on the first but not on the others.

    Args:
        path: the exported file.
        module: what was traced.
        inputs: the spec's.
        shapes: all gears, or the one shape; traced at the last.
        traced: the tracing input.
        names: of the outputs.
        findings: what is wrong is added here.

    Returns:
        The relative L2 of each; fewer, or none, where ONNX Runtime does not run the file.
    """
    import torch

    try:
        session = open_runtime(path)
    except RefusedError as error:
        findings.append(Finding("export.ort-refuses", "error", say("export.ort-refuses", reason=str(error))))
        return []
    known = {entry.name for entry in session.get_inputs()}
    findings.extend(
        Finding("export.unused-input", "error", say("export.unused-input", name=entry.name), node=entry.name)
        for entry in inputs
        if entry.name not in known
    )
    distances: list[float] = []
    gears = shapes[:-1]
    fed = (traced, mirrored(inputs, traced), *(at_shape(shape, inputs, 0) for shape in gears))
    for number, feeds in enumerate(fed, 1):
        gear = gears[number - 3].name if number > 2 else ""
        with torch.inference_mode():
            expected = [tensor.numpy() for tensor in module(*(torch.from_numpy(feeds[entry.name]) for entry in inputs))]
        try:
            found = run_runtime(session, {name: array for name, array in feeds.items() if name in known}, names)
        except RefusedError as error:
            rule = "export.gear-fails" if gear else "export.ort-fails"
            message = say(rule, input=number, gear=gear, reason=str(error))
            findings.append(Finding(rule, "error", message))
            return distances
        got = [found[name] for name in names]
        distances.append(max((relative_l2(a, b) for a, b in zip(expected, got, strict=True)), default=0.0))
    for number, distance in enumerate(distances, 1):
        if not distance <= PROBE_RELATIVE_L2:
            rule = "export.frozen" if number == 2 and distances[0] <= PROBE_RELATIVE_L2 else "export.differs"
            rule, gear = ("export.gear-differs", gears[number - 3].name) if number > 2 else (rule, "")
            message = say(rule, distance=f"{distance:.2e}", input=number, gear=gear)
            findings.append(Finding(rule, "error", message))
    return distances


def relative_l2(expected: Array, got: Array) -> float:
    """How far apart two outputs are, over what is finite; infinite where the shapes, or what is finite, differ."""
    if expected.shape != got.shape:
        return float("inf")
    a, b = np.asarray(expected, np.float64).ravel(), np.asarray(got, np.float64).ravel()
    both = np.isfinite(a)
    if not np.array_equal(both, np.isfinite(b)):
        return float("inf")
    if both.all():
        return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-12))
    return float(np.linalg.norm(a[both] - b[both]) / max(float(np.linalg.norm(a[both])), 1e-12))
