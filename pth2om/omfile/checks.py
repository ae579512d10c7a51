"""Judges an OM: is it consistent, is it what was requested, was it made from this ONNX file?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pth2om.errors import GraphError, OmFileError
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.omfile.container import AICPU_KERNELS, MODEL_DEF, SO_BINS, TASKS, TBE_KERNELS, WEIGHTS
from pth2om.omfile.inout import OmTensor
from pth2om.omfile.model import OmModel
from pth2om.session import TensorSpec
from pth2om.spec import PRECISION_MODES

DEFAULT_MODE = "force_fp16"
_V2_MODES = {
    "fp16": "force_fp16",
    "origin": "must_keep_origin_dtype",
    "cube_fp16in_fp32out": "force_fp32",
    "mixed_float16": "allow_mix_precision",
    "mixed_bfloat16": "allow_mix_precision_bf16",
}
_SAME_MODES = {"allow_mix_precision_fp16": "allow_mix_precision", "cube_fp16in_fp32out": "force_fp32"}
"""Spellings of one mode. "ATC guide, --precision_mode_v2"."""
_GE_DTYPES = {
    "float32": "FLOAT", "float16": "FLOAT16", "float64": "DOUBLE", "bool": "BOOL", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip
_MATRIX = frozenset({"Conv2D", "Conv3D", "DepthwiseConv2D", "MatMul", "MatMulV2", "BatchMatMul", "BatchMatMulV2"})


def check(om: OmModel) -> list[Finding]:
    """Whether the parts of a file agree with each other.

    Returns:
        A warning for each disagreement: the recorded sizes against the partitions, the number of Data operators
        against the inputs, the header's name against ``--output``.

    Raises:
        OmFileError: the graph is damaged.
    """
    findings = []
    recorded = om.attributes.get("om_info_list")
    if isinstance(recorded, list):
        for kind, value in zip((WEIGHTS, TBE_KERNELS, AICPU_KERNELS, TASKS, SO_BINS), recorded, strict=False):
            actual = om.partition_size(kind)
            if value != actual:
                findings.append(_finding("size-differs", "warning", part=kind, recorded=value, actual=actual))
    roots = {"Data", "AippData", "AnnData", "RefData"}
    if om.from_records and om.partition_size(MODEL_DEF):
        first = om.operators[0].graph if om.operators else ""
        data = sum(operator.type in roots for operator in om.operators if operator.graph == first)
        if data != len(om.inputs):
            findings.append(_finding("inputs-differ", "warning", data=data, inputs=len(om.inputs)))
    output = om.flags.get("output")
    if output:
        # The header keeps 31 bytes of the base name.
        base = PurePosixPath(output).name.encode()[:31].decode("utf-8", "ignore")
        if om.header.name and om.header.name.removesuffix(".om") != base.removesuffix(".om"):
            findings.append(_finding("name-differs", "info", header=om.header.name, output=output))
    return findings


def check_against(
    om: OmModel,
    *,
    soc: str | None = None,
    inputs: Sequence[TensorSpec] | None = None,
    outputs: Sequence[TensorSpec] | None = None,
    precision: str | None = None,
) -> list[Finding]:
    """Whether a compiled OM is what was requested; an argument that is None is not judged.

    Args:
        om: the file.
        soc: e.g. ``Ascend310B1``.
        inputs: name, shape (None = dynamic) and dtype of each, in order.
        outputs: likewise, compared by position; an OM names them ``node:index:tensor``.
        precision: a precision of the spec (``fp16``, ``mixed``, ``int8``...) or a ``--precision_mode``.

    Returns:
        An error for each difference, a warning for what the file does not record.
    """
    findings: list[Finding] = []
    if soc is not None:
        if om.soc_version is None:
            findings.append(_finding("soc-not-recorded", "warning", asked=soc))
        elif om.soc_version != soc:
            findings.append(_finding("wrong-soc", "error", asked=soc, found=om.soc_version))
    if inputs is not None:
        findings += _compare("input", om.inputs, inputs)
    if outputs is not None:
        findings += _compare("output", om.outputs, outputs)
    if precision is not None:
        findings += _check_precision(om, precision)
    return findings


def precision_mode(om: OmModel) -> str | None:
    """The ``--precision_mode`` it was compiled with (atc's default if none was given); None if not recorded."""
    if om.atc_cmdline is None:
        return None
    flags = om.flags
    second = flags.get("precision_mode_v2")
    mode = _V2_MODES.get(second, second) if second else flags.get("precision_mode") or DEFAULT_MODE
    return _SAME_MODES.get(mode, mode)


@dataclass(frozen=True)
class SourceMatch:
    """How much of an ONNX graph is found in an OM.

    Attributes:
        nodes: named nodes of the ONNX graph.
        occurring: how many of their names occur anywhere in the OM's model definition.
        recorded: how many of them an operator records as its source or has as its own name.
        missing: names that do not occur; mostly constants and shape arithmetic that atc folds.
    """

    nodes: int
    occurring: int
    recorded: int
    missing: tuple[str, ...]

    @property
    def share(self) -> float:
        """``occurring / nodes``; 0 for a graph without named nodes."""
        return self.occurring / self.nodes if self.nodes else 0.0


def match_source(om: OmModel, onnx_path: Path) -> SourceMatch:
    """How many of an ONNX file's node names occur in an OM: was this OM made from that file?

    Raises:
        OmFileError: the ONNX file cannot be read, or the OM's graph is damaged.
    """
    from pth2om.onnxfile.reading import read

    try:
        graph = read(onnx_path).graph
    except GraphError as error:
        raise OmFileError("omfile.unreadable-onnx", where=str(onnx_path), reason=error.message.render()) from None
    names = frozenset(node.name for node in graph.node if node.name)
    recorded = names & {word for operator in om.operators for word in (operator.name, *operator.sources)}
    occurring = recorded | om.contains(names - recorded)
    return SourceMatch(len(names), len(occurring), len(recorded), tuple(sorted(names - occurring)))


def _compare(what: str, found: Sequence[OmTensor], asked: Sequence[TensorSpec]) -> Iterator[Finding]:
    if len(found) != len(asked):
        yield _finding(f"wrong-{what}-count", "error", asked=len(asked), found=len(found))
        return
    for tensor, spec in zip(found, asked, strict=True):
        if what == "input" and tensor.name != spec.name:
            yield _finding("wrong-input-name", "error", node=spec.name, asked=spec.name, found=tensor.name)
        if what == "output" and tensor.name.count(":") >= 2 and not tensor.name.endswith(":" + spec.name):
            yield _finding("wrong-output-name", "error", node=spec.name, asked=spec.name, found=tensor.name)
        shape = tuple(-1 if size is None else size for size in spec.shape)
        if tensor.shape != shape:
            yield _finding(
                "wrong-shape", "error", node=spec.name, name=spec.name, asked=str(shape), found=str(tensor.shape)
            )
        dtype = _GE_DTYPES.get(spec.dtype.name, spec.dtype.name.upper())
        if tensor.dtype != dtype:
            yield _finding("wrong-dtype", "error", node=spec.name, name=spec.name, asked=dtype, found=tensor.dtype)


_INTEGERS = {"INT4", "INT8", "UINT8"}
"""Inputs of quantized operators: a model that has no others has none that could be FLOAT16."""


def _check_precision(om: OmModel, precision: str) -> Iterator[Finding]:
    asked = PRECISION_MODES.get(precision, precision)
    asked = _SAME_MODES.get(asked, asked)
    found = precision_mode(om)
    if found is None:
        yield _finding("precision-not-recorded", "warning", asked=asked)
    elif found != asked:
        yield _finding("wrong-precision", "error", asked=asked, found=found)
    # The requested mode and the types that the operators really compute in can differ.
    matrix = [operator for operator in om.operators if operator.type in _MATRIX and operator.inputs]
    kinds = {operator.inputs[0] for operator in matrix}
    if precision == "int8":
        if matrix and "INT8" not in kinds:
            yield _finding("no-int8", "error", operators=len(matrix), kinds=", ".join(sorted(kinds)))
    elif asked == "force_fp16" and kinds - _INTEGERS and "FLOAT16" not in kinds:
        yield _finding("no-fp16", "error", operators=len(matrix), kinds=", ".join(sorted(kinds)))


def _finding(rule: str, severity: str, *, node: str | None = None, **values: str | int) -> Finding:
    return Finding(f"om.{rule}", severity, say(f"omfile.{rule}", **values), node, dict(values))  # type: ignore[arg-type]  # one of the three severities
