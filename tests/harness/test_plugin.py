"""The plugin as its users run it: a small repository of models, pytest in a process of its own."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil

import pytest

from pth2om import evidence
from tests.harness.tiny import SPEC, records


def spec_with(repo: pytest.Pytester, old: str, new: str) -> None:
    path = repo.path / "models" / "tiny" / "model.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def outcome_of_gates(repo: pytest.Pytester) -> set[tuple]:
    return {
        (record.model, record.variant, record.check, record.verdict, record.ground)
        for record in records(repo)
        if isinstance(record, evidence.GateRecord) and record.question != "latency"
    }


HEAVY = {
    *("torch", "onnx", "onnxruntime", "scipy", "PIL", "filelock", "numpy.random"),
    *("pth2om.checkpoint.loading", "pth2om.data.normalizing", "pth2om.export_probe", "pth2om.segmentation.window"),
}
"""What a run that finds all in the store does not import."""

_SOME = "(not latency or onnx_latency) and not bs2 and not origin"

_OF_ONE_RUN = r" <small><i lang=en>from the store</i>.*?</small>|\d{4}-\d\d-\d\dT[\d:+]+|runpytest-\d"
"""What two reports of the same may differ in: what was built now, the time, and the command."""


def test_inert_without_models(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing():\n    pass\n")
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*pth2om:*")
    assert not (pytester.path / "reports").exists()


def test_a_models_folder_of_something_else_is_left_alone(pytester: pytest.Pytester) -> None:
    (pytester.path / "models").mkdir()
    (pytester.path / "models" / "user.py").write_text("")
    pytester.makepyfile("def test_nothing():\n    pass\n")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_ids(repo: pytest.Pytester) -> None:
    result = repo.runpytest_subprocess("--collect-only", "-q", "--soc", "Ascend310B1")
    lines = [line for line in result.outlines if "::" in line]
    assert "test_cases/test_closeness.py::test_om_matches_pytorch[tiny-fp16-bs1]" in lines
    assert "test_cases/test_closeness.py::test_onnx_matches_pytorch[tiny-bs2]" in lines
    assert "test_cases/test_checkpoint.py::test_checkpoint_fits_its_net[tiny]" in lines
    assert not any("int8" in line or "NOTSET" in line for line in lines)
    assert not (repo.path / "reports").exists()


def test_filters(repo: pytest.Pytester) -> None:
    options = ("--om-precision", "fp16", "--om-batch", "2", "--soc", "Ascend310B1")
    lines = repo.runpytest_subprocess("--collect-only", "-q", *options).outlines
    assert any("[tiny-fp16-bs2]" in line for line in lines)
    assert not any("origin" in line or "bs1" in line for line in lines)


def test_the_whole_run(repo: pytest.Pytester) -> None:
    result = repo.runpytest_subprocess("-v", "--soc", "Ascend310B1", "-k", "tiny")
    text = result.stdout.str()
    assert result.ret == 0, text
    result.stdout.fnmatch_lines(["*pth2om: OM for Ascend310B1 on the emulator*", "*PASSED (emulated, unproven)*"])
    assert re.search(r"report: .*index\.html", text)
    assert re.search(r"\d+ gates passed but are unproven \(emulated\)", text)
    assert "No file" not in text
    found = records(repo)
    assert isinstance(found[0], evidence.RunRecord)
    stages = {(record.variant, record.stage) for record in found if isinstance(record, evidence.StageRecord)}
    assert {("", "checkpoint"), ("bs1", "onnx"), ("bs2", "onnx"), ("fp16-bs1", "om"), ("origin-bs2", "om")} <= stages
    gates = [record for record in found if isinstance(record, evidence.GateRecord)]
    assert {gate.question for gate in gates} >= {
        "checkpoint",
        "export",
        "preflight",
        "closeness",
        "accuracy",
        "latency",
    }
    of_variants = [gate for gate in gates if gate.variant.startswith(("fp16", "origin"))]
    # The rules are tables of this machine, whoever compiles.
    assert {gate.check for gate in of_variants if gate.ground != "emulated"} == {"preflight/errors"}
    command = next(record.command for record in found if isinstance(record, evidence.StageRecord) and record.command)
    assert command[0] == "atc"
    assert any(word.startswith("--input_shape=image:") for word in command)
    (folder,) = (repo.path / "reports").iterdir()
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert "emulated" in page
    assert 'href="log.html"' in page
    assert (folder / "log.html").exists()


def test_what_int8_costs_is_said_in_one_line(repo: pytest.Pytester) -> None:
    spec_with(repo, '[variants]\nprecision = ["fp16", "origin"]\nbatch = [1, 2]', "")
    spec_with(repo, 'task = "classification"', 'task = "classification"\nvariants = ["int8-bs1", "int8-bs1-aipp"]')
    result = repo.runpytest_subprocess("--soc", "Ascend310P3", "-k", "int8 and not latency")
    assert result.ret == 0, result.stdout.str()
    told = [line for line in result.outlines if line.startswith("INT8 costs tiny-int8-bs1")]
    assert len(told) == 2
    assert all(re.search(r"points of top1: [\d.]+ against [\d.]+ on 400 images of dots", line) for line in told)
    assert all("95 % interval" in line and "emulated" in line for line in told)
    gates = {(check, variant) for _, variant, check, _, _ in outcome_of_gates(repo)}
    wanted = (
        "quantized/form",
        "quantized/twin-differing",
        "fake-quant~om/scores/cosine",
        "fp32-checkpoint/relative_l2",
    )
    assert {(check, "int8-bs1") for check in (*wanted, "int8-weights/top1/drop", "fake-quant/top1/drop")} <= gates
    assert ("plain~aipp/scores/cosine", "int8-bs1-aipp") in gates
    assert ("plain~aipp/scores/cosine", "int8-bs1") not in gates
    (folder,) = (repo.path / "reports").iterdir()
    assert "The loss from INT8" in (folder / "index.html").read_text(encoding="utf-8")
    command = repo.runpytest_subprocess("--om-dry-run", "--soc", "Ascend310P3", "-k", "aipp").stdout
    command.fnmatch_lines(["*deploy.onnx is made from this ONNX*", "*atc --model=deploy.onnx *--insert_op_conf=*"])


def pictures(repo: pytest.Pytester) -> set[str]:
    """The pictures that the evidence names; each lies in the run's folder."""
    (folder,) = (repo.path / "reports").iterdir()
    gates = [record for record in records(repo) if isinstance(record, evidence.GateRecord)]
    named = {entry["file"] for gate in gates for entry in gate.details.get("pictures", ())}
    assert named == {f"pictures/{file.name}" for file in (folder / "pictures").iterdir()}
    return named


