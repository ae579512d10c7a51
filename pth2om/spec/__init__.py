"""The spec: ``models/<name>/model.toml``, what a model is and what must hold.

A spec is frozen and typed. Anything wrong in it is reported as ``models/x/model.toml:12: ...`` with the nearest valid
word, and concerns that model alone.
"""

from __future__ import annotations

from pth2om.spec.compiling import Compiling
from pth2om.spec.custom_ops import CustomOp
from pth2om.spec.gates import Closeness, Dataset, Gates
from pth2om.spec.model import Spec
from pth2om.spec.reading import line_of, load, of_text, parse, parse_text
from pth2om.spec.tables import (
    OPSET_LADDER,
    PRECISION_MODES,
    Aipp,
    Export,
    Input,
    Name,
    Postprocess,
    Precision,
    Preprocess,
    Quantize,
    Slice,
    Source,
    Task,
)
from pth2om.spec.variants import Gears, Shape, Variant
from pth2om.spec.volume import Channel, Volume

__all__ = [
    "OPSET_LADDER",
    "PRECISION_MODES",
    "Aipp",
    "Channel",
    "Closeness",
    "Compiling",
    "CustomOp",
    "Dataset",
    "Export",
    "Gates",
    "Gears",
    "Input",
    "Name",
    "Postprocess",
    "Precision",
    "Preprocess",
    "Quantize",
    "Shape",
    "Slice",
    "Source",
    "Spec",
    "Task",
    "Variant",
    "Volume",
    "line_of",
    "load",
    "of_text",
    "parse",
    "parse_text",
]
