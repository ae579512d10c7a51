"""The help of every verb is in one language, argparse's headings included."""

from __future__ import annotations

import re

import pytest

from pth2om.cli import VERBS, main


@pytest.mark.parametrize("verb", [*VERBS, ""])
def test_help_in_chinese_has_no_english_headings(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTH2OM_LANG", "zh")
    with pytest.raises(SystemExit) as left:
        main([*([verb] if verb else []), "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("用法：")
    assert "显示此帮助并退出" in said
    assert not any(words in said for words in ("usage:", "positional arguments", "options:", "show this help"))


def test_a_verb_of_a_verb_has_its_whole_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for language, first in (("en", "usage: pth2om aipp preview "), ("zh", "用法：pth2om aipp preview ")):
        monkeypatch.setenv("PTH2OM_LANG", language)
        with pytest.raises(SystemExit):
            main(["aipp", "preview", "--help"])
        assert capsys.readouterr().out.startswith(first)


_WRONG = {
    "": "缺少必需的参数",
    "verify": "缺少必需的参数：FILE",
    "nonsense": "无效的取值：'nonsense'",
    "report x --lang fr": "参数 --lang：无效的取值：'fr'（可选：",
    "report x --lang": "需要一个值",
    "report x --mode": "无法识别的参数：--mode",
    "gui --port x": "不是有效的 int 值",
}


@pytest.mark.parametrize("words", _WRONG)
def test_the_errors_of_argparse_are_in_the_readers_language(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    english = {}
    for language in ("zh", "en"):
        monkeypatch.setenv("PTH2OM_LANG", language)
        with pytest.raises(SystemExit) as caught:
            main(words.split())
        assert caught.value.code == 2
        english[language] = capsys.readouterr().err.splitlines()[-1]
    assert _WRONG[words] in english["zh"], english
    assert "错误：" in english["zh"]
    assert not re.search(r"argument|required|invalid|expected|error", english["zh"]), english
    assert "error: " in english["en"]
    assert not re.search(r"[\u4e00-\u9fff]", english["en"])
