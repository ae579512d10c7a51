"""ATC's front end: its lines, order, quirks, reports, and that nothing makes it fall over."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pth2om.ascend.atc_options import FLAGS, AtcOptions
from pth2om.language import say
from pth2om.toolchain.emulator.front_end import AtcResult, check_model, run_atc
from pth2om.toolchain.emulator.front_end.flags import RANGES, lex
from pth2om.toolchain.emulator.front_end.shapes import parse_ranges, parse_static
from pth2om.toolchain.emulator.front_end.texts import TEXTS, AtcRefusedError, failure

BASE = ["--model=m.onnx", "--framework=5", "--output=m", "--soc_version=Ascend310B1"]


def save(path, nodes, inputs=(("x", (1, 3, 8, 8)),), outputs=("y",), initializers=(), opset=13, imports=(), kind=1):
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(initializers),
    )
    domains = [helper.make_opsetid("", opset), *(helper.make_opsetid(*item) for item in imports)]
    onnx.save(helper.make_model(graph, opset_imports=domains), str(path))


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"], "relu")])
    return tmp_path


def codes(folder, *more, cann="9.x", base=BASE):
    return [code for code, _ in run_atc([*base, *more], cann=cann, cwd=folder).errors]


# ------------------------------------------------------------------------------------------------ lines and order


def test_three_lines_of_success(folder):
    result = run_atc(BASE, cwd=folder)
    lines = result.text.splitlines()
    assert lines[:3] == [
        "ATC start working now, please wait for a moment.",
        "...",
        "ATC run success, welcome to the next use.",
    ]
    assert "no .om was written" in lines[-1]
    assert result.status == 0
    assert [path.name for path in folder.iterdir()] == ["m.onnx"]


def test_three_generations_of_one_error(tmp_path):
    save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"], "relu")], opset=19)
    new, middle, old = (
        run_atc([word.replace("310B1", "310P3") for word in BASE], cwd=tmp_path, cann=cann).text.splitlines()
        for cann in ("9.x", "8.0", "7.0")
    )
    assert "Not_Supported_Operator(E13010): No operator plugin is registered for Op: relu" in new[3]
    assert new[3].startswith("[PID: ")
    assert middle[3].startswith("E19010: [PID: ")
    assert middle[3].endswith("No parser is registered for Op [relu, optype [ai.onnx::19::Relu]].")
    assert old[2] == "E19010: No parser is registered for Op [relu, optype [ai.onnx::19::Relu]]."


def test_log_of_two_domains_is_reproduced(data_root, tmp_path):
    """A user's log of CANN 6: the model imports two domains, its nodes name none."""
    save(
        tmp_path / "model_new_uie.onnx",
        [helper.make_node("Relu", ["x"], ["y"], "relu")],
        imports=[("com.microsoft", 1)],
    )
    log = (data_root / "logs" / "e16005_two_opset_domains_310.txt").read_text(encoding="utf-8").splitlines()
    command = next(line for line in log if line.startswith("# command: atc "))
    printed = [line for line in log if not line.startswith("#")]
    result = run_atc(command.removeprefix("# command: atc ").split(), cann="7.0", cwd=tmp_path)
    lines = result.text.splitlines()
    assert lines[: len(printed) - 2] == printed[:-2]
    # The last two lines differ by the number of the source line only, which changes from build to build.
    for ours, theirs in zip(lines[len(printed) - 2 :], printed[-2:], strict=False):
        assert theirs.startswith(ours)
    assert (
        run_atc(
            [word.replace("310B1", "310P3") for word in BASE[1:]] + ["--model=model_new_uie.onnx"], cwd=tmp_path
        ).status
        == 0
    )


def test_flags_come_before_soc_before_model(folder):
    (folder / "m.onnx").write_bytes(b"")
    wrong_soc = [*BASE[:3], "--soc_version=Ascend999"]
    assert codes(folder, "--precision_mode=fp16", base=wrong_soc)[0] == "E10001"
    assert codes(folder, "--input_shape=x:0", base=wrong_soc)[0] == "EE1011"
    assert codes(folder, "--input_shape=x:0")[0] == "E10011"
    assert codes(folder)[0] == "E13015"


