"""The ``.om`` of the doubles: a real container, with an emulated model where the weights would be.

Whoever reads the file finds what atc would have recorded: header, SoC, command line, inputs, outputs, gears. No NPU
could run it, and it says so: the 32 bytes at offset 120 (``userdefineinfo``, zeros in a real file) hold `MARK`.
"""

from __future__ import annotations

import io
import json
import platform
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pth2om.toolchain.emulator.gears import Geared
from pth2om.toolchain.emulator.numerics.compiled import Compiled
from tests.omfile import om_factory as make

MARK = b"pth2om double, runs on no NPU"
MARK_AT = 120
GEAR_INPUT = "ascend_mbatch_shape_data"
DTYPES = {
    "float32": 0, "float16": 1, "int8": 2, "int32": 3, "uint8": 4, "int16": 6, "uint16": 7, "uint32": 8, "int64": 9,
    "uint64": 10, "float64": 11, "bool": 12,
}  # fmt: skip
_PROTO = {0: 1, 1: 2, 2: 3, 3: 7, 4: 4, 6: 5, 7: 6, 8: 9, 9: 8, 10: 10, 11: 12, 12: 11}
_TYPES = {"Conv": "Conv2D", "Gemm": "MatMulV2", "MatMul": "BatchMatMulV2", "Relu": "Relu", "Add": "Add"}


class NotADoubleError(Exception):
    """A file that no double wrote, or a damaged one."""


@dataclass
class Tensor:
    """One input or output as `acl.mdl` describes it.

    Attributes:
        name: an output's is ``node:index:tensor``.
        dims: -1 where the gears differ or a range is open.
        second: the dims of the second form, for AIPP.
        dtype: number of ``aclDataType``.
        format: 0 NCHW, 1 NHWC, 2 ND.
        size: bytes of the largest gear; 0 of a range.
    """

    name: str
    dims: list[int]
    second: list[int]
    dtype: int
    format: int
    size: int


@dataclass
class Description:
    """What the double of `acl` knows of a model.

    Attributes:
        kind: ``static``, ``batch``, ``hw``, ``dims`` or ``range``.
        gears: of a ``batch`` one size each, of ``hw`` height and width, of ``dims`` the sizes of all inputs' axes.
        shapes: for each gear, the shape of each input.
        ranges: of a ``range``: input -> smallest and largest size of each axis.
        outputs_by_gear: for each gear, the shape of each output.
    """

    soc: str
    cann: str
    kind: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    gears: list[list[int]]
    shapes: list[dict[str, list[int]]]
    outputs_by_gear: list[list[list[int]]]
    ranges: dict[str, list[list[int]]]


def describe(
    model: Path, record: Compiled | Geared, flags: Mapping[str, str], *, soc: str, cann: str, aipp: Mapping[str, Any]
) -> Description:
    """What atc would record of a compiled model.

    Args:
        model: the ONNX file that was given.
        record: of the emulator.
        flags: of the command line.
        soc: that the file is for.
        cann: of the compiler.
        aipp: input -> shape of the model behind AIPP.
    """
    producers = _producers(model)
    records = list(record.compiled) if isinstance(record, Geared) else [record]
    kind = next((kind for kind, flag in _GEARS.items() if flags.get(flag)), "static")
    ranges: dict[str, list[list[int]]] = {}
    if isinstance(record, Geared) and kind == "static":
        kind = "range"
        ranges = {name: [list(pair) for pair in sizes] for name, sizes in record.gears[0].ranges.items()}
    inputs, outputs = [], []
    for place, spec in enumerate(records[0].inputs):
        shapes = [_sizes(item.inputs[place].shape) for item in records]
        dims = [-1 if len(set(sizes)) > 1 else sizes[0] for sizes in zip(*shapes, strict=True)]
        second = dims
        layout = 0 if len(dims) == 4 else 2
        if spec.name in aipp:
            layout, second, dims = 1, dims, list(aipp[spec.name])
        size = 0 if kind == "range" and -1 in dims else max(_bytes(sizes, spec.dtype) for sizes in shapes)
        inputs.append(Tensor(spec.name, dims, second, DTYPES[spec.dtype.name], layout, size))
    results = [_results(model, item, aipp if kind in _GEARS else {}) for item in records]
    for place, spec in enumerate(records[0].outputs):
        shapes = [found[place] for found in results]
        if len(records) == 1 and not spec.shape and kind == "static":
            # The emulator's joined INT8 operators lose their shapes; atc infers them anew.
            shapes = [_declared(model).get(spec.name, shapes[0])]
        largest = max(shapes, key=lambda sizes: _bytes(sizes, spec.dtype))
        name = f"{producers.get(spec.name, spec.name + ':0')}:{spec.name}"
        size = 0 if -1 in largest else _bytes(largest, spec.dtype)
        layout = 0 if len(largest) == 4 else 2
        outputs.append(Tensor(name, largest, largest, DTYPES[spec.dtype.name], layout, size))
    gears: list[list[int]] = []
    if kind in _GEARS:
        text = flags[_GEARS[kind]].strip("\"'")
        gears = [
            [int(size) for size in group.split(",")]
            for group in (text.split(",") if kind == "batch" else text.strip(";").split(";"))
        ]
        if kind == "dims":
            gears = [[size for shape in _ordered(item) for size in shape] for item in records]
        count = {"batch": 1, "hw": 2}.get(kind, sum(len(tensor.dims) for tensor in inputs))
        # "index[1]: name[ascend_mbatch_shape_data], inputSize[8], format[2], dataType[9]", [16] with height and width:
        # the vendor's sample of YOLOv3 with dynamic batch and dynamic image size.
        inputs.append(Tensor(GEAR_INPUT, [count], [count], DTYPES["int64"], 2, 8 * count))
    by_gear = [{spec.name: _sizes(spec.shape) for spec in item.inputs} for item in records]
    return Description(
        soc=soc,
        cann=cann,
        kind=kind,
        inputs=inputs,
        outputs=outputs,
        gears=gears,
        shapes=by_gear,
        outputs_by_gear=[[tensor.dims for tensor in outputs]] if kind == "static" else results,
        ranges=ranges,
    )


