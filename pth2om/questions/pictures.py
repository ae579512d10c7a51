"""Pictures behind a score: the images on which a session and its reference differ most, drawn side by side.

They are drawn once per pair of sessions and dataset, kept in the store like any artifact, and copied into the folder of
each run that shows them. Pillow and numpy are imported when something has to be drawn.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.evidence import GateRecord
from pth2om.files import write_bytes
from pth2om.language import Message, say
from pth2om.session import Session
from pth2om.spec import Postprocess, Preprocess

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pth2om.data import Labelled
    from pth2om.questions.overlay import Panel

VERSION = 7
_LONGEST_STEM = 60  # characters, each of at most four bytes: file systems take 255

CLEAR_SCORE = 0.25
"""Boxes with a lower score are not drawn, as in the lists of differing images."""

_MOST_SHEETS = 4  # images of a detector, one picture each
_MOST_TILES = 12  # images of a classifier, all in one picture
_LIST = "pictures.json"
_FOLDER = "pictures"
_NUMBERED = ("label", "reference", "candidate")


@dataclass(frozen=True)
class Side:
    """One session whose predictions are shown.

    Attributes:
        title: above its panel: ``PyTorch``, ``ONNX``, ``OM``.
        session: run on the chosen images where `measured` does not hold its predictions.
        measured: what `pth2om.accuracy.measure` returned for it, or None.
        batch: images per inference.
    """

    title: str
    session: Session
    measured: Mapping[str, Any] | None
    batch: int

    @property
    def words(self) -> str:
        """The title, with the word emulated if it is."""
        return f"{self.title} (emulated)" if self.session.provenance.ground == "emulated" else self.title


def drawable(measured: Mapping[str, Any]) -> bool:
    """Whether there are pictures for this kind of measurement: boxes or classes."""
    return measured["kind"] in ("classification", "detection")


def draw(
    folder: Path,
    sides: Sequence[Side],
    labelled: Labelled,
    preprocess: Preprocess,
    postprocess: Postprocess,
    details: Mapping[str, Any],
) -> None:
    """Draw the pictures of one gate into ``folder``, with a list of them that `listed` reads.

    Args:
        folder: an empty folder.
        sides: the reference first, the judged session last; both with their measurements.
        labelled: the images.
        preprocess: makes the input, for sides without a measurement.
        postprocess: output -> predictions.
        details: of the gate: which images changed.

    Raises:
        DataError: an image cannot be read.
    """
    measured = sides[0].measured
    assert measured is not None
    if measured["kind"] == "detection":
        pictures = _sheets(sides, labelled, preprocess, postprocess, details)
    else:
        pictures = _grid(sides, labelled, preprocess)
    listed = []
    for number, (data, caption) in enumerate(pictures, 1):
        name = f"{number}.{'webp' if data.startswith(b'RIFF') else 'jpg'}"
        (folder / name).write_bytes(data)
        listed.append({"file": name, "caption": caption.to_json()})
    (folder / _LIST).write_text(json.dumps(listed, ensure_ascii=False), encoding="utf-8")


def listed(folder: Path) -> list[dict[str, Any]]:
    """What `draw` left in ``folder``: ``file`` (its path) and ``caption`` (a message as JSON) of each picture."""
    entries = json.loads((folder / _LIST).read_text(encoding="utf-8"))
    return [{**entry, "file": str(folder / entry["file"])} for entry in entries]


def carry(gate: GateRecord, folder: Path) -> GateRecord:
    """A gate with its pictures copied from the store into the run's folder, and named relative to it.

    Names end in a digest of the picture: one gate has other pictures on another SoC or ground, and runs are merged.

    Args:
        gate: the record.
        folder: of the run.

    Returns:
        The record; missing pictures are left out, because a report is also valid without them.
    """
    pictures = gate.details.get("pictures")
    if not pictures:
        return gate
    name = "-".join(part for part in (gate.model, gate.variant, gate.check) if part)
    stem = re.sub(r"[^\w.-]+", "-", f"{name}-{gate.details.get('dataset', '')}").strip("-")[:_LONGEST_STEM]
    kept = []
    for entry in pictures:
        source = Path(entry["file"])
        try:
            data = source.read_bytes()
            target = folder / _FOLDER / f"{stem}-{hashlib.sha256(data).hexdigest()[:12]}{source.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, data)
        except OSError:
            continue
        kept.append({**entry, "file": f"{_FOLDER}/{target.name}"})
    return replace(gate, details={**gate.details, "pictures": kept})


def named(details: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A gate's details with the classes of its disagreements by name, where the dataset has names.

    Args:
        details: of a classification drop: lists ``lost`` and ``gained`` of images.
        names: class names, in class order.
    """
    result = dict(details)
    for part in ("lost", "gained"):
        rows = details.get(part)
        if names and isinstance(rows, list):
            result[part] = [
                {key: _class(value, names) if key in _NUMBERED else value for key, value in row.items()} for row in rows
            ]
    return result


