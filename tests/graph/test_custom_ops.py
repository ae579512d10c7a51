"""The published walk-through's file, and what ``pth2om fix`` makes of custom operators: proved bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pth2om.ascend.custom_ops import Operators, find
from pth2om.custom_ops.bodies import load_bodies
from pth2om.custom_ops.exporting import attach
from pth2om.explain import explain
from pth2om.graph.contract import PassSettings
from pth2om.graph.fixing import fix
from pth2om.onnxfile.runtime import open_runtime, run_runtime
from pth2om.preflight import check
from pth2om.toolchain.emulator.front_end import run_atc
from pth2om.toolchain.emulator.numerics.compiling import compile_numerics
from pth2om.toolchain.emulator.session import EmulatedOmSession

MSDA = find("npu", "MultiScaleDeformableAttn")
assert MSDA is not None
HALF, INT64, INT32, FLOAT = TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT
BODY = Path(__file__).parents[2] / "models" / "msda"


def published(opset: int = 11, domain: str = "npu", half: int = HALF, imports: int = 2) -> onnx.ModelProto:
    """What the published walk-through exports: halves and INT64, cast for the integers only, the wrong output shape."""
    inputs = [
        ("value", half, (2, 16, 8, 32)),
        ("shapes", INT64, (1, 2)),
        ("level_start_index", INT64, (1,)),
        ("sampling_locations", half, (2, 5, 8, 1, 4, 2)),
        ("attention_weights", half, (2, 5, 8, 1, 4)),
    ]
    names = [name for name, _, _ in inputs]
    nodes = [helper.make_node("Cast", [name], [f"{name}_i"], name=f"cast_{name}", to=INT32) for name in names[1:3]]
    fed = [names[0], "shapes_i", "level_start_index_i", *names[3:]]
    nodes.append(helper.make_node("MultiScaleDeformableAttn", fed, ["output"], name="msda", domain=domain))
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info("output", half, (2, 16, 8, 32))],
    )
    every = [helper.make_opsetid("", opset), helper.make_opsetid("npu", 1)]
    return helper.make_model(graph, opset_imports=every[:imports], ir_version=6)


def write(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def rules(path: Path, cann: str = "9.x", soc: str = "Ascend910B2") -> set[str]:
    return {item.rule.removeprefix("preflight.") for item in check(path, soc=soc, cann=cann) if item.severity != "info"}


def test_the_published_file_ends_in_its_own_faq_and_is_mended_by_casts(tmp_path: Path) -> None:
    model = published()
    body = MSDA.model_copy(update={"body": "body.py:multi_scale_deformable_attn"})
    with Operators((MSDA,)).known():
        plain = write(model, tmp_path / "published.onnx")
        assert {"custom-dtype", "custom-shape"} <= rules(plain)
        (dtype, *_) = [item for item in check(plain, soc="Ascend910B2") if item.rule == "preflight.custom-dtype"]
        assert "float16" in dtype.message.render("en")
        assert "float16" in dtype.message.render("zh")
        # With the host body the file runs, and so the casts are proved: not one bit of the output changes.
        attach(model, [body], load_bodies([body], BODY))
        before = write(model, tmp_path / "before.onnx")
        fixed = fix(before, tmp_path / "after.onnx", settings=PassSettings(), soc="Ascend910B2", names=["custom-types"])
        assert [entry["proven"] for entry in fixed.cleaned.details] == [True], fixed.cleaned.findings
        assert rules(tmp_path / "after.onnx") & {"custom-dtype", "custom-shape"} == set()
    after = onnx.load(tmp_path / "after.onnx")
    kinds = [node.op_type for node in after.graph.node]
    assert kinds.count("Cast") == 2 + 3 + 1
    assert [dim.dim_value for dim in after.graph.output[0].type.tensor_type.shape.dim] == [2, 5, 256]
    random = np.random.default_rng(1)
    feeds = {
        "value": random.uniform(-1, 1, (2, 16, 8, 32)).astype(np.float16),
        "shapes": np.array([[4, 4]]),
        "level_start_index": np.array([0]),
        "sampling_locations": random.uniform(-0.1, 1.1, (2, 5, 8, 1, 4, 2)).astype(np.float16),
        "attention_weights": random.uniform(0, 1, (2, 5, 8, 1, 4)).astype(np.float16),
    }
    one, other = (
        run_runtime(open_runtime(path, threads=1), feeds)["output"] for path in (before, tmp_path / "after.onnx")
    )
    assert one.dtype == other.dtype == np.float16
    assert np.array_equal(one, other)
    assert np.abs(one).max() > 0


@pytest.mark.parametrize(
    ("opset", "merged", "left"),
    [(13, {""}, set()), (11, {""}, set()), (14, {"", "npu"}, {"several-custom-domains"})],
)
def test_two_domains_are_merged_for_cann_7_where_the_plugin_allows(
    tmp_path: Path, opset: int, merged: set[str], left: set[str]
) -> None:
    with Operators((MSDA,)).known():
        path = write(published(opset, half=FLOAT), tmp_path / "m.onnx")
        line = ["--model=m.onnx", "--framework=5", "--output=m", "--soc_version=Ascend910B2"]
        said = run_atc(line, cann="7.0", cwd=tmp_path).text
        assert "E16005: The model has [2] [--domain_version] fields" in said
        assert [entry.id for entry in explain(said)] == ["P02"]
        settings = PassSettings(cann="7.0", keep_unproven=True)
        fixed = fix(path, tmp_path / "f.onnx", settings=settings, soc="Ascend910B2", names=["custom-domains"])
        assert {item.domain for item in onnx.load(tmp_path / "f.onnx").opset_import} == merged
        assert rules(tmp_path / "f.onnx", "7.0") & {"several-domains", "several-custom-domains"} == left
        notes = {finding.rule for finding in fixed.cleaned.findings}
        assert ("graph.custom-domains-opset" in notes) is bool(left)
        if not left:
            done = run_atc([*line[1:], "--model=f.onnx"], cann="7.0", cwd=tmp_path)
            assert "E16005" not in done.text
            assert done.status == 0, done.text


def test_an_operator_merged_at_opset_14_goes_back_into_its_own_domain(tmp_path: Path) -> None:
    with Operators((MSDA,)).known():
        path = write(published(14, domain="", half=FLOAT, imports=1), tmp_path / "m.onnx")
        line = ["--framework=5", "--output=m", "--soc_version=Ascend910B2"]
        said = run_atc([*line, "--model=m.onnx"], cann="9.x", cwd=tmp_path)
        assert "ai.onnx::14::MultiScaleDeformableAttn" in said.text
        assert explain(said.text)[0].id == "P01"
        assert "custom-opset" in rules(path)
        fix(path, tmp_path / "f.onnx", settings=PassSettings(keep_unproven=True), names=["custom-domains"])
        assert "custom-opset" not in rules(tmp_path / "f.onnx")
        assert run_atc([*line, "--model=f.onnx"], cann="9.x", cwd=tmp_path).status == 0


def test_without_package_and_declaration_there_is_no_parser(tmp_path: Path) -> None:
    path = write(published(half=FLOAT), tmp_path / "m.onnx")
    assert "custom-no-parser" in rules(path)
    (finding,) = (item for item in check(path) if item.rule == "preflight.custom-no-parser")
    assert "ASCEND_CUSTOM_OPP_PATH" in (finding.message.fix("en") or "")


@pytest.mark.parametrize(("soc", "missing"), [("Ascend310B1", True), ("Ascend910B2", False), ("Ascend310P3", False)])
def test_a_chip_without_a_kernel(tmp_path: Path, soc: str, missing: bool) -> None:
    with Operators((MSDA,)).known():
        assert ("custom-no-kernel" in rules(write(published(half=FLOAT), tmp_path / "m.onnx"), soc=soc)) is missing


@pytest.mark.parametrize(
    ("heads", "embed", "levels", "points", "count"),
    [(8, 256, 8, 8, 0), (9, 32, 1, 4, 1), (8, 264, 1, 4, 1), (8, 36, 1, 4, 1), (8, 32, 5, 13, 1), (9, 36, 5, 13, 3)],
)
def test_each_limit_is_a_finding(tmp_path: Path, heads: int, embed: int, levels: int, points: int, count: int) -> None:
    weights = (1, 3, heads, levels, points)
    inputs = [
        ("v", FLOAT, (1, 99, heads, embed)),
        ("s", INT32, (levels, 2)),
        ("l", INT32, (levels,)),
        ("p", FLOAT, (*weights, 2)),
        ("w", FLOAT, weights),
    ]
    graph = helper.make_graph(
        [helper.make_node("MultiScaleDeformableAttn", [name for name, _, _ in inputs], ["y"], "msda", domain="npu")],
        "g",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info("y", FLOAT, (1, 3, heads * embed))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("npu", 1)], ir_version=7)
    found = [item for item in check(write(model, tmp_path / "m.onnx")) if item.rule == "preflight.custom-limit"]
    assert len(found) == count
    assert all(item.message.fix("en") and item.message.fix("zh") for item in found)


def test_what_a_package_lacks_is_a_finding(tmp_path: Path) -> None:
    """As the published wheel: kernels and prototypes, no ONNX plug-in; and one without prototypes."""
    import json

    from pth2om.ascend.operator_package import read_package

    info = tmp_path / "p/op_impl/ai_core/tbe/config/ascend910b/aic-ascend910b-ops-info.json"
    info.parent.mkdir(parents=True)
    ports = {
        f"input{place}": {"name": port.name, "dtype": "float16" if port.name == "value" else port.dtypes[0]}
        for place, port in enumerate(MSDA.inputs)
    }
    info.write_text(json.dumps({MSDA.op_type: ports}), encoding="utf-8")
    package = read_package(tmp_path / "p")
    path = write(published(half=FLOAT), tmp_path / "m.onnx")
    with Operators((MSDA,), {MSDA.label: package}).known():
        found = rules(path)
    assert {"custom-no-plugin", "custom-no-proto", "custom-package-differs", "custom-no-parser"} <= found
    (told,) = explain("Can not find Node [msda] custom infer_datatype func.")
    assert told.id == "P08"
    (told,) = explain("EZ3002: Optype [MultiScaleDeformableAttn] of Ops kernel [AIcoreEngine] is unsupported.")
    assert told.id == "C02"


def test_what_was_merged_for_cann_7_still_runs_and_is_proved(tmp_path: Path) -> None:
    """Its function goes with it: in ONNX Runtime and in the emulator it gives the same bits as in its own domain."""
    model = published(13, half=FLOAT)
    body = MSDA.model_copy(update={"body": "body.py:multi_scale_deformable_attn"})
    with Operators((MSDA,)).known():
        attach(model, [body], load_bodies([body], BODY))
        before = write(model, tmp_path / "before.onnx")
        settings = PassSettings(cann="7.0")
        after = tmp_path / "after.onnx"
        fixed = fix(before, after, settings=settings, soc="Ascend910B2", names=["custom-domains"])
        assert [entry["proven"] for entry in fixed.cleaned.details] == [True], fixed.cleaned.findings
        assert {node.domain for node in onnx.load(after).graph.node} == {""}
        assert [item.domain for item in onnx.load(after).opset_import] == [""]
        compiled = compile_numerics(after, tmp_path / "om", precision_mode="must_keep_origin_dtype", soc="Ascend910B2")
        # Later releases get it back, and it runs there too.
        fix(after, tmp_path / "back.onnx", settings=PassSettings(), names=["custom-domains"])
    random = np.random.default_rng(2)
    feeds = {
        "value": random.uniform(-1, 1, (2, 16, 8, 32)).astype(np.float32),
        "shapes": np.array([[4, 4]]),
        "level_start_index": np.array([0]),
        "sampling_locations": random.uniform(-0.1, 1.1, (2, 5, 8, 1, 4, 2)).astype(np.float32),
        "attention_weights": random.uniform(0, 1, (2, 5, 8, 1, 4)).astype(np.float32),
    }
    runs = [run_runtime(open_runtime(path, threads=1), feeds)["output"] for path in (before, after)]
    runs.append(run_runtime(open_runtime(after.read_bytes(), threads=1), feeds)["output"])
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])
    with EmulatedOmSession(compiled, "unfused", threads=1) as session:
        emulated = session.run(feeds)["output"]
    assert emulated == pytest.approx(runs[0], abs=1e-5)


def test_an_import_that_only_a_function_needs_goes(tmp_path: Path) -> None:
    """A graph of custom operators alone: for CANN 7 it has one domain as it is, and still runs."""
    model = published(17, half=FLOAT)
    del model.graph.node[:2]
    model.graph.node[0].input[1:3] = ["shapes", "level_start_index"]
    for value in model.graph.input[1:3]:
        value.type.tensor_type.elem_type = INT32
    body = MSDA.model_copy(update={"body": "body.py:multi_scale_deformable_attn"})
    with Operators((MSDA,)).known():
        attach(model, [body], load_bodies([body], BODY))
        path = write(model, tmp_path / "m.onnx")
        assert "several-domains" in rules(path, "7.0")
        line = ["--framework=5", "--output=m", "--soc_version=Ascend910B2"]
        fix(path, tmp_path / "f.onnx", settings=PassSettings(cann="7.0"), names=["opset-imports"])
        assert "several-domains" not in rules(tmp_path / "f.onnx", "7.0")
        assert run_atc([*line, "--model=f.onnx"], cann="7.0", cwd=tmp_path).status == 0
    assert [item.domain for item in onnx.load(tmp_path / "f.onnx").opset_import] == ["npu"]
    open_runtime(tmp_path / "f.onnx", threads=1)
