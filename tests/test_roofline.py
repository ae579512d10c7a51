"""The roofline estimate: work counted by hand, and bounds that stay bounds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pth2om.roofline import estimate, work


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(shape, np.float32), name)


def model(nodes, inputs, outputs, weights) -> onnx.ModelProto:
    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes, "g", [value(*entry) for entry in inputs], [value(*entry) for entry in outputs], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_a_convolution_by_hand() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2], group=2)
    done = work(model([node], [("x", [1, 8, 10, 10])], [("y", [1, 6, 5, 5])], [weight("w", 6, 4, 3, 3)]))
    assert done["flop"] == 2 * (6 * 5 * 5) * (4 * 3 * 3)
    assert done["parameters"] == 6 * 4 * 9
    assert (done["input_elements"], done["output_elements"]) == (800, 150)
    assert done["uncounted_count"] == 0


def test_transposed_convolution_matmul_and_gemm_by_hand() -> None:
    up = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], kernel_shape=[2, 2])
    assert work(model([up], [("x", [1, 3, 4, 4])], [("y", None)], [weight("w", 3, 5, 2, 2)]))["flop"] == (
        2 * 3 * 16 * 5 * 4
    )
    product = helper.make_node("MatMul", ["a", "b"], ["y"])
    done = work(model([product], [("a", [2, 7, 11]), ("b", [2, 11, 13])], [("y", [2, 7, 13])], []))
    assert done["flop"] == 2 * 2 * 7 * 11 * 13
    gemm = helper.make_node("Gemm", ["a", "w"], ["y"], transA=1, transB=1)
    done = work(model([gemm], [("a", [11, 7])], [("y", [7, 13])], [weight("w", 13, 11)]))
    assert done["flop"] == 2 * 7 * 11 * 13


def test_symbolic_batches_need_a_shape_and_unknown_work_is_said() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="c")
    net = model([node], [("x", ["n", 3, 8, 8])], [("y", None)], [weight("w", 4, 3, 1, 1)])
    unknown = work(net)
    assert (unknown["flop"], unknown["uncounted"]) == (0, ["c"])
    assert work(net, {"x": (2, 3, 8, 8)})["flop"] == 2 * 2 * work(net, {"x": (1, 3, 8, 8)})["flop"] / 2


DONE = {"flop": 10**9, "parameters": 10**6, "input_elements": 10, "output_elements": 10, "uncounted_count": 0}


def test_the_peak_is_the_higher_of_derived_and_published() -> None:
    old = estimate(DONE, "Ascend310")
    assert old["peak_tflops"] >= 11
    board = estimate(DONE, "Ascend310B4")
    assert board["estimate"] is True
    assert board["milliseconds"] >= 1e3 * 1e9 / (4.1e12) - 1e-12
    assert board["fps"] == pytest.approx(1000 / board["milliseconds"])
    assert estimate(DONE, "Ascend310B4", quantized=True)["milliseconds"] < board["milliseconds"]
    assert estimate(DONE, "Ascend310B4", batch=4)["fps"] == pytest.approx(4 * board["fps"])


def test_what_is_not_known_is_not_invented() -> None:
    assert estimate(DONE, "Ascend4711") is None
    assert estimate(DONE, "Ascend035")["milliseconds"] is None
    assert estimate(DONE, "Ascend910B3")["peak_unconfirmed"] is True
    assert estimate({**DONE, "flop": 0}, "Ascend310B1")["fps"] is None or estimate(DONE, "Ascend310B1")["bandwidth_gbs"]
