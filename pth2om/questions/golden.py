"""Inputs handed out as ``.bin`` files, and the outputs that come back, compared with PyTorch and ONNX."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.errors import Absent, DataError
from pth2om.escaping import shell_line
from pth2om.evidence import Judgement
from pth2om.files import write_text
from pth2om.language import say
from pth2om.questions.subject import Subject

if TYPE_CHECKING:
    from pth2om.conversion.pipeline import Pipeline
    from pth2om.data import Samples
    from pth2om.data.samples import Sample
    from pth2om.evidence import GateRecord
    from pth2om.quantize.bins import BinBatches
    from pth2om.session import Array

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


def hand_out(pipeline: Pipeline, batch: int, destination: Path) -> Handed:
    """Write the samples of a model as ``.bin`` folders, one per input, and a record beside them.

    Args:
        pipeline: of the model.
        batch: rows per inference.
        destination: a folder that does not exist yet, or is empty; the record is ``<destination>.json``.

    Raises:
        QuantizeError: the folder is not empty, or cannot be written.
    """
    from pth2om.quantize.bins import write_bins

    samples = _Noting(pipeline.data.samples(batch))
    written = write_bins(samples, destination)
    record = json.loads(written.record.read_text(encoding="utf-8"))
    record |= {"model": pipeline.spec.name, "batch": batch, "seed": pipeline.settings.seed, "samples": samples.noted}
    write_text(written.record, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    folders = tuple(written.folders[entry.name] for entry in pipeline.spec.inputs)
    return Handed(folders, written.record, written.batches, tuple(_commands(pipeline.spec.name, batch, folders)))


def _commands(name: str, batch: int, folders: tuple[Path, ...]) -> Iterator[str]:
    model = f"{name}-bs{batch}.om"
    places = [str(folder) for folder in folders]
    asked = ["--model", model, "--input", ",".join(places), "--output", "."]
    yield shell_line(["python3", "-m", "ais_bench", *asked, "--output_dirname", _NAMED_OUTPUT, "--outfmt", "BIN"])
    yield shell_line(
        ["msame", "--model", model, "--input", ",".join(places), "--output", _NAMED_OUTPUT, "--outfmt", "BIN"]
    )


class _Handed:
    """The handed-out inputs as samples, those only that have outputs."""

    def __init__(self, bins: BinBatches, kept: Mapping[int, tuple[str, ...]], shared: frozenset[str]) -> None:
        self._bins, self._kept, self._shared = bins, kept, shared
        self.pixels: int | None = None

    def __iter__(self) -> Iterator[Sample]:
        from pth2om.data.samples import Sample

        for number, feeds in enumerate(self._bins):
            if number in self._kept:
                yield Sample(self._kept[number], feeds, self._shared)


def compare_outputs(pipeline: Pipeline, inputs: Path, outputs: Path) -> list[GateRecord]:
    """Whether outputs that were computed elsewhere are those of PyTorch and of the exported ONNX.

    The limits are those of an OM. Outputs that are not there are *not measured*; the others are compared.

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
    from pth2om.spec import Shape

    spec = pipeline.spec
    batch, noted = _record(pipeline, inputs)
    bins = open_bins([inputs], [InputShape(entry.name, entry.shape_of(batch), entry.dtype) for entry in spec.inputs])
    digests = [digest_of(feeds) for feeds in bins]
    if digests != [sha for _, sha in noted]:
        raise DataError("golden.changed-inputs", where=str(inputs))
    onnx = pipeline.onnx_session(batch)
    stems = [path.stem for path in bins.files[spec.inputs[0].name]]
    answers, missing = find_answers(outputs, stems, len(onnx.outputs))
    known = {sha: answers[stem] for sha, stem in zip(digests, stems, strict=True) if stem in answers}
    kept = {number: noted[number][0] for number, stem in enumerate(stems) if stem in answers}
    golden = GoldenSession(onnx.inputs, onnx.outputs, known)
    subject = Subject(pipeline, shape=Shape(batch))
    judgements = []
    if missing:
        message = say("golden.missing", count=len(missing), of=len(stems) * len(onnx.outputs), first=missing[0])
        judgements.append(Judgement("golden/outputs", None, "", None, "not_measured", message=message))
    samples = _Handed(bins, kept, frozenset(entry.name for entry in spec.inputs if not entry.batched))
    samples.pixels = max(spec.preprocess.size) if spec.preprocess else None
    for role, session in (("torch", pipeline.torch_session() if pipeline.has_torch else None), ("onnx", onnx)):
        if session is None or not kept:
            continue
        try:
            measured = compare.measure(session, golden, samples, spec.slices)
        except Absent as error:
            judgements.append(Judgement(f"{role}~golden", None, "", None, "not_measured", message=error.message))
            continue
        pair = f"{role}~om"
        found = compare.judge(measured, pair=pair, gates=spec.gates)
        judgements += [replace(each, check=each.check.replace(pair, f"{role}~golden", 1)) for each in found]
    return subject.gates("closeness", judgements, golden, {"candidate": golden.digest})


def _record(pipeline: Pipeline, inputs: Path) -> tuple[int, list[tuple[tuple[str, ...], str]]]:
    """The batch size, and per inference the names of its rows and the digest of its inputs."""
    from pth2om.quantize.bin_records import named_folder, read_record

    folder = named_folder(inputs)
    where = folder.with_name(f"{folder.name}.json")
    record = read_record(where) or {}
    batch, samples = record.get("batch"), record.get("samples")
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1 or not isinstance(samples, list):
        raise DataError("golden.no-record", where=str(where), folder=str(inputs))
    noted = []
    for entry in samples:
        names, sha = (entry.get("names"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if not isinstance(names, list) or len(names) != batch or not isinstance(sha, str):
            raise DataError("golden.no-record", where=str(where), folder=str(inputs))
        noted.append((tuple(str(name) for name in names), sha))
    if record.get("model") != pipeline.spec.name:
        raise DataError("golden.other-model", where=str(where), held=str(record.get("model")), model=pipeline.spec.name)
    return batch, noted
