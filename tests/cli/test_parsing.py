"""The help of every verb is in one language, argparse's headings included."""

from __future__ import annotations

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
