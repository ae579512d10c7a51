"""A finding that advises a pass of ``pth2om fix`` is gone after that pass: each such sentence has its example here."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest

from pth2om.graph.contract import PassSettings
from pth2om.graph.fixing import fix
from pth2om.language import catalogue
from pth2om.preflight import check

NAMED = {
    key: tuple(re.findall(r"--pass ([a-z0-9-]+)", entry["fix"]["en"]))
    for key, entry in catalogue("preflight").items()
    if "--pass " in entry.get("fix", {}).get("en", "")
}


@dataclass(frozen=True)
class Example:
    """A model in ONNX's text form on which a rule fires, and what its remedy needs to be told."""

    graph: str
    opset: int = 17
    imports: str = ""
    ir: int = 8
    cann: str = "9.x"
    settings: dict[str, Any] = field(default_factory=dict)
    functions: str = ""


X = "g (float[1,3,8,8] x) => (float[1,3,8,8] y)"
RELU = f"{X} {{ y = Relu(x) }}"
SIZES = {"input_shapes": {"x": (1, 3, 8, 8)}}

NPU = ', "npu" : 1'
MSDA = (
    "g (FLOAT[1,16,HEADS,8] v, int32[1,2] s, int32[1] l, FLOAT[1,5,HEADS,1,4,2] p, FLOAT[1,5,HEADS,1,4] w) => "
    "(FLOAT[1,5,64] y) { y = npu.MultiScaleDeformableAttn (v, s, l, p, w) }"
)
OWN_MSDA = (
    '<domain: "npu", opset_import: ["" : 17]> MultiScaleDeformableAttn (v, s, l, p, w) => (y) '
    "{ y = ReduceSum <keepdims = 0> (v) }"
)

