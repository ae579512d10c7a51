"""The paired drop of a spec's metric, for an accuracy-aware search: `accuracy` measures, this hands it the twins."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx

from pth2om.quantize.accuracy_aware import Drop
from pth2om.quantize.network import write_model

if TYPE_CHECKING:
    from pth2om.data import Labelled, Preprocessor
    from pth2om.spec import Postprocess


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

    def __call__(self, model: onnx.ModelProto) -> Drop:
        """Score a fake-quant twin; percent points."""
        from pth2om.accuracy import difference

        found = difference(self._reference, self._measured(model), metric=self._metric)
        low, high = found["interval"]
        return Drop(float(found["drop"]), float(low), float(high))

    def _measured(self, model: onnx.ModelProto) -> Mapping[str, Any]:
        from pth2om.accuracy import measure
        from pth2om.onnx_session import OnnxSession

        with tempfile.TemporaryDirectory(prefix="pth2om-") as folder:
            path = Path(folder) / "model.onnx"
            write_model(model, path)
            with OnnxSession(path, optimize=self._optimize) as session:
                return measure(session, self._dataset, self._preprocessor, self._postprocess, **self._options)
