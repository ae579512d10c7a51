"""TorchScript and what is made of it, delivered into a folder: what ``pth2om torchscript`` does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pth2om.errors import CheckpointError, SpecError, StoreError
from pth2om.evidence import Finding
from pth2om.files import is_file, is_folder
from pth2om.language import say
from pth2om.session import Feeds
from pth2om.spec import Export, Input, Source, Spec, Variant, load
from pth2om.spec.torchscript import TorchScript
from pth2om.store import Store

if TYPE_CHECKING:
    from pth2om.conversion.pipeline import Pipeline

_INT64 = 7
"""``TensorProto.INT64``."""


@dataclass(frozen=True)
class Delivered:
    """What was written.

    Attributes:
        written: the files.
        method: ``trace``, ``script`` or ``given``.
        mean_error: of the program against PyTorch; of a given program 0.
        twin_error: of the ``torch.export`` twin; None where there is none.
        onnx_error: mean absolute difference of ONNX and TorchScript, the largest over the inputs.
        opset: of the ONNX file.
        inputs: how many inputs were compared.
        findings: of all steps.
    """

    written: tuple[Path, ...]
    method: str
    mean_error: float
    twin_error: float | None
    onnx_error: float
    opset: int
    inputs: int
    findings: tuple[Finding, ...]


def inputs_of(text: str) -> tuple[tuple[Input, ...], int]:
    """``a:1,3,8,8;b:1,4`` as inputs and their batch.

    Raises:
        SpecError: it is no such text, or the batches differ.
    """
    found, batches = [], set()
    for part in text.replace(" ", "").split(";"):
        match = re.fullmatch(r"([A-Za-z0-9_.\-]+):(\d{1,9}(?:[,x]\d{1,9})+)", part)
        sizes = [int(size) for size in re.split("[,x]", match[2])] if match else [0]
        if match is None or min(sizes) < 1:
            raise SpecError("torchscript.bad-shape", text=text)
        batches.add(sizes[0])
        found.append(Input(name=match[1], shape=tuple(sizes[1:])))
    if len(batches) != 1 or len({entry.name for entry in found}) != len(found):
        raise SpecError("torchscript.bad-shape", text=text)
    return tuple(found), batches.pop()


def deliver(
    source: Path,
    destination: Path | None,
    *,
    shapes: str = "",
    outputs: Sequence[str] = (),
    opset: int = 17,
    int32: bool = False,
    data_roots: Sequence[Path] = (),
) -> Delivered:
    """Write the program, its twin, the ONNX file and its drawing.

    Args:
        source: a TorchScript file, or the folder of a model with its ``model.toml``.
        destination: a folder; default the source's.
        shapes: of a file's inputs, see `inputs_of`.
        outputs: names of a file's outputs.
        opset: of a file's ONNX.
        int32: turn INT64 into INT32 in the ONNX file; every change is proved equal.
        data_roots: where weights may lie.

    Raises:
        Pth2omError: what the steps raise.
    """
    from pth2om.conversion.pipeline import Pipeline, RunSettings

    folder = source.parent if source.name == "model.toml" else source
    if is_folder(folder):
        spec = load(folder)
        if spec.torchscript is None:
            raise SpecError("torchscript.no-table", where=str(folder / "model.toml"))
        weights = {}
    else:
        if not is_file(source):
            raise CheckpointError("torchscript.no-file", where=str(source))
        if not shapes:
            raise SpecError("torchscript.needs-shape", where=str(source))
        spec = _spec_of(source, shapes, outputs, opset)
        weights = {spec.name: source}
    models = folder.absolute().parent
    settings = RunSettings(models, models.parent / "calib", tuple(data_roots), weights=weights)
    pipeline = Pipeline(spec, settings, Store())
    try:
        return _deliver(pipeline, destination or source.parent, int32=int32)
    finally:
        pipeline.close()


def _spec_of(source: Path, shapes: str, outputs: Sequence[str], opset: int) -> Spec:
    inputs, batch = inputs_of(shapes)
    return Spec(
        name=re.sub(r"[^A-Za-z0-9_.\-]", "_", source.stem) or "model",
        folder=source.absolute().parent,
        task="tensor",
        source=Source(checkpoint=source.name),
        inputs=inputs,
        export=Export(opsets=(opset,), outputs=tuple(outputs)),
        variants=(Variant(precision="fp16", batch=batch),),
        torchscript=TorchScript(),
    )


def _deliver(pipeline: Pipeline, destination: Path, *, int32: bool) -> Delivered:
    from pth2om.graph.contract import PassSettings
    from pth2om.graph.drawing import draw
    from pth2om.graph.fixing import fix

    spec, batch = pipeline.spec, pipeline.spec.batches[0]
    program, exported = pipeline.torchscript(batch), pipeline.onnx(batch)
    stem = f"{spec.name}-bs{batch}"
    written = {destination / f"{stem}.torchscript.pt": program.file, destination / f"{stem}.onnx": exported.file}
    twin = program.artifact.path / "model.pt2"
    if twin.exists():
        written[destination / f"{stem}.pt2"] = twin
    try:
        destination.mkdir(parents=True, exist_ok=True)
        for target, origin in written.items():
            part = target.with_name(target.name + ".part")
            shutil.copyfile(origin, part)
            part.replace(target)
    except OSError as error:
        raise StoreError(
            "torchscript.unwritable", where=str(destination), reason=error.strerror or str(error)
        ) from None
    findings = [*program.record.findings, *exported.record.findings]
    onnx = destination / f"{stem}.onnx"
    if int32:
        narrow = destination / f"{stem}.int32.onnx"
        fixed = fix(onnx, narrow, settings=PassSettings(int32_inputs=True), names=["int32"])
        findings += [*fixed.cleaned.findings, *_int64_left(narrow)]
        written[narrow] = narrow
    picture = destination / f"{stem}.svg"
    draw(onnx, picture)
    samples = list(pipeline.data.samples(batch))
    details = program.record.details
    return Delivered(
        (*written, picture),
        details["method"],
        details["mean_error"],
        details["twin_error"],
        max(_distance(pipeline, batch, sample.feeds) for sample in samples),
        exported.record.details["opset"],
        len(samples),
        tuple(findings),
    )


def _int64_left(file: Path) -> list[Finding]:
    """The nodes that still give INT64: ONNX defines no other type there, or the numbers may not fit."""
    from pth2om.onnxfile.reading import read
    from pth2om.onnxfile.types import tensor_types
    from pth2om.onnxfile.walking import node_label

    model = read(file)
    known = tensor_types(model, {})
    wide = [
        node_label(node)
        for node in model.graph.node
        if any(known.get(name, (0, None))[0] == _INT64 for name in node.output)
    ]
    if not wide:
        return []
    told = say("torchscript.int64-left", count=len(wide), nodes=", ".join(wide[:10]))
    return [Finding("torchscript.int64-left", "info", told)]


def _distance(pipeline: Pipeline, batch: int, feeds: Feeds) -> float:
    ours, theirs = (each(batch).run(feeds) for each in (pipeline.torchscript_session, pipeline.onnx_session))
    wide = ((ours[name].astype(np.float64), theirs[name].astype(np.float64)) for name in ours)
    return max(float(np.abs(first - second).mean()) for first, second in wide)
