"""ONNX's own backend node tests, through the emulator.

Of the node tests at opset 8 to 18, those whose operators ATC registers and that plain ONNX Runtime passes: byte-equal
to ONNX Runtime in ``must_keep_origin_dtype``. In ``force_fp16`` every node is judged on its emulated inputs:
movement and arithmetic bit for bit, everything else within one float16 ulp of ONNX Runtime's float32 result.
"""

import functools
import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from pth2om.ascend.parser_table import opsets
from pth2om.toolchain.emulator.numerics import compile_numerics
from pth2om.toolchain.emulator.session import EmulatedOmSession

NOT_RUN = {
    "test_bernoulli": "random values: nothing to compare with",
    "test_bernoulli_double": "random values: nothing to compare with",
    "test_bernoulli_seed": "random values: nothing to compare with",
    "test_bernoulli_expanded": "random values: nothing to compare with",
    "test_bernoulli_double_expanded": "random values: nothing to compare with",
    "test_bernoulli_seed_expanded": "random values: nothing to compare with",
}
FEWEST = 560  # 592 with onnx 1.23 and onnxruntime 1.31; far fewer means that the selection went wrong
BIT_FOR_BIT = frozenset(
    [
        "Abs",
        "Ceil",
        "Clip",
        "Compress",
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Floor",
        "Gather",
        "GatherElements",
        "GatherND",
        "GlobalMaxPool",
        "Hardmax",
        "Identity",
        "Max",
        "MaxPool",
        "MaxUnpool",
        "Min",
        "Neg",
        "OneHot",
        "Pad",
        "ReduceMax",
        "ReduceMin",
        "Relu",
        "Reshape",
        "ReverseSequence",
        "Round",
        "Sign",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "ThresholdedRelu",
        "Tile",
        "TopK",
        "Transpose",
        "Trilu",
        "Unique",
        "Unsqueeze",
        "Where",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Cast",
        "CastLike",
    ]
)
PARAMETERS = {"Resize": {1, 2}, "Upsample": {1}, "Dropout": {1, 2}, "Range": {0, 1, 2}, "NonMaxSuppression": {3, 4}}
RANDOM = {"RandomNormalLike", "RandomUniformLike", "RandomNormal", "RandomUniform", "Bernoulli", "Multinomial"}


def options():
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    quiet.intra_op_num_threads = 1
    return quiet


def run_ort(model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString(), options(), providers=["CPUExecutionProvider"])
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds), strict=True))


def nodes_of(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)


def opset_of(model):
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def same(left, right):
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(same, left, right))
    if left is None or right is None:
        return left is right
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return left.tolist() == right.tolist() if left.dtype == object else left.tobytes() == right.tobytes()


