"""Deploy models of other tools, traced to the float model they were made from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from pth2om.errors import QuantizeError
from pth2om.quantize import QuantizeSettings, api, audit
from pth2om.quantize.external_model import adopted_plan
from pth2om.quantize.network import open_session, run_session
from pth2om.quantize.plan import make_plan
from pth2om.quantize.twins import fake_quant, integer
from tests.quantize.quantize_nets import every_kind, feeds, model, tensor


@pytest.fixture(scope="module")
def made():
    return make_plan(every_kind(), feeds(), QuantizeSettings(weights="arq", balance="off"))


def node_of(deploy, name):
    return next(node for node in deploy.graph.node if node.name == name)


def constant_of(deploy, name):
    return next(entry for entry in deploy.graph.initializer if entry.name == name)


def told(plan):
    """Names of the INT8 rows of the table; every layer has one row."""
    rows = list(api.layer_reports(plan))
    assert len({row.name for row in rows}) == len(rows)
    return {row.name for row in rows if row.int8}


def test_what_another_tool_made_is_traced_whole(made):
    deploy = made.deploy()
    plan = adopted_plan(every_kind(), deploy)
    assert plan.quantized.keys() == made.quantized.keys()
    assert not plan.untraced
    for name, quantized in plan.quantized.items():
        if quantized.weight is not None:
            assert np.array_equal(quantized.weight, made.quantized[name].weight)
            assert np.allclose(quantized.scale, made.quantized[name].scale, rtol=1e-6)


def test_balanced_layers_are_traced_too_but_not_those_before_a_batchnorm(made):
    balanced = make_plan(every_kind(), feeds(), QuantizeSettings())
    assert balanced.balances
    assert adopted_plan(every_kind(), balanced.deploy()).quantized.keys() == balanced.quantized.keys()
    deploy = made.deploy()
    dequant = node_of(deploy, "conv1.dequant")
    values = [tensor(f"bn{number}", np.ones(24, np.float32)) for number in range(4)]
    deploy.graph.initializer.extend(values)
    inner, result = "before_bn", dequant.output[0]
    dequant.output[0] = inner
    names = [inner, *(value.name for value in values)]
    deploy.graph.node.append(onnx.helper.make_node("BatchNormalization", names, [result], name="left"))
    assert [row.name for row in adopted_plan(every_kind(), deploy).untraced] == ["conv1"]


def test_a_gemm_may_keep_its_weight_transposed(made):
    plain, turned = made.deploy(), made.deploy()
    gemm = node_of(turned, "fc")
    weight = constant_of(turned, gemm.input[1])
    value = np.ascontiguousarray(onnx.numpy_helper.to_array(weight).T)
    weight.CopyFrom(onnx.numpy_helper.from_array(value, weight.name))
    gemm.attribute.append(onnx.helper.make_attribute("transB", 1))
    assert audit.form(turned, fake_quant(turned)) == []
    assert adopted_plan(every_kind(), turned).quantized.keys() == made.quantized.keys()
    (batch,) = feeds(1)
    for twin in (fake_quant, integer):
        (wanted,), (got,) = (
            run_session(open_session(twin(each), exact=True), batch).values() for each in (plain, turned)
        )
        assert np.array_equal(wanted, got)
    gemm.attribute.append(onnx.helper.make_attribute("alpha", 2.0))
    with pytest.raises(QuantizeError, match="fc"):
        fake_quant(turned)


def test_another_layers_weight_under_a_name_is_not_taken_for_the_layers():
    g = np.random.default_rng(0)
    nodes, weights = [], []
    for number in range(3):
        weights.append(tensor(f"w{number}", g.standard_normal((24, 24, 3, 3)).astype(np.float32)))
        source, result = ("x" if number == 0 else f"t{number}"), ("y" if number == 2 else f"t{number + 1}")
        nodes.append(onnx.helper.make_node("Conv", [source, f"w{number}"], [result], name=f"c{number}", pads=[1] * 4))
    net = model(nodes, weights, [("x", [2, 24, 8, 8])], [("y", [2, 24, 8, 8])])
    deploy = make_plan(net, feeds(), QuantizeSettings()).deploy()
    first, second = node_of(deploy, "c0"), node_of(deploy, "c1")
    first.name, second.name = "c1", "c0"
    plan = adopted_plan(net, deploy)
    assert list(plan.quantized) == ["c2"]
    assert told(plan) == {"c0", "c1", "c2"} == set(audit.int8_layers(deploy))
    reports, findings, details = api.described(plan, deploy, feeds(1))
    assert (details["int8_layers"], details["candidate_layers"], len(reports)) == (3, 3, 3)
    assert [error["layer"] for error in details["errors"]] == ["c2"]
    assert "quantize.untraced" in {finding.rule for finding in findings}


def test_a_fused_layer_is_int8_and_said_once(made):
    deploy = made.deploy()
    dequant = next(node for node in deploy.graph.node if node.name == "grouped.dequant")
    dequant.attribute.append(onnx.helper.make_attribute("relu_flag", 1))
    plan = adopted_plan(every_kind(), deploy)
    assert "grouped" not in plan.quantized
    assert told(plan) == set(audit.int8_layers(deploy))
    (row,) = [row for row in api.layer_reports(plan) if row.name == "grouped"]
    assert (row.kind, row.int8, row.reason) == ("Conv", True, "")


def test_a_bias_that_is_computed_is_refused(made):
    deploy = made.deploy()
    layer = node_of(deploy, "grouped")
    bias = layer.input[2]
    layer.input[2] = "computed"
    deploy.graph.node.insert(0, onnx.helper.make_node("Identity", [bias], ["computed"], name="identity"))
    with pytest.raises(QuantizeError, match="grouped"):
        fake_quant(deploy)


def test_a_bias_of_another_size_is_refused(made):
    deploy = made.deploy()
    bias = constant_of(deploy, node_of(deploy, "grouped").input[2])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros(3, np.int32), bias.name))
    assert [message.key for message in audit.form(deploy)] == ["quantize.form-size"]
    with pytest.raises(QuantizeError, match="grouped"):
        adopted_plan(every_kind(), deploy)
