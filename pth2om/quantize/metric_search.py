"""The paired drop of a spec's metric, for an accuracy-aware search: `accuracy` measures, this hands it the twins."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx

from pth2om.accuracy.bounds import LEVEL
from pth2om.quantize.accuracy_aware import keep_fewest, leave_floating
from pth2om.quantize.calibrate import Feeds
from pth2om.quantize.effects import Drop
from pth2om.quantize.network import write_model
from pth2om.quantize.plan import Plan

if TYPE_CHECKING:
    from pth2om.data import Labelled, Preprocessor
    from pth2om.spec import Postprocess, Preprocess


class ScoredDrop:
    """Scores models on a labelled dataset against the float model.

    Args:
        model: the float model.
        dataset: the images and labels.
        preprocessor: makes the input.
        postprocess: output -> predictions.
        batch: images per inference.
        output: which output; default the first.
        feed: which input takes the images; default the first.
        metric: what is compared; default the first of the dataset's kind.
        optimize: ``none`` runs node by node; ONNX Runtime would fuse a QDQ model into other arithmetic.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        dataset: Labelled,
        preprocessor: Preprocessor,
        postprocess: Postprocess,
        *,
        batch: int = 1,
        output: str | None = None,
        feed: str | None = None,
        metric: str | None = None,
        optimize: Literal["all", "none"] = "all",
    ) -> None:
        self._dataset, self._preprocessor, self._postprocess = dataset, preprocessor, postprocess
        self._options: dict[str, Any] = {"batch": batch, "output": output, "feed": feed}
        self._metric, self._optimize = metric, optimize
        self._reference = self._measured(model)

    def __call__(self, model: onnx.ModelProto, level: float = LEVEL) -> Drop:
        """Score a fake-quant twin; percent points, bounds at ``level``."""
        from pth2om.accuracy import difference

        found = difference(self._reference, self._measured(model), metric=self._metric, level=level)
        low, high = found["bounds"]
        images = int(found.get("distinct_images", found["images"]))
        scores = [float(found[side]) for side in ("reference", "candidate")]
        return Drop(float(found["drop"]), float(low), float(high), images, level, *scores)

    def _measured(self, model: onnx.ModelProto) -> Mapping[str, Any]:
        from pth2om.accuracy import measure
        from pth2om.sessions.onnx import OnnxSession

        with tempfile.TemporaryDirectory(prefix="pth2om-") as folder:
            path = Path(folder) / "model.onnx"
            write_model(model, path)
            with OnnxSession(path, optimize=self._optimize) as session:
                return measure(session, self._dataset, self._preprocessor, self._postprocess, **self._options)


def search(
    plan: Plan,
    dataset: Labelled,
    metric: str | None,
    preprocess: Preprocess,
    postprocess: Postprocess,
    feeds: Sequence[Feeds],
    max_drop: float,
    batch: int,
    feed: str,
) -> None:
    """Leave the fewest layers of a spec's model in floating point that keep its metric's drop within ``max_drop``.

    Args:
        plan: a calibrated network; the search's result is written into it.
        dataset: the images and labels.
        metric: what is compared; None: the first of the dataset's kind.
        preprocess: image -> input.
        postprocess: output -> predictions.
        feeds: a few batches, for the ranking of the layers.
        max_drop: percent points.
        batch: images per inference.
        feed: which input takes the images.

    Raises:
        QuantizeError: no number of INT8 layers keeps it.
    """
    from pth2om.data import Preprocessor

    evaluate = ScoredDrop(
        plan.model, dataset, Preprocessor(preprocess), postprocess, batch=batch, feed=feed, metric=metric
    )
    leave_floating(plan, keep_fewest(plan, feeds, evaluate, max_drop), max_drop)
