"""atc's flags are cut by GNU getopt_long: compared with the C library's own, and the lines that it decides."""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pth2om.ascend.atc_options import FLAGS, AtcOptions
from pth2om.toolchain.emulator.front_end.flags import KNOWN, RANGES, LexicalError, lex
from pth2om.toolchain.emulator.front_end.getopt import Reader, formatted
from pth2om.toolchain.emulator.front_end.run import run_atc

LONG = {"help": False, "h": False, "mode": True, "model": True, "input_shape": True, "input_shape_range": True}


class _Option(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("has_arg", ctypes.c_int),
        ("flag", ctypes.c_void_p),
        ("val", ctypes.c_int),
    )


def c_library(words: list[str]) -> tuple[list[tuple[str, str, str | None]], list[str]]:
    """What getopt_long of the C library makes of the words: options in order, and what is left."""
    library = ctypes.CDLL(None)
    names = list(LONG)
    table = (_Option * (len(names) + 1))()
    for place, name in enumerate(names):
        table[place] = _Option(name.encode(), 1 if LONG[name] else 2, None, 1000 + place)
    encoded = [b"atc", *(word.encode() for word in words)]
    vector = (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None)
    optind = ctypes.c_int.in_dll(library, "optind")
    optopt = ctypes.c_int.in_dll(library, "optopt")
    optarg = ctypes.c_char_p.in_dll(library, "optarg")
    ctypes.c_int.in_dll(library, "opterr").value = 0
    optind.value = 0  # 0 makes glibc start anew
    found: list[tuple[str, str, str | None]] = []
    while (code := library.getopt_long(len(encoded), vector, b":h", table, None)) != -1:
        value = (optarg.value or b"").decode()
        if code == ord("?"):
            found.append(("", "", "unknown"))
        elif code == ord(":"):
            found.append((names[optopt.value - 1000], "", "missing"))
        elif code == ord("h"):
            found.append(("h", "", None))
        else:
            found.append((names[code - 1000], value, None))
    return found, [word.decode() for word in vector[optind.value : len(encoded)]]


WORDS = st.lists(
    st.sampled_from(
        [
            "foo",
            "m.onnx",
            "--",
            "-",
            "-h",
            "-x",
            "-hx",
            "--help",
            "--he",
            "--h",
            "--h=1",
            "--mode",
            "--mode=3",
            "--mo",
            "--mo=1",
            "--mod",
            "--model",
            "--model=a=b",
            "--input",
            "--input_shape=x:1",
            "--input_shape_r=x",
            "--input_s=1",
            "--=x",
            "--modell",
            "--m",
            "-1",
            "-model",
            "--help=false",
        ]
    )
    | st.text(st.sampled_from("-=hmode"), max_size=7),
    max_size=6,
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="getopt_long of the GNU C library")
@given(WORDS)
def test_as_the_c_library(words: list[str]) -> None:
    reader = Reader(words, LONG, "h")
    found = [
        ("", "", item.problem) if item.problem == "unknown" else (item.name, item.value, item.problem)
        for item in reader
    ]
    assert (found, reader.rest) == c_library(words)


@pytest.mark.parametrize(
    ("word", "made"),
    [
        ("-model=x", "--model=x"),
        ("--soc-version=a-b", "--soc_version=a-b"),
        ("-soc-version", "--soc_version"),
        ("-h", "-h"),
        ("-1", "-1"),
        ("--a-b", "--a-b"),
        ("x-y", "x-y"),
    ],
)
def test_words_are_formatted_before_they_are_read(word: str, made: str) -> None:
    assert formatted(word) == made


def test_names_may_be_shortened_while_unique() -> None:
    assert lex(["--op_precision=ops.ini", "--soc", "Ascend310P3", "--out_node=y:0"]).given == {
        "op_precision_mode": "ops.ini",
        "soc_version": "Ascend310P3",
        "out_nodes": "y:0",
    }
    assert lex(["--input_shape=x:1"])["input_shape"] == "x:1"  # exact, though it begins another name
    for word in ("--input_s=x:1", "--o=x", "--=x"):
        with pytest.raises(LexicalError, match="unknown command line flag"):
            lex([word])


TEXTS = [name for name in FLAGS if AtcOptions.__annotations__[name].startswith("str") and name not in RANGES]


@given(st.dictionaries(st.sampled_from(TEXTS), st.text(st.characters(codec="utf-8", exclude_characters="\0"))))
def test_a_line_of_the_options_is_read_as_it_was_meant(texts: dict[str, str]) -> None:
    options = AtcOptions(**{**dict.fromkeys(FLAGS), **texts})
    assert lex(options.command_line()[1:]).given == texts


