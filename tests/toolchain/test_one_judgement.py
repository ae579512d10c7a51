"""`check`, `atc` and the emulator answer alike: what one calls an error the others refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from pth2om.ascend.atc_options import AtcOptions
from pth2om.ascend.target import Target
from pth2om.errors import AtcError
from pth2om.preflight import NOT_OF_THE_COMPILER, check
from pth2om.toolchain.emulator import EmulatorToolchain, front_end
from pth2om.toolchain.emulator.front_end.run import run_atc

Case = tuple[list[onnx.NodeProto], dict[str, list[Any]], dict[str, tuple[int, Any]], int, dict[str, Any]]


def node(kind: str, inputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), ["y"], name="n0", **attributes)


IMAGE: dict[str, list[Any]] = {"x": [1, 4, 16, 16]}
SCALES = {"s": (TensorProto.FLOAT, [1.0, 1.0, 2.0, 2.0])}
SCATTER = {"i": (TensorProto.INT64, [[1]]), "u": (TensorProto.FLOAT, [[1.0, 1.0, 1.0]])}
MISPLACED = {"p": (TensorProto.INT64, [0, 0, 1, 1, 0, 0, 1, 1])}

CASES: dict[str, Case] = {
    "plain": ([node("Relu", "x")], IMAGE, {}, 17, {}),
    "scatternd-mul": ([node("ScatterND", "x i u", reduction="mul")], {"x": [4, 3]}, SCATTER, 16, {}),
    "scatternd": ([node("ScatterND", "x i u")], {"x": [4, 3]}, SCATTER, 16, {}),
    "upsample-cubic": ([node("Upsample", "x s", mode="cubic")], IMAGE, SCALES, 9, {}),
    "upsample-linear": ([node("Upsample", "x s", mode="linear")], IMAGE, SCALES, 9, {}),
    "pad-mode": ([node("Pad", "x p", mode="wrap")], IMAGE, MISPLACED, 18, {}),
    "transpose-without-perm": ([node("Transpose", "x")], IMAGE, {}, 17, {}),
    "shape-range": ([node("Shape", "x", start=1)], IMAGE, {}, 15, {}),
    "not-registered": ([node("ReduceL2", "x")], IMAGE, {}, 18, {}),
    "range-on-310b": ([node("Relu", "x")], {"x": ["n", 4]}, {}, 17, {"input_shape": "x:1~8,4"}),
    "range-elsewhere": ([node("Relu", "x")], {"x": ["n", 4]}, {}, 17, {"input_shape": "x:1~8,4", "soc": "Ascend310P3"}),
    "one-of-two-inputs": ([node("Add", "x z")], {"x": ["n", 4], "z": ["n", 4]}, {}, 17, {"input_shape": "x:1,4"}),
    "gears": ([node("Relu", "x")], {"x": ["n", 4]}, {}, 17, {"input_shape": "x:-1,4", "dynamic_batch_size": "1,2"}),
    "another-rank": ([node("Relu", "x")], IMAGE, {}, 17, {"input_shape": "x:1,4"}),
    "another-input": ([node("Relu", "x")], IMAGE, {}, 17, {"input_shape": "xx:1,4,16,16"}),
}
WRONG = {
    "scatternd-mul", "upsample-cubic", "pad-mode", "transpose-without-perm", "shape-range", "not-registered",
    "range-on-310b", "one-of-two-inputs", "another-rank", "another-input",
}  # fmt: skip


def saved(case: Case, path: Path) -> Path:
    nodes, inputs, constants, opset, _ = case
    kind = TensorProto.INT64 if nodes[0].op_type == "Shape" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in inputs.items()],
        [helper.make_tensor_value_info("y", kind, None)],
        [helper.make_tensor(name, dtype, _sizes(values), _flat(values)) for name, (dtype, values) in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def _sizes(values: Any) -> list[int]:
    return [len(values), *_sizes(values[0])] if isinstance(values, list) else []


def _flat(values: Any) -> list[Any]:
    return [item for value in values for item in _flat(value)] if isinstance(values, list) else [values]


@pytest.mark.parametrize("name", CASES)
def test_the_same_answer_everywhere(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = saved(case, tmp_path / "m.onnx")
    asked = {"soc": "Ascend310B1", **case[4]}
    soc = asked.pop("soc")
    options = AtcOptions(model="m.onnx", output="m", soc_version=soc, input_format="ND", **asked)

    errors = [item for item in check(model, options=options) if item.severity == "error"]
    assert bool([item for item in errors if item.rule not in NOT_OF_THE_COMPILER]) == (name in WRONG)

    result = run_atc(options.command_line()[1:], cwd=tmp_path)
    assert (result.status != 0) == (name in WRONG)

    toolchain = EmulatorToolchain(Target.of(soc))
    (tmp_path / "om").mkdir()
    if name in WRONG:
        with pytest.raises(AtcError):
            toolchain.compile(model, options, tmp_path / "om")
    else:
        toolchain._check(model, options, tmp_path / "om")


def test_atc_says_what_check_says_of_another_size(tmp_path: Path) -> None:
    model = saved(CASES["plain"], tmp_path / "m.onnx")
    options = AtcOptions(model="m.onnx", output="m", soc_version="Ascend310B1", input_shape="x:1,4,32,32")
    (warning,) = (item for item in check(model, options=options) if item.rule == "preflight.shape-other")
    assert warning.message in run_atc(options.command_line()[1:], cwd=tmp_path).notes


def test_what_the_front_end_took_is_looked_at_once_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    real = front_end.check_model
    monkeypatch.setattr(front_end, "check_model", lambda *a: looked.append(a[0].model) or real(*a))
    path = saved(CASES["plain"], tmp_path / "m.onnx")
    config = tmp_path / "aipp.cfg"

    def ask(**more: Any) -> bool:
        options = AtcOptions(model=str(path), output="m", soc_version="Ascend310B1", **more)
        before = len(looked)
        EmulatorToolchain(Target.of("Ascend310B1")).refuses(path, options)
        return len(looked) > before

    assert [ask(), ask()] == [True, False]
    EmulatorToolchain(Target.of("Ascend310B1")).compile(
        path, AtcOptions(model=str(path), output="m", soc_version="Ascend310B1"), tmp_path / "c"
    )
    assert len(looked) == 1
    assert [ask(precision_mode="force_fp16"), ask(precision_mode="force_fp16")] == [True, False]
    mixlist = tmp_path / "mix.json"
    mixlist.write_text("{}")
    assert [ask(modify_mixlist=str(mixlist)), ask(modify_mixlist=str(mixlist))] == [True, True]
    for content in ("aipp_op { aipp_mode: dynamic }", "aipp_op {"):  # refused, for one reason or another: never kept
        config.write_text(content)
        assert [ask(insert_op_conf=str(config)), ask(insert_op_conf=str(config))] == [True, True]
    saved(CASES["scatternd"], path)
    assert [ask(), ask()] == [True, False]
    saved(CASES["not-registered"], path)
    assert [ask(), ask()] == [True, True]