def _results(model: Path, record: Compiled, aipp: Mapping[str, Sequence[int]]) -> list[list[int]]:
    """The shape of each output of one gear; behind AIPP the emulator leaves them open, and atc infers them."""
    import onnx

    found = [_sizes(spec.shape) for spec in record.outputs]
    if not aipp or all(-1 not in sizes for sizes in found):
        return found
    proto = onnx.load(model, load_external_data=False)
    for spec in record.inputs:
        value = next(value for value in proto.graph.input if value.name == spec.name)
        sizes = _sizes(spec.shape)
        known = [sizes[0], *list(aipp[spec.name])[1:]] if spec.name in aipp else sizes
        for dim, size in zip(value.type.tensor_type.shape.dim, known, strict=True):
            dim.dim_value = size
    for value in proto.graph.output:  # what it declares by name would win over what is inferred
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(proto).graph
    return [[dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim] for value in graph.output]


def _declared(model: Path) -> dict[str, list[int]]:
    """The fixed shapes that the ONNX file declares for its outputs."""
    import onnx

    found = {}
    for value in onnx.load(model, load_external_data=False).graph.output:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if all(size > 0 for size in sizes):
            found[value.name] = sizes
    return found


_GEARS = {"batch": "dynamic_batch_size", "hw": "dynamic_image_size", "dims": "dynamic_dims"}


def write(
    folder: Path,
    model: Path,
    description: Description,
    *,
    name: str,
    command: str,
    atc_version: str,
    half: bool,
    int8: bool = True,
) -> bytes:
    """The bytes of the ``.om``.

    Args:
        folder: of the emulated model.
        model: the ONNX file, whose node names go into the graph.
        description: of `describe`.
        name: base name of ``--output``.
        command: that atc records, beginning with its own path.
        atc_version: likewise.
        half: whether matrix operators compute in float16.
        int8: whether quantized ones compute in INT8.
    """
    weights = _packed(folder, description)
    kernels = make.kernels(("te_double_kernel0", b"\x7fELF pth2om double"))
    tasks = b""
    attributes = {
        "atc_version": make.text(atc_version),
        "atc_cmdline": make.text(command),
        "soc_version": make.text(description.soc),
        "framework_type": make.text("Onnx"),
        "opp_version": make.text(atc_version),
        "om_info_list": make.ints(len(weights), len(kernels), 0, len(tasks), 0),
        "attr_model_out_nodes_name": make.strings(*(tensor.name for tensor in description.outputs)),
    }
    definition = make.model_def(_operators(model, description, half=half, int8=int8), attributes)
    parts = [(8, _inout(description)), (0, definition), (1, weights), (3, kernels), (2, tasks)]
    data = bytearray(make.om(parts, name=name[:31]))
    data[MARK_AT : MARK_AT + len(MARK)] = MARK
    data[192] = data[193] = int(description.kind == "range")
    return bytes(data)