def _class(number: Any, names: Sequence[str]) -> Any:  # noqa: ANN401 - JSON
    """The name of a class; the number where it has none (-1: the output held NaN)."""
    if isinstance(number, bool) or not isinstance(number, int):
        return number
    if number < 0:
        return "NaN"
    return names[number] if number < len(names) else number


# --- detection ---------------------------------------------------------------------------------------------------


def _sheets(
    sides: Sequence[Side],
    labelled: Labelled,
    preprocess: Preprocess,
    postprocess: Postprocess,
    details: Mapping[str, Any],
) -> list[tuple[bytes, Message]]:
    from concurrent.futures import ThreadPoolExecutor

    from pth2om.host import cores, threads
    from pth2om.questions.overlay import draw_detections, encode

    changed = {row["image"]: row for row in details.get("changed", []) if isinstance(row, Mapping)}
    files = {labelled.file(index): index for index in range(len(labelled))}
    differing = [files[name] for name in details.get("differing", []) if name in files]
    first = [index for index in range(len(labelled)) if not labelled.has_labels or labelled.annotations(index)]
    chosen = list(dict.fromkeys([*changed, *differing, *first]))[:_MOST_SHEETS]
    found = [_boxes(side, labelled, preprocess, postprocess, chosen) for side in sides]
    sheets, captions = [], []
    for place, index in enumerate(chosen):
        panels: list[Panel] = [_truth(labelled, index)] if labelled.has_labels else []
        for side, boxes in zip(sides, found, strict=True):
            corners, scores, classes = boxes[place]
            clear = scores >= CLEAR_SCORE
            labels = [str(_class(int(number), labelled.names)) for number in classes[clear]]
            panels.append((side.words, corners[clear], labels, scores[clear]))
        sheets.append(draw_detections(labelled.image(index), panels))
        captions.append(_sheet_caption(labelled.file(index), sides[0].title, changed.get(index), index in differing))
    # Pillow lets go of the interpreter while it encodes.
    with ThreadPoolExecutor(min(_MOST_SHEETS, threads() or cores())) as encoding:
        return list(zip(encoding.map(encode, sheets), captions, strict=True))


def _sheet_caption(file: str, reference: str, row: Mapping[str, Any] | None, differs: bool) -> Message:
    values: dict[str, Any] = {"file": file, "score": CLEAR_SCORE, "reference": reference}
    if row is not None:
        return say("showing.changed", **values, found=_signed(-row["lost"]), alarms=_signed(row["false_alarms"]))
    return say("showing.differing" if differs else "showing.detections", **values)


def _signed(count: int) -> str:
    return f"{count:+d}" if count else "±0"


def _truth(labelled: Labelled, index: int) -> Panel:
    objects = [entry for entry in labelled.annotations(index) if not entry.get("iscrowd")]
    boxes = [(x, y, x + w, y + h) for x, y, w, h in (entry["bbox"] for entry in objects)]
    return "labels", boxes, [str(_class(int(entry["class"]), labelled.names)) for entry in objects], None


Boxes = tuple["npt.NDArray[np.float64]", "npt.NDArray[np.float64]", "npt.NDArray[np.int64]"]


