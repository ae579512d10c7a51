"""Whether the model keeps its score on labelled images."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pth2om.conversion.sessions import INT8_WEIGHTS
from pth2om.conversion.stage import Work, run
from pth2om.errors import DataError, Pth2omError
from pth2om.evidence import GateRecord, Judgement, Limit, Verdict
from pth2om.language import SAMPLES_ARE, Message, say
from pth2om.questions import pictures
from pth2om.questions.candidate import Candidate
from pth2om.questions.subject import Subject, answers

if TYPE_CHECKING:
    from pth2om.conversion.pipeline import Pipeline
    from pth2om.data import Labelled
    from pth2om.session import Session
    from pth2om.spec import Dataset, Preprocess, Variant, Volume
    from pth2om.store import Artifact

_LISTED = 50
_SEGMENTATION = 2
"""Of `pth2om.segmentation`, which is not imported for a key: raised with its version."""


@answers("accuracy")
def score(subject: Subject, session: Session, labelled: Labelled, dataset: Dataset) -> list[GateRecord]:
    """PyTorch's own score: the value expected in the spec for exactly these files, and the spec's minimum score.

    Args:
        subject: the model.
        session: PyTorch.
        labelled: the images.
        dataset: the spec's table: which metric, and what is expected of it.

    Raises:
        Absent: the weights are random.
    """
    from pth2om import accuracy as scoring

    pipeline = subject.pipeline
    if pipeline.seeded:
        raise pipeline.weights_absent()
    _fits(subject, labelled, dataset)
    batch = pipeline.spec.batches[0]
    measured, artifact = _scored(subject, session, labelled, batch)
    judgements: list[Judgement] = []
    if dataset.metric != "agreement":
        judgements.append(scoring.least(measured, dataset.min_score, metric=dataset.metric))
    whole = dataset.subset is None and pipeline.settings.subset is None
    if dataset.expected is not None and whole:
        exact = labelled.exact and dataset.images in (None, len(labelled))
        judgements.append(
            scoring.reproduces(measured, dataset.expected, dataset.tolerance, metric=dataset.metric, exact_files=exact)
        )
    if judgements:
        sides = [pictures.Side("PyTorch", session, measured, batch)]
        details = {**judgements[0].details, "pictures": _pictures(subject, sides, labelled, {})}
        judgements[0] = replace(judgements[0], details=details)
        judgements = scoring.class_scores(measured, judgements, pipeline.settings.seed)
    return _gates(subject, judgements, session, labelled, artifact)


@answers("accuracy")
def accuracy(
    subject: Subject, reference: Candidate, candidate: Candidate, labelled: Labelled, dataset: Dataset
) -> list[GateRecord]:
    """Whether the candidate's metric drops by no more than the gate, judged paired on the same images.

    Args:
        subject: of the variant or batch size.
        reference: the original model: PyTorch, or the ONNX file that the spec starts from.
        candidate: ONNX, or an OM, of whose bands the worse is judged; what PyTorch scores with INT8 weights alone is
            shown, not judged, because the loss of the activations is not in it.
        labelled: the images.
        dataset: the spec's table: which metric.

    Raises:
        Absent: the weights are random.
    """
    from pth2om import accuracy as scoring

    pipeline = subject.pipeline
    if pipeline.seeded and dataset.metric != "agreement":
        raise pipeline.weights_absent()
    _fits(subject, labelled, dataset)
    spec = pipeline.spec
    gate = _drop(pipeline, subject.variant)
    first = spec.batches[0]
    batch = subject.batch or first
    before, _ = _scored(subject, reference.session, labelled, first)
    judged: list[tuple[Judgement, Session, Artifact]] = []
    by_class: dict[str, list[Judgement]] = {}
    measured: dict[str, Any] = {}
    scores: list[Judgement] = []
    figures: dict[str, Any] = {}
    for band, session in candidate.bands.items():
        after, artifact = _scored(subject, session, labelled, batch)
        measured[session.digest] = after
        if dataset.metric == "agreement":
            judgement = scoring.agreement(before, after, gate)
        else:
            both = (reference.session, session)
            judgement, *classes = (
                scoring.judge(_difference(subject, both, (before, after), labelled, metric), gate)
                for metric in scoring.judged_metrics(before, dataset.metric)
            )
            for each in classes:
                by_class.setdefault(each.check, []).append(replace(each, check=f"{candidate.role}/{each.check}"))
            figures[band] = judgement.measured
            if candidate.role == "om" and dataset.om_min_score is not None:
                scores.append(_published(after, labelled, dataset))
        judged.append((judgement, session, artifact))
    worst, session, artifact = max(judged, key=lambda each: _badness(each[0]))
    details = pictures.named(worst.details, labelled.names)
    details |= {"dataset": dataset.name, "bands": figures if len(figures) > 1 else None}
    if not pipeline.has_torch:
        details["original"] = "onnx"
    if candidate.role == "om":
        onnx = pictures.Side("ONNX", pipeline.onnx_session(subject.sized(batch)), None, batch)
        title = onnx.title if reference.role == "onnx" else "PyTorch"
        original = pictures.Side(title, reference.session, before, first)
        om = pictures.Side("OM", session, measured[session.digest], batch)
        sides = [original, om] if title == onnx.title else [original, onnx, om]
        details["pictures"] = _pictures(subject, sides, labelled, worst.details)
    judgement = replace(worst, check=f"{candidate.role}/{worst.check}", details=details)
    classes = [max(each, key=_badness) for each in by_class.values()]
    if candidate.role == INT8_WEIGHTS:
        judgement, *classes = (
            each if each.verdict == "not_measured" else replace(each, limit=None, verdict="shown", message=None)
            for each in (judgement, *classes)
        )
    broken = max((_broken(before, measured[each.digest], candidate.role) for _, each, _ in judged), key=_badness)
    lowest = [min(scores, key=lambda each: each.measured or 0.0)] if scores else []
    return _gates(subject, [judgement, *classes, broken, *lowest], session, labelled, artifact)


def undecidable(pipeline: Pipeline, dataset: Dataset, variant: Variant) -> Message | None:
    """The warning that this subset can never decide the gate; None if it can."""
    from pth2om import accuracy as scoring

    if dataset.metric == "agreement" or pipeline.seeded:
        return None
    try:
        count, samples_are = pipeline.data.size(dataset.name, dataset.subset)
    except Pth2omError:
        return None  # absent or wrong: reported where it is used
    message = scoring.can_decide(count, _drop(pipeline, variant))[1]
    return None if message is None else _named(message, samples_are)


def _drop(pipeline: Pipeline, variant: Variant | None) -> float:
    gates = pipeline.spec.gates
    return gates.int8_drop if variant is not None and variant.quantized else gates.drop


def _fits(subject: Subject, labelled: Labelled, dataset: Dataset) -> None:
    """Refuse a dataset of another number of classes than the spec's net has, before anything runs.

    Raises:
        DataError: the numbers differ.
    """
    spec = subject.pipeline.spec
    classes, known = spec.source.num_classes, labelled.classes
    # A mask of one class besides the background may be one channel or two.
    counted = dataset.metric != "agreement" and spec.postprocess.decoder in ("softmax", "yolov6")
    if counted and None not in (classes, known) and classes != known:
        raise DataError("accuracy.spec-classes", where=dataset.name, classes=classes, dataset=dataset.name, known=known)


def _preprocess(subject: Subject) -> Preprocess:
    """The preprocessing, at the picture's size of the gear in question.

    Raises:
        Absent: the spec has none.
    """
    return subject.spec.preprocess or subject.pipeline.data.preprocess()


def _scored(subject: Subject, session: Session, labelled: Labelled, batch: int) -> tuple[Any, Artifact]:
    from pth2om import accuracy as scoring
    from pth2om.data import Preprocessor
    from pth2om.data.arrays import array_batches
    from pth2om.progress import counted

    if labelled.has_volumes:
        return _scored_volumes(subject, session, labelled, batch)
    spec = subject.pipeline.spec
    inputs_fed = subject.spec.inputs
    preprocessor = None if labelled.has_arrays else Preprocessor(_preprocess(subject))
    source = functools.partial(array_batches, labelled, inputs_fed, batch) if labelled.has_arrays else None

    def measure() -> Any:  # noqa: ANN401 - JSON
        with counted(f"{spec.name} {session.provenance.name} {labelled.name}", len(labelled)) as seen:
            return scoring.measure(
                session,
                labelled,
                preprocessor,
                spec.postprocess,
                batch=batch,
                feed=spec.fed_input,
                source=source,
                seen=seen,
            )

    inputs = {"session": session.digest, "dataset": labelled.digest}
    options = {**_options(subject), "batch": batch}
    return subject.measured("score", scoring.VERSION, inputs, options, ("numpy", "pillow"), measure)


def _scored_volumes(subject: Subject, session: Session, labelled: Labelled, batch: int) -> tuple[Any, Artifact]:
    from pth2om.accuracy import volumes
    from pth2om.progress import counted

    spec = subject.pipeline.spec
    table, how = _volume(subject), subject.pipeline.data.preparation()

    def measure() -> Any:  # noqa: ANN401 - JSON
        with counted(f"{spec.name} {session.provenance.name} {labelled.name}", len(labelled)) as seen:
            return volumes.measure(session, labelled, how, table, batch=batch, feed=spec.fed_input, seen=seen)

    inputs = {"session": session.digest, "dataset": labelled.digest}
    options = {**_options(subject), "batch": batch}
    return subject.measured("score-volumes", volumes.VERSION, inputs, options, ("numpy", "scipy"), measure)


def _volume(subject: Subject) -> Volume:
    """The spec's ``[volume]``.

    Raises:
        DataError: it has none, and the dataset holds volumes.
    """
    if subject.spec.volume is None:
        raise DataError("data.volume-no-image", where=subject.spec.name)
    return subject.spec.volume


def _difference(
    subject: Subject,
    sessions: tuple[Session, Session],
    scores: tuple[Mapping[str, Any], Mapping[str, Any]],
    labelled: Labelled,
    metric: str,
) -> Any:  # noqa: ANN401 - JSON
    """The drop of the second session compared with the first; ``scores`` are their measurements on the same images."""
    from pth2om import accuracy as scoring

    (reference, session), (before, after) = sessions, scores
    inputs = {"reference": reference.digest, "candidate": session.digest, "dataset": labelled.digest}
    seed = subject.pipeline.settings.seed
    options = {"metric": metric, "seed": seed, **_options(subject), "batch": subject.batch}
    options["score"] = scoring.VERSION
    value, _ = subject.measured(
        "drop",
        scoring.DIFFERENCE_VERSION,
        inputs,
        options,
        ("numpy",),
        lambda: scoring.difference(before, after, metric=metric, seed=seed),
    )
    return value


def _options(subject: Subject) -> dict[str, Any]:
    if subject.spec.volume is not None:
        how = subject.pipeline.data.preparation()
        windows = subject.spec.volume.model_dump(mode="json", include={"step", "gaussian", "mirror"})
        return {"volume": how.to_json(), "windows": windows, "segmentation": _SEGMENTATION}
    if subject.spec.preprocess is None and any(entry.arrays for entry in subject.spec.datasets):
        fed = [entry.model_dump(mode="json") for entry in subject.spec.inputs]
        return {"inputs": fed, "postprocess": subject.pipeline.spec.postprocess.model_dump(mode="json")}
    return {
        "preprocess": _preprocess(subject).model_dump(mode="json"),
        "postprocess": subject.pipeline.spec.postprocess.model_dump(mode="json"),
    }


def _pictures(
    subject: Subject, sides: Sequence[pictures.Side], labelled: Labelled, details: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The pictures of a gate, from the store; none if they cannot be drawn, since no verdict depends on them."""
    pipeline, measured = subject.pipeline, sides[0].measured
    if measured is None or labelled.has_arrays or not pictures.drawable(measured):
        return []
    preprocess, postprocess = _preprocess(subject), pipeline.spec.postprocess
    inputs = {side.title: side.session.digest for side in sides} | {"dataset": labelled.digest}
    options = {**_options(subject), "batch": [side.batch for side in sides]}

    def measure(work: Work) -> None:
        pictures.draw(work.folder, sides, labelled, preprocess, postprocess, details)

    stage = subject.measurement("pictures", pictures.VERSION, inputs, options, ("numpy", "pillow"), measure)
    try:
        return pictures.listed(run(stage, pipeline.store).artifact.path)
    except Pth2omError:
        return []


