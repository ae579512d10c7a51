"""From a spec to the ModelZoo's table: convert, prepare the data, run all images, accuracy and fps, per batch size.

What the published pairs of scripts do (``*.sh`` that converts; ``eval_acc_perf.sh`` that prepares, infers and parses),
with the OM of whatever toolchain there is, or with ONNX Runtime. A run that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.errors import DataError, Pth2omError
from pth2om.escaping import shell_line
from pth2om.files import write_text
from pth2om.language import Message, say
from pth2om.offline.folders import NumberedFolder
from pth2om.offline.preparing import LABELS, write_inputs, write_labels
from pth2om.offline.results import BatchResult, modelzoo_table, write_result
from pth2om.offline.running import FORMS, run_outputs
from pth2om.offline.scoring import read_labels, score_outputs
from pth2om.own_words import in_own_words
from pth2om.spec import Variant

if TYPE_CHECKING:
    from pth2om.conversion.pipeline import Pipeline
    from pth2om.data import Labelled, Preprocessor
    from pth2om.session import Session
    from pth2om.spec import Dataset, Precision

TABLE = "table.md"


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        results: one per batch size.
        table: Markdown.
        remarks: how the results stand to the spec's figures, and what could not be compared.
        contradicted: whether a result contradicts the model: outputs that are absent or not finite, or an accuracy
            below what the spec requires.
        accuracy: whether the accuracy means anything: not that of seeded weights.
    """

    results: tuple[BatchResult, ...]
    table: str
    remarks: tuple[Message, ...]
    contradicted: bool
    accuracy: bool = True

    @property
    def status(self) -> int:
        """The exit status: 0 only where an accuracy was measured and nothing contradicts the model."""
        return int(self.contradicted or not self.accuracy)


def evaluate(
    pipeline: Pipeline,
    folder: Path,
    batches: Sequence[int],
    *,
    precision: Precision | None = None,
    dataset: str | None = None,
    form: str = "BIN",
    inputs: bool = False,
    told: Callable[[Message], None] = lambda _: None,
) -> Evaluation:
    """Convert a classifier, run a labelled dataset through it at each batch size, and make the ModelZoo's table.

    Memory does not grow with the number of images. What lies in ``folder`` from an earlier run of the same model and
    data is kept; images that have their outputs are not run again.

    Args:
        pipeline: of the model; with a SoC its OM is run, in each of the toolchain's bands, else its ONNX file.
        folder: gets ``val_label.txt``, ``outputs_bs1_fused/``..., ``result_bs1.json`` and ``table.md``.
        batches: images per inference.
        precision: of the OM; default that of the spec's first variant.
        dataset: one of the spec's, with the metric ``top1``; default the first.
        form: of outputs, ``BIN`` or ``TXT``.
        inputs: also write ``prep_image_bs1/``, for msame or ais_bench on a board.
        told: hears what is done.

    Raises:
        Absent: the data is not here.
        DataError: no such dataset, no labels, the folder holds something else, or no room is left.
        Pth2omError: the model cannot be converted.
    """
    try:
        return _evaluate(pipeline, folder, batches, precision, dataset, form, inputs, told)
    except Pth2omError as error:
        error.message = in_own_words(error.message, "offline")
        raise


