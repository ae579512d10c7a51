"""Inputs for a calibration without data; every file then records that."""

from __future__ import annotations

import numpy as np
import onnx

from pth2om.errors import QuantizeError
from pth2om.quantize.network import Array, attributes, kind_of

_IMAGE = 224


def random_feeds(model: onnx.ModelProto, where: str, count: int = 4, seed: int = 0) -> list[dict[str, Array]]:
    """Random batches of the model's input shapes: floats uniform in 0..1, indices within their table, else 0 or 1.

    Symbolic axes are 1, those of images (all but the first of four or more) 224.

    Raises:
        QuantizeError: an input has no shape or is not numeric.
    """
    generator = np.random.default_rng(seed)
    constants = {tensor.name for tensor in model.graph.initializer}
    limits = _index_limits(model)
    batches = []
    for _ in range(count):
        batch: dict[str, Array] = {}
        for value in model.graph.input:
            if value.name in constants:
                continue
            kind = value.type.tensor_type
            if not kind.HasField("shape"):
                raise QuantizeError("quantize.input-without-shape", where=where, name=value.name)
            image = len(kind.shape.dim) > 3
            sizes = [axis.dim_value for axis in kind.shape.dim]
            shape = [size if size > 0 else _IMAGE if image and axis else 1 for axis, size in enumerate(sizes)]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if dtype.kind not in "fiub":
                raise QuantizeError("quantize.input-not-numeric", where=where, name=value.name, dtype=str(dtype))
            if dtype.kind == "f":
                batch[value.name] = generator.uniform(0, 1, shape).astype(dtype)
            else:
                batch[value.name] = generator.integers(0, limits.get(value.name, 2), shape).astype(dtype)
        batches.append(batch)
    return batches


def _index_limits(model: onnx.ModelProto) -> dict[str, int]:
    """Input -> number of entries of the smallest constant table that it indexes."""
    tables = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    origin = {value.name: value.name for value in model.graph.input}
    limits: dict[str, int] = {}
    for node in model.graph.node:
        if kind_of(node) in ("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze") and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        if kind_of(node) != "Gather" or node.input[1] not in origin or node.input[0] not in tables:
            continue
        entries = int(tables[node.input[0]][int(attributes(node).get("axis", 0))])
        name = origin[node.input[1]]
        limits[name] = max(1, min(limits.get(name, entries), entries))
    return limits
