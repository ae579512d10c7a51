"""Small graphs, and what the emulator and ONNX Runtime compute with them."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pth2om.toolchain.emulator.numerics import compile_numerics
from pth2om.toolchain.emulator.session import EmulatedOmSession

SOC = "Ascend910B1"
FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def half(values):
    with np.errstate(all="ignore"):
        return np.asarray(values).astype(np.float16).astype(np.float32)


def value(name, kind=FLOAT, shape=("n",)):
    return helper.make_tensor_value_info(name, kind, list(shape))


def save(path, nodes, inputs, outputs, initializers=None, opset=13, **more):
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (initializers or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    imports = [helper.make_opsetid("", opset), *more.pop("imports", [])]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8, **more), path)
    return path


def compiled_run(path, feeds, mode="force_fp16", band="fused", soc=SOC, **options):
    compiled = compile_numerics(path, path.parent / f"{mode}-{soc}", precision_mode=mode, soc=soc, **options)
    with EmulatedOmSession(compiled, band, threads=1) as session:
        return session.run(feeds)


def conv_net(tmp_path, nodes_after, constants=None, outputs=("y",), channels=4):
    generator = np.random.default_rng(11)
    initial = {
        "w": generator.standard_normal((channels, 3, 3, 3)).astype(np.float32),
        "b": generator.standard_normal(channels).astype(np.float32),
        **(constants or {}),
    }
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4), *nodes_after]
    path = save(
        tmp_path / "conv.onnx",
        nodes,
        [value("x", shape=(1, 3, 6, 6))],
        [value(name, shape=(1, channels, 6, 6)) for name in outputs],
        initial,
    )
    return path, generator.standard_normal((1, 3, 6, 6)).astype(np.float32), initial


def plain(path, feeds, optimize=False):
    options = onnxruntime.SessionOptions()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def conv_of(tmp_path, x, w, b):
    """ONNX Runtime's float32 convolution of given values."""
    node = helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4)
    shape = (1, w.shape[0], 6, 6)
    path = save(tmp_path / "one.onnx", [node], [value("x", shape=x.shape)], [value("c", shape=shape)], {"w": w, "b": b})
    return plain(path, {"x": x})[0]


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))