def _gates(
    subject: Subject, judgements: Sequence[Judgement], session: Session, labelled: Labelled, artifact: Artifact
) -> list[GateRecord]:
    details: dict[str, Any] = {"dataset": labelled.name, "images": len(labelled)}
    kind = labelled.samples_are
    if kind != "images":
        details[SAMPLES_ARE] = kind
        judgements = [_of(each, kind) for each in judgements]
    judgements = [replace(each, details={**details, **each.details}) for each in judgements]
    # Where the per-image results are: a later night is compared with them image by image.
    result = f"{artifact.path.parent.name}/{artifact.key}"
    judgements = [replace(each, details={**each.details, "result": result}) for each in judgements]
    digests = {"session": session.digest, "dataset": labelled.digest, "preprocessing": _digest(_options(subject))}
    net = {role: digest for role, digest in subject.pipeline.source.digests.items() if role.startswith("net/")}
    if net:
        digests["net"] = _digest(net)
    return subject.gates("accuracy", judgements, session, digests, artifact)


def _of(judgement: Judgement, kind: str) -> Judgement:
    """A judgement whose sentence and unit name what the data set holds."""
    unit = kind if judgement.unit == "images" else judgement.unit
    message = judgement.message
    return replace(judgement, unit=unit, message=None if message is None else _named(message, kind))


