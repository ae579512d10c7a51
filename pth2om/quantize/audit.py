"""Judges the INT8 files on the disk, whatever tool made them.

* `form`: what ATC's parser would misread or refuse in a deploy model, and ONNX Runtime in its twin;
* `twins_agree`: the twin in floating point compared with the deploy model in integers, on the same feeds;
* `weights_only`: the deploy model with its INT8 weights in floating point: the reference for the FP32 checkpoint;
* `changed_keys`: keys that the written checkpoint adds, lacks or changes compared with the original.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto

from pth2om.errors import QuantizeError
from pth2om.language import Message, say
from pth2om.quantize.calibrate import Feeds
from pth2om.quantize.network import Network, attributes, open_session, read_model, run_session
from pth2om.quantize.parts import Part, parts_of
from pth2om.quantize.twin_proof import prove
from pth2om.quantize.twins import _NpuWriter, _rewrite, integer
from pth2om.session import Session

_KINDS = {
    "AscendQuant": {"scale": AttributeProto.FLOAT, "offset": AttributeProto.FLOAT, "sqrt_mode": AttributeProto.INT,
                    "dst_type": AttributeProto.STRING},
    "AscendDequant": {"sqrt_mode": AttributeProto.INT, "relu_flag": AttributeProto.INT, "dtype": AttributeProto.INT},
}  # fmt: skip
"""Types of the attributes that the CANN ops-nn plugins read; for another type they use the default."""
_NEEDED = {"AscendQuant": ("scale", "offset"), "AscendDequant": ()}


def form(deploy: onnx.ModelProto, twin: onnx.ModelProto | None = None) -> list[Message]:
    """What is wrong with the files; empty for well-formed ones.

    Args:
        deploy: the deploy model.
        twin: its fake-quant twin.
    """
    return [*_deploy_form(deploy), *(_twin_form(twin) if twin is not None else ())]


def _deploy_form(deploy: onnx.ModelProto) -> Iterator[Message]:
    unsorted = list(_unsorted(deploy.graph))
    yield from unsorted
    for node in deploy.graph.node:
        if node.op_type in _KINDS:
            yield from _attributes_form(node)
    if unsorted:
        return
    try:
        parts = parts_of(Network(deploy))
    except QuantizeError as error:
        yield error.message
        return
    constants = {tensor.name: tensor for tensor in deploy.graph.initializer}
    for part in parts:
        yield from _constants_form(part, constants)


def _unsorted(graph: onnx.GraphProto) -> Iterator[Message]:
    """Nodes that read the output of a later node: ATC's parser reads the nodes in order."""
    made_later = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        for name in node.input:
            if name in made_later:
                yield say("quantize.form-unsorted", node=node.name or node.op_type, tensor=name)
        made_later.difference_update(node.output)


def _attributes_form(node: onnx.NodeProto) -> Iterator[Message]:
    kinds, given = _KINDS[node.op_type], {attribute.name: attribute for attribute in node.attribute}
    for name in _NEEDED[node.op_type]:
        if name not in given:
            yield say("quantize.form-attribute-missing", node=node.name, name=name)
    for name, attribute in given.items():
        if name in kinds and attribute.type != kinds[name]:
            is_, wanted = (AttributeProto.AttributeType.Name(kind) for kind in (attribute.type, kinds[name]))
            yield say("quantize.form-attribute", node=node.name, name=name, kind=is_, wanted=wanted)
    if node.op_type != "AscendQuant":
        return
    values = attributes(node)
    offset, scale = float(values.get("offset", 0.0)), float(values.get("scale", 1.0))
    if not (offset.is_integer() and -128 <= offset <= 127):
        yield say("quantize.form-offset", node=node.name, offset=offset)
    if not (np.isfinite(scale) and scale > 0):
        yield say("quantize.form-scale", node=node.name, scale=str(scale))
    if values.get("dst_type", "INT8") != "INT8":
        yield say("quantize.form-dst-type", node=node.name, kind=str(values["dst_type"]))


def _constants_form(part: Part, constants: Mapping[str, onnx.TensorProto]) -> Iterator[Message]:
    """Types of a layer's constants; `parts_of` has checked that the weight is INT8 and that the sizes fit."""
    parameter = constants.get(part.dequant.input[1])
    if parameter is None or parameter.data_type != TensorProto.UINT64:
        kind = "-" if parameter is None else TensorProto.DataType.Name(parameter.data_type)
        yield say("quantize.form-constant", layer=part.name, what="deq_scale", kind=kind, wanted="UINT64")
    if not (np.all(np.isfinite(part.deq_scale)) and np.all(part.deq_scale > 0)):
        yield say("quantize.form-scale", node=part.dequant.name, scale=str(float(np.min(part.deq_scale))))
    names = [*part.layer.input[2:3], *(part.add.input if part.add is not None else ())]
    for name in names:
        tensor = constants.get(name)
        if tensor is not None and tensor.data_type != TensorProto.INT32:
            kind = TensorProto.DataType.Name(tensor.data_type)
            yield say("quantize.form-constant", layer=part.name, what="bias", kind=kind, wanted="INT32")