def test_pictures_lie_beside_the_report(repo: pytest.Pytester) -> None:
    assert repo.runpytest_subprocess("--soc", "Ascend310B1", "-k", "score", "-n", "2").ret == 0
    variants = ("fp16-bs1", "origin-bs1")
    named = pictures(repo)
    wanted = [f"pictures/tiny-{variant}-om-top1-drop-dots-" for variant in variants]
    assert all(any(name.startswith(start) and name.endswith(".webp") for name in named) for start in wanted)
    (folder,) = (repo.path / "reports").iterdir()
    assert (folder / "index.html").read_text(encoding="utf-8").count("data:image/webp") >= len(wanted)


def test_a_log_keeps_the_ends_of_what_was_printed(repo: pytest.Pytester) -> None:
    (repo.path / "test_cases" / "test_loud.py").write_text(
        "def test_loud(checkpoint):\n    print('first', 'x' * 3_000_000, 'last')\n    assert False\n"
    )
    result = repo.runpytest_subprocess("-k", "loud")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert len(text) < 60_000
    assert "first xx" in text
    assert "xx last" in text


def test_two_workers_give_the_same(repo: pytest.Pytester) -> None:
    assert repo.runpytest_subprocess("--soc", "Ascend310B1").ret == 0
    alone = outcome_of_gates(repo)
    shutil.rmtree(repo.path / "reports")
    assert repo.runpytest_subprocess("--soc", "Ascend310B1", "-n", "2").ret == 0
    assert outcome_of_gates(repo) == alone
    runs = [record for record in records(repo) if isinstance(record, evidence.RunRecord)]
    assert len(runs) == 1


