"""Inputs handed out as ``.bin`` files, and the outputs that come back, compared with PyTorch and ONNX.

They are compared on the samples and by the limits of an acceptance run. Which machine made the outputs is not known:
their ground is ``double``, and their provenance is ``golden``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.errors import Absent, DataError
from pth2om.escaping import shell_line
from pth2om.evidence import Judgement, Planned
from pth2om.files import write_text
from pth2om.language import say
from pth2om.questions.closeness import judged
from pth2om.questions.subject import Subject
from pth2om.spec import Shape

if TYPE_CHECKING:
    from pth2om.conversion.pipeline import Pipeline
    from pth2om.data import Samples
    from pth2om.data.samples import Sample
    from pth2om.evidence import GateRecord
    from pth2om.quantize.bins import BinBatches
    from pth2om.session import Array, Session, TensorSpec

_NAMED_OUTPUT = "golden-outputs"


@dataclass(frozen=True)
class Handed:
    """What `hand_out` wrote.

    Attributes:
        folders: one per input, in the model's order.
        record: JSON beside them.
        batches: files per input.
        commands: the line for ais_bench, and the one for msame.
    """

    folders: tuple[Path, ...]
    record: Path
    batches: int
    commands: tuple[str, ...]


class _Noting:
    """The feeds of samples; notes names and digests as they pass."""

    def __init__(self, samples: Samples) -> None:
        self.noted: list[dict[str, Any]] = []
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        from pth2om.sessions.golden import digest_of

        for sample in self._samples:
            self.noted.append({"names": list(sample.names), "sha256": digest_of(sample.feeds)})
            yield sample.feeds


def chosen(pipeline: Pipeline, variant: str | None, batch: int | None) -> Subject:
    """What outputs are computed of: one of the spec's variants by its name, or a batch size.

    Args:
        pipeline: of the model.
        variant: ``int8-bs1``, ``fp16-gears1_2_4-bs2``; None: of no variant, at ``batch``.
        batch: rows per inference; default the smallest of the spec.

    Raises:
        DataError: there is no such variant, or its inputs cannot be handed out.
    """
    spec = pipeline.spec
    if variant is None:
        if batch is not None and batch < 1:
            raise DataError("golden.wrong-batch", value=batch)
        return Subject(pipeline, shape=Shape(batch or spec.batches[0]))
    found = next((entry for entry in spec.variants if entry.name == variant), None)
    if found is None:
        raise DataError("golden.no-variant", name=variant, known=", ".join(entry.name for entry in spec.variants))
    if batch is not None and batch != found.batch:
        raise DataError("golden.variant-batch", name=variant, held=found.batch, batch=batch)
    if found.aipp:
        raise DataError("golden.aipp", name=variant)
    if found.gears is not None and found.gears.ranged:
        raise DataError("golden.range", name=variant)
    return Subject(pipeline, found)


def hand_out(subject: Subject, destination: Path) -> Handed:
    """Write the samples of a model as ``.bin`` folders, one per input, and a record beside them.

    Args:
        subject: of `chosen`.
        destination: a folder that does not exist yet, or is empty; the record is ``<destination>.json``.

    Raises:
        QuantizeError: the folder is not empty, or cannot be written.
    """
    from pth2om.quantize.bins import write_bins

    pipeline = subject.pipeline
    samples = _Noting(_samples(subject))
    written = write_bins(samples, destination)
    record = json.loads(written.record.read_text(encoding="utf-8"))
    record |= {"model": pipeline.spec.name, "batch": subject.batch, "seed": pipeline.settings.seed}
    record |= {"variant": None if subject.variant is None else subject.variant.name, "samples": samples.noted}
    write_text(written.record, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    folders = tuple(written.folders[entry.name] for entry in pipeline.spec.inputs)
    return Handed(folders, written.record, written.batches, tuple(_commands(subject, folders)))


def _samples(subject: Subject) -> Samples:
    assert subject.shape is not None
    return subject.pipeline.data.samples(subject.shape if _geared(subject) else subject.shape.batch, subject.variant)


def _geared(subject: Subject) -> bool:
    return subject.shape is not None and subject.shape.gears is not None


def _commands(subject: Subject, folders: tuple[Path, ...]) -> Iterator[str]:
    name = subject.pipeline.spec.name
    model = f"{name}-{subject.variant.om if subject.variant is not None else subject.case}.om"
    asked = ["--model", model, "--input", ",".join(map(str, folders)), *_gear(subject)]
    out = ["--output", ".", "--output_dirname", _NAMED_OUTPUT, "--outfmt", "BIN"]
    yield shell_line(["python3", "-m", "ais_bench", *asked, *out])
    yield shell_line(["msame", *asked, "--output", _NAMED_OUTPUT, "--outfmt", "BIN"])


def _gear(subject: Subject) -> list[str]:
    """The option of msame and ais_bench that sets the gear."""
    shape = subject.shape
    if shape is None or shape.gears is None:
        return []
    gears, point = shape.gears, shape.gears.points[shape.number]
    if gears.batch:
        return ["--dymBatch", str(point["batch"])]
    if gears.image:
        return ["--dymHW", f"{point['height']},{point['width']}"]
    sizes = (f"{entry.name}:{','.join(map(str, shape.of(entry)))}" for entry in subject.pipeline.spec.inputs)
    return ["--dymDims", ";".join(sizes)]


class _Handed:
    """The handed-out inputs as samples, those only that have outputs."""

    def __init__(self, subject: Subject, bins: BinBatches, kept: Mapping[int, tuple[str, ...]], digest: str) -> None:
        spec = subject.pipeline.spec
        self._bins, self._kept = bins, kept
        self._shared = frozenset(entry.name for entry in spec.inputs if not entry.batched)
        self.pixels = max(subject.spec.preprocess.size) if subject.spec.preprocess else None
        self.batch, self.digest = subject.batch or 1, digest

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Sample]:
        from pth2om.data.samples import Sample

        for number, feeds in enumerate(self._bins):
            if number in self._kept:
                yield Sample(self._kept[number], feeds, self._shared)


@dataclass(frozen=True)
class Returned:
    """What `compare_outputs` found.

    Attributes:
        subject: what the outputs were computed of.
        gates: evidence; of ground ``double``.
    """

    subject: Subject
    gates: list[GateRecord]


def compare_outputs(pipeline: Pipeline, inputs: Path, outputs: Path) -> Returned:
    """Whether outputs that were computed elsewhere are those of PyTorch and of the exported ONNX.

    The limits are those of the OM of the variant. Outputs that are not there are *not measured*; the others are
    compared.

    Args:
        pipeline: of the model.
        inputs: the folder of `hand_out`.
        outputs: what came back, see `pth2om.sessions.golden.find_answers`.

    Raises:
        DataError: no record, a record of another model, inputs that were changed, or outputs of another form.
    """
    from pth2om import compare
    from pth2om.quantize.bins import InputShape, open_bins
    from pth2om.sessions.golden import GoldenSession, digest_of, find_answers

    subject, noted = _record(pipeline, inputs)
    entries = subject.spec.inputs
    batch = subject.batch or 1
    bins = open_bins([inputs], [InputShape(entry.name, entry.shape_of(batch), entry.dtype) for entry in entries])
    digests = [digest_of(feeds) for feeds in bins]
    if digests != [sha for _, sha in noted]:
        raise DataError("golden.changed-inputs", where=str(inputs))
    if pipeline.has_torch:
        pipeline.checkpoint()  # into the records of the run
    onnx = pipeline.onnx_session(subject.shape if _geared(subject) and subject.shape is not None else batch)
    stems = [path.stem for path in bins.files[entries[0].name]]
    answers, missing = find_answers(outputs, stems, len(onnx.outputs))
    known = {sha: answers[stem] for sha, stem in zip(digests, stems, strict=True) if stem in answers}
    kept = {number: noted[number][0] for number, stem in enumerate(stems) if stem in answers}
    whole = hashlib.sha256("\n".join(sorted(known)).encode()).hexdigest()
    samples: Any = _Handed(subject, bins, kept, whole)
    judgements = []
    if missing:
        message = say("golden.missing", count=len(missing), of=len(stems) * len(onnx.outputs), first=missing[0])
        judgements.append(Judgement("golden/outputs", None, "", None, "not_measured", message=message))
    golden = GoldenSession(onnx.inputs, _sized(onnx, bins) if _geared(subject) else onnx.outputs, known)
    for role, session in (("torch", pipeline.torch_session() if pipeline.has_torch else None), ("onnx", onnx)):
        if session is None or not kept:
            continue
        pair = f"{role}~om"
        try:
            measured = compare.measure(session, golden, samples, pipeline.spec.slices)
            found = judged(subject, measured, pair, samples, excused=True)
        except Absent as error:
            judgements.append(Judgement(f"{role}~golden", None, "", None, "not_measured", message=error.message))
            continue
        judgements += [replace(each, check=each.check.replace(pair, f"{role}~golden", 1)) for each in found]
    return Returned(subject, subject.gates("closeness", judgements, golden, {"candidate": golden.digest}))


def planned(subject: Subject) -> Planned:
    """What the comparison answers, for the plan of its evidence."""
    name = subject.pipeline.spec.name
    item = f"golden[{name}-{subject.case}]"
    return Planned(item, name, subject.case, None, "closeness", "closeness/golden", measures=True)


def _sized(session: Session, bins: BinBatches) -> tuple[TensorSpec, ...]:
    """The outputs with the sizes that they have at a gear, which the file leaves open."""
    results = session.run(next(iter(bins)))
    return tuple(replace(entry, shape=results[entry.name].shape) for entry in session.outputs)


def _record(pipeline: Pipeline, inputs: Path) -> tuple[Subject, list[tuple[tuple[str, ...], str]]]:
    """What was handed out, and per inference the names of its rows and the digest of its inputs."""
    from pth2om.quantize.bin_records import named_folder, read_record

    folder = named_folder(inputs)
    where = folder.with_name(f"{folder.name}.json")
    record = read_record(where) or {}
    batch, samples, variant = record.get("batch"), record.get("samples"), record.get("variant")
    wrong = not isinstance(batch, int) or isinstance(batch, bool) or batch < 1 or not isinstance(samples, list)
    if wrong or not (variant is None or isinstance(variant, str)):
        raise DataError("golden.no-record", where=str(where), folder=str(inputs))
    noted = []
    for entry in samples or ():
        names, sha = (entry.get("names"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if not isinstance(names, list) or len(names) != batch or not isinstance(sha, str):
            raise DataError("golden.no-record", where=str(where), folder=str(inputs))
        noted.append((tuple(str(name) for name in names), sha))
    if record.get("model") != pipeline.spec.name:
        raise DataError("golden.other-model", where=str(where), held=str(record.get("model")), model=pipeline.spec.name)
    return chosen(pipeline, variant, batch), noted