def _named(message: Message, kind: str) -> Message:
    return message if kind == "images" else replace(message, values={**message.values, SAMPLES_ARE: kind})


def _digest(value: Mapping[str, Any]) -> str:
    """sha256 of JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _published(measured: Mapping[str, Any], labelled: Labelled, dataset: Dataset) -> Judgement:
    """The OM's own score against the published one, which belongs to exactly so many images."""
    from pth2om import accuracy as scoring

    judgement = scoring.least(measured, dataset.om_min_score, metric=dataset.metric)
    judgement = replace(judgement, check=f"om/{judgement.check}")
    if labelled.exact and dataset.images in (None, len(labelled)):
        return judgement
    reached, expected = judgement.measured or 0.0, dataset.om_min_score or 0.0
    message = say("accuracy.other-files", metric=dataset.metric, score=round(reached, 2), expected=expected)
    return replace(judgement, verdict="not_measured", message=message)


def _broken(before: Mapping[str, Any], after: Mapping[str, Any], role: str) -> Judgement:
    """The number of images on which an output has more NaN and infinite values than the reference."""
    from pth2om.accuracy.packed import unpack, unpack_names

    ours, theirs = (unpack(part["nonfinite"]) for part in (before, after))
    worse = (theirs > ours).nonzero()[0]
    limit = Limit("<=", 0)
    check = f"{role}/unreadable"
    details: dict[str, Any] = {"reference": int((ours > 0).sum()), "candidate": int((theirs > 0).sum())}
    if not len(worse):
        return Judgement(check, 0, "images", limit, "passed", details=details)
    names = unpack_names(before["files"])
    details["differing"] = [names[index] for index in worse[:_LISTED]]
    message = say("accuracy.unreadable", count=len(worse), images=len(ours), first=names[worse[0]])
    return Judgement(check, float(len(worse)), "images", limit, "failed", message=message, details=details)


def _badness(judgement: Judgement) -> tuple[int, float]:
    order: tuple[Verdict, ...] = ("shown", "passed", "not_measured", "not_reached", "inconclusive", "failed")
    sign = -1.0 if judgement.limit is not None and judgement.limit.relation in (">=", ">") else 1.0
    return order.index(judgement.verdict), sign * (judgement.measured or 0.0)