def test_errors_after_the_verdict_name_the_remedy(folder):
    text = run_atc([*BASE[:3], "--soc_version=ascend310b1"], cwd=folder).text
    assert "Ascend310B1" in text


def test_what_is_wrong_in_an_aipp_file_reads_as_text(folder):
    (folder / "a.cfg").write_text("aipp_op {\n  aipp_mode: static\n  rotation_angle: 90\n}\n")
    text = run_atc([*BASE, "--insert_op_conf=a.cfg"], cwd=folder).text
    assert "a.cfg:3" in text
    assert say("aipp.rotation-angle").fix() in text
    assert "\\n" not in text


@pytest.mark.parametrize("mode", ["dynamic", "statik"])
def test_an_aipp_refusal_names_its_line_in_a_sentence(folder, mode):
    (folder / "a.cfg").write_text(f"# camera\naipp_op {{\n  aipp_mode: {mode}\n}}\n")
    text = run_atc([*BASE, "--insert_op_conf=a.cfg"], cwd=folder).text
    assert not [line for line in text.splitlines() if line.startswith("pth2om: a.cfg:") and " " not in line[8:].strip()]
    assert "a.cfg:2" in text or "a.cfg:3" in text


# -------------------------------------------------------------------------------------------------------- lexing


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--modle=m"], "ERROR: unknown command line flag 'modle'"),
        (["m.onnx"], "ERROR: Non-option parameter: m.onnx"),
        (["--model"], "ERROR: flag '--model' is missing its argument"),
        (["-x"], "ERROR: unknown command line flag 'x'"),
    ],
)
def test_lexer_failures(words, line, tmp_path, capsys):
    result = run_atc(words, cwd=tmp_path, stderr=sys.stderr)
    assert capsys.readouterr().err.startswith(line)
    assert result.status == 255
    assert "An unknown error occurred. Please check the log." in result.text
    assert "..." not in result.text.splitlines()


def test_spellings():
    flags = lex(["--soc-version", "a", "-model=b", "--mode=3", "--mode=0"])
    assert (flags["soc_version"], flags["model"], flags.mode) == ("a", "b", 0)
    # A required argument takes the next word, whatever it looks like.
    assert lex(["--model", "--output=x"]).given == {"model": "--output=x"}


def test_help(tmp_path):
    result = run_atc(["--help"], cwd=tmp_path)
    assert result.status == 0
    assert all(f"--{name}=" in result.text for name in FLAGS)


@pytest.mark.parametrize("name", sorted(RANGES))
def test_enumerated_flags_are_case_sensitive_and_never_empty(name):
    for value in RANGES[name]:
        assert lex([f"--{name}={value}"])[name] == value
    for value in ("", RANGES[name][0].upper() + "?"):
        with pytest.raises(AtcRefusedError):
            lex([f"--{name}={value}"])


# --------------------------------------------------------------------------------------------------- input shapes


def test_static_shapes():
    assert parse_static("a:b:1, 2 ,3;s:") == {"a:b": (1, 2, 3), "s": ()}


def test_a_minus_one_inside_a_name_makes_it_a_range(tmp_path):
    """``data-1`` holds "-1", so the value is read as a range and checked against the model's sizes."""
    save(tmp_path / "m.onnx", [helper.make_node("Relu", ["data-1"], ["y"])], inputs=[("data-1", (1, 3, 8, 8))])
    assert codes(tmp_path, "--input_shape=data-1:1,3,8,8") == []
    assert codes(tmp_path, "--input_shape=data-1:1,3,16,16")[0] == "E10050"


def test_static_shapes_replace_without_comparing(folder):
    assert codes(folder, "--input_shape=x:4,5,6,7") == []
    assert codes(folder, "--input_shape=x:4,5,6")[0] == "E19999"
    assert "4" in run_atc([*BASE, "--input_shape=x:4,5,6"], cwd=folder).text.split("pth2om:")[1]