def test_a_second_run_is_light_and_says_the_same(repo: pytest.Pytester, monkeypatch) -> None:
    """Nothing that only building or measuring needs is imported; garbage is collected from the first test on."""
    monkeypatch.setenv("PTH2OM_STORE", str(repo.path / "store"))
    options = ("--soc", "Ascend310B1", "-p", "no:cacheprovider", "-k", _SOME)
    assert repo.runpytest_subprocess(*options, "--om-reports-dir", "cold").ret == 0
    (repo.path / "conftest.py").write_text(
        "import gc\nimport sys\n\nduring = set()\n\n\n"
        "def pytest_collection_finish():\n    print('collector before the tests:', gc.isenabled())\n\n\n"
        "def pytest_runtest_teardown():\n    during.add(gc.isenabled())\n\n\n"
        "def pytest_unconfigure():\n"
        f"    heavy = {sorted(HEAVY)} & sys.modules.keys()\n".replace("[", "{").replace("]", "}")
        + "    print('heavy modules:', *sorted(heavy))\n"
        "    print('collector in the tests:', *during)\n"
    )
    result = repo.runpytest_subprocess(*options, "--om-reports-dir", "warm")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["*collector before the tests: False", "heavy modules:", "collector in the tests: True"]
    )
    for page in ("index.html", "results.md", "results.zh.md"):
        told = []
        for name in ("cold", "warm"):
            (folder,) = (repo.path / name).iterdir()
            text = (folder / page).read_text(encoding="utf-8").replace(folder.name, "RUN")
            told.append(re.sub(rf"{_OF_ONE_RUN}|--om-reports-dir {name}", "", text))
        assert told[0] == told[1]