EXAMPLES = {
    "opset-too-new": Example(RELU, opset=19),
    "operator-not-yet": Example("g (float[1,4] x, int64[1] a) => (float[1,1] y) { y = ReduceL2 (x, a) }", opset=18),
    "decompose": Example(
        f"{X.replace('3,8', '4,8')} <float[2] s = {{1,2}}, float[2] b = {{0,1}}> "
        "{ y = GroupNormalization <num_groups = 2> (x, s, b) }",
        opset=18,
    ),
    "never-registered": Example(
        "g (float[1,64] x) => (float[1,64] r, float[1,n,m,k] y) <int64 s = {8}, float[8] w = {1,1,1,1,1,1,1,1}> "
        "{ r = Relu(x) y = STFT(r, s, w) }",
        settings={"outputs": ("r",)},
    ),
    "foreign-domain-known": Example(f"{X} {{ y = mmcv.Relu(x) }}", imports=', "mmcv" : 1'),
    "local-function": Example(
        f"{X} {{ y = local.Twice(x) }}",
        imports=', "local" : 1',
        functions='<opset_import: ["" : 17], domain: "local"> Twice (a) => (b) { b = Add(a, a) }',
    ),
    "domain-not-imported": Example(f"{X} {{ y = mmcv.Relu(x) }}"),
    "several-domains": Example(RELU, imports=', "mmcv" : 1', cann="7.0"),
    "unused-domains": Example(RELU, imports=', "mmcv" : 1'),
    "names-repeated": Example(f"{X} {{ [n] a = Relu(x) [n] y = Relu(a) }}"),
    "names-shared": Example(f"{X} {{ [x] y = Relu(x) }}"),
    "no-outputs": Example("g (float[1,3] x) => () { y = Relu(x) }", settings={"outputs": ("y",)}),
    "input-no-shape": Example("g (float[] x) => (float[] y) { y = Relu(x) }", settings=SIZES),
    "attribute-missing": Example("g (float[2,3] x) => (float[3,2] y) { y = Transpose(x) }"),
    "clip-open": Example(f"{X} {{ y = Clip(x) }}"),
    "pad-axes": Example(
        "g (float[1,8] x) => (float[1,10] y) <int64[2] p = {1,1}, int64[1] a = {1}> { y = Pad(x, p, , a) }", opset=18
    ),
    "unsorted": Example(f"{X} {{ y = Relu(a) a = Relu(x) }}"),
    "constant-form": Example(f"{X} {{ c = Constant <value_float = 1.0> () y = Add(x, c) }}"),
    "if-node": Example(
        f"{X} <bool c = {{1}}> {{ y = If (c) <then_branch = t () => (float[1,3,8,8] a) {{ a = Relu(x) }}, "
        "else_branch = e () => (float[1,3,8,8] b) { b = Neg(x) }> }"
    ),
    "ir-absent": Example(RELU, ir=0),
    "ir-new": Example(RELU, ir=11),
    "int64-arithmetic": Example(
        "g (float[1,8] x) => (float[1] y) <int64[1] s = {1}> "
        "{ i = ArgMax <axis = 1, keepdims = 0> (x) j = Add(i, s) y = Cast <to = 1> (j) }"
    ),
    "int64-output": Example("g (float[1,8] x) => (int64[1,1] y) { y = ArgMax <axis = 1> (x) }"),
    "resize-dynamic": Example(
        "g (float[n,3,8,8] x) => (float[n,3,m,k] y) <int64[4] two = {1,1,2,2}> { s = Shape(x) t = Mul(s, two) "
        'y = Resize <mode = "linear", coordinate_transformation_mode = "asymmetric"> (x, , , t) }',
        settings=SIZES,
    ),
    "split-uneven": Example(
        "g (float[1,8] x) => (float[1,3] a, float[1,3] b, float[1,2] c) "
        "{ a, b, c = Split <axis = 1, num_outputs = 3> (x) }",
        opset=18,
    ),
    "nms": Example(
        "g (float[1,9,4] x, float[1,2,9] s) => (float[1,9,4] b, float[1,2,9] r, int64[n,3] y) <int64 m = {3}> "
        "{ b = Relu(x) r = Relu(s) y = NonMaxSuppression(b, r, m) }",
        settings={"outputs": ("b", "r")},
    ),
    "topk-k": Example(
        "g (float[n,3,8,8] x) => (float[n,3,8,k] y) <int64[1] last = {3}> "
        "{ s = Shape(x) k = Gather(s, last) y, i = TopK(x, k) }",
        settings=SIZES,
    ),
    "einsum": Example(
        'g (float[2,3] x, float[3,4] z) => (float[2,4] y) { y = Einsum <equation = "ij,jk->ik"> (x, z) }'
    ),
    "conv-1d": Example(
        "g (float[1,1,8] x) => (float[1,1,8] y) <float[1,1,1] w = {2.0}> "
        "{ c = Conv <kernel_shape = [1]> (x, w) y = Relu(c) }"
    ),
    "shape-range": Example(
        "g (float[n,3,8,8] x) => (float[n,3,m] y) <int64[2] lead = {-1,3}> { s = Shape <start = 2> (x) "
        "p = ReduceProd <keepdims = 1> (s) t = Concat <axis = 0> (lead, p) y = Reshape(x, t) }",
        settings=SIZES,
    ),
    "layernorm": Example(
        "g (float[1,8] x) => (float[1,8] y) <float[8] w = {1,1,1,1,1,1,1,1}> { y = LayerNormalization(x, w) }"
    ),
    "dynamic-input": Example("g (float[n,3,8,8] x) => (float[n,3,8,8] y) { y = Relu(x) }", settings=SIZES),
    "zero-size": Example("g (float[0,3,8,8] x) => (float[0,3,8,8] y) { y = Relu(x) }", settings=SIZES),
    "constant-large": Example(
        f"{X} <float[8] c = {{0,0,0,0,0,0,0,-1e9}}> {{ a = Add(x, c) y = Softmax <axis = 3> (a) }}"
    ),
    "constant-infinite": Example(
        f"{X} <float[8] c = {{0,0,0,0,0,0,0,-77}}> {{ a = Add(x, c) y = Softmax <axis = 3> (a) }}"
    ),
    "custom-dtype": Example(MSDA.replace("FLOAT", "float16").replace("HEADS", "8"), imports=NPU),
    "custom-shape": Example(
        MSDA.replace("FLOAT", "float").replace("HEADS", "8").replace("(float[1,5,64] y)", "(float[1,16,8,8] y)"),
        imports=NPU,
    ),
    "custom-opset": Example(MSDA.replace("FLOAT", "float").replace("HEADS", "8").replace("npu.", ""), opset=14),
    "several-custom-domains": Example(
        MSDA.replace("FLOAT", "float")
        .replace("HEADS", "8")
        .replace("Deformable", "Deformable")
        .replace("{ y = ", "{ z = Relu(v) y = ")
        .replace("Attn (v", "Attn (z"),
        opset=13,
        imports=NPU,
        cann="7.0",
    ),
    "custom-limit": Example(
        MSDA.replace("FLOAT", "float").replace("HEADS", "9"), imports=NPU, functions=OWN_MSDA, ir=9
    ),
    "custom-no-kernel": Example(
        MSDA.replace("FLOAT", "float").replace("HEADS", "8"), imports=NPU, functions=OWN_MSDA, ir=9
    ),
    "whole-numbers": Example(
        f"{X.replace('(float[1,3,8,8] y)', '(float[1,3,8,8] r, float[1,3,8,8] y)')} "
        "<float c = {2049}> { r = Relu(x) y = Add(r, c) }",
        settings={"outputs": ("r",)},
    ),
}


