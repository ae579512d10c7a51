"""Whatever a console can show: no command ends because of a sign."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper, save

from pth2om import language, terminal


def run(*words: str, encoding: str, to: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PTH2OM_LANG": to}
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("console")
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Nobody→Knows", ["x"], ["y"])], "g", value[:1], value[1:])
    save(helper.make_model(graph), made / "m.onnx")
    (made / "a.log").write_text("E10007: [--framework] is required. 中文 …\n", encoding="utf-8")
    return made


@pytest.mark.parametrize(
    ("words", "encoding", "to"),
    [
        ("check m.onnx", "cp1252", "zh"),
        ("check m.onnx", "ascii", "en"),
        ("explain a.log", "cp1252", "en"),
        ("explain a.log", "ascii", "zh"),
    ],
)
def test_verbs_print_on_any_code_page(folder: Path, words: str, encoding: str, to: str) -> None:
    done = run("pth2om", *words.split(), encoding=encoding, to=to, folder=folder)
    assert done.stderr == b""
    assert b"-> " in done.stdout
    assert done.stdout.decode(encoding).count("?") < 12  # sentences are English: there are no rows of question marks


@pytest.mark.parametrize("words", [("pth2om", "--help"), ("pth2om", "fetch"), ("pytest", "--help")], ids=str)
def test_help_prints_on_any_code_page(folder: Path, words: tuple[str, ...]) -> None:
    done = run(*words, encoding="cp850", to="zh", folder=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u" not in done.stdout


def test_chinese_stays_where_the_console_has_it(folder: Path) -> None:
    done = run("pth2om", "explain", "a.log", encoding="gbk", to="zh", folder=folder)
    assert "来源" in done.stdout.decode("gbk")


def test_signs_are_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="cp1252", errors="strict", newline="")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "__stdout__", stream)
    monkeypatch.setattr(language, "_english_only", False)
    terminal.prepare_streams()
    assert language.language() == "en"
    print("a → b ≥ c … 中 \udcff ä", end="")
    stream.flush()
    assert raw.getvalue() == b"a -> b >= c \x85 ? \\udcff \xe4"
