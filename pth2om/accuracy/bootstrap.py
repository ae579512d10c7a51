"""Bounds of a drop that is no proportion (mAP, Dice): a paired bootstrap over images, corrected where it is too narrow.

Images are drawn with replacement, both sessions are scored on the same draw, and the spread of the drop over the draws
tells how sure it is (Efron and Tibshirani 1993, An Introduction to the Bootstrap). For mAP the plain percentiles are
too narrow, because mAP is a mean over classes and most classes occur in few images. Two corrections:

* A class that occurs in m images varies over draws by (m - 1) / m of its true variance, and one that occurs in a single
  image does not vary at all. Each class's variance is multiplied by m / (m - 1); for m = 1 the mean variance per image
  of the other classes is taken. The draws are stretched so that their variance is the corrected sum.
* A drop measured on few images is nearer to zero than on many: with few objects of a class, few ranks can change. What
  the drop loses from all images to random halves of them tells how much it still lacks: `_STILL_LACKING` times as much,
  if that bias falls with the square root of the number of images, which the simulations follow. It only ever widens
  the interval.

A bound is the outer one of the stretched percentile, corrected for skewness, and the normal quantile.

Coverage of the one-sided 95 % upper bound that verdicts use (never below what so many images leave open), simulated
over detectors of 1 to 80 classes with drops of up to 4 points (``tests/accuracy/test_coverage.py``): 0.93 or more from
`LEAST_IMAGES` images on, within what 200 samples can tell. A drop of ten points on 80 classes is covered less often
(0.8), which changes no verdict: it is far beyond any gate.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pth2om.accuracy.bounds import normal_quantile

if TYPE_CHECKING:
    from pth2om.accuracy.average_precision import Matches

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 1000

LEAST_IMAGES = 100
"""With fewer images the bounds of an mAP's drop do not keep their level."""

_HALVES = 60
_COARSE = 60_000  # draws times images of a coarse resampling
_MOST_REFERENCES = 4
_REFERENCES: dict[bytes, Floats] = {}
_STILL_LACKING = 1 / (math.sqrt(2) - 1)
_MOST_CORRECTION = 0.25  # beyond it the expansion that BCa rests on does not hold


@dataclass(frozen=True)
class Resampled:
    """A figure over resamplings of the images; all in percent points.

    Attributes:
        measured: the figure of all images.
        draws: float64 (R,): of each resampling.
        error: its standard error.
        bias: what it lacks, in the direction in which more images would move it.
        by_class: whether it is a mean over classes.
    """

    measured: float
    draws: Floats
    error: float
    bias: float = 0.0
    by_class: bool = False

    def bounds(self, level: float) -> tuple[float, float]:
        """One-sided bounds of the figure, each at ``level``."""
        reach = normal_quantile(level) * self.error
        low, high = -reach, reach
        spread = float(self.draws.std()) if self.draws.size else 0.0
        if spread > 0:
            skewness = float(((self.draws - self.draws.mean()) ** 3).mean()) / spread**3
            levels = [1 - _outer_level(level, -skewness), _outer_level(level, skewness)]
            ends = np.quantile(self.draws, levels) - self.draws.mean()
            stretched = ends * max(self.error / spread, 1.0)
            low, high = min(low, float(stretched[0])), max(high, float(stretched[1]))
        return self.measured + low + min(self.bias, 0.0), self.measured + high + max(self.bias, 0.0)


