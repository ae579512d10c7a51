"""Coverage of an mAP drop's upper bound, simulated: how often it holds the drop of the whole population."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from pth2om.accuracy.average_precision import THRESHOLDS, Matches, class_precision
from pth2om.accuracy.bootstrap import LEAST_IMAGES, Resampled, precision_drop
from pth2om.accuracy.judging import bootstrapped

POPULATION = 6000
SAMPLES = 200
RESAMPLES = 300


@dataclass(frozen=True)
class Detector:
    """A detector and its copy of lower precision.

    Attributes:
        classes: how many; their frequencies fall as ``1 / rank^fall``.
        quality: logit of a typical object's score.
        noise: of the copy's scores and boxes, in logits, against 1 between objects.
        shift: what the copy's scores lose, in logits.
        shocks: share of images that the copy spoils.
    """

    classes: int
    fall: float = 0.9
    quality: float = 0.6
    noise: float = 0.3
    shift: float = 0.1
    shocks: float = 0.0


DETECTORS = {
    "80 classes, FP16": Detector(80, noise=0.05, shift=0.0),
    "80 classes, INT8": Detector(80),
    "80 classes, weak, INT8": Detector(80, quality=-0.6),
    "80 classes, some images spoilt": Detector(80, noise=0.05, shift=0.0, shocks=0.01),
    "20 classes, some images spoilt": Detector(20, fall=0.7, noise=0.1, shift=0.0, shocks=0.02),
    "4 classes, INT8": Detector(4, fall=0.5, quality=0.8),
    "1 class, INT8": Detector(1, quality=0.8),
}


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def population(detector: Detector, images: int, seed: int) -> tuple[Matches, Matches]:
    """Matches of the detector and of its copy on the same images.

    An image shows one to several kinds, each with one or more objects; how hard an object is depends on its class, its
    image and itself. Detections that match nothing have lower scores, half of them of a kind that the image shows.
    """
    stream = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, detector.classes + 1) ** detector.fall
    frequency /= frequency.sum()
    image, kind = [], []
    for number in range(images):
        kinds = min(1 + int(stream.poisson(1.2)), detector.classes)
        for one in stream.choice(detector.classes, kinds, replace=False, p=frequency):
            count = int(stream.geometric(0.4))
            image += [number] * count
            kind += [one] * count
    image, kind = np.array(image), np.array(kind)
    objects = len(image)
    truths = np.zeros((images, detector.classes), np.int64)
    np.add.at(truths, (image, kind), 1)
    ease = stream.normal(0, 0.6, detector.classes)[kind] + stream.normal(0, 0.7, images)[image]
    ease += stream.normal(0, 1, objects)
    overlap = 1.4 + 0.5 * ease + stream.normal(0, 0.8, objects)
    false_image = np.repeat(np.arange(images), stream.poisson(15, images))
    false_kind = stream.choice(detector.classes, len(false_image), p=frequency)
    first = np.zeros(images, np.int64)
    first[image] = kind
    shown = stream.random(len(false_image)) < 0.5
    false_kind[shown] = first[false_image[shown]]
    false_score = -2.2 + stream.normal(0, 1, len(false_image))

    def detected(noise: float, shift: float, shocks: float) -> Matches:
        whole = stream.normal(0, 0.7 * noise, images)
        spoilt = 3.0 * (stream.random(images) < shocks)
        score = detector.quality + ease + whole[image] + stream.normal(0, noise, objects) - shift - spoilt[image]
        other = false_score + whole[false_image] + stream.normal(0, noise, len(false_image))
        matched = logistic(overlap + stream.normal(0, 0.7 * noise, objects) - 0.3 * shift)
        scores, overlaps = logistic(np.concatenate([score, other])), np.append(matched, np.zeros(len(other)))
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > 0.03]
        hit = overlaps[order] >= THRESHOLDS[:, None]
        images_of, kinds_of = np.append(image, false_image), np.append(kind, false_kind)
        return Matches(images_of[order], kinds_of[order], scores[order], hit, np.zeros_like(hit), truths)

    return detected(0.0, 0.0, 0.0), detected(detector.noise, detector.shift, detector.shocks)


def some(matches: Matches, picks: np.ndarray) -> Matches:
    """The matches of some images."""
    where = np.full(len(matches.truths), -1)
    where[picks] = np.arange(len(picks))
    kept = where[matches.image] >= 0
    return Matches(
        where[matches.image[kept]],
        matches.classes[kept],
        matches.scores[kept],
        matches.hit[:, kept],
        matches.ignored[:, kept],
        matches.truths[picks],
    )


def precision(matches: Matches) -> float:
    return 100 * float(np.nanmean(class_precision(matches, np.ones((1, len(matches.truths)), np.int64))))


def coverage(detector: Detector, images: int, samples: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """How often the one-sided 95 % bounds that verdicts use hold the population's drop: upper, lower."""
    reference, copy = population(detector, POPULATION, 3)
    true = precision(reference) - precision(copy)
    stream = np.random.default_rng(images)
    above = below = 0
    for number in range(samples):
        picks = stream.choice(POPULATION, images, replace=False)
        pair = some(reference, picks), some(copy, picks)
        measured = precision(pair[0]) - precision(pair[1])
        options = {"images": np.arange(images), "resamples": resamples, "seed": number}
        drop = precision_drop(*pair, measured, slice(None), **options)
        low, high = bootstrapped(drop, images, 0.95)["bounds"]
        above += true <= high
        below += true >= low
    return above / samples, below / samples


@pytest.mark.nightly
@pytest.mark.parametrize("images", [LEAST_IMAGES, 300])
def test_the_upper_bound_covers_the_drop_it_promises(images: int) -> None:
    found = {name: coverage(detector, images, SAMPLES) for name, detector in DETECTORS.items()}
    print(images, found)
    uppers = [upper for upper, _ in found.values()]
    # Each within what so many samples can tell of 0.93; together nearer.
    assert min(uppers) >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / SAMPLES), found
    assert np.mean(uppers) >= 0.93, found
    assert min(lower for _, lower in found.values()) >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / SAMPLES), found


def test_rare_classes_widen_the_bounds_of_a_plain_bootstrap() -> None:
    reference, copy = population(DETECTORS["80 classes, INT8"], 141, 5)
    drop = precision_drop(reference, copy, precision(reference) - precision(copy), slice(None), images=np.arange(141))
    plain = np.quantile(drop.draws, 0.95) - drop.draws.mean()
    assert drop.bounds(0.95)[1] - drop.measured > 1.2 * plain


def test_a_long_tail_widens_its_own_side_only() -> None:
    stream = np.random.default_rng(1)
    draws = stream.poisson(4, 4000) / 4.0
    tail = Resampled(1.0, draws, float(draws.std()))
    mirrored = Resampled(-1.0, -draws, float(draws.std()))
    low, high = tail.bounds(0.95)
    assert high - 1.0 > np.quantile(draws, 0.95) - draws.mean()
    assert 1.0 - low == pytest.approx(max(draws.mean() - np.quantile(draws, 0.05), 1.645 * draws.std()), rel=1e-3)
    assert mirrored.bounds(0.95) == pytest.approx((-high, -low))