def test_an_installed_package_is_imported_as_it_is(repo: pytest.Pytester, monkeypatch) -> None:
    """pytest rewrites the assertions of every module of a distribution with a plugin."""
    info = repo.path / "site" / "pth2om-9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pth2om\nVersion: 9\n")
    (info / "entry_points.txt").write_text("[pytest11]\npth2om = pth2om.harness.plugin\n")
    (info / "RECORD").write_text("pth2om/__init__.py,,\npth2om/spec/__init__.py,,\n")
    (repo.path / "conftest.py").write_text(
        "import sys\nfrom importlib import metadata\n\n\ndef pytest_unconfigure():\n"
        "    print('version', metadata.version('pth2om'), type(sys.modules['pth2om.spec'].__loader__).__name__)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(info.parent), prepend=os.pathsep)
    result = repo.runpytest_subprocess("--co", "-q")
    result.stdout.fnmatch_lines(["version 9 SourceFileLoader"])


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(("words", "status"), [(("--soc", "Ascend999"), "USAGE_ERROR"), (("--co",), "OK")])
def test_a_session_leaves_the_collector_as_it_was(
    repo: pytest.Pytester, enabled: bool, words: tuple[str, ...], status: str
) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        assert repo.inline_run(*words).ret == pytest.ExitCode[status]
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
        gc.unfreeze()


def test_without_a_soc_om_rows_skip_and_say_so(repo: pytest.Pytester) -> None:
    result = repo.runpytest_subprocess()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*no --soc, so nothing is compiled*", "*SKIPPED*No SoC is given*"])
    grounds = {record.ground for record in records(repo) if isinstance(record, evidence.GateRecord)}
    assert grounds == {"host"}


def test_a_failed_gate_fails_and_says_why(repo: pytest.Pytester) -> None:
    spec_with(repo, '[[datasets]]\nname = "dots"\nmetric = "top1"', "[gates.onnx_om]\nmax_abs = 0.0")
    result = repo.runpytest_subprocess("--soc", "Ascend310B1", "-k", "fp16-bs1 and om_matches_onnx")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*tiny-fp16-bs1 onnx~om/*/max_abs = *(limit <= 0) [[]emulated[]]*"])
    assert "Traceback" not in result.stdout.str()


def test_a_wrong_spec_is_an_error_of_that_model_alone(repo: pytest.Pytester) -> None:
    shutil.copytree(repo.path / "models" / "tiny", repo.path / "models" / "broken")
    path = repo.path / "models" / "broken" / "model.toml"
    path.write_text(SPEC.replace("num_classes", "num_clases"))
    result = repo.runpytest_subprocess("-k", "checkpoint or export")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*broken/model.toml:5: Unknown key*Did you mean 'num_classes'*"])
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
    ],
)
def test_a_bad_checkpoint_is_one_paragraph(repo: pytest.Pytester, damage: bytes, words: str) -> None:
    (repo.path / "models" / "tiny" / "weights" / "tiny.pth").write_bytes(damage)
    result = repo.runpytest_subprocess("-k", "checkpoint", "--soc", "Ascend310B1")
    result.assert_outcomes(errors=1)
    assert words.lower() in result.stdout.str().lower()
    assert "Traceback" not in result.stdout.str()
    failed = [record for record in records(repo) if isinstance(record, evidence.GateRecord)]
    assert [(record.question, record.verdict) for record in failed] == [("checkpoint", "failed")]


def test_absent_weights_skip_and_say_how_to_get_them(repo: pytest.Pytester) -> None:
    (repo.path / "models" / "tiny" / "weights" / "tiny.pth").unlink()
    result = repo.runpytest_subprocess("--soc", "Ascend310B1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*nothing was measured*"])
    assert repo.runpytest_subprocess("--fail-on", "failed").ret == 0
    result.stdout.fnmatch_lines(["*tiny.pth* were not found*", "*--om-weights tiny=FILE*"])


def test_random_weights_are_said_also_where_nobody_asks_for_the_checkpoint(repo: pytest.Pytester) -> None:
    (repo.path / "models" / "tiny" / "weights" / "tiny.pth").unlink()
    spec_with(repo, "num_classes = 3", "num_classes = 3\nseeded = true")
    assert repo.runpytest_subprocess("-k", "onnx_matches and bs1").ret == 0
    stages = [record for record in records(repo) if isinstance(record, evidence.StageRecord)]
    assert [(one.stage, [finding.rule for finding in one.findings][:1]) for one in stages] == [
        ("onnx", ["checkpoint.seeded"])
    ]


def test_weights_may_be_given(repo: pytest.Pytester) -> None:
    weights = repo.path / "models" / "tiny" / "weights" / "tiny.pth"
    weights.rename(repo.path / "elsewhere.pt")
    repo.runpytest_subprocess("-k", "checkpoint", "--om-weights", "tiny=elsewhere.pt").assert_outcomes(passed=1)
    result = repo.runpytest_subprocess("-k", "checkpoint", "--om-weights", "tiny=nowhere.pt")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "nowhere.pt" in result.stderr.str()


def test_inconclusive_does_not_read_passed_and_fails_where_it_is_to(repo: pytest.Pytester) -> None:
    options = ("--soc", "Ascend310B1", "--om-subset", "20", "-k", "om_keeps and fp16-bs1")
    result = repo.runpytest_subprocess(*options)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*2 warnings, 1 inconclusive in *"])
    repo.runpytest_subprocess(*options, "--fail-on", "failed,inconclusive").assert_outcomes(failed=1, warnings=1)


def test_dry_run_prints_the_atc_command_and_builds_nothing(repo: pytest.Pytester, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PTH2OM_STORE", str(tmp_path / "fresh"))
    result = repo.runpytest_subprocess("--om-dry-run", "--soc", "Ascend310B1")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["tiny-fp16-bs1", "*atc --model=*--soc_version=Ascend310B1*--precision_mode=force_fp16*"]
    )
    assert not list((tmp_path / "fresh").glob("onnx/*"))
    assert not (repo.path / "reports").exists()


def test_a_silent_fall_back_to_the_cpu_is_a_failure(repo: pytest.Pytester) -> None:
    result = repo.runpytest_subprocess(
        "-k", "onnx_matches_pytorch and bs1", "--om-ort-providers", "CUDAExecutionProvider"
    )
    assert result.ret == 1
    assert "CUDAExecutionProvider" in result.stdout.str()
    assert "Traceback" not in result.stdout.str()


def test_an_interrupted_run_keeps_its_evidence(repo: pytest.Pytester) -> None:
    (repo.path / "conftest.py").write_text(
        "import pytest\n\n\ndef pytest_runtest_teardown(item):\n"
        "    if item.name.startswith('test_exports'):\n        raise KeyboardInterrupt\n"
    )
    result = repo.runpytest_subprocess("--soc", "Ascend310B1")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert any(isinstance(record, evidence.GateRecord) for record in records(repo))
    (folder,) = (repo.path / "reports").iterdir()
    assert (folder / "index.html").exists()


def test_a_chinese_reader(repo: pytest.Pytester, monkeypatch) -> None:
    monkeypatch.setenv("PTH2OM_LANG", "zh")
    result = repo.runpytest_subprocess("-k", "om_matches_onnx and fp16-bs1")
    assert "未指定 SoC" in result.stdout.str()
    assert json.dumps("报告", ensure_ascii=False)[1:-1] in result.stdout.str()


def test_an_onnx_is_the_reference_where_there_is_no_torch(repo: pytest.Pytester) -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "relu")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    )
    model = repo.path / "models" / "given"
    model.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), model / "given.onnx")
    (model / "model.toml").write_text(
        'task = "tensor"\n[source]\nonnx = "given.onnx"\n[[inputs]]\nname = "x"\nshape = [4]\nrange = [-1.0, 1.0]\n'
    )
    result = repo.runpytest_subprocess("--soc", "Ascend310P3", "-k", "given")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["*SKIPPED*no PyTorch model*"])
    assert any(check[2].startswith("onnx~om/") and check[3] == "passed" for check in outcome_of_gates(repo))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--soc", "Ascned310B1"), "Ascend310B1"),
        (("--om-precision", "fp61"), "fp16"),
        (("--om-weights", "tinny=models/tiny/net.py"), "tiny"),
        (("--om-trust", "tinny"), "tiny"),
        (("--om-dataset", "dost=calib/dots"), "dots"),
        (("--om-cann", "five"), "9.x"),
        (("--om-toolchain", "cann"), "emulator"),
        (("--fail-on", "inconclusiv"), "inconclusive"),
        (("--om-threads", "0"), "positive"),
        (("--om-subset", "-3"), "positive"),
        (("--om-data-dir", "nowhere"), "nowhere"),
        (("--om-models", "models/tiny"), "models."),
    ],
)
def test_a_misspelt_word_is_refused_with_the_nearest(repo: pytest.Pytester, words: tuple, said: str) -> None:
    result = repo.runpytest_subprocess(*words)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str()
    assert words[0] in result.stderr.str()
    assert "Traceback" not in result.stderr.str()
    assert not (repo.path / "reports").exists()


def test_filters_that_no_variant_has_are_said(repo: pytest.Pytester) -> None:
    result = repo.runpytest_subprocess("--collect-only", "-q", "--om-batch", "7", "-v")
    result.stdout.fnmatch_lines(["*No model has a variant of --om-batch 7*"])


def test_a_run_that_asks_nothing_leaves_no_report(repo: pytest.Pytester) -> None:
    result = repo.runpytest_subprocess("-k", "nosuch")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.no_fnmatch_line("*html report*")
    assert not (repo.path / "reports").exists()


def test_a_reports_folder_that_is_a_file_is_refused_at_once(repo: pytest.Pytester) -> None:
    (repo.path / "taken").write_text("")
    result = repo.runpytest_subprocess("--om-reports-dir", "taken")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "taken" in result.stderr.str()
    assert "Traceback" not in result.stderr.str() + result.stdout.str()


@pytest.mark.parametrize("what", ["EvidenceFile.append", "Path.replace"])
def test_a_disk_that_fills_up_under_the_report_is_said(repo: pytest.Pytester, what: str) -> None:
    assert repo.runpytest_subprocess("-k", "checkpoint").ret == 0  # its artifacts are in the store
    shutil.rmtree(repo.path / "reports")
    (repo.path / "conftest.py").write_text(
        "import errno\nfrom pathlib import Path\nfrom pth2om.evidence import EvidenceFile\n\n"
        "import pth2om.report.html\n\ndef full(*arguments):\n"
        "    raise OSError(errno.ENOSPC, 'No space left on device')\n\n"
        f"{what} = full\n"
    )
    result = repo.runpytest_subprocess("-k", "checkpoint")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*not complete: No space left on device*", "*→*same command again*"])
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_junit_has_the_gates(repo: pytest.Pytester) -> None:
    from xml.etree import ElementTree

    options = ("-k", "om_matches_onnx and fp16-bs1", "--soc", "Ascend310B1", "--junitxml", "j.xml")
    assert repo.runpytest_subprocess(*options).ret == 0
    properties = {each.get("name"): each.get("value") for each in ElementTree.parse("j.xml").iter("property")}
    assert properties["gate.onnx~om/scores/cosine"].startswith("passed emulated 0.99")
    assert properties["gate.onnx~om/scores/cosine"].endswith(">= 0.999")


def test_a_skip_names_the_models_spec(repo: pytest.Pytester) -> None:
    result = repo.runpytest_subprocess("-k", "om_matches_onnx")
    result.stdout.fnmatch_lines(["SKIPPED * models/tiny/model.toml:1: *"])
    result.stdout.no_fnmatch_line("*harness/*.py*")


def test_an_interrupted_run_says_how_to_go_on(repo: pytest.Pytester) -> None:
    (repo.path / "conftest.py").write_text("def pytest_runtest_call(item):\n    raise KeyboardInterrupt\n")
    result = repo.runpytest_subprocess("-k", "checkpoint")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["Interrupted. *", "*→ Run the same command again*"])


def test_a_net_that_cannot_be_imported_is_not_taken_for_a_pickle(repo: pytest.Pytester) -> None:
    (repo.path / "models" / "tiny" / "net.py").write_text("import nosuchpackage\n")
    result = repo.runpytest_subprocess("-k", "checkpoint")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*net.py:1:*nosuchpackage*"])
    result.stdout.no_fnmatch_line("*pickled*")
