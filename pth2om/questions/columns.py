"""Whether the exported graph has the columns that the decoder reads: known at the export, before anything is scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pth2om.errors import DataError, Pth2omError
from pth2om.evidence import GateRecord, Judgement, Limit, Verdict
from pth2om.language import Message, say

if TYPE_CHECKING:
    from pth2om.conversion.stage import Built
    from pth2om.questions.subject import Subject
    from pth2om.spec import Dataset, Spec

_VERSION = 1


def columns(subject: Subject, built: Built) -> list[GateRecord]:
    """One gate per dataset with labels: the graph's first output against its classes.

    Where the graph leaves the shape of that output open it is not measured: scoring then sees it first.

    Args:
        subject: of the batch size.
        built: the exported ONNX file.
    """
    spec = subject.pipeline.spec
    datasets = labelled(spec)
    if not datasets:
        return []

    def measure() -> Any:  # noqa: ANN401 - JSON
        from pth2om.onnxfile.reading import read

        output = read(built.file).graph.output[0]
        sizes = output.type.tensor_type.shape.dim
        return [size.dim_value if size.HasField("dim_value") else None for size in sizes]

    inputs = {"onnx": built.record.digest}
    shape, artifact = subject.measured("columns", _VERSION, inputs, {}, ("onnx",), measure)
    whole = [size for size in shape[1:] if size is not None]
    is_open = len(shape) < 2 or len(whole) != len(shape) - 1
    provenance = built.record.provenance
    gates = []
    for entry in datasets:
        classes = _classes(subject, entry.name, entry.subset)
        verdict: Verdict = "passed"
        message: Message | None = None
        if is_open:
            verdict, message = (
                "not_measured",
                say("accuracy.columns-open", shape=" x ".join("?" if size is None else str(size) for size in shape)),
            )
        else:
            try:
                _check(spec, whole, classes)
            except DataError as error:
                verdict, message = "failed", error.message
        details = {"shape": shape, "classes": classes, "dataset": entry.name}
        errors = None if is_open else float(verdict == "failed")
        check = f"onnx/columns/{entry.name}"
        judged = Judgement(check, errors, "errors", Limit("==", 0), verdict, message=message, details=details)
        gates.append(subject.gate("export", judged, provenance, inputs, provenance.ground, artifact))
    return gates


def labelled(spec: Spec) -> list[Dataset]:
    """The datasets whose classes a graph's columns are held against."""
    return [entry for entry in spec.datasets if entry.metric != "agreement"]


def _classes(subject: Subject, name: str, subset: int | None) -> int | None:
    """Of the dataset where it is here, else of its manifest, else of the spec."""
    from pth2om.data.columns import declared_classes

    pipeline = subject.pipeline
    try:
        known = pipeline.data.dataset(name, subset).classes
    except Pth2omError:
        known = declared_classes(pipeline.settings.calib / name)
    return known or pipeline.spec.source.num_classes


def _check(spec: Spec, shape: list[int], classes: int | None) -> None:
    import math

    from pth2om.accuracy import layout

    decoder = spec.postprocess.decoder
    if spec.volume is not None:
        if classes is not None:
            layout.check_voxels(shape, classes, spec.inputs[0].shape[1:])
        return
    if decoder == "softmax":
        layout.check_classifier(math.prod(shape), classes)
    elif decoder == "yolov6":
        layout.check_detector(shape, classes)
    elif decoder == "argmax" and classes is not None:
        layout.check_masks(shape, max(classes, 2))
