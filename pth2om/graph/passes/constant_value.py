"""Constants as dense tensors: ATC reads only the attribute ``value`` of a Constant, and no sparse initializer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pth2om.graph.contract import EQUAL, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.onnxfile.walking import STANDARD, all_graphs, node_label
from pth2om.session import Array

if TYPE_CHECKING:
    from onnx import AttributeProto, SparseTensorProto, TensorProto

NAME = "constant-value"
BOUND = EQUAL
STRUCTURAL = True

_MOST_ELEMENTS = 2**28


def apply(document: Document, _settings: PassSettings) -> Applied:
    """Turn ``value_float(s)``, ``value_int(s)``, ``value_string(s)`` and sparse values into tensors."""
    changed: list[str] = []
    for graph in all_graphs(document.model):
        for node in graph.node:
            if node.op_type != "Constant" or node.domain not in STANDARD or len(node.attribute) != 1:
                continue
            item = node.attribute[0]
            tensor = None if item.name == "value" or item.ref_attr_name else _tensor(document, item)
            if tensor is None:
                continue
            del node.attribute[:]
            value = node.attribute.add()
            value.name, value.type = "value", 4
            value.t.CopyFrom(tensor)
            changed.append(node_label(node))
        if graph.sparse_initializer:
            dense = [(item.values.name, _dense(document, item)) for item in graph.sparse_initializer]
            if any(array is None for _, array in dense):
                continue
            del graph.sparse_initializer[:]
            for name, array in dense:
                assert array is not None
                graph.initializer.append(document.tensor(name, array))
                changed.append(name)
    return Applied(len(changed), changed)


def _tensor(document: Document, item: AttributeProto) -> TensorProto | None:
    from onnx import helper

    if item.name == "value_float":
        return helper.make_tensor("", 1, [], [item.f])
    if item.name == "value_floats":
        return helper.make_tensor("", 1, [len(item.floats)], list(item.floats))
    if item.name == "value_int":
        return helper.make_tensor("", 7, [], [item.i])
    if item.name == "value_ints":
        return helper.make_tensor("", 7, [len(item.ints)], list(item.ints))
    if item.name == "value_string":
        return helper.make_tensor("", 8, [], [item.s])  # type: ignore[list-item]  # bytes are what a string tensor holds
    if item.name == "value_strings":
        return helper.make_tensor("", 8, [len(item.strings)], list(item.strings))
    if item.name == "sparse_value":
        from onnx import numpy_helper

        dense = _dense(document, item.sparse_tensor)
        return None if dense is None else numpy_helper.from_array(dense)
    return None


def _dense(document: Document, sparse: SparseTensorProto) -> Array | None:
    """The dense values: linear indices of shape ``(n,)`` or coordinates of shape ``(n, rank)``, as in ONNX."""
    dims = tuple(int(size) for size in sparse.dims)
    if any(size < 0 for size in dims) or int(np.prod(dims, dtype=object)) > _MOST_ELEMENTS:
        return None
    values, indices = document.array(sparse.values), document.array(sparse.indices)
    dense = np.zeros(dims, values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values.ravel()
    else:
        dense[tuple(indices.T)] = values.ravel()
    return dense
