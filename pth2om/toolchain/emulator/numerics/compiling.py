"""From an ONNX file to the emulator's folder."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from pth2om import __version__
from pth2om.custom_ops.exporting import BODY_MARK
from pth2om.errors import GraphError, ToolchainError, first_line
from pth2om.evidence import Finding
from pth2om.files import write_bytes
from pth2om.language import say
from pth2om.onnxfile.functions import inlined
from pth2om.onnxfile.reading import all_tensors, read, tensor_bytes
from pth2om.onnxfile.walking import all_graphs, sort_nodes
from pth2om.session import TensorSpec
from pth2om.store import file_digest
from pth2om.toolchain.emulator.numerics import emulation
from pth2om.toolchain.emulator.numerics.compiled import BANDS, Band, Compiled
from pth2om.toolchain.emulator.numerics.dtypes import FLOAT, HALF, half_sequence, inferred
from pth2om.toolchain.emulator.numerics.modes import Policy
from pth2om.toolchain.emulator.numerics.operators import CUBE
from pth2om.toolchain.emulator.numerics.rewrite import Rewriter
from pth2om.toolchain.emulator.numerics.weights import DATA_FILE, WeightFile, is_external

_STANDARD = ("", "ai.onnx")
_PROTOBUF_LIMIT = 1_800_000_000  # bytes; above it weights go to a file of their own, whatever the source did


def compile_numerics(
    model: Path,
    destination: Path,
    *,
    precision_mode: str,
    soc: str,
    keep_dtype: Collection[str] = (),
    modify_mixlist: Mapping[str, Any] | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    output_type: str | None = "FP32",
    weight_clip: bool = True,
    join: emulation.Join | None = None,
) -> Compiled:
    """Write ``fused.onnx``, ``unfused.onnx`` and ``compiled.json`` into ``destination``.

    Where nothing is fused both bands compute the same; then both are ``fused.onnx``, and of one digest.

    Args:
        model: the ONNX file; external data beside it.
        destination: the folder; made if absent.
        precision_mode: a value of ``--precision_mode`` or ``--precision_mode_v2``; ``""`` is force_fp16.
        soc: ``--soc_version``.
        keep_dtype: node names and ``OpType::Type`` entries of ``--keep_dtype``.
        modify_mixlist: content of ``--modify_mixlist``, for the mixed modes.
        input_shapes: shapes that fix dynamic inputs.
        output_type: ``FP32`` or ``FP16`` for all float outputs, None for the source's own types.
        weight_clip: ``--is_weight_clip``.
        join: joins operators that the SoC computes as one, before anything else; without it INT8 operators are refused.

    Returns:
        The record; the files open in any ONNX Runtime.

    Raises:
        ToolchainError: the file cannot be read, an operator cannot be emulated, or the mode or SoC is not known.
    """
    policy = Policy.of(precision_mode, soc, keep_dtype, modify_mixlist, weight_clip)
    source = _load(model)
    kept = frozenset(node.name for graph in all_graphs(source) for node in graph.node if BODY_MARK in node.name)
    # A custom operator's kernel computes in the dtypes that it declares, whatever the mode.
    policy = replace(policy, keep_names=policy.keep_names | kept)
    if join is not None:
        source = join(source, soc)
    if input_shapes:
        _fix_shapes(source, input_shapes, str(model))
    opset = _opset(source)
    _refuse_unknown(source, opset, str(model))
    types, reason = inferred(source)
    for tensor in source.graph.initializer:
        types.setdefault(tensor.name, int(tensor.data_type))
    half_outputs = _half_outputs(source.graph, types, output_type)
    external = any(map(is_external, source.graph.initializer)) or _is_large(source)
    destination.mkdir(parents=True, exist_ok=True)
    work = destination / f".building-{uuid.uuid4().hex}"
    work.mkdir()
    try:
        weights = WeightFile(work, external)
        bands: dict[str, Band] = {}
        contents: dict[str, tuple[_Outline, str]] = {}
        specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]] = ((), ())
        for name in BANDS:
            rewriter = Rewriter(policy, name, opset, types, model.parent, weights, half_outputs)
            result = _rewritten(source, rewriter)
            specs = (_specs(result.graph.input), _specs(result.graph.output))
            written = _written_before(result, contents) or f"{name}.onnx"
            bands[name] = Band(name, written, "", rewriter.counts, tuple(rewriter.sites))
            if written not in contents:
                content = _serialized(result, written)
                write_bytes(work / written, content)
                contents[written] = (_outline(result), hashlib.sha256(content).hexdigest())
                del content
        weights.close()
        shared = file_digest(work / DATA_FILE) if (work / DATA_FILE).exists() else ""
        digests = {
            written: hashlib.sha256((digest + shared).encode()).hexdigest() for written, (_, digest) in contents.items()
        }
        bands = {name: replace(band, digest=digests[band.file]) for name, band in bands.items()}
        findings = _findings(policy, soc, source, bands["fused"], reason)
        compiled = Compiled(
            destination,
            precision_mode or "force_fp16",
            policy.scheme,
            soc,
            policy.family.overflow,
            policy.family.evidence,
            bands,
            *specs,
            findings,
        )
        for file in work.iterdir():
            file.replace(destination / file.name)
        compiled.write()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return compiled


def _is_large(source: onnx.ModelProto) -> bool:
    """Whether the model is larger than a file may be; its weights tell where they are few, without writing it."""
    weights = sum(tensor_bytes(tensor) or tensor.ByteSize() for tensor in all_tensors(source))
    return weights > _PROTOBUF_LIMIT // 2 and source.ByteSize() > _PROTOBUF_LIMIT


def _serialized(result: onnx.ModelProto, file: str) -> bytes:
    """What the file of a band holds."""
    result.doc_string = f"emulated numerics, band {file.removesuffix('.onnx')}; not an OM"
    return bytes(result.SerializeToString(deterministic=True))


_Outline = tuple[list[bytes], list[str]]


def _outline(result: onnx.ModelProto) -> _Outline:
    """The nodes and the names of the weights: in these most bands differ, and the weights are long."""
    graph = result.graph
    nodes = [node.SerializeToString(deterministic=True) for node in graph.node]
    return nodes, [tensor.name for tensor in graph.initializer]


def _written_before(result: onnx.ModelProto, contents: Mapping[str, tuple[_Outline, str]]) -> str | None:
    """The file of another band that holds the same; None where there is none."""
    outline = _outline(result) if contents else None
    for file, (other, digest) in contents.items():
        if outline == other and hashlib.sha256(_serialized(result, file)).hexdigest() == digest:
            return file
    return None


def _load(model: Path) -> onnx.ModelProto:
    """The model without its external data, functions inlined."""
    try:
        source = read(model)
        if not source.graph.node and not source.graph.output:
            raise ToolchainError("emulator.unreadable", where=str(model), reason="no graph")
        if source.functions:
            source = inlined(source)
    except ToolchainError:
        raise
    except GraphError as error:
        raise ToolchainError("emulator.unreadable", where=str(model), reason=error.message.render()) from None
    except Exception as error:  # noqa: BLE001 - protobuf and the C++ inliner raise classes of their own
        raise ToolchainError("emulator.unreadable", where=str(model), reason=first_line(error)) from None
    for graph in all_graphs(source):
        sort_nodes(graph)  # a cycle is left for the judgement on soundness
    sequence = half_sequence(source.graph)
    if sequence is not None:
        raise ToolchainError("emulator.half-sequence", where=str(model), name=sequence)
    return source


def _opset(source: onnx.ModelProto) -> int:
    versions = [entry.version for entry in source.opset_import if entry.domain in _STANDARD]
    return int(max(versions, default=1))


def _fix_shapes(source: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], where: str) -> None:
    constants = {tensor.name for tensor in source.graph.initializer}
    inputs = {value.name: value for value in source.graph.input if value.name not in constants}
    for name, shape in shapes.items():
        if name not in inputs:
            raise ToolchainError("emulator.unknown-input", where=where, name=name, inputs=", ".join(inputs) or "-")
        kind = inputs[name].type.tensor_type
        text = "x".join(map(str, shape))
        if kind.HasField("shape") and len(kind.shape.dim) != len(shape):
            raise ToolchainError("emulator.input-rank", where=where, name=name, rank=len(kind.shape.dim), shape=text)
        for axis, dimension in enumerate(kind.shape.dim):
            if dimension.dim_value > 0 and dimension.dim_value != shape[axis]:
                fixed = "x".join(str(entry.dim_value or "?") for entry in kind.shape.dim)
                raise ToolchainError("emulator.input-dimension", where=where, name=name, fixed=fixed, shape=text)
        kind.shape.CopyFrom(onnx.TensorShapeProto())
        for size in shape:
            kind.shape.dim.add(dim_value=size)
    # What was inferred for the dynamic shapes is stale now.
    del source.graph.value_info[:]
    for value in source.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")


def _refuse_unknown(source: onnx.ModelProto, opset: int, where: str) -> None:
    unknown: dict[str, None] = {}
    stack = [source.graph]
    while stack:
        for node in stack.pop().node:
            stack.extend(attribute.g for attribute in node.attribute if attribute.HasField("g"))
            if emulation.knows(node):
                continue
            if node.domain not in _STANDARD:
                unknown[f"{node.domain}::{node.op_type}"] = None
            elif not onnx.defs.has(node.op_type, opset, ""):
                unknown[f"{node.op_type} (opset {opset})"] = None
    if unknown:
        raise ToolchainError("emulator.unknown-operators", where=where, operators=", ".join(unknown))


def _half_outputs(graph: onnx.GraphProto, types: Mapping[str, int], output_type: str | None) -> frozenset[str]:
    """Graph outputs that leave as float16."""
    floats = {value.name for value in graph.output if types.get(value.name) in (FLOAT, HALF)}
    asked = (output_type or "").upper()
    if asked == "FP16":
        return frozenset(floats)
    if asked == "FP32":
        return frozenset()
    halves = {name for name in floats if types[name] == HALF}
    if ":" in asked:  # node:index:TYPE;..., the other outputs keep their type
        nodes = {node.name: node for node in graph.node}
        for entry in (output_type or "").split(";"):
            name, _, rest = entry.rpartition(":")[0].rpartition(":")
            kind = entry.rpartition(":")[2].upper()
            if name in nodes and rest.isdigit() and int(rest) < len(nodes[name].output):
                tensor = nodes[name].output[int(rest)]
                if tensor in floats:
                    (halves.add if kind == "FP16" else halves.discard)(tensor)
    return frozenset(halves)


def _rewritten(source: onnx.ModelProto, rewriter: Rewriter) -> onnx.ModelProto:
    graph = onnx.GraphProto()
    graph.CopyFrom(source.graph)
    result = onnx.ModelProto(
        ir_version=source.ir_version,
        producer_name="pth2om emulator",
        producer_version=__version__,
    )
    result.graph.CopyFrom(rewriter.rewrite(graph))
    used = {"" if domain == "ai.onnx" else domain for domain in _domains(result.graph)} | {""}
    result.opset_import.extend(entry for entry in source.opset_import if entry.domain.replace("ai.onnx", "", 1) in used)
    return result


def _domains(graph: onnx.GraphProto) -> set[str]:
    found = {node.domain for node in graph.node}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= _domains(attribute.g)
    return found


def _specs(values: Sequence[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    specs = []
    for value in values:
        kind = value.type.tensor_type
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in kind.shape.dim
        )
        try:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        except KeyError:
            dtype = np.dtype(object)  # sequences and optionals
        specs.append(TensorSpec(value.name, shape, dtype))
    return tuple(specs)


def _findings(
    policy: Policy, soc: str, source: onnx.ModelProto, band: Band, inference: str | None
) -> tuple[Finding, ...]:
    found: list[Finding] = []
    if inference is not None:
        message = say("emulator.note-inference", reason=inference)
        found.append(Finding("emulator.shape-inference", "info", message))
    if band.counts["clipped"]:
        message = say("emulator.note-clipped", count=band.counts["clipped"])
        found.append(Finding("emulator.weights-clipped", "warning", message))
    if band.counts["vanished"]:
        message = say("emulator.note-vanished", count=band.counts["vanished"])
        found.append(Finding("emulator.weights-vanished", "info", message))
    kinds = {node.op_type for node in source.graph.node}
    if policy.scheme == "origin" and not policy.family.cube_fp32 and kinds & CUBE:
        message = say("emulator.note-no-cube-fp32", soc=soc)
        found.append(Finding("emulator.cube-without-fp32", "warning", message))
    if policy.scheme == "mixed":
        found.append(Finding("emulator.mix-list", "info", say("emulator.note-mix-list")))
    if any(tensor.data_type == TensorProto.DOUBLE for tensor in source.graph.initializer):
        found.append(Finding("emulator.double", "info", say("emulator.note-double")))
    if policy.family.evidence == "inferred":
        message = say("emulator.note-overflow-inferred", soc=soc, rule=policy.family.overflow)
        found.append(Finding("emulator.overflow-rule", "info", message))
    return tuple(found)