def made(example: Example, path: Path) -> Path:
    head = f'<ir_version: 8, opset_import: ["" : {example.opset}{example.imports}]>'
    model = onnx.parser.parse_model(f"{head} {example.graph} {example.functions}")
    for tensor in model.graph.initializer:  # the text form knows no infinity: -77 stands for it
        values = onnx.numpy_helper.to_array(tensor)
        if (values == -77).any():
            infinite = np.where(values == -77, -np.inf, values).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(infinite, tensor.name))
    if example.ir != 8:
        model.ir_version = example.ir
    path.write_bytes(model.SerializeToString())
    return path


def test_every_advice_has_an_example() -> None:
    assert set(EXAMPLES) == set(NAMED)
    for key, entry in catalogue("preflight").items():
        chinese = entry.get("fix", {}).get("zh", "")
        assert tuple(re.findall(r"--pass ([a-z0-9-]+)", chinese)) == NAMED.get(key, ()), key


@pytest.mark.parametrize("rule", sorted(EXAMPLES))
def test_the_pass_that_is_advised_removes_the_finding(rule: str, tmp_path: Path) -> None:
    example = EXAMPLES[rule]
    model = made(example, tmp_path / "m.onnx")
    before = {item.rule: item for item in check(model, soc="Ascend310B1", cann=example.cann)}
    assert f"preflight.{rule}" in before, sorted(before)
    assert tuple(re.findall(r"--pass ([a-z0-9-]+)", before[f"preflight.{rule}"].message.fix("en") or "")) == NAMED[rule]
    settings = PassSettings(cann=example.cann, simplifier="onnxslim", keep_unproven=True, **example.settings)
    fixed = fix(model, tmp_path / "fixed.onnx", settings=settings, soc="Ascend310B1", names=NAMED[rule])
    left = [str(item.message) for item in fixed.after if item.rule == f"preflight.{rule}"]
    assert left == [], [str(item.message) for item in fixed.cleaned.findings]


def test_a_foreign_operator_without_import_is_not_sent_to_a_pass_that_does_nothing(tmp_path: Path) -> None:
    model = made(Example(f"{X} {{ y = vendor.FusedConv(x) }}"), tmp_path / "m.onnx")
    (finding,) = (item for item in check(model) if "domain-not-imported" in item.rule)
    assert finding.rule == "preflight.domain-not-imported-foreign"
    assert "--pass" not in (finding.message.fix("en") or "")
