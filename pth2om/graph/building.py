"""Making nodes that stand for another: fresh names, constants of the right type, the form an opset wants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pth2om.graph.document import Document
from pth2om.graph.surgery import Names
from pth2om.onnxfile.walking import Sizes, node_label, opset

if TYPE_CHECKING:
    from onnx import NodeProto


class Builder:
    """Nodes in the place of one node.

    Args:
        document: the model; constants go into its root graph.
        names: of the model.
        node: the one to be replaced; new names begin with its.
        data_type: ``TensorProto.DataType`` of constants made from Python numbers.
    """

    def __init__(self, document: Document, names: Names, node: NodeProto, data_type: int = 1) -> None:
        self.document = document
        self.names = names
        self.nodes: list[NodeProto] = []
        self.opset = opset(document.model)
        self.data_type = data_type
        self._base = node_label(node)

    def add(self, op_type: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:  # noqa: ANN401 - of ONNX
        """A node with one output; the output's name."""
        from onnx import helper

        output = output or self.names.fresh(f"{self._base}_{op_type}_out")
        name = self.names.fresh(f"{self._base}_{op_type}")
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=name, **attributes))
        return output

    def number(self, value: float) -> str:
        """A scalar constant of the node's type."""
        from onnx import helper, numpy_helper

        name = self.names.fresh(f"{self._base}_constant")
        if self.data_type == 16:
            made = helper.make_tensor(name, 16, [], [value])
            self.document.raise_ir(4)
            self.document.graph.initializer.append(made)
            return name
        array = np.array(value, helper.tensor_dtype_to_np_dtype(self.data_type))
        self.document.raise_ir(4)
        self.document.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def whole(self, values: Sequence[int]) -> str:
        """A one-dimensional INT64 constant."""
        return self.document.add_initializer(self.names.fresh(f"{self._base}_constant"), np.array(values, np.int64))

    def reduce(
        self, op_type: str, source: str, axes: Sequence[int], *, keepdims: int = 1, output: str | None = None
    ) -> str:
        """ReduceMean or ReduceSum; the axes are an attribute below opset 18 (ReduceSum: 13), later an input."""
        if self.opset >= (13 if op_type == "ReduceSum" else 18):
            return self.add(op_type, [source, self.whole(axes)], output, keepdims=keepdims)
        return self.add(op_type, [source], output, axes=list(axes), keepdims=keepdims)

    def unsqueeze(self, source: str, axes: Sequence[int], output: str | None = None) -> str:
        """Unsqueeze; the axes are an attribute below opset 13."""
        if self.opset >= 13:
            return self.add("Unsqueeze", [source, self.whole(axes)], output)
        return self.add("Unsqueeze", [source], output, axes=list(axes))

    def squeeze(self, source: str, axes: Sequence[int], output: str | None = None) -> str:
        """Squeeze; the axes are an attribute below opset 13."""
        if self.opset >= 13:
            return self.add("Squeeze", [source, self.whole(axes)], output)
        return self.add("Squeeze", [source], output, axes=list(axes))

    def reshape_like(self, source: str, like: str, sizes: Sizes | None, output: str | None = None) -> str:
        """Reshape to the sizes of `like`: constant ones where at most one is unknown, else by Shape."""
        if sizes is not None and sum(size < 0 for size in sizes) <= 1 and 0 not in sizes:
            return self.add("Reshape", [source, self.whole(sizes)], output)
        return self.add("Reshape", [source, self.add("Shape", [like])], output)
