"""pth2om: take a PyTorch checkpoint to an Ascend OM, with evidence that it still behaves like the PyTorch model.

The functions here are what the faces call too::

    import pth2om

    findings = pth2om.check_model(Path("model.onnx"), soc="Ascend310B1")
    result = pth2om.quantize_model(Path("model.onnx"), batches, destination=Path("int8"))
    judgements = pth2om.compare_sessions(reference, candidate, samples)
    conversion = pth2om.convert(Path("best.pt"), "Ascend310B1")
    accepted = pth2om.accept_models(match="yolov6", soc="Ascend310B1")
    page = pth2om.render_report(accepted.folder, Path("out"))
    verified = pth2om.verify(Path("release.zip"), [Path("best.om")], Path("release.pub"))

Nothing heavy is imported before a function is called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pth2om.compare import compare as compare_sessions
    from pth2om.harness.accepting import accept_models
    from pth2om.onefile import convert
    from pth2om.preflight import check as check_model
    from pth2om.quantize.api import quantize as quantize_model
    from pth2om.report import render as render_report
    from pth2om.signoff.verification import verify

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "accept_models",
    "check_model",
    "compare_sessions",
    "convert",
    "quantize_model",
    "render_report",
    "verify",
]

_PLACES = {
    "accept_models": ("pth2om.harness.accepting", "accept_models"),
    "check_model": ("pth2om.preflight", "check"),
    "compare_sessions": ("pth2om.compare", "compare"),
    "convert": ("pth2om.onefile", "convert"),
    "quantize_model": ("pth2om.quantize.api", "quantize"),
    "render_report": ("pth2om.report", "render"),
    "verify": ("pth2om.signoff.verification", "verify"),
}
"""A function cannot have the name of a room (``pth2om.compare`` is a package), so each names what it works on."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the room holds
    if name not in _PLACES:
        raise AttributeError(f"module 'pth2om' has no attribute {name!r}")
    module, function = _PLACES[name]
    return getattr(importlib.import_module(module), function)
