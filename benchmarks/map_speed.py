"""mAP of 2,000 images x 100 detections: `pth2om.accuracy` compared with pycocotools on the same boxes.

    python benchmarks/map_speed.py [--images 2000] [--pairs 15]

Target: evaluation in at most 2.5 s on two cores, equal to pycocotools to 1e-9; a paired bootstrap of 1,000 resamples of
    141 images in at most 20 s.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time

import numpy as np

from pth2om.accuracy.average_precision import Detections, average_precision, evaluate, match
from pth2om.accuracy.bootstrap import precision_drop

CLASSES = 80


def drawn(images: int, per_image: int, seed: int):
    stream = np.random.default_rng(seed)
    truths, boxes, scores, classes = [], [], [], []
    for _ in range(images):
        number = 7  # objects per image, as in COCO
        corner, size = stream.uniform(0, 400, (number, 2)), stream.uniform(8, 200, (number, 2))
        kinds = stream.integers(0, CLASSES, number)
        truths.append(
            [
                {"bbox": [*corner[k], *size[k]], "area": float(size[k].prod()), "iscrowd": 0, "class": int(kinds[k])}
                for k in range(number)
            ]
        )
        near = stream.integers(0, number, per_image)
        centre = corner[near] + stream.normal(0, 12, (per_image, 2))
        extent = size[near] * np.exp(stream.normal(0, 0.15, (per_image, 2)))
        boxes.append(np.concatenate([centre, centre + extent], axis=1))
        scores.append(stream.random(per_image))
        classes.append(np.where(stream.random(per_image) < 0.6, kinds[near], stream.integers(0, CLASSES, per_image)))
    counts = np.full(images, per_image, np.int64)
    return Detections(counts, np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes)), truths


def official(found: Detections, truths) -> tuple[float, float]:
    """mAP of pycocotools and the seconds of its evaluation, without preparing its input."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        annotations = [
            {**truth, "image_id": image + 1, "category_id": truth["class"] + 1}
            for image, of_image in enumerate(truths)
            for truth in of_image
        ]
        for number, annotation in enumerate(annotations, 1):
            annotation["id"] = number
        coco.dataset = {
            "images": [{"id": image + 1} for image in range(len(truths))],
            "categories": [{"id": number + 1} for number in range(CLASSES)],
            "annotations": annotations,
            "info": {},
        }
        coco.createIndex()
        image = np.repeat(np.arange(len(truths)), found.counts) + 1
        table = np.column_stack(
            [image, found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2], found.scores, found.classes + 1]
        )
        started = time.perf_counter()
        evaluation = COCOeval(coco, coco.loadRes(table), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return float(evaluation.stats[0]), time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=15)
    arguments = parser.parse_args()
    found, truths = drawn(arguments.images, 100, 0)
    ours, matching, theirs = [], [], []
    for _ in range(arguments.pairs):
        started = time.perf_counter()
        figure = evaluate(found, truths, CLASSES)["mAP50-95"]
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        matches = match(found, truths, CLASSES)
        own = float(average_precision(matches).mean())
        matching.append(time.perf_counter() - started)
        reference, seconds = official(found, truths)
        theirs.append(seconds)
        assert abs(figure - reference) < 1e-9, (figure, reference)
        assert abs(own - reference) < 1e-9, (own, reference)
    small, small_truths = drawn(141, 290, 1)
    small_matches = match(small, small_truths, CLASSES)
    started = time.perf_counter()
    images = np.arange(len(small_matches.truths))
    precision_drop(small_matches, small_matches, 0.0, slice(None), images=images)
    bootstrap = time.perf_counter() - started
    print(
        f"{arguments.images} images x 100 detections, {arguments.pairs} alternating rounds, mAP {100 * reference:.4f}"
    )
    print(f"{'':34}{'median s':>10}{'min':>8}{'max':>8}")
    for name, times in (
        ("pth2om evaluate", ours),
        ("pth2om matches for the bootstrap", matching),
        ("pycocotools", theirs),
    ):
        print(f"{name:34}{statistics.median(times):10.2f}{min(times):8.2f}{max(times):8.2f}")
    print(f"ratio pycocotools / pth2om {statistics.median(t / o for t, o in zip(theirs, ours, strict=True)):.1f}")
    print(f"1,000 paired resamples of 141 images x 290 detections, both sides: {bootstrap:.2f} s (target 20)")


if __name__ == "__main__":
    main()