def precision_drop(
    reference: Matches,
    candidate: Matches,
    measured: float,
    thresholds: slice,
    *,
    images: npt.NDArray[np.intp],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Resampled:
    """The drop of an average precision, resampled.

    Args:
        reference: matches of one session.
        candidate: of the other, on the same images in the same order.
        measured: the drop on all images, in percent points.
        thresholds: which of the IoU thresholds are averaged.
        images: the images to draw from: no image twice.
        resamples: how many times.
        seed: of the drawing.
    """
    stream = np.random.default_rng(seed)
    weights = [
        _drawn(stream, len(images), resamples),
        _halves(stream, len(images)),
        np.ones((1, len(images)), np.int64),
    ]
    lost = _class_drops(reference, candidate, thresholds, images, np.concatenate(weights))
    draws = _class_mean(lost[:resamples])
    halves, whole = _class_mean(lost[resamples:-1]), _class_mean(lost[-1:])
    draws, halves = draws[np.isfinite(draws)], halves[np.isfinite(halves)]
    occurs = (reference.truths[images] > 0).sum(axis=0)
    error = math.sqrt(float(draws.var()) + _missing_variance(lost[:resamples], occurs)) if draws.size else math.inf
    bias = _STILL_LACKING * float(whole[0] - halves.mean()) if halves.size and np.isfinite(whole).all() else 0.0
    return Resampled(measured, draws, error, bias, by_class=True)


def precision(matches: Matches, measured: float, thresholds: slice, *, images: npt.NDArray[np.intp]) -> Resampled:
    """An average precision itself, resampled coarsely; arguments as `precision_drop`.

    It is only asked whether the figure is far from another, and asked on every run: many images get fewer draws.
    """
    resamples = int(np.clip(_COARSE // max(len(images), 1), 20, RESAMPLES // 5))
    weights = _drawn(np.random.default_rng(0), len(images), resamples)
    found = 100 * _of_reference(matches, thresholds, images, weights)
    draws = _class_mean(found)
    draws = draws[np.isfinite(draws)]
    return Resampled(measured, draws, float(draws.std()) if draws.size else math.inf)


def mean_drop(lost: Floats, measured: float, *, resamples: int = RESAMPLES, seed: int = 0) -> Resampled:
    """The mean of a loss per image, resampled.

    Args:
        lost: float64 (images,): the loss of each image in percent points.
        measured: the drop on all images, in percent points.
        resamples: how many times.
        seed: of the drawing.
    """
    images = len(lost)
    draws = _drawn(np.random.default_rng(seed), images, resamples) @ lost / images
    error = float(lost.std(ddof=1)) / math.sqrt(images) if images > 1 else math.inf
    return Resampled(measured, draws, error)


def _outer_level(level: float, skewness: float) -> float:
    """Level of the percentile that bounds a skewed figure on the side of its long tail; ``level`` on the other side.

    Efron's BCa interval (1987, JASA 82:171) with acceleration and bias correction of a mean, both a sixth of the
    skewness of the draws. A few images that lose much make such a tail; plain percentiles hold it too rarely.
    """
    correction = min(max(skewness / 6, 0.0), _MOST_CORRECTION)
    shifted = correction + normal_quantile(level)
    return NormalDist().cdf(correction + shifted / (1 - correction * shifted)) if correction else level


def _class_drops(
    reference: Matches, candidate: Matches, thresholds: slice, images: npt.NDArray[np.intp], weights: Ints
) -> Floats:
    """Loss of each class in each resampling, percent points, float64 (R, classes); NaN where it does not occur."""
    known = _of_reference(reference, thresholds, images, weights)
    return 100 * (known - _in_pieces(candidate, thresholds, images, weights))


def _of_reference(matches: Matches, thresholds: slice, images: npt.NDArray[np.intp], weights: Ints) -> Floats:
    """As `_in_pieces`, remembered: all candidates of a model are compared with one reference, on the same draws."""
    name = hashlib.sha256(repr(thresholds).encode())
    for array in (*(getattr(matches, each.name) for each in fields(matches)), images, weights):
        name.update(f"{array.dtype.str}{array.shape}".encode())
        name.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    key = name.digest()
    if key not in _REFERENCES:
        if len(_REFERENCES) >= _MOST_REFERENCES:
            _REFERENCES.pop(next(iter(_REFERENCES)))
        _REFERENCES[key] = _in_pieces(matches, thresholds, images, weights)
    return _REFERENCES[key]


def _in_pieces(matches: Matches, thresholds: slice, images: npt.NDArray[np.intp], weights: Ints) -> Floats:
    """Average precision of each class in each resampling, as a fraction, float64 (R, classes)."""
    from pth2om.accuracy.average_precision import class_precision

    # The working arrays are (detections of one class, piece).
    largest = int(np.bincount(matches.classes, minlength=1).max(initial=1))
    piece = int(np.clip(8_000_000 // largest, 1, len(weights)))
    found = []
    for start in range(0, len(weights), piece):
        chosen = _spread_over(weights[start : start + piece], images, len(matches.truths))
        found.append(class_precision(matches, chosen, thresholds))
    return np.concatenate(found)


def _class_mean(found: Floats) -> Floats:
    """Mean over the classes that occur, float64 (R,); NaN where none does."""
    occurs = np.isfinite(found)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Floats = np.where(occurs, found, 0.0).sum(axis=1) / occurs.sum(axis=1)
    return means


def _missing_variance(lost: Floats, occurs: Ints) -> float:
    """What the draws' variance lacks because classes occur in few images; see the module's text.

    Args:
        lost: (R, classes), of the draws.
        occurs: (classes,): in how many images each class occurs.
    """
    present = np.flatnonzero(occurs)
    if not present.size:
        return 0.0
    images = occurs[present]
    seen = np.isfinite(lost[:, present])
    count = np.maximum(seen.sum(axis=0), 1)
    values = np.where(seen, lost[:, present], 0.0)
    centre = values.sum(axis=0) / count
    variance = (np.where(seen, values - centre, 0.0) ** 2).sum(axis=0) / count
    several = images > 1
    true = np.where(several, variance * images / np.maximum(images - 1, 1), 0.0)
    single = (images * true)[several].mean() if several.any() else float((centre**2).mean())
    true = np.where(several, true, single)
    return float((true - variance).sum()) / len(present) ** 2


def _spread_over(weights: Ints, images: npt.NDArray[np.intp], count: int) -> Ints:
    """Weights of some images as weights of all, int64 (R, count)."""
    if len(images) == count:
        return weights
    everywhere = np.zeros((len(weights), count), dtype=np.int64)
    everywhere[:, images] = weights
    return everywhere


def _drawn(stream: np.random.Generator, images: int, resamples: int) -> Ints:
    """How often each image is drawn, int64 (resamples, images)."""
    picks = stream.integers(0, images, (resamples, images))
    flat = picks + np.arange(resamples)[:, None] * images
    return np.bincount(flat.ravel(), minlength=resamples * images).reshape(resamples, images)


def _halves(stream: np.random.Generator, images: int) -> Ints:
    """Random halves of the images and their other halves, int64 (halves, images)."""
    half = stream.permuted(np.tile(np.arange(images), (_HALVES // 2, 1)), axis=1) < (images + 1) // 2
    return np.concatenate([half, ~half]).astype(np.int64)