def _evaluate(
    pipeline: Pipeline,
    folder: Path,
    batches: Sequence[int],
    precision: Precision | None,
    dataset: str | None,
    form: str,
    inputs: bool,
    told: Callable[[Message], None],
) -> Evaluation:
    wrong = next((size for size in batches if size < 1), None)
    if wrong is not None or not batches:
        raise DataError("offline.wrong-option", name="--batch-size", value=0 if wrong is None else wrong)
    if form not in FORMS:
        raise DataError("offline.wrong-form", form=form, known=", ".join(FORMS))
    from pth2om.data import Preprocessor

    entry = _dataset(pipeline, dataset)
    if pipeline.settings.soc is not None:
        _ = pipeline.settings.target  # an unknown chip, or absent weights, are refused before a file is written
    seeded = pipeline.seeded
    preprocessor = Preprocessor(pipeline.data.preprocess())
    labelled = pipeline.data.dataset(entry.name, entry.subset)
    folder.mkdir(parents=True, exist_ok=True)
    truth = read_labels(write_labels(folder, labelled))
    if seeded:
        told(_seeded(pipeline))  # before the time is spent
    told(say("offline.data", images=len(labelled), dataset=labelled.name, labels=str(folder / LABELS)))
    results = []
    for batch in sorted(set(batches)):
        made_of = _made_of(pipeline, labelled, batch)
        if inputs:
            place = NumberedFolder(folder / f"prep_image_bs{batch}", made_of)
            write_inputs(labelled, preprocessor, batch, place)
            told(say("offline.inputs-written", folder=str(place.path)))
        scored: dict[str, BatchResult] = {}
        for band, session, dtype in _sessions(pipeline, precision, batch, told):
            if session.digest in scored:
                continue  # it computes what another band does
            path = folder / f"outputs_bs{batch}_{band}"
            place = NumberedFolder(path, {**made_of, "session": session.digest, "form": form})
            if place.kept:
                told(say("offline.resumed", kept=place.kept, of=-(-len(labelled) // batch), folder=str(path)))
            feed = pipeline.spec.fed_input
            title = f"{pipeline.spec.name} bs{batch} {band}"
            run_outputs(session, labelled, preprocessor, place, batch=batch, feed=feed, form=form, title=title)
            result = BatchResult.of(batch, None, score_outputs(path, truth, batch, dtype))
            soc = pipeline.settings.soc
            result = replace(result, ground=session.provenance.ground, band=band, soc=soc, dataset=labelled.name)
            scored[session.digest] = _timed(result, session, labelled, preprocessor)
        # Of an emulated OM the worse band counts.
        worst = min(scored.values(), key=lambda one: one.top1 or 0.0)
        if seeded:
            worst = replace(worst, top1=None, top5=None, interval=None)
        write_result(folder / f"result_bs{batch}.json", worst)
        told(say("offline.written", path=str(folder / f"result_bs{batch}.json")))
        results.append(worst)
        pipeline.sessions.close()
    table = modelzoo_table(results)
    write_text(folder / TABLE, table + "\n")
    remarks, low = _against_spec(pipeline, entry, labelled, results)
    broken = any(one.absent or one.not_finite for one in results)
    return Evaluation(tuple(results), table, tuple(remarks), broken or low, not seeded)


def _seeded(pipeline: Pipeline) -> Message:
    """That the weights are absent, and how to get them."""
    name, fetch = pipeline.spec.name, pipeline.spec.source.fetch
    return say("offline.seeded-fetch", model=name, fetch=fetch) if fetch else say("offline.seeded", model=name)


def _dataset(pipeline: Pipeline, name: str | None) -> Dataset:
    spec = pipeline.spec
    known = [entry for entry in spec.datasets if entry.metric == "top1"]
    found = next((entry for entry in known if name in (None, entry.name)), None)
    following = shell_line(["pytest", "-k", spec.name, *(["--soc", soc] if (soc := pipeline.settings.soc) else [])])
    if found is None:
        names = ", ".join(entry.name for entry in known)
        if name is None or not names:
            raise DataError("offline.no-classifier", where=spec.name, task=spec.task, command=following)
        raise DataError("offline.no-dataset", where=spec.name, name=name, known=names)
    if spec.preprocess is None:
        fed = ", ".join(one.name for one in spec.inputs)
        raise DataError("offline.no-pictures", where=spec.name, inputs=fed, dataset=found.name, command=following)
    return found


def _made_of(pipeline: Pipeline, labelled: Labelled, batch: int) -> dict[str, Any]:
    """What inputs and outputs depend on besides the session."""
    from pth2om.data.preprocess import VERSION

    preprocess = pipeline.data.preprocess().model_dump(mode="json")
    return {
        "model": pipeline.spec.name,
        "batch": batch,
        "dataset": labelled.digest,
        "images": len(labelled),
        "preprocess": {**preprocess, "version": VERSION},
    }


def _sessions(
    pipeline: Pipeline, precision: Precision | None, batch: int, told: Callable[[Message], None]
) -> Iterator[tuple[str, Session, str]]:
    """(name in folders, session, dtype of its first output) of each way in which the model is run."""
    sessions: Mapping[str, Session]
    if pipeline.settings.soc is None:
        sessions = {"onnx": pipeline.onnx_session(batch)}
        told(say("offline.onnx", path=str(pipeline.onnx(batch).file)))
    else:
        first = pipeline.spec.variants[0].precision if pipeline.spec.variants else "fp16"
        variant = Variant(precision=precision or first, batch=batch)
        sessions = {"om" if band == "device" else band: one for band, one in pipeline.om_sessions(variant).items()}
        built = pipeline.om(variant)
        key = "offline.compiled-emulated" if built.record.provenance.ground == "emulated" else "offline.compiled"
        told(say(key, variant=variant.name, path=str(built.file), command=pipeline.plan(variant)[-1]))
    for name, session in sessions.items():
        dtype = session.outputs[0].dtype
        if dtype.kind != "f":
            raise DataError("offline.no-scores", output=session.outputs[0].name, dtype=str(dtype))
        yield name, session, dtype.name


def _timed(result: BatchResult, session: Session, labelled: Labelled, preprocessor: Preprocessor) -> BatchResult:
    """With latency and fps where a device computes; nothing else has a device's speed."""
    if session.provenance.ground != "device":
        return result
    from pth2om import latency
    from pth2om.data import batches

    (fed,) = session.inputs
    piece = next(batches(labelled, preprocessor, result.batch, raw=fed.dtype.kind == "u"))
    measured = latency.measure(session, {fed.name: piece.array.astype(fed.dtype)}, batch=result.batch)
    name = session.provenance.name
    return replace(result, latency_ms=measured["median_ms"], fps=measured["fps"], tool=name)


def _against_spec(
    pipeline: Pipeline, entry: Dataset, labelled: Labelled, results: Sequence[BatchResult]
) -> tuple[list[Message], bool]:
    """How the results stand to the figures of the spec, and whether one is below what it requires."""
    spec = pipeline.spec
    remarks: list[Message] = []
    if pipeline.seeded:
        return [_seeded(pipeline)], False
    low = False
    # A published figure belongs to exactly so many images.
    comparable = labelled.exact and entry.images in (None, len(labelled))
    if entry.expected is not None:
        values = {"expected": entry.expected, "have": len(labelled)}
        remarks.append(say("offline.expected" if comparable else "offline.expected-others", **values))
    least = [entry.min_score] if entry.min_score is not None else []
    if pipeline.settings.soc is not None and entry.om_min_score is not None and comparable:
        least.append(entry.om_min_score)
    for result in results:
        if least and result.top1 is not None and result.top1 < max(least):
            low = True
            remarks.append(say("offline.too-low", batch=result.batch, top1=round(result.top1, 2), least=max(least)))
    reference = ", ".join(f"{name} {fps:g} fps" for name, fps in sorted(spec.gates.reference_fps.items()))
    if reference:
        remarks.append(say("offline.reference-fps", soc=spec.gates.reference_soc or "?", figures=reference))
    return remarks, low