def test_ranges():
    assert parse_ranges("x:1~8,3,-1,5~5") == {"x": ((1, 8), (3, 3), (0, -1), (5, 5))}
    assert parse_ranges("x:[1~8,3]", brackets=True) == {"x": ((1, 8), (3, 3))}


def test_undeclared_input_takes_any_rank(tmp_path):
    save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], inputs=[("x", None)])
    assert codes(tmp_path, "--input_shape=x:4,5,6") == []


@given(st.text(st.sampled_from("x:;,~-1234567890.[] ab"), max_size=40))
def test_shape_texts_never_fall_over(text):
    for parse in (parse_static, parse_ranges):
        try:
            for sizes in parse(text).values():
                assert isinstance(sizes, tuple)
        except AtcRefusedError as refused:
            codes = {item.code for item in refused.failures}
        else:
            codes = set()
        assert codes <= set(TEXTS)


# ------------------------------------------------------------------------------------------------------ ONNX model


def test_check_result_json(tmp_path):
    weights = [numpy_helper.from_array(np.ones(3, np.float32), name) for name in ("zeta", "alpha")]
    nodes = [
        helper.make_node("Add", ["x", "zeta"], ["a"]),
        helper.make_node("GridSample", ["a", "alpha"], ["y"], "sample"),
    ]
    save(tmp_path / "m.onnx", nodes, inputs=[("x", (3,))], initializers=weights)
    result = run_atc([*(word for word in BASE if "output" not in word), "--mode=3"], cwd=tmp_path)
    assert result.status == 255
    report = json.loads((tmp_path / "check_result.json").read_text())
    assert {key: report[key] for key in ("name", "result", "total", "pass", "fail")} == {
        "name": "",
        "result": "failed",
        "total": 5,
        "pass": 4,
        "fail": 1,
    }
    assert [(entry["name"], entry["type"]) for entry in report["op"]] == [
        ("Add_0", "ai.onnx::13::Add"),
        ("sample", "ai.onnx::13::GridSample"),
        ("x", "Input"),
        ("alpha_Initializer_0", "Constant"),
        ("zeta_Initializer_1", "Constant"),
    ]
    assert report["op"][1]["cause"] == [{"code": 1, "message": "The type is not supported."}]


def test_mode_3_does_not_look_at_shapes(folder):
    assert codes(folder, "--mode=3", "--input_shape=images:1,2,3") == []
    assert json.loads((folder / "check_result.json").read_text())["result"] == "success"


def test_all_misses_are_listed(tmp_path):
    nodes = [helper.make_node("Gelu", ["x"], ["a"], "g"), helper.make_node("Swish", ["a"], ["y"], "s")]
    save(tmp_path / "m.onnx", nodes)
    assert [text for code, text in run_atc(BASE, cwd=tmp_path).errors if code == "E13010"] == [
        "No operator plugin is registered for Op: g, optype: ai.onnx::13::Gelu.",
        "No operator plugin is registered for Op: s, optype: ai.onnx::13::Swish.",
    ]


def test_a_node_named_as_the_input(tmp_path):
    save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"], "x")])
    assert codes(tmp_path)[0] == "E13009"


def test_an_initialized_input_is_no_input(tmp_path):
    weight = numpy_helper.from_array(np.ones((1, 3, 8, 8), np.float32), "w")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    save(tmp_path / "m.onnx", nodes, inputs=[("x", (1, 3, 8, 8)), ("w", (1, 3, 8, 8))], initializers=[weight])
    assert codes(tmp_path) == []
    assert codes(tmp_path, "--input_shape=w:1,3,8,8")[0] == "E10017"


def test_if_needs_exactly_its_branches(tmp_path):
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["t"])], "b", [], [helper.make_tensor_value_info("t", 1, None)]
    )
    condition = helper.make_node("Greater", ["x", "x"], ["c"])
    save(tmp_path / "m.onnx", [condition, helper.make_node("If", ["c"], ["y"], then_branch=branch)])
    assert "attribute size:1 must be 2" in run_atc(BASE, cwd=tmp_path).errors[0][1]
    both = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    save(tmp_path / "m.onnx", [condition, both])
    assert codes(tmp_path) == []


