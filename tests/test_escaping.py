"""Text out of files is shown and never acts: in Python, TOML, Markdown, HTML, JSON, shell lines, protobuf, logs."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import unicodedata
from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from safetensors.torch import save_file

from pth2om import escaping
from pth2om.aipp.config import parse_config, write_config
from pth2om.cli import main
from pth2om.drafting.start import start
from pth2om.errors import CheckpointError
from pth2om.evidence import Limit
from pth2om.graph.drawing import _text as svg_text
from pth2om.language import say
from pth2om.quantize.record import parse, render
from pth2om.report.collect import collect
from pth2om.report.html import render_html
from pth2om.report.lines import line_of
from pth2om.report.markdown import render_markdown
from tests.report.evidence_factory import gate, run_record

PWNED = "open('pwned', 'w').close()"
HOSTILE = {
    "line-feed": f"a\n{PWNED}\n#.weight",
    "return": f"a\r{PWNED}\r#.weight",
    "separator": f"a\u2028{PWNED}\u2029\x85\x0b\x0c{PWNED}.weight",
    "quotes": f"'''\"\"\"'\"); {PWNED} #.weight",
    "backslash": f"\\'\\\"\\n\\{PWNED}.weight",
    "escape": "\x1b[2J\x1b]0;title\x07\x9b31m\x1b[8mhidden.weight",
    "bidi": "safe\u202egnirts\u2066.\u200bweight",
    "markup": "<script>alert(1)</script>|`x`|[a](http://b.c)|@all|[bold red]|$x$.weight",
    "shell": "$(touch pwned);`touch pwned`&&touch pwned.weight",
    "format": "{0.__class__}{key}%s%n.weight",
    "long": "k" * 10_000 + ".weight",
}
ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def assert_inert(text: str) -> None:
    bad = {hex(ord(letter)) for letter in text if letter != "\n" and unicodedata.category(letter) in ACTING}
    assert not bad


@pytest.fixture(params=HOSTILE, name="name")
def hostile_name(request: pytest.FixtureRequest) -> str:
    return HOSTILE[request.param]


def test_the_functions_of_each_target(name: str) -> None:
    assert "\n" not in escaping.visible(name)
    assert_inert(escaping.visible(name))
    assert tomllib.loads(f"x = {escaping.toml_string(name)}") == {"x": name}
    assert_inert(escaping.toml_string(name))
    assert json.loads(escaping.json_text({"x": [name]}, indent=1)) == {"x": [name]}
    assert_inert(escaping.json_text({"x": [name]}, indent=1))
    line = escaping.shell_line(["printf", "%s", name])
    assert "\n" not in line
    assert_inert(line)


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_shown_on_one_line_and_reads_back(text: str) -> None:
    assert_inert(escaping.visible(text))
    assert "\n" not in escaping.visible(text)
    assert json.loads(escaping.json_text(text)) == text
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        assert tomllib.loads(f"x = {escaping.toml_string(text)}") == {"x": text}
        assert parse(render([("name", text)]), "x") == [("name", text)]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_shell_line_runs_as_the_words_it_was_made_of(tmp_path: Path) -> None:
    words = [*HOSTILE.values(), "tab\there", "it's \\ so", ""]
    line = escaping.shell_line([sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))", *words])
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert ast.literal_eval(done.stdout) == words
    assert not (tmp_path / "pwned").exists()


def test_a_text_without_anything_hostile_stays_as_it_is() -> None:
    for text in ("C:\\models\\一二三.pth", "nested [brackets] {braces} → 0.5 ≥ x", "全角\u3000空格 a\u00a0b"):
        assert escaping.visible(text) == text
    assert escaping.visible("x" * 50, 20) == "x" * 10 + " … " + "x" * 10


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_init_writes_python_and_toml_that_only_say_the_names(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [name for name in HOSTILE.values() if kind == "pth" or "\x00" not in name]
    tensors = {name: torch.zeros(4, 3, 3, 3) for name in names} | {f"z{names[0]}": torch.zeros(7, 4)}
    file = tmp_path / f"a.{kind}"
    save_file(tensors, file) if kind == "safetensors" else torch.save(tensors, file)
    assert main(["init", "m", "--checkpoint", str(file), "--models", str(tmp_path / "models")]) == 0
    net = (tmp_path / "models/m/net.py").read_text(encoding="utf-8")
    spec = (tmp_path / "models/m/model.toml").read_text(encoding="utf-8")
    for text in (net, spec, capsys.readouterr().out):
        assert_inert(text)
    body = ast.parse(net).body
    assert [type(node) for node in body] == [ast.ImportFrom, ast.Assign, ast.FunctionDef]
    assert max(map(len, net.splitlines())) < 500
    assert tomllib.loads(spec)["source"]["checkpoint"].endswith("a." + kind)
    assert main(["check", str(file)]) != 0  # no ONNX
    assert not list(tmp_path.glob("**/pwned"))


def test_init_refuses_names_of_models_and_inputs_that_end_in_a_line_break(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2, 2)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as refused:
        start("name\n", tmp_path / "a.pth", models=tmp_path / "models")
    assert refused.value.message.key == "starter.bad-name"
    value = helper.make_tensor_value_info("x\n", TensorProto.FLOAT, [1, 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x\n"], ["y"])], "g", [value], [out])
    onnx.save(helper.make_model(graph), tmp_path / "a.onnx")
    with pytest.raises(CheckpointError) as refused:
        start("name", tmp_path / "a.onnx", models=tmp_path / "models")
    assert refused.value.message.key == "starter.onnx-name"


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_init_refuses_a_path_that_no_spec_can_hold(tmp_path: Path) -> None:
    file = tmp_path / "a\udcff.pth"
    torch.save({"weight": torch.zeros(2, 2)}, tmp_path / "a.pth")
    (tmp_path / "a.pth").rename(file)
    with pytest.raises(CheckpointError) as refused:
        start("name", file, models=tmp_path / "models")
    assert refused.value.message.key == "starter.undecodable"
    assert_inert(str(refused.value))


def test_messages_and_errors_show_values_on_one_line(name: str) -> None:
    message = say("checkpoint.dropped", count=1, keys=name)
    assert "\n" not in message.render("en")
    assert_inert(message.render("en") + message.render("zh"))
    error = CheckpointError("checkpoint.net-broken", where=name, what=name, reason=name)
    assert len(str(error).splitlines()) == 2  # the sentence and its fix
    assert_inert(str(error))


def test_the_advice_to_rename_a_prefix_is_python_that_only_names_it(name: str) -> None:
    message = say("checkpoint.misfit-part", part=name, quoted=repr(name), branch="", template="", unexpected=1,
                  unexpected_keys="", net="net.py")  # fmt: skip
    code = (message.fix("en") or "").partition("def rename")[2]
    function = ast.parse(f"def rename{code}").body
    assert len(function) == 1
    constants = {node.value for node in ast.walk(function[0]) if isinstance(node, ast.Constant)}
    assert constants == {name} or len(name) > 9_000


def test_the_reports_and_the_plugin_show_names(name: str) -> None:
    record = gate(name, name, "closeness", f"torch~om {name}", 0.5, Limit(">=", 0.99), "failed",
                  message=say("checkpoint.dropped", count=1, keys=name))  # fmt: skip
    report = collect([run_record(), record])
    page = render_html(report, "en")
    assert "<script>alert" not in page
    assert_inert(page)
    text = render_markdown(report, "en")
    assert_inert(text)
    for line in text.splitlines():
        assert PWNED not in line or re.match(r"[-#|]", line)
    assert not re.search(r"<script|(?<!\\)`x|(?<!\\)\[a|http://|@all", text)
    assert_inert(line_of(record))
    assert "\n" not in line_of(record).partition("\n  → ")[0]


def test_drawings_and_protobuf_texts_hold_names_as_data(name: str) -> None:
    assert "<script" not in svg_text(name)
    assert_inert(svg_text(name))
    assert parse(render([("record", [("key", name)])]), "x") == [("record", [("key", name)])]
    assert write_config(parse_config(write_config(parse_config("aipp_op { input_format: RGB888_U8 }", "x")), "x"))


def test_explain_shows_a_hostile_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, name in enumerate(HOSTILE.values()):
        log = tmp_path / f"{number}.log"
        log.write_text(f"E10001: Value {name} for --{name} is invalid.\nNo module named '{name}'\n", encoding="utf-8")
        for words in ([], ["--json"]):
            main(["explain", str(log), *words])
            shown = capsys.readouterr()
            assert_inert(shown.out + shown.err)