def read(data: bytes, folder: Path) -> Description:
    """Unpack the emulated model into ``folder``.

    Raises:
        NotADoubleError: see there.
    """
    if data[:4] != b"IMOD" or data[MARK_AT : MARK_AT + len(MARK)] != MARK:
        raise NotADoubleError("no double wrote this file")
    (length,) = struct.unpack_from("<Q", data, 184)
    if length != len(data) - 256:
        raise NotADoubleError(f"{length} bytes were recorded, {len(data) - 256} are there")
    (count,) = struct.unpack_from("<I", data, 256)
    at = 256 + 8 + 24 * count
    for number in range(count):
        kind, _, offset, size = struct.unpack_from("<IIQQ", data, 264 + 24 * number)
        if kind == 1:
            with zipfile.ZipFile(io.BytesIO(data[at + offset : at + offset + size])) as archive:
                archive.extractall(folder)
    rows = json.loads((folder / "description.json").read_text())
    for side in ("inputs", "outputs"):
        rows[side] = [Tensor(**row) for row in rows[side]]
    return Description(**rows)


def suffix(description: Description, *, cpu: str | None = None) -> str:
    """``.om``, or ``_linux_aarch64.om`` where the file carries host code (atc.md 2.3)."""
    return f"_linux_{cpu or platform.machine()}.om" if description.kind == "range" else ".om"


def _packed(folder: Path, description: Description) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("description.json"), json.dumps(asdict(description)))
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.writestr(zipfile.ZipInfo(file.relative_to(folder).as_posix()), file.read_bytes())
    return out.getvalue()


def _inout(description: Description) -> bytes:
    def record(tensor: Tensor) -> bytes:
        dims, second = (struct.pack(f"<{len(dims)}q", *dims) for dims in (tensor.dims, tensor.second))
        pairs = [size for pair in description.ranges.get(tensor.name, []) for size in pair]
        raw = tensor.name.encode()
        lengths = (len(raw), len(dims), len(second), 8 * len(pairs))
        head = struct.pack("<QiiIIII", tensor.size, tensor.format, tensor.dtype, *lengths)
        return head + raw + dims + second + struct.pack(f"<{len(pairs)}q", *pairs)

    more = []
    if description.kind == "batch":
        flat = [gear[0] for gear in description.gears]
        more.append(make.tlv(2, struct.pack(f"<I{len(flat)}Q", len(flat), *flat)))
    elif description.gears:
        groups = description.gears
        sizes = struct.pack(f"<I{len(groups)}I", len(groups), *map(len, groups))
        values = b"".join(struct.pack(f"<{len(group)}q", *group) for group in groups)
        more.append(make.tlv(3 if description.kind == "hw" else 4, sizes + values))
    return make.inout(
        tuple(record(tensor) for tensor in description.inputs),
        tuple(record(tensor) for tensor in description.outputs),
        *more,
    )


def _operators(model: Path, description: Description, *, half: bool, int8: bool) -> tuple[bytes, ...]:
    def data(tensor: Tensor) -> bytes:
        shape = tuple(tensor.dims)
        return make.operator(tensor.name, "Data", (make.description(_PROTO[tensor.dtype], shape),))

    float_type = 2 if half else 1
    operators = [data(tensor) for tensor in description.inputs]
    for number, (name, kind, quantized) in enumerate(_nodes(model)):
        inputs = (make.description(3 if quantized and int8 else float_type, (1,)), make.description(float_type, (1,)))
        operators.append(make.operator(name or f"{kind}_{number}", _TYPES.get(kind, kind), inputs))
    outputs = tuple(make.description(_PROTO[tensor.dtype], tuple(tensor.dims)) for tensor in description.outputs)
    return (*operators, make.operator("Node_Output", "NetOutput", outputs))


def _nodes(model: Path) -> list[tuple[str, str, bool]]:
    """Name and type of each node, and whether it reads an INT8 tensor first."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    quantized = {name for node in graph.node if node.op_type == "AscendQuant" for name in node.output}
    return [(node.name, node.op_type, bool(node.input) and node.input[0] in quantized) for node in graph.node]


def _producers(model: Path) -> dict[str, str]:
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    return {
        name: f"{node.name or node.op_type}:{index}" for node in graph.node for index, name in enumerate(node.output)
    }


def _ordered(record: Compiled) -> list[list[int]]:
    return [_sizes(spec.shape) for spec in record.inputs]


def _sizes(shape: Sequence[int | None]) -> list[int]:
    return [-1 if size is None else int(size) for size in shape]


def _bytes(sizes: Sequence[int], dtype: np.dtype[Any]) -> int:
    return int(np.prod([max(size, 0) for size in sizes], dtype=np.int64)) * dtype.itemsize