def test_local_function_is_an_unknown_operator(tmp_path):
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 13)]
    )
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["y"], "t", domain="mine")],
        "g",
        [helper.make_tensor_value_info("x", 1, [2])],
        [helper.make_tensor_value_info("y", 1, [2])],
    )
    imports = [helper.make_opsetid("", 13), helper.make_opsetid("mine", 1)]
    onnx.save(helper.make_model(graph, functions=[function], opset_imports=imports), str(tmp_path / "m.onnx"))
    text = run_atc(BASE, cwd=tmp_path).text
    assert "optype: mine::1::Twice." in text
    assert "inline-functions" in text


def test_plugin_refusals_have_no_text_of_atc_but_one_of_ours(tmp_path):
    save(tmp_path / "m.onnx", [helper.make_node("Transpose", ["x"], ["y"], "flip")])
    text = run_atc(BASE, cwd=tmp_path).text
    assert "An unknown error" in text or "Inner Error" in text
    assert "perm" in text
    assert "flip" in text


def test_soc_names_of_their_time(folder):
    def taken(name, cann):
        return not codes(folder, base=[*BASE[:3], f"--soc_version={name}"], cann=cann)

    assert taken("Ascend310", "7.0")
    assert not taken("Ascend310", "9.x")
    assert taken("Ascend710", "7.0")
    assert not taken("Ascend710", "8.0")
    assert taken("Ascend910", "8.0")
    assert taken("Ascend310P3", "7.0")
    assert taken("Ascend310P3", "9.x")
    assert not taken("Ascend950PR_9599", "8.0")
    assert taken("Ascend950PR_9599", "9.x")
    assert not taken("ascend310p3", "9.x")


def test_outputs(folder):
    assert codes(folder, "--out_nodes=relu:0") == []
    assert codes(folder, "--out_nodes=relu:1")[0] == "E10003"
    assert codes(folder, "--out_nodes=other:0")[0] == "E10016"
    assert codes(folder, "--out_nodes=relu:0;y")[0] == "E10001"
    assert codes(folder, "--out_nodes=y") == []
    assert codes(folder, "--out_nodes=relu:0", "--output_type=relu:0:FP16") == []
    assert codes(folder, "--output_type=relu:0:FP16")[0] == "E10001"


def test_paths(folder):
    (folder / "a b").mkdir()
    (folder / "a b" / "m.onnx").write_bytes((folder / "m.onnx").read_bytes())
    assert "Chinese characters" in run_atc(["--model=a b/m.onnx", *BASE[1:]], cwd=folder).text
    (folder / "模型").mkdir()
    (folder / "模型" / "m.onnx").write_bytes((folder / "m.onnx").read_bytes())
    assert run_atc(["--model=模型/m.onnx", *BASE[1:]], cwd=folder).status == 0
    assert codes(folder, base=[*BASE[:2], "--output=m.onnx/x", BASE[3]])[0] == "E10001"


def test_json_of_an_onnx(folder):
    result = run_atc(["--mode=1", "--framework=5", "--om=m.onnx", "--json=out.json"], cwd=folder)
    assert result.status == 0
    assert json.loads((folder / "out.json").read_text())["graph"]["node"][0]["op_type"] == "Relu"


def test_info_of_real_oms(data_root, tmp_path):
    name = data_root / "om" / "a-ircle__my_122_anenet.om"
    text = run_atc(["--mode=6", f"--om={name}"], cwd=tmp_path).text
    assert "soc_version[Ascend310B4]" in text
    assert run_atc(["--mode=1", f"--om={name}", "--json=o.json"], cwd=tmp_path).status == 0
    assert json.loads((tmp_path / "o.json").read_text())


def test_check_model_writes_nothing(folder):
    options = AtcOptions(model="m.onnx", output="m", soc_version="Ascend310B1")
    assert check_model(options, cwd=folder) == []
    save(folder / "m.onnx", [helper.make_node("Gelu", ["x"], ["y"], "g")])
    failures = check_model(options, cwd=folder)
    assert failures[0].code == "E13010"
    assert failures[0].node == "g"
    assert failures[0].advice is not None
    assert [path.name for path in folder.iterdir()] == ["m.onnx"]


