"""The paired drop of a classifier on calibration batches, for an accuracy-aware search without a spec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pth2om.accuracy.bounds import LEVEL, drop_bounds
from pth2om.errors import QuantizeError
from pth2om.quantize.effects import Drop
from pth2om.quantize.network import open_session, run_session

Ints = npt.NDArray[np.int64]


class ClassifierDrop:
    """Top-1 drop against the float model on the same images; without labels, the float model's results are the labels.

    Args:
        model: the float model.
        feeds: batches; iterated again for each evaluation.
        labels: class of every image.
        images: number of images; further rows only fill up the last batch and are not counted. Default: all rows.

    Attributes:
        labels: class of every image, int64.
        accuracy: top-1 of the float model, in percent.

    Raises:
        QuantizeError: the model does not have exactly one output of shape (batch, classes), there are fewer labels than
            images, a label is not a class of the model, or the float model is wrong on all images.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        feeds: Iterable[Mapping[str, Any]],
        labels: Sequence[int] | None = None,
        images: int | None = None,
    ) -> None:
        self.feeds, self._images = feeds, images
        self._classes = 0
        answers = self._answers(model)
        self.labels: Ints = answers if labels is None else np.asarray(labels, np.int64)[: answers.size]
        if self.labels.size < answers.size:
            raise QuantizeError("quantize.few-labels", labels=self.labels.size, images=answers.size)
        if self.labels.size and int(self.labels.max()) >= self._classes:
            raise QuantizeError("quantize.label-range", label=int(self.labels.max()), classes=self._classes)
        self.right = answers == self.labels
        self._labelled = labels is not None
        self.accuracy = 100 * float(np.mean(self.right)) if self.right.size else 0.0
        if not self.right.any():
            raise QuantizeError("quantize.labels-wrong", images=answers.size)

    def __call__(self, model: onnx.ModelProto, level: float = LEVEL) -> Drop:
        """Score a fake-quant twin; bounds at ``level``."""
        right = self._answers(model) == self.labels
        lost = int(np.count_nonzero(self.right & ~right))
        gained = int(np.count_nonzero(~self.right & right))
        count = int(right.size)
        low, high, _ = drop_bounds(lost, gained, count, level)
        scores = (self.accuracy, 100 * float(np.mean(right))) if self._labelled else ()
        return Drop(100 * (lost - gained) / count, 100 * low, 100 * high, count, level, *scores)

    def _answers(self, model: onnx.ModelProto) -> Ints:
        session = open_session(model)
        answers = []
        for batch in self.feeds:
            values = list(run_session(session, batch).values())
            if len(values) != 1 or values[0].ndim != 2:
                raise QuantizeError("quantize.max-drop-outputs")
            self._classes = values[0].shape[1]
            answers.append(np.argmax(values[0], axis=1))
        return np.concatenate(answers).astype(np.int64)[: self._images]
