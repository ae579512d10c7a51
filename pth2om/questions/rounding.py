"""How far the original model is from itself: its float32 from its float64, and what one ulp of the input changes."""

from __future__ import annotations

import contextlib
import copy
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from pth2om.compare.rounding import Moved
from pth2om.errors import Pth2omError
from pth2om.session import Array, Feeds

if TYPE_CHECKING:
    import torch

    from pth2om.compare import Own
    from pth2om.data import Samples
    from pth2om.questions.subject import Subject

_VERSION = 1
_MOVES = 3


def own_rounding(subject: Subject, samples: Samples) -> Own | None:
    """What rounding alone does to the original model on each sample; None where that cannot be measured.

    With a PyTorch side, its float32 is held against a float64 twin of the same module, where that can be made (a net
    may create float32 tensors inside). One comparison shows one outcome of chance, and PyTorch may sum a constant map
    exactly where another library does not; so the input is also moved a few times by one ulp of its largest value.

    Args:
        subject: the model.
        samples: what is fed; the same as in the comparison.
    """
    from pth2om import compare

    pipeline = subject.pipeline
    slices = pipeline.spec.slices
    try:
        session = (
            pipeline.torch_session() if pipeline.has_torch else pipeline.onnx_session(subject.sized(samples.batch))
        )

        def measure() -> Any:  # noqa: ANN401 - JSON
            reference = pipeline.remembering(session)
            found = [compare.measure(reference, Moved(session, seed), samples, slices) for seed in range(_MOVES)]
            if pipeline.has_torch:
                with contextlib.suppress(Pth2omError):
                    found.append(compare.measure(Double(subject), reference, samples, slices))
            return found

        inputs = {"reference": session.digest, "samples": samples.digest}
        options = {"slices": [part.model_dump(mode="json") for part in slices], "closeness": compare.VERSION}
        measured, _ = subject.measured("rounding", _VERSION, inputs, options, ("numpy",), measure)
    except Pth2omError:
        return None
    return compare.own_rounding(*measured)


class Double:
    """The original module in float64."""

    def __init__(self, subject: Subject) -> None:
        from pth2om.sessions.torch import TorchSession

        spec = subject.pipeline.spec

        def load() -> torch.nn.Module:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch warns of the parameters of a copied TorchScript program
                return copy.deepcopy(subject.pipeline.module()).double()

        around = subject.pipeline.source.watching
        self._session = TorchSession(load, spec.inputs, spec.export.outputs, digest="", around=around)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """See `Session.run`; inputs of floating point are fed as float64."""
        return self._session.run({name: _wide(array) for name, array in feeds.items()})


def _wide(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array