def test_what_the_guide_does_not_give_to_a_chip_is_said(folder):
    def said(*more, soc="Ascend310B1"):
        return run_atc([*BASE[:3], f"--soc_version={soc}", *more], cwd=folder).text

    assert "--deterministic" in said("--deterministic=1")
    assert "--deterministic" not in said("--deterministic=1", soc="Ascend310P3")
    assert "--sparsity" in said("--sparsity=1", soc="Ascend310P3")
    assert "mixed_bfloat16" in said("--precision_mode_v2=mixed_bfloat16", soc="Ascend310P3")
    assert "pth2om: Precision" not in said("--precision_mode_v2=mixed_bfloat16")


def test_keep_dtype_names_that_the_graph_lacks(folder):
    (folder / "keep.txt").write_text("relu\nOpType::Relu\nOpType::Softmax\nnothing\n")
    notes = run_atc([*BASE, "--keep_dtype=keep.txt"], cwd=folder).notes
    assert [note.values["name"] for note in notes] == ["nothing", "Softmax"]


# --------------------------------------------------------------------------------------------------- never a traceback


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds("--{}={}".format, st.sampled_from(FLAGS), st.text(max_size=12)),
            st.builds(
                "--{}={}".format,
                st.sampled_from(FLAGS),
                st.sampled_from(["x:1,3,8,8", "m.onnx", "1", "0", "true", "FP16", "x", "1,2", "8,8;9,9", "x:-1,3,8,8"]),
            ),
            st.text(max_size=8),
        ),
        max_size=6,
    )
)
def test_no_argument_list_makes_it_fall_over(folder, words):
    from pth2om.errors import AtcError

    try:
        result = run_atc([*BASE, *words], cwd=folder)
    except AtcError as error:
        # A framework or mode that is not emulated: said in a sentence.
        result = AtcResult(255, str(error))
    assert result.status in (0, 255)
    assert result.text


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_no_bytes_make_it_fall_over(folder, data):
    whole = (folder / "m.onnx").read_bytes() if not hasattr(test_no_bytes_make_it_fall_over, "seed") else b""
    seed = test_no_bytes_make_it_fall_over.__dict__.setdefault("seed", whole)
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)))
    (folder / "m.onnx").write_bytes(bytes(changed[: cut or None]))
    result = run_atc(BASE, cwd=folder)
    assert result.status in (0, 255)


@given(
    st.sampled_from(sorted(TEXTS)), st.lists(st.text(max_size=20), max_size=4), st.sampled_from(["7.0", "8.0", "9.x"])
)
def test_texts_take_any_argument(code, arguments, cann):
    made = failure(code, *arguments, cann=cann)
    assert "\n" not in made.text


# ----------------------------------------------------------------------------------------------------- the command


def test_command(folder):
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "pth2om", "atc", *words], cwd=folder, capture_output=True, text=True, check=False
        )

    assert run("--", *BASE).returncode == 0
    forgotten = run(*BASE)
    assert forgotten.returncode == 0
    assert forgotten.stdout == run("--", *BASE).stdout
    old = run("--cann", "7.0", "--", *BASE, "--framework=9")
    assert old.returncode == 255
    assert "E10007: [--framework] is required." in old.stdout
    assert run("--cann=later", "--", *BASE).returncode == 2
    assert run().returncode == 2
    usage = run("--help")
    assert usage.returncode == 0
    assert "ATC_ARGUMENTS" in usage.stdout


def test_the_front_end_imports_no_onnx_for_flags(folder):
    code = (
        "import sys\nfrom pathlib import Path\nfrom pth2om.toolchain.emulator.front_end import run_atc\n"
        "run_atc(['--framework=9'], cwd=Path('.'))\n"
        "print(sorted(name for name in ('onnx', 'torch', 'onnxruntime') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