@functools.cache
def eligible():
    """(name, model, [(feeds, ONNX Runtime's results)]) of every test the emulator must pass."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    found = []
    for test in tests:
        model, opset = test.model, opset_of(test.model)
        if not 8 <= opset <= 18 or test.name in NOT_RUN:
            continue
        kinds = {(node.domain, node.op_type) for node in nodes_of(model.graph)}
        if not all(kind == ("", "Constant") or opset in opsets(*kind) for kind in kinds):
            continue
        runs = []
        try:
            for inputs, expected in test.data_sets:
                names = [value.name for value in model.graph.input]
                feeds = {name: value for name, value in zip(names, inputs, strict=False) if value is not None}
                results = run_ort(model, feeds)
                for got, wanted in zip(results.values(), expected, strict=True):
                    if isinstance(wanted, np.ndarray) and wanted.dtype != object:
                        np.testing.assert_allclose(got, wanted, rtol=test.rtol, atol=test.atol)
                        assert got.dtype == wanted.dtype
                runs.append((feeds, results))
        except Exception:  # noqa: BLE001 - plain ONNX Runtime does not pass it
            continue
        found.append((test.name, model, runs))
    return found


def test_selection_is_large():
    assert len(eligible()) >= FEWEST


def test_must_keep_origin_dtype_is_byte_equal(tmp_path):
    wrong = []
    for number, (name, model, runs) in enumerate(eligible()):
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        compiled = compile_numerics(
            path,
            tmp_path / str(number),
            precision_mode="must_keep_origin_dtype",
            soc="Ascend310P3",
            output_type=None,
        )
        for band in compiled.bands:
            with EmulatedOmSession(compiled, band, threads=1) as session:
                for feeds, expected in runs:
                    got = session.run(feeds)
                    if not all(same(value, got.get(key)) for key, value in expected.items()):
                        wrong.append(f"{name} {band}")
    assert not wrong


def half(values, *, clip=False):
    with np.errstate(all="ignore"):
        if clip:
            values = np.where(np.isinf(values), values, np.clip(values, -65504, 65504))
        return values.astype(np.float16).astype(values.dtype)


def ulps(got, wanted):
    """Distance in float16 ulps of `wanted`; equal infinities and NaNs are at distance 0."""
    with np.errstate(all="ignore"):
        size = np.abs(np.where(np.isfinite(wanted), wanted, 1.0)).astype(np.float64)
        ulp = 2.0 ** (np.floor(np.log2(np.maximum(size, 2.0**-14))) - 10)
        distance = np.abs(got.astype(np.float64) - wanted.astype(np.float64)) / ulp
        return np.where((got == wanted) | (np.isnan(got) & np.isnan(wanted)), 0.0, distance)


def emulated_tensors(compiled, feeds):
    """Every top-level tensor of the unfused graph, by name."""
    model = onnx.load(str(compiled.folder / compiled.band("unfused").file))
    shown = {value.name for value in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in shown:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
                shown.add(name)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def judge(model, feeds, tensors, types):
    """Complaints about single nodes, each judged on its own emulated inputs."""
    values, constant = dict(feeds), {tensor.name for tensor in model.graph.initializer}
    values.update({tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer})
    for node in model.graph.node:
        given = [name for name in node.input if name]
        folded = node.op_type == "Constant" or (bool(given) and all(name in constant for name in given))
        folded = folded or node.op_type in ("Shape", "Size")
        inputs = {}
        for index, name in enumerate(node.input):
            array = values.get(name)
            if array is None:
                continue
            if isinstance(array, np.ndarray) and array.dtype in (np.float16, np.float32) and not folded:
                if index not in PARAMETERS.get(node.op_type, ()):
                    array = half(array, clip=name in constant)
                if name in types:
                    array = array.astype(onnx.helper.tensor_dtype_to_np_dtype(types[name]))
            inputs[name] = array
        if not all(isinstance(array, np.ndarray) for array in inputs.values()) or node.op_type in RANDOM:
            values.update({name: tensors[name] for name in node.output if name in tensors})
            continue
        graph = onnx.helper.make_graph(
            [node],
            "one",
            [
                onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                for name, array in inputs.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
        )
        one = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        wanted = run_ort(one, inputs)
        for name, reference in wanted.items():
            if folded:
                constant.add(name)
                values[name] = reference
                continue
            values[name] = got = tensors.get(name)
            if not isinstance(got, np.ndarray) or not isinstance(reference, np.ndarray):
                continue
            if reference.dtype not in (np.float16, np.float32):
                if not same(got, reference):
                    yield f"{node.op_type} {name}: {got} is not {reference}"
                continue
            rounded = half(reference)
            if got.shape != rounded.shape:
                yield f"{node.op_type} {name}: shape {got.shape}"
            elif not got.size:
                continue
            elif not np.array_equal(got, half(got), equal_nan=True):
                yield f"{node.op_type} {name}: not float16 values"
            elif (distance := float(ulps(got, rounded).max())) > (0 if node.op_type in BIT_FOR_BIT else 1):
                yield f"{node.op_type} {name}: {distance:.2f} ulp"


def test_force_fp16_is_within_the_contract(tmp_path):
    wrong, judged = [], 0
    for number, (name, model, runs) in enumerate(eligible()):
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        compiled = compile_numerics(
            path, tmp_path / str(number), precision_mode="force_fp16", soc="Ascend910B1", output_type=None
        )
        inferred = onnx.shape_inference.infer_shapes(model).graph
        types = {
            value.name: value.type.tensor_type.elem_type
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
            if value.type.HasField("tensor_type")
        }
        for feeds, expected in runs:
            tensors = emulated_tensors(compiled, feeds)
            wrong += [f"{name}: {complaint}" for complaint in judge(model, feeds, tensors, types)]
            judged += 1
            with EmulatedOmSession(compiled, "unfused", threads=1) as session:
                got = session.run(feeds)
            for key, value in expected.items():
                if isinstance(value, np.ndarray) and (got[key].dtype != value.dtype or got[key].shape != value.shape):
                    wrong.append(f"{name}: {key} is {got[key].dtype}{got[key].shape}")
    assert not wrong
    assert judged >= FEWEST