def _twin_form(twin: onnx.ModelProto) -> Iterator[Message]:
    yield from _unsorted(twin.graph)
    for node in twin.graph.node:
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
            yield say("quantize.form-foreign", node=node.name, kind=node.op_type)


def int8_layers(deploy: onnx.ModelProto) -> list[str]:
    """Names of the layers that a deploy model computes in INT8, in graph order.

    Raises:
        QuantizeError: it is not a deploy model.
    """
    return [part.name for part in parts_of(Network(deploy))]


def twins_agree(deploy: Path, twin: Path, feeds: Sequence[Feeds]) -> dict[str, Any]:
    """Compare both files from the inputs to the outputs, and every layer of the deploy model with its FP32 form.

    Args:
        deploy: the deploy model, evaluated in integers.
        twin: the fake-quant model, run unchanged and without fusion.
        feeds: batches.

    Returns:
        ``values`` compared at the outputs, how many are ``differing``, ``relative_l2`` of the difference (0 if equal);
        ``layers``, how many are ``exact`` (no input makes them round), ``layer_values`` compared in those, and
        ``layer_differing``.

    Raises:
        QuantizeError: a file is not such a model, or the feeds do not fit.
    """
    model = read_model(deploy)
    sides = [open_session(each, exact=True) for each in (integer(model, deploy.name), read_model(twin))]
    values = differing = 0
    noise = signal = 0.0
    for batch in feeds:
        wanted, got = (run_session(side, batch) for side in sides)
        for name, expected in wanted.items():
            first, second = np.asarray(expected), np.asarray(got[name])
            values += first.size
            unequal = ~((first == second) | ((first != first) & (second != second)))
            differing += int(np.count_nonzero(unequal))
            gap = first.astype(np.float64) - second.astype(np.float64)
            noise += float(np.sum(gap * gap))
            signal += float(np.sum(first.astype(np.float64) ** 2))
    proofs = prove(model, feeds)
    exact = [proof for proof in proofs if proof.exact]
    return {
        "values": values,
        "differing": differing,
        "relative_l2": float(np.sqrt(noise / signal)) if signal > 0 else float(noise > 0),
        "layers": len(proofs),
        "exact": len(exact),
        "layer_values": sum(proof.compared for proof in exact),
        "layer_differing": sum(proof.differing for proof in exact),
    }


class _FloatWriter(_NpuWriter):
    """Every layer as ATC computes it when it returns the layer to FP16: floating point with the INT8 weights."""

    def part(self, part: Part) -> None:
        self.rolled_back(part)


def weights_only(deploy: onnx.ModelProto, where: str = "") -> onnx.ModelProto:
    """A deploy model with INT8 weights and floating-point activations, in standard operators.

    Raises:
        QuantizeError: it is not a deploy model.
    """
    return _rewrite(deploy, where, lambda network: _FloatWriter(network, None))


def relative_gap(deploy: Path, session: Session, feeds: Sequence[Feeds]) -> float:
    """Relative L2 between a session's outputs and those of a deploy model's INT8 weights in floating point.

    Args:
        deploy: the deploy model.
        session: should compute the same; its outputs are in the model's order.
        feeds: batches.

    Returns:
        NaN if an output has another shape.

    Raises:
        QuantizeError: it is not a deploy model, or the feeds do not fit.
    """
    reference = open_session(weights_only(read_model(deploy), deploy.name), exact=True)
    noise = signal = 0.0
    for batch in feeds:
        wanted, got = run_session(reference, batch).values(), session.run(batch).values()
        for first, second in zip(wanted, got, strict=False):
            if first.shape != second.shape:
                return float("nan")
            gap = np.asarray(first, np.float64) - np.asarray(second, np.float64)
            noise += float(np.sum(gap * gap))
            signal += float(np.sum(np.asarray(first, np.float64) ** 2))
    return float(np.sqrt(noise / signal)) if signal > 0 else float("nan")


def changed_keys(original: Path, written: Path) -> dict[str, list[str]]:
    """How the tensors of two checkpoints differ in name and shape, at any nesting.

    Returns:
        ``missing`` and ``unexpected`` paths, as in ``load_state_dict(strict=True)``, and ``reshaped`` ones; all empty
        if the written file can replace the original.

    Raises:
        QuantizeError: one of them cannot be read as data.
    """
    before, after = _shapes(original), _shapes(written)
    return {
        "missing": sorted(before.keys() - after.keys()),
        "unexpected": sorted(after.keys() - before.keys()),
        "reshaped": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
    }


def _shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    import torch

    from pth2om.checkpoint.formats import kind_of
    from pth2om.quantize.checkpoint_fp32 import content_of

    content, _ = content_of(checkpoint, kind_of(checkpoint))
    found: dict[str, tuple[int, ...]] = {}

    def visit(value: Any, path: str) -> None:  # noqa: ANN401 - whatever the checkpoint holds
        if isinstance(value, torch.Tensor):
            found[path] = tuple(value.shape)
        elif isinstance(value, Mapping):
            for name, entry in value.items():
                visit(entry, f"{path}.{name}" if path else str(name))

    visit(content, "")
    return found
