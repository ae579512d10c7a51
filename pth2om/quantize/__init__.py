"""INT8: calibrate, quantize, and write the files for ATC.

Takes an ONNX file and an iterable of feeds; heavy libraries are imported on the first call of a function::

    from pth2om.quantize import QuantizeSettings, quantize
    result = quantize(Path("model.onnx"), batches, QuantizeSettings(), Path("int8"))
    result.files["deploy"]          # model_deploy_model.onnx, for atc
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pth2om.quantize.settings import VERSION, LayerReport, QuantizeResult, QuantizeSettings

if TYPE_CHECKING:
    from onnx import ModelProto

    from pth2om.quantize.api import convert, quantize
    from pth2om.quantize.twins import emulation_rewrite, fake_quant, integer

_LAZY = {
    "convert": "api",
    "quantize": "api",
    "emulation_rewrite": "twins",
    "fake_quant": "twins",
    "integer": "twins",
}

__all__ = [
    "VERSION",
    "LayerReport",
    "QuantizeResult",
    "QuantizeSettings",
    "convert",
    "emulation_rewrite",
    "fake_quant",
    "integer",
    "join_int8",
    "quantize",
]


def join_int8(model: ModelProto, soc: str) -> ModelProto:
    """The emulator's preparation of a model: the INT8 layers of a deploy model become single operators.

    A model without AscendQuant is returned unchanged, and so is one whose pattern ATC would not accept either: the
    emulator then refuses its operators by name.
    """
    if all(node.op_type != "AscendQuant" for node in model.graph.node):
        return model
    from pth2om.errors import QuantizeError
    from pth2om.quantize.emulate import on_chip

    try:
        return on_chip(model, soc)
    except QuantizeError:
        return model


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module holds
    import importlib

    if name in _LAZY:
        return getattr(importlib.import_module(f"pth2om.quantize.{_LAZY[name]}"), name)
    raise AttributeError(name)
