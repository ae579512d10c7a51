"""Sets the IR version of the opset: files without one are refused, and too new ones by older ONNX Runtimes."""

from __future__ import annotations

from pth2om.graph.contract import EQUAL, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.onnxfile.walking import all_graphs, opset

NAME = "ir-version"
BOUND = EQUAL
STRUCTURAL = True

KNOWN = 8
"""ONNX 1.10 to 1.13, which ONNX Runtime 1.10 and later read; enough for opset 18 ("ONNX versioning table")."""

_NEWER_TYPES = {17: 9, 18: 9, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""``TensorProto.DataType`` -> the IR version that introduced it: float8 9, int4 10, float4 11."""
_BY_OPSET = ((18, 8), (20, 9), (22, 10), (23, 11))


def apply(document: Document, _settings: PassSettings) -> Applied:
    """Set the lowest IR version, at least 8, that has everything the model uses; a lower existing one is kept."""
    model = document.model
    wanted = next((version for last, version in _BY_OPSET if opset(model) <= last), model.ir_version)
    for graph in all_graphs(model):
        for tensor in graph.initializer:
            wanted = max(wanted, _NEWER_TYPES.get(tensor.data_type, 0))
        for value in (*graph.input, *graph.output, *graph.value_info):
            wanted = max(wanted, _NEWER_TYPES.get(value.type.tensor_type.elem_type, 0))
    had = model.ir_version
    if 3 <= had <= wanted:
        return Applied()
    model.ir_version = wanted
    return Applied(1, values={"had": had, "now": wanted})
