"""Explaining error logs: every entry by its own example, real logs, all generations of the line, hostile text."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import pytest

from pth2om import explain as room
from pth2om.cli import main
from pth2om.explain import STAGES, coded_lines, entries, explain, explain_error, families
from pth2om.explain.index import FILES, page
from pth2om.explain.matching import MOST_CHARACTERS

ENTRIES = {entry.id: entry for entry in entries()}

# The numbered errors of the field survey the knowledge base was written from, each at least once.
SURVEY = {
    *(f"L{n:02}" for n in range(1, 17)), *(f"X{n:02}" for n in range(1, 19)), *(f"O{n:02}" for n in range(1, 24)),
    *(f"V{n:02}" for n in range(1, 16)), *(f"A{n:02}" for n in range(1, 22)), *(f"P{n:02}" for n in range(1, 13)),
    *(f"C{n:02}" for n in (*range(1, 5), *range(11, 24))), *(f"Q{n:02}" for n in range(1, 7)),
    *(f"R{n:02}" for n in range(1, 35)),
}  # fmt: skip


def test_the_whole_survey_is_there() -> None:
    assert len(SURVEY) == 162
    assert {name[:3] for name in ENTRIES} >= SURVEY


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_every_entry_is_found_by_its_example_and_nothing_else_is(name: str) -> None:
    entry = ENTRIES[name]
    found = explain(entry.example, entry.stage if entry.only else None)
    assert [item.id for item in found] == [name]
    for to in ("en", "zh"):
        for text in (found[0].cause(to), found[0].fix(to)):
            assert len(text) > 3
            assert name == "V16" or not re.search(r"\{\w*\}|…|\[\[|\]\]", text), text
    assert entry.stage in STAGES
    assert entry.evidence in ("ran", "reg", "log", "doc", "infer")


def test_entries_are_written_in_both_languages() -> None:
    for entry in entries():
        for texts in (entry.cause, entry.fix):
            assert set(texts) == {"en", "zh"}
        assert re.search("[\u4e00-\u9fff]", entry.cause["zh"]), entry.id
        assert not re.search("[\u4e00-\u9fff]", entry.cause["en"] + entry.fix["en"]), entry.id
        # both languages speak of the same places
        places = [sorted(re.findall(r"\{(\w+)\}", entry.cause[to])) for to in ("en", "zh")]
        assert places[0] == places[1], entry.id
        known = {*entry.pattern.groupindex, "said"}
        assert set(re.findall(r"\{(\w+)\}", entry.cause["en"] + entry.fix["en"])) <= known, entry.id
        assert set(entry.hides) <= set(ENTRIES), entry.id


# --- other forms of the same errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "groups"),
    [
        ("E16005: The model has [2] [--domain_version] fields, but only one is allowed.", "P02", {"n": "2"}),
        ("E16005: [PID: 3] 2025-03-18-09:02:18.501.341 The model has [3] [--domain_version] fields", "P02", {"n": "3"}),
        (
            "[PID: 9] 2026-04-09-21:56:40.384.694 Invalid_Argument(E16005): The model has 4 --domain_version fields",
            "P02",
            {"n": "4"},
        ),
        (
            "E13010: No operator plugin is registered for Op: /roi, optype: npu::1::NPURoiAlign.",
            "P01",
            {"n2": "/roi", "t2": "npu::1::NPURoiAlign"},
        ),
        ("No parser is register for Op [/a/Conv, optype [ai.onnx::22::Conv]].", "P01", {"v": "22", "op": "Conv"}),
        ("EZ9010: No parser is registered for Op [n, optype [ai.onnx::13::Gelu]].", "P01", {"op": "Gelu"}),
        ("Optype [X] of Ops kernel [AIcoreEngine] is unsupported. Reason: bad dtype", "C02", {"r": "bad dtype"}),
        ("Can not find Node NPUDeform_1 custom infer_datatype func", "P08", {}),
        ("acl.rt.set_device failed ret = 507033", "R18", {"code": "507033"}),
        ("[Exec][Model]modelId[1] execute failed, result[507011][FUNC:ReportInnerError]", "R15", {"code": "507011"}),
        ("errorCode is 145006", "R06b", {"code": "145006"}),
        ("error code: 107002", "R05", {}),
        (
            "[PID: 1] 2026-04-09-21:56:40.384.694 Memory_Allocation_Failure(EL0004): Failed to allocate 1 bytes",
            "R08",
            {},
        ),
        ("\x1b[31mE10007: [--framework] is required.\x1b[0m", "A05", {}),
        ("E10016: Op name images specified in --input_shape is not found in the model.", "A09", {"n": "images"}),
        (
            "torch.onnx.errors.SymbolicValueError: Unsupported: ONNX export of operator unfold, bad",
            "X02",
            {"op": "unfold"},
        ),
    ],
)
def test_forms_of_the_same_error(text: str, name: str, groups: dict) -> None:
    found = explain(text)
    assert [item.id for item in found] == [name]
    assert {key: found[0].groups.get(key) for key in groups} == groups


def test_three_generations_of_the_error_line() -> None:
    text = (
        "E16005: old form\n"
        "E20001: [PID: 200452] 2025-06-16-13:02:36.801.136 middle form\n"
        "[PID: 210907] 2026-04-09-21:56:40.384.694 Memory_Allocation_Failure(EL0004): new form\n"
        "W11001: a warning\nEZ9999  without a colon\nE1000: no code\n"
    )
    lines = coded_lines(text)
    assert [(line.code, line.text, line.line) for line in lines] == [
        ("E16005", "old form", 1),
        ("E20001", "middle form", 2),
        ("EL0004", "new form", 3),
        ("W11001", "a warning", 4),
        ("EZ9999", "without a colon", 5),
    ]
    assert [line.time for line in lines[:3]] == [None, "2025-06-16-13:02:36.801.136", "2026-04-09-21:56:40.384.694"]
    assert lines[2].title == "Memory_Allocation_Failure"
    assert [line.inner for line in lines] == [False, False, False, False, True]


# --- which of several -----------------------------------------------------------------------------------------------


def test_the_specific_cause_hides_the_generic_advice() -> None:
    text = "_pickle.UnpicklingError: Weights only load failed. In PyTorch 2.6...\nUnsupported operand 118\n"
    assert [item.id for item in explain(text)] == ["L01"]
    text = "ModuleNotFoundError: No module named 'tbe.common'"
    assert [item.id for item in explain(text)] == ["V12"]


def test_an_inner_error_is_explained_by_what_is_below_it() -> None:
    text = (
        "E19999: Inner Error!\n        TraceBack (most recent call last):\n"
        "        No supported Ops kernel and engine are found for [/a/TopK], optype [TopKV2].\n"
    )
    found = explain(text)
    assert [item.id for item in found] == ["C01"]
    assert found[0].groups["t"] == "TopKV2"
    assert [item.id for item in explain("E19999: Inner Error!\n   TraceBack:\n   something new\n")] == ["C23"]


def test_empty_files_and_killed_workers_both_say_eoferror() -> None:
    worker = (
        '  File "/usr/lib/python3.8/multiprocessing/connection.py", line 383, in _recv\n    raise EOFError\nEOFError\n'
    )
    assert [item.id for item in explain(worker, "load")] == ["C12"]
    assert [item.id for item in explain("EOFError: Ran out of input", "load")] == ["L05"]
    assert explain("EOFError: Ran out of input") == []


def test_a_worker_of_the_compiler_whose_pipe_broke() -> None:
    raised = (
        '  File "/usr/lib/python3.9/multiprocessing/connection.py", line 368, in _send\n    n = write(self._handle)\n'
    )
    assert [item.id for item in explain(f"{raised}BrokenPipeError: [Errno 32] Broken pipe\n")] == ["C12"]
    assert [item.id for item in explain("BrokenPipeError: [Errno 32] Broken pipe\nin te_fusion/x.py\n")] == ["C12"]


_SLOW = "W11001: Op [/Mod] does not hit the high-priority operator information library\n"


def test_a_log_that_just_stops() -> None:
    start = "ATC start working now, please wait for a moment.\n...\n"
    assert [item.id for item in explain(start)] == ["C16"]
    assert explain(start + "ATC run success, welcome to the next use.\n") == []
    success = start + "ATC run success, welcome to the next use.\n" + _SLOW
    assert [(item.id, item.severity) for item in explain(success)] == [("C17", "warning")]


def test_fatal_ones_come_first_and_lines_are_counted() -> None:
    text = _SLOW + "\nE10007: [--framework] is required.\n"
    assert [(item.id, item.line) for item in explain(text)] == [("A05", 3), ("C17", 1)]


def test_numbers_that_are_no_error_numbers() -> None:
    assert explain("loop inference exec: 100000 images, 507011 bytes, batch 145006") == []


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("E12004", "TensorFlow"),
        ("E14001", "arguments"),
        ("E29999", None),
        ("E40024", "operator compiler"),
        ("E54006", "TBE"),
        ("E70002", "shapes"),
        ("EO0002", "AMCT"),
        ("EZ0003", "operators"),
        ("EI0004", "HCCL"),
        ("W40010", "operator compiler"),
    ],
)
def test_a_code_without_an_entry_gets_its_family(code: str, word: str | None) -> None:
    found = explain(f"{code}: something nobody wrote down")
    assert len(found) == 1
    if word is not None:
        assert found[0].id == code
        assert word in found[0].cause("en")
        assert found[0].severity == ("warning" if code.startswith("W") else "fatal")
    assert "something nobody" in found[0].text


def test_families_cover_every_letter() -> None:
    for code in ("E10099", "E99999", "EA0000", "EB0001", "EC0001", "EE1234", "EH0001", "EK0001", "EL0001"):
        assert any(family.pattern.fullmatch(code) for family in families()), code


# --- real logs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("e16005_two_opset_domains_310.txt", ["P02"]),
        ("e20001_cann8.1_310P3.txt", ["C03"]),
        ("ez3002_310P_transdata.txt", ["C02"]),
        ("atc_faq/README.md", ["Q05", "Q03b", "F01", "F02", "F03"]),
        ("atc_faq/aipp_video_format_standard.md", ["F02"]),
        ("atc_faq/arm_aarch64_conversion_slow.md", ["F01"]),
        ("atc_faq/calibration_data_mismatch.md", ["Q02"]),
        ("atc_faq/model_input_size_too_large.md", ["Q03"]),
        ("atc_faq/nca_load_model_error_254.md", ["Q03b"]),
        ("atc_faq/operator_correspondence_guide.md", ["F03"]),
        ("atc_faq/operator_library_version_error.md", ["R21"]),
        ("atc_faq/quantization_build_error.md", ["Q05"]),
        ("atc_faq/unsupported_quantization_layers.md", ["Q04"]),
        ("ais_bench_Readme.md", ["R15"]),
    ],
)
def test_real_logs(data_root: Path, name: str, ids: list[str]) -> None:
    found = explain((data_root / "logs" / name).read_text(encoding="utf-8"))
    assert [item.id for item in found] == ids


def test_real_values_are_filled_in(data_root: Path) -> None:
    logs = data_root / "logs"
    (found,) = explain((logs / "atc_faq" / "calibration_data_mismatch.md").read_text(encoding="utf-8"))
    assert "1579014" in found.cause("en")
    assert "3158028" in found.cause("zh")
    (found,) = explain((logs / "e20001_cann8.1_310P3.txt").read_text(encoding="utf-8"))
    assert found.groups["t"] == "StridedSliceD"


def test_the_four_custom_operator_questions() -> None:
    """A missing plugin, two opset domains, a refused kernel, a missing data type function."""
    topics = [entry.id for entry in entries() if "custom-op" in entry.topics]
    assert {"P01", "P02", "C02", "P08"} <= set(topics)


# --- exceptions -----------------------------------------------------------------------------------------------------


def test_exceptions_and_what_they_were_raised_from() -> None:
    error = ValueError("cannot load")
    error.__cause__ = RuntimeError("size mismatch for head.weight: copying a param with shape torch.Size([5, 64])")
    assert [item.id for item in explain_error(error, "load")] == ["L11"]
    loop = ValueError("a")
    loop.__cause__ = loop
    assert explain_error(loop) == []


# --- hostile text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a" * 3_000_000,
        "[" * 500_000,
        "\x1b[" * 300_000,
        "\x1b]" * 300_000,
        "E10001: Value " * 200_000,
        ("Value for parameter " * 190 + "\n") * 30,
        ("No parser is registered for Op [" * 120 + "\n") * 30,
        ("EOFError multiprocessing E19999 Unexpected key(s) in state_dict: " * 60 + "\n") * 30,
        ("Weights only load failed " * 150 + "\n") * 30,
        "\x00" * 100_000,
    ],
)
def test_time_is_bounded(text: str) -> None:
    start = time.process_time()
    explain(text, "load")
    assert time.process_time() - start < 10


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_time_is_bounded_for_every_entry(name: str) -> None:
    """Repeated beginnings of a matching line are what makes a careless pattern explode."""
    example = ENTRIES[name].example.split("\n")[0]
    for share in (0.3, 0.6, 0.9):
        piece = example[: max(4, int(len(example) * share))] + " "
        line = (piece * (3900 // len(piece) + 1))[:3900]
        start = time.process_time()
        explain((line + "\n") * 20)
        assert time.process_time() - start < 10


def test_a_huge_log_is_read_at_both_ends() -> None:
    text = "E10007: [--framework] is required.\n" + "x\n" * (MOST_CHARACTERS // 4)
    text += "y" * 3000 + "\n" + ("z\n" * MOST_CHARACTERS) + "TsdOpen failed\n"
    assert {item.id for item in explain(text)} == {"A05", "R23"}


# --- the command line and the page ----------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh"])
def test_on_the_command_line(
    tmp_path: Path, language: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTH2OM_LANG", language)
    log = tmp_path / "atc.log"
    log.write_bytes("E10016: Opname [a[bold]b] specified in [--input_shape] is not found\xff\n".encode("latin-1"))
    assert main(["explain", str(log)]) == 0
    shown = capsys.readouterr().out
    assert "A09" in shown
    assert "[bold]" in shown
    assert main(["explain", str(log), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data[0]["id"] == "A09"
    assert set(data[0]["cause"]) == {"en", "zh"}
    log.write_text("all is well\n", encoding="utf-8")
    assert main(["explain", str(log)]) == 1
    assert main(["explain", str(tmp_path / "none.log")]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_from_the_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"E10007: [--framework] is required.\n")))
    assert main(["explain", "-"]) == 0
    assert "A05" in capsys.readouterr().out


def test_the_page_is_up_to_date(repository: Path) -> None:
    for to, name in FILES.items():
        assert (repository / "docs" / name).read_text(encoding="utf-8") == page(to), (
            "run: python -m pth2om.explain.index docs"
        )


def test_public_names() -> None:
    assert all(hasattr(room, name) for name in room.__all__)


# --- no cause without evidence ----------------------------------------------------------------------------------------


def ids(text: str) -> list[str]:
    return [item.id for item in explain(text)]


@pytest.mark.parametrize("code", ["E89999", "EZ8888", "EZ9999", "E19999", "E39999", "EE8888"])
def test_a_family_code_gives_no_specific_cause_and_quotes_the_line_that_says_most(code: str) -> None:
    reason = "op[Foo], the sky of input 0 is 3 but must be 4"
    text = f"{code}: Inner Error!\n{code}: [PID: 7] 2025-01-02-03:04:05.000.111 {reason}[FUNC:F][FILE:f.cc][LINE:9]\n"
    text += "        TraceBack (most recent call last):\n        Build graph failed\n"
    (found,) = explain(text)
    assert reason in found.cause("en")
    assert reason in found.cause("zh")
    assert "hape inference" not in found.cause("en")


@pytest.mark.parametrize("code", ["E89999", "EZ9999", "EZ8888"])
@pytest.mark.parametrize(
    "reason",
    [
        "op[Range], outSize from framework is 1, but outSize from tiling is 64[FUNC:A][FILE:b.cc]\n  Tiling failed",
        "op[Range], tiling data is too large for UB[FUNC:Tiling][FILE:s.cc][LINE:9]\n        Do op tiling failed",
        "op [Range], shape 5 is odd.\n   TraceBack (most recent call last):\n   op[Range], append tiling args fail",
    ],
)
def test_a_tiling_failure_is_one_with_its_operator_and_sentence(code: str, reason: str) -> None:
    found = explain(f"{code}: Inner Error!\n{code}: [PID: 7] {reason}\n  launch failed for Range, errno:561103.\n")
    assert [item.id for item in found] == ["C24"]
    assert "Range" in found[0].cause("en")
    assert reason.partition("], ")[2][:12] in found[0].cause("en")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("run.sh: line 7: 25706 Segmentation fault      (core dumped) python3 demo.py", "R32"),
        ("./run.sh: line 5:  6097 Segmentation   fault  ./build/app -c cfg.json", "R32"),
        ("[1]    25706 segmentation fault (core dumped)  python3 demo.py", "R32"),
        ("load model from memory\nrun.sh: line 7: 1 Segmentation fault      python3 demo.py", "R32b"),
        ("loading om yolo.om ...\n\nSegmentation fault (core dumped)", "R32b"),
        ("No  supported   Ops kernel and engine are   found for [a], optype [T].", "C01"),
        ("The model  has [2]  [--domain_version]  fields", "P02"),
    ],
)
def test_padding_between_words_hides_nothing(line: str, name: str) -> None:
    assert ids(line) == [name]


@pytest.mark.parametrize("node", ["head.Reshape.67_ascend_mbatch_batch_1(Reshape)", "/m/MatMul(MatMulV2)"])
def test_the_node_comes_before_the_context_that_a_compile_host_lacks(node: str) -> None:
    text = (
        "Call aclgrphBuildModel fail: EE1001: The argument is invalid.Reason: rtGetDevMsg execute failed, "
        f"reason=[context pointer null]\n   TraceBack (most recent call last):\n   Call InferShapeAndType for "
        f"node:{node} failed\n"
    )
    first, *others = explain(text)
    assert first.id in ("P10", "P10b")
    assert node.partition("_ascend")[0].partition("(")[0] in first.cause("en")
    assert "set_context" not in " ".join(item.fix("en") for item in (first, *others))


def test_a_context_that_is_missing_at_run_time_is_still_named() -> None:
    assert ids("rtStreamCreate failed, reason=[context pointer null]") == ["R05"]


@pytest.mark.parametrize(
    ("line", "name", "word"),
    [
        ("ModuleNotFoundError: No module named 'numpy._core.multiarray'", "L17", "NumPy 2"),
        ("ModuleNotFoundError: No module named 'omegaconf'", "L06b", "omegaconf"),
        ("in unpickler.load()\nModuleNotFoundError: No module named 'ultralytics.nn'", "L06", "ultralytics.nn"),
        ("don't know how to restore data location of torch.FloatStorage (tagged with xpu:1)", "L18", "xpu"),
        ('\tMissing key(s) in state_dict: "a.b", "c.d".', "L10b", '"a.b", "c.d"'),
        ('\tMissing key(s) in state_dict: "a.b", "g.parametrizations.weight.original1".', "L19", "original1"),
        ("operator 'instance_norm' is set to train=True. Exporting with train=True.", "X19", "harmless"),
        ("operator 'dropout' is set to train=True. Exporting with train=True.", "X19b", "dropout"),
        ("value cannot be converted to type c10::Half without overflow", "X20", "Half"),
        ("Couldn't export Python operator MSDeformAttn", "X21", "MSDeformAttn"),
        ("Invalid model. Node input 'a' is not a graph input, initializer, or output of a previous node", "O24", "'a'"),
        ("rtGetDevMsg execute failed, reason=[feature not support][FUNC:F]", "R11", "reason=[feature not support]"),
        ("Status Message: CANN errorEE9999: Inner Error!\nsomething about streams is odd", "C23", "streams is odd"),
        ("Reason: SoC version [Ascend${chip_name}] is invalid.", "V16", "Ascend${chip_name}"),
        ("Value Ascend<soc> for parameter --soc_version is invalid.", "V16", "Ascend<soc>"),
        ("EE1001: Reason: SoC version [Ascend310Z9] is invalid.", "V07", "Ascend310Z9"),
        ("The k-axis of a(7) and b(9) tensors must be the same", "P13", "7 and 9"),
        ("Inputs data type int64 and float16 must be the same, op Add_1", "C19", "int64 and float16"),
        ("RuntimeError: Input type (double) and bias type (float) should be the same", "X13", "double and float"),
        ("expected scalar type Float but found Double", "X13", "Float wanted, Double found"),
        ("expected m1 and m2 to have the same dtype, but got: double != float", "X13", "double and float"),
        (
            ("Type Error: Type parameter (T) of Optype (Concat) bound to different types (tensor(float) and "
            "tensor(int64) in node (c/Concat_1)."),
            "O25",
            "'c/Concat_1' have different types, tensor(float) and tensor(int64)",
        ),
        ("Node (/fc/Gemm) Op (Gemm) [ShapeInferenceError] First input does not have rank 2", "O26", "not have rank 2"),
    ],
)  # fmt: skip
def test_what_is_said_of_frequent_lines(line: str, name: str, word: str) -> None:
    (found,) = explain(line)
    assert found.id == name
    assert word in found.cause("en")
    assert name == "X20" or "fp16" not in (found.cause("en") + found.fix("en")).lower()


def test_no_sentence_is_left_with_an_open_place() -> None:
    """Bare forms of each entry: the alternatives of its signature that carry no names."""
    bare = ["InferShape failed", "E40002", "E13024", "EE1011", "Unsupported soc_version", "E10016", "E10052", "E10054"]
    bare += ["E10055", "E13005", "E16005", "E16004", "E13009", "EZ3002", "E20001", "E20007", "W11001", "E10001"]
    bare += ["No supported Ops kernel and engine are found for", "input size does not match", "Tiling failed"]
    bare += ["ConversionError: Failed to convert the exported program", "Not support scale less than", "E19999"]
    for text in bare:
        for item in explain(text):
            for to in ("en", "zh"):
                assert not re.search(r"…|[{}]|\[\[|\]\]|  ", item.cause(to) + item.fix(to)), (text, item.cause(to))