def _boxes(
    side: Side, labelled: Labelled, preprocess: Preprocess, postprocess: Postprocess, chosen: Sequence[int]
) -> list[Boxes]:
    """Boxes, scores and classes of each chosen image: as measured where they were kept, else computed now."""
    import numpy as np

    from pth2om.accuracy.detection import decode
    from pth2om.accuracy.packed import unpack

    kept = (side.measured or {}).get("detections")
    if kept is None:
        decoded = [decode(row, postprocess, geometry) for row, geometry in _outputs(side, labelled, preprocess, chosen)]
        return [(each.boxes, each.scores.astype(np.float64), each.classes) for each in decoded]
    ends = np.cumsum(unpack(kept["counts"]))
    parts = [unpack(kept[name]) for name in ("boxes", "scores", "classes")]
    found = []
    for index in chosen:
        rows = slice(int(ends[index - 1]) if index else 0, int(ends[index]))
        boxes, scores, classes = (part[rows] for part in parts)
        found.append((boxes.astype(np.float64), scores.astype(np.float64), classes.astype(np.int64)))
    return found


# --- classification ----------------------------------------------------------------------------------------------


def _grid(sides: Sequence[Side], labelled: Labelled, preprocess: Preprocess) -> list[tuple[bytes, Message]]:
    import numpy as np

    from pth2om.accuracy.packed import unpack
    from pth2om.questions.overlay import draw_classification, encode

    reference, judged = (unpack((side.measured or {})["top"])[:, 0] for side in (sides[0], sides[-1]))
    margin = unpack((sides[-1].measured or {})["margin"])
    labels = labelled.labels if labelled.has_classes else None
    # Alone, a session is held against the labels.
    other = reference if len(sides) > 1 else labels
    differs = np.zeros(len(judged), dtype=bool) if other is None else judged != other
    order = np.lexsort((np.nan_to_num(margin, nan=-1.0), ~differs))
    chosen = [int(index) for index in order[:_MOST_TILES]]
    found = [_classes(side, labelled, preprocess, chosen) for side in sides]
    tiles, wrong = [], []
    for place, index in enumerate(chosen):
        words, bad = [], []
        truth = None if labels is None else int(labels[index])
        if truth is not None:
            words.append(f"label: {_class(truth, labelled.names)}")
        for side, classes in zip(sides, found, strict=True):
            if classes[place] != (found[0][place] if truth is None else truth):
                bad.append(len(words))
            words.append(f"{side.title}: {_class(classes[place], labelled.names)}")
        tiles.append((labelled.image(index), words))
        wrong.append(bad)
    many = int(np.count_nonzero(differs))
    key = "alone" if len(sides) == 1 else "classes"
    shown = min(many, len(chosen))
    rest = len(chosen) - shown
    key += "-alike" if many == 0 else "" if rest else "-full"
    caption = say(
        f"showing.{key}",
        count=many,
        shown=shown,
        rest=rest,
        title=sides[-1].title,
        reference=sides[0].title,
        images=len(judged),
    )
    return [(encode(draw_classification(tiles, wrong=wrong)), caption)]


def _classes(side: Side, labelled: Labelled, preprocess: Preprocess, chosen: Sequence[int]) -> list[int]:
    """The first class of each chosen image; -1 where the output holds NaN."""
    import numpy as np

    from pth2om.accuracy.packed import unpack

    if side.measured is not None:
        top = unpack(side.measured["top"])
        return [int(top[index, 0]) for index in chosen]
    rows = [row.reshape(-1) for row, _ in _outputs(side, labelled, preprocess, chosen)]
    return [-1 if np.isnan(row).any() else int(np.argmax(row)) for row in rows]


# --- running -----------------------------------------------------------------------------------------------------


def _outputs(side: Side, labelled: Labelled, preprocess: Preprocess, chosen: Sequence[int]) -> list[tuple[Any, Any]]:
    """The first output of each chosen image, and where the image lies in the input."""
    from pth2om.data import Preprocessor, batches

    session = side.session
    fed = next((entry for entry in session.inputs if entry.name == preprocess.input), session.inputs[0])
    raw = fed.dtype.kind == "u"  # AIPP's input: it normalizes by itself
    name = session.outputs[0].name
    found: list[tuple[Any, Any]] = []
    for piece in batches(labelled, Preprocessor(preprocess), side.batch, indices=chosen, raw=raw):
        rows = session.run({fed.name: piece.array.astype(fed.dtype, copy=False)})[name]
        found += zip(rows[: piece.count], piece.geometries, strict=True)
    return found