def test_stray_words_come_last_and_help_ends_the_reading() -> None:
    with pytest.raises(LexicalError, match="Non-option parameter: foo\nERROR: Non-option parameter: bar"):
        lex(["foo", "--mode=3", "bar"])
    assert "help" in lex(["foo", "--help", "--nothing", "--mode=9"])
    assert "help" not in lex(["--help=no", "--mode=3"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shape = (1, 3, 8, 8)
    given_ = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="relu0")], "g", given_, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "op.json").write_text('[{"op": "Add"}]')
    return tmp_path


FULL = ["--framework=5", "--output=o", "--model=m.onnx", "--soc_version=Ascend310P3", "--input_shape=x:1,3,8,8"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["foo", "--log=bad"], "E10010"),
        ([*FULL, "--input_shape=x:+1,3,8,8"], "E10002"),
        ([*FULL, "--input_shape=x:1~4,3,8,8;:2"], "E10002"),
        ([*FULL, "--input_shape=x:1,3,-1,-1", "--dynamic_dims=8,8; 16,16"], "E10001"),
        ([*FULL, "--input_shape=x:1,3,-1,-1", "--dynamic_dims=8,8;;16,16"], "E10003"),
        ([*FULL, "--input_shape=x:1,3,-1,8", "--dynamic_batch_size=1,2"], "E10031"),
        ([*FULL, "--input_shape=x:1~4,3,8,8", "--dynamic_batch_size=1,2"], "E10040"),
        (["--singleop=op.json", "--output=o", "--soc_version=Ascend310P3", "--framework=5"], "E10001"),
        (["--mode=3", "--framework=5", "--model=m.onnx", "--soc_version=Ascend035"], "E10055"),
        (["--mode=1", "--framework=1"], "E10001"),
        ([*FULL, "--mode=30", "--soc_version=Ascend035", "--display_model_info=1"], "E10001"),
        (["--weight=none.bin", "--framework=5"], "E10001"),
        ([*FULL, f"--static_model_ops_lower_limit={2**63}"], "E10001"),
        ([*FULL, f"--static_model_ops_lower_limit={2**63 - 1}"], None),
        ([*FULL, "--out_node=relu0:0"], None),
    ],
)
def test_lines_that_the_source_decides(words: list[str], code: str | None, folder: Path) -> None:
    result = run_atc(words, cwd=folder)
    assert (result.errors[0][0] if result.errors else None) == code
    assert (result.status == 0) == (code is None)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"global": {"not.supported": "1"}}, "E10055"),
        ({"global": {"log": "verbose"}}, "E10010"),
        ({"graph": {"ge.jit_compile": "3"}}, "E10001"),
        ({"graph": {"ge.jit_compile": 2}}, "E10055"),
        ({"host": {}}, "E10055"),
        ({"graph": {"ge.inputShape": "x:2,3,8"}}, None),  # the command line's own shape counts
        ({"global": {"ge.exec.precision_mode": "fp15"}, "graph": {"ge.exec.precision_mode": "force_fp32"}}, None),
        ({"session": {"ge.exec.precision_mode": "force_fp16", "ge.exec.precision_mode_v2": "fp16"}}, "E10056"),
        ({"global": {"ge.frameworkType": "5", "ge.socVersion": "Ascend310P3"}}, None),
    ],
)
def test_raw_options_are_checked_as_their_flags(options: dict[str, object], code: str | None, folder: Path) -> None:
    (folder / "raw.json").write_text(json.dumps({"compile options": options, "execute options": {"x": 1}}))
    result = run_atc([*FULL, "--raw_ge_options=raw.json"], cwd=folder)
    assert (result.errors[0][0] if result.errors else None) == code
    if code == "E10055" and "not.supported" in str(options):
        ignoring = run_atc([*FULL, "--raw_ge_options=raw.json", "--raw_ge_options_ignore_unsupported"], cwd=folder)
        assert ignoring.status == 0


def test_raw_options_replace_no_required_flag(folder: Path) -> None:
    (folder / "raw.json").write_text(json.dumps({"compile options": {"graph": {"ge.socVersion": "Ascend310P3"}}}))
    words = [word for word in FULL if not word.startswith("--soc")]
    result = run_atc([*words, "--raw_ge_options=raw.json"], cwd=folder)
    assert result.errors[0][0] == "E10001"
    assert "cannot be replaced" in result.errors[0][1]


def test_every_flag_has_an_option_of_its_spelling() -> None:
    from pth2om.toolchain.emulator.front_end.raw_options import flag_of

    assert flag_of("ge.opSelectImplmode") == "op_select_implmode"
    assert flag_of("ge.outputDatatype") == "output_type"
    assert flag_of("ge.exec.disableReuseMemory") == "disable_reuse_memory"
    assert flag_of("ge.nothing") is None
    assert {flag_of(f"ge.{name}") for name in KNOWN if not name.startswith("raw_")} - {None} <= KNOWN
