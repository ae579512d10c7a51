"""Small ONNX nets that exercise every layer kind; shared by the tests of quantize/."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def tensor(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def model(nodes, initializers, inputs, outputs, opset=13):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        initializers,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    onnx.checker.check_model(made, full_check=True)
    return made


def every_kind(seed=0, channels=24):
    """Conv+BN, depth-wise, grouped, strided; ConvTranspose (grouped too), AveragePool, Gemm, MatMul+Add."""
    g = np.random.default_rng(seed)

    def w(*shape, fan=None):
        fan = fan or int(np.prod(shape[1:]))
        return (g.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)

    c = channels
    init = [
        tensor("w1", w(c, c, 3, 3)),
        tensor("gamma", g.uniform(-1.5, 1.5, c).astype(np.float32)),
        tensor("beta", w(c, fan=1)),
        tensor("mean", w(c, fan=1)),
        tensor("var", g.uniform(0.5, 2, c).astype(np.float32)),
        tensor("w2", w(c, 1, 3, 3)),
        tensor("b2", w(c, fan=1)),
        tensor("w3", w(2 * c, c // 4, 3, 3)),
        tensor("b3", w(2 * c, fan=1)),
        tensor("w4", w(2 * c, c, 2, 2, fan=2 * c)),
        tensor("b4", w(c, fan=1)),
        tensor("w5", w(c, c // 3, 3, 3, fan=3 * c)),
        tensor("w6", w(40, c)),
        tensor("b6", w(40, fan=1)),
        tensor("w7", w(40, 10, fan=40)),
        tensor("b7", w(10, fan=1)),
        tensor("shape", np.asarray([0, -1], np.int64)),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["t1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["t1", "gamma", "beta", "mean", "var"], ["t2"], name="bn1"),
        helper.make_node("Relu", ["t2"], ["t3"], name="relu1"),
        helper.make_node("Conv", ["t3", "w2", "b2"], ["t4"], name="dw", group=c, pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["t4"], ["t5"], name="relu2"),
        helper.make_node("Conv", ["t5", "w3", "b3"], ["t6"], name="grouped", group=4, pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["t6"], ["t7"], name="tanh"),
        helper.make_node("ConvTranspose", ["t7", "w4", "b4"], ["t8"], name="up", strides=[2, 2]),
        helper.make_node("ConvTranspose", ["t8", "w5"], ["t9"], name="up_grouped", group=3, pads=[1, 1, 1, 1]),
        helper.make_node(
            "AveragePool", ["t9"], ["t10"], name="pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        helper.make_node("GlobalAveragePool", ["t10"], ["t11"], name="gap"),
        helper.make_node("Reshape", ["t11", "shape"], ["t12"], name="flatten"),
        helper.make_node("Gemm", ["t12", "w6", "b6"], ["t13"], name="fc", transB=1),
        helper.make_node("MatMul", ["t13", "w7"], ["t14"], name="matmul"),
        helper.make_node("Add", ["t14", "b7"], ["y"], name="add"),
    ]
    return model(nodes, init, [("x", [2, c, 8, 8])], [("y", [2, 10])])


def feeds(count=4, channels=24, seed=1, batch=2, size=8):
    g = np.random.default_rng(seed)
    return [{"x": g.standard_normal((batch, channels, size, size)).astype(np.float32)} for _ in range(count)]
