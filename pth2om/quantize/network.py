"""An ONNX model with the indexes that quantization needs, and the float-side rewrites it starts from."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnx.shape_inference
import onnx.version_converter
import onnxruntime

from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.language import say

Array = npt.NDArray[np.generic]
FloatArray = npt.NDArray[np.float32]

LOWEST_OPSET = 11
"""Round and a Clip with inputs, which the fake-quant twin is made of, exist from opset 11 on."""
HIGHEST_OPSET = 22
"""ATC registers AscendQuant and AscendDequant for opset 8 to 22 (CANN ops-nn ONNX plugins)."""
QUANTIZED_OPERATORS = frozenset(
    {
        "AscendQuant",
        "AscendDequant",
        "AscendAntiQuant",
        "AscendRequant",
        "QuantizeLinear",
        "DequantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
        "DynamicQuantizeLinear",
        "QGemm",
        "QLinearAdd",
    }
)
_PROTO_LIMIT = (1 << 31) - (1 << 20)
"""Above this many bytes a protobuf message cannot be serialized in one piece."""


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with its external data.

    Raises:
        QuantizeError: missing, not ONNX, or its external data is missing or lies outside the file's folder.
    """
    if not path.is_file():
        raise QuantizeError("quantize.no-model", where=str(path))
    try:
        model = onnx.load(str(path))
    except Exception as error:  # noqa: BLE001 - protobuf's DecodeError derives from Exception alone
        if not isinstance(error, OSError | ValueError | onnx.checker.ValidationError):
            raise QuantizeError("quantize.not-onnx", where=str(path)) from None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise QuantizeError("quantize.unreadable-model", where=str(path), reason=reason) from None
    if not model.graph.node or not model.graph.output:
        raise QuantizeError("quantize.not-onnx", where=str(path))
    return model


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model beside its final name and rename it; above 2 GB the tensors go to ``<name>.external``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        if model.ByteSize() > _PROTO_LIMIT:
            data = f"{path.stem}.external"
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            onnx.save(copy, str(temporary), save_as_external_data=True, location=data)
            (Path(folder) / data).replace(path.with_name(data))
        else:
            temporary.write_bytes(model.SerializeToString())
        temporary.replace(path)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the default operator set (0 when the model imports none)."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values; strings decoded."""
    values = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        values[attribute.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return values


def subgraphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    """The bodies of If, Loop and Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _captured(graph: onnx.GraphProto) -> set[str]:
    """Names that a subgraph reads from outside."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in graph.node:
        for body in subgraphs(node):
            read |= _captured(body)
    return {name for name in read - own if name}


class Network:
    """A model being rewritten: nodes as a list, constants as a dict, everything findable by tensor name.

    Args:
        model: copied unless ``own``; Constant nodes of the main graph become initializers and every node gets a
            unique name (``node_<i>`` for a nameless one, as AMCT calls it).
        own: the caller gives the model away, so that large weights are not held twice.
    """

    def __init__(self, model: onnx.ModelProto, *, own: bool = False) -> None:
        self.model = model if own else onnx.ModelProto()
        if not own:
            self.model.CopyFrom(model)
        graph = self.model.graph
        self.constants: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self._replaced: dict[str, onnx.TensorProto] = {}
        for node in graph.node:
            constant = _constant_of(node)
            if constant is None:
                self.nodes.append(node)
            else:
                constant.name = node.output[0]
                self.constants[constant.name] = constant
        self._name_nodes()
        self._drop_constant_inputs()
        self.index()

    def _name_nodes(self) -> None:
        seen: set[str] = set()
        for position, node in enumerate(self.nodes):
            name = node.name or f"node_{position}"
            unique, count = name, 1
            while unique in seen:
                unique, count = f"{name}_{count}", count + 1
            seen.add(unique)
            node.name = unique

    def _drop_constant_inputs(self) -> None:
        """Old files list initializers among the inputs too; a constant is no input."""
        kept = [value for value in self.model.graph.input if value.name not in self.constants]
        if len(kept) != len(self.model.graph.input):
            del self.model.graph.input[:]
            self.model.graph.input.extend(kept)

    def index(self) -> None:
        """Rebuild the look-ups after nodes changed."""
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        self.captured: set[str] = set()
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                if name:
                    self.consumers.setdefault(name, []).append(node)
            for body in subgraphs(node):
                self.captured |= _captured(body)
        self.outputs = {value.name for value in self.model.graph.output}
        self._taken = set(self.constants) | set(self.producer) | {value.name for value in self.model.graph.input}

    def only_consumer(self, name: str) -> onnx.NodeProto | None:
        """The node that alone reads ``name``, or None: several readers, a graph output, or a subgraph reads it."""
        readers = self.consumers.get(name, [])
        if len(readers) != 1 or name in self.outputs or name in self.captured:
            return None
        return readers[0]

    def array(self, name: str) -> Array | None:
        """A constant's value, or None when ``name`` is computed."""
        tensor = self.constants.get(name)
        return None if tensor is None else onnx.numpy_helper.to_array(tensor)

    def add_constant(self, name: str, value: Array) -> str:
        """Add a constant under a free name made from ``name``; returns that name."""
        name = self.fresh(name)
        self.constants[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        self._taken.add(name)
        return name

    def fresh(self, name: str) -> str:
        """``name``, with a number appended when it is taken."""
        unique, count = name, 1
        while unique in self._taken:
            unique, count = f"{name}_{count}", count + 1
        self._taken.add(unique)
        return unique

    def replace_node(self, node: onnx.NodeProto, new: Sequence[onnx.NodeProto]) -> None:
        """Put ``new`` where ``node`` is."""
        position = next(number for number, other in enumerate(self.nodes) if other is node)
        self.nodes[position : position + 1] = list(new)

    def finish(self) -> onnx.ModelProto:
        """The rewritten model, a copy: nodes in topological order, constants that nobody reads left out."""
        graph = self.model.graph
        ordered = self._sorted()
        read = {name for node in ordered for name in node.input} | self.outputs
        for node in ordered:
            for body in subgraphs(node):
                read |= _captured(body)
        tensors = [tensor for name, tensor in self.constants.items() if name in read]
        result = onnx.ModelProto()
        for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
            setattr(result, name, getattr(self.model, name))
        result.opset_import.extend(self.model.opset_import)
        result.metadata_props.extend(self.model.metadata_props)
        result.functions.extend(self.model.functions)
        result.graph.name = graph.name or "graph"
        result.graph.node.extend(ordered)
        result.graph.initializer.extend(tensors)
        result.graph.sparse_initializer.extend(graph.sparse_initializer)
        result.graph.input.extend(graph.input)
        result.graph.output.extend(graph.output)
        made = {name for node in ordered for name in node.output}
        result.graph.value_info.extend(value for value in graph.value_info if value.name in made)
        return result

    def _sorted(self) -> list[onnx.NodeProto]:
        ready = set(self.constants) | {value.name for value in self.model.graph.input} | {""}
        ready |= {tensor.values.name for tensor in self.model.graph.sparse_initializer}
        made = {name for node in self.nodes for name in node.output}
        needs = []
        for node in self.nodes:
            names = set(node.input)
            for body in subgraphs(node):
                names |= _captured(body)
            needs.append({name for name in names if name in made and name not in ready})
        waiting: dict[str, list[int]] = {}
        missing = [len(names) for names in needs]
        for number, names in enumerate(needs):
            for name in names:
                waiting.setdefault(name, []).append(number)
        # A stack keeps the file's own order where it is already topological.
        import heapq

        heap = [number for number, count in enumerate(missing) if count == 0]
        heapq.heapify(heap)
        ordered = []
        while heap:
            node = self.nodes[heapq.heappop(heap)]
            ordered.append(node)
            for name in node.output:
                for number in waiting.get(name, ()):
                    missing[number] -= 1
                    if missing[number] == 0:
                        heapq.heappush(heap, number)
        if len(ordered) != len(self.nodes):
            raise QuantizeError("quantize.cyclic")
        return ordered


def _constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(attribute.t)
            return tensor
        if attribute.name in ("value_float", "value_floats"):
            value = onnx.helper.get_attribute_value(attribute)
            return onnx.numpy_helper.from_array(np.asarray(value, np.float32))
        if attribute.name in ("value_int", "value_ints"):
            value = onnx.helper.get_attribute_value(attribute)
            return onnx.numpy_helper.from_array(np.asarray(value, np.int64))
    return None


def prepare(model: onnx.ModelProto, where: str) -> tuple[Network, list[Finding]]:
    """The float model as quantization wants it: supported opset, known shapes, folded BatchNorm, plain Gemm.

    Args:
        model: a float ONNX model.
        where: the file's name, for errors.

    Raises:
        QuantizeError: it is quantized already, or its opset cannot be brought into 11..22.
    """
    kinds = {node.op_type for node in model.graph.node}
    quantized = sorted(kinds & QUANTIZED_OPERATORS)
    if quantized:
        key = "quantize.already-qdq" if "DequantizeLinear" in quantized else "quantize.already-quantized"
        raise QuantizeError(key, where=where, operators=", ".join(quantized))
    findings: list[Finding] = []
    opset = opset_of(model)
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        model = _convert_opset(model, opset, where)
        message = say("quantize.opset-converted", old=opset, new=opset_of(model))
        findings.append(Finding("quantize.opset-converted", "warning", message))
    network = Network(_inferred(model))
    folded = _fold(network)
    network = Network(network.finish(), own=True)
    if folded:
        findings.append(Finding("quantize.folded", "info", say("quantize.folded", count=folded)))
    return network, findings


def _convert_opset(model: onnx.ModelProto, opset: int, where: str) -> onnx.ModelProto:
    target = 13 if opset < LOWEST_OPSET else HIGHEST_OPSET
    try:
        converted = onnx.version_converter.convert_version(model, target)
    except Exception as error:  # noqa: BLE001 - the converter raises bare RuntimeError and protobuf errors alike
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise QuantizeError("quantize.opset", where=where, opset=opset, reason=reason) from None
    return converted


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its tensors' shapes; without them when inference fails, as it is only used for reporting."""
    if model.ByteSize() > _PROTO_LIMIT:
        return model
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # noqa: BLE001 - a model with operators onnx does not know is still quantizable
        return model


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Known shapes of all tensors, None for a symbolic axis."""
    found: dict[str, tuple[int | None, ...]] = {}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.HasField("shape"):
            found[value.name] = tuple(
                axis.dim_value if axis.HasField("dim_value") else None for axis in value.type.tensor_type.shape.dim
            )
    return found


# ----------------------------------------------------------------------------------------------------- float rewrites


def _fold(network: Network) -> int:
    """Fold what follows a convolution per channel into it, and make every Gemm plain; how many nodes went."""
    before = len(network.nodes)
    _fold_identities(network)
    for node in list(network.nodes):
        if node.op_type == "Gemm":
            _plain_gemm(network, node)
    changed = True
    while changed:
        changed = False
        for node in list(network.nodes):
            if node.op_type in ("Conv", "ConvTranspose") and _fold_follower(network, node):
                changed = True
        network.index()
    return before - len(network.nodes)


def _fold_identities(network: Network) -> None:
    """Identity of a constant: the torch exporter writes one for shared parameters."""
    for node in list(network.nodes):
        if node.op_type == "Identity" and node.input[0] in network.constants:
            name = node.output[0]
            if name in network.outputs or name in network.captured:
                continue
            for reader in network.consumers.get(name, []):
                for position, read in enumerate(reader.input):
                    if read == name:
                        reader.input[position] = node.input[0]
            network.nodes.remove(node)
    network.index()


def _float_constant(network: Network, name: str) -> FloatArray | None:
    value = network.array(name)
    return np.asarray(value, np.float32) if value is not None and value.dtype == np.float32 else None


def _plain_gemm(network: Network, node: onnx.NodeProto) -> None:
    """transB=0 and alpha=beta=1, by changing the constants."""
    values = attributes(node)
    weight = _float_constant(network, node.input[1])
    if weight is None or values.get("transA", 0) or weight.ndim != 2:
        return
    bias = _float_constant(network, node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if len(node.input) > 2 and node.input[2] and bias is None:
        return
    alpha, beta = np.float32(values.get("alpha", 1.0)), np.float32(values.get("beta", 1.0))
    changed = weight.T if values.get("transB", 0) else weight
    if values.get("transB", 0) or alpha != 1:
        node.input[1] = network.add_constant(node.input[1], np.ascontiguousarray(changed * alpha))
    if bias is not None and beta != 1:
        node.input[2] = network.add_constant(node.input[2], np.asarray(bias * beta))
    kept = [entry for entry in node.attribute if entry.name not in ("transB", "alpha", "beta")]
    del node.attribute[:]
    node.attribute.extend(kept)


def _fold_follower(network: Network, node: onnx.NodeProto) -> bool:
    """Fold the BatchNormalization, or the constant Mul or Add, that alone reads a convolution's output."""
    weight = _float_constant(network, node.input[1])
    follower = network.only_consumer(node.output[0])
    if weight is None or follower is None or len(network.consumers.get(node.input[1], [])) != 1:
        return False
    group = int(attributes(node).get("group", 1))
    channels = weight.shape[0] if node.op_type == "Conv" else weight.shape[1] * group
    bias: FloatArray | None = np.zeros(channels, np.float32)
    if len(node.input) > 2 and node.input[2]:
        bias = _float_constant(network, node.input[2])
    if bias is None:
        return False
    affine = _affine(network, follower, node.output[0], channels, weight.ndim)
    if affine is None:
        return False
    factor, shift = affine
    node.input[1] = network.add_constant(node.input[1], scale_rows(weight, factor, node.op_type, group))
    moved = (bias.astype(np.float64) * factor + shift).astype(np.float32)
    base = node.input[2] if len(node.input) > 2 and node.input[2] else f"{node.name}.bias"
    name = network.add_constant(base, moved)
    if len(node.input) > 2:
        node.input[2] = name
    else:
        node.input.append(name)
    node.output[0] = follower.output[0]
    network.nodes.remove(follower)
    network.index()
    return True


def scale_rows(weight: FloatArray, factor: npt.NDArray[np.floating[Any]], kind: str, group: int) -> FloatArray:
    """A convolution's weight times one factor per output channel; in double precision, rounded once."""
    wide = weight.astype(np.float64)
    tail = (1,) * (weight.ndim - 2)
    if kind == "Conv":
        return (wide * factor.reshape(-1, 1, *tail)).astype(np.float32)
    grouped = wide.reshape(group, weight.shape[0] // group, *weight.shape[1:])
    return (grouped * factor.reshape(group, 1, -1, *tail)).astype(np.float32).reshape(weight.shape)


def _affine(
    network: Network, follower: onnx.NodeProto, name: str, channels: int, rank: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """The per-channel factor and shift that ``follower`` applies to ``name``, or None."""
    if follower.op_type == "BatchNormalization":
        parts = [_float_constant(network, entry) for entry in follower.input[1:5]]
        values = attributes(follower)
        if any(part is None for part in parts) or values.get("training_mode", 0) or len(follower.output) > 1:
            return None
        gamma, beta, mean, variance = (np.asarray(part, np.float64) for part in parts)
        factor = gamma / np.sqrt(variance + np.float32(values.get("epsilon", 1e-5)))
        return factor, beta - mean * factor
    if follower.op_type not in ("Mul", "Add") or name not in follower.input or len(set(follower.input)) != 2:
        return None
    constant = _float_constant(network, next(entry for entry in follower.input if entry != name))
    if constant is None or not _per_channel(constant.shape, channels, rank):
        return None
    value = np.broadcast_to(constant.astype(np.float64).reshape(-1), (channels,))
    if follower.op_type == "Mul":
        return value, np.zeros(channels)
    return np.ones(channels), value


def _per_channel(shape: tuple[int, ...], channels: int, rank: int) -> bool:
    """Whether a constant of ``shape`` broadcasts to one value per channel of an NC... tensor of ``rank`` axes."""
    if math.prod(shape) == 1:
        return len(shape) <= rank
    aligned = (1,) * (rank - len(shape)) + tuple(shape)
    return len(aligned) == rank and aligned[1] == channels and math.prod(aligned) == channels


# ---------------------------------------------------------------------------------------------------------- sessions


def open_session(
    model: onnx.ModelProto, *, outputs: Sequence[str] | None = None, exact: bool = False
) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU.

    Args:
        model: what to run.
        outputs: tensors to hand back instead of the model's outputs.
        exact: run node by node as written (no fusion), which bit-for-bit comparison needs.

    Raises:
        QuantizeError: ONNX Runtime does not take the model.
    """
    if outputs is not None:
        with _handing_back(model, outputs):
            return open_session(model, exact=exact)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # The arena grows by what is asked, not by doubling: memory stays that of one batch.
    settings = {"arena_extend_strategy": "kSameAsRequested"}
    providers = [("CPUExecutionProvider", settings)]
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        if model.ByteSize() > _PROTO_LIMIT:
            with tempfile.TemporaryDirectory(prefix="pth2om-") as folder:
                path = Path(folder) / "model.onnx"
                write_model(model, path)
                return onnxruntime.InferenceSession(str(path), options, providers=providers)
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    except Exception as error:  # noqa: BLE001 - ORT's exceptions share no base class but Exception
        raise QuantizeError("quantize.not-runnable", reason=_first_line(error)) from None


def run_session(
    session: onnxruntime.InferenceSession, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
) -> dict[str, Array]:
    """One inference, outputs by name.

    Raises:
        QuantizeError: the feeds do not fit the model.
    """
    names = list(outputs) if outputs is not None else [value.name for value in session.get_outputs()]
    try:
        values = session.run(names, {name: np.ascontiguousarray(value) for name, value in feeds.items()})
    except Exception as error:  # noqa: BLE001 - as in open_session
        raise QuantizeError("quantize.does-not-fit", reason=_first_line(error)) from None
    return dict(zip(names, values, strict=True))


@contextlib.contextmanager
def _handing_back(model: onnx.ModelProto, names: Sequence[str]) -> Iterator[None]:
    """The model with other outputs while the block runs (types are left to the runtime); weights are not copied."""
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        yield
    finally:
        del model.graph.output[:]
        model.graph.output.extend(kept)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
