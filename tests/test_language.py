"""Both languages say the same things."""

from __future__ import annotations

import ast
import re
import string
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pth2om
from pth2om.errors import ToolchainError
from pth2om.evidence import Finding
from pth2om.language import SAMPLES_ARE, Message, _named, bracketed, catalogue, joined, language, say

MESSAGES = Path(pth2om.__file__).parent / "messages"
ROOMS = sorted(path.stem for path in MESSAGES.glob("*.toml"))


def _placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def _sentences(entry: dict[str, object]) -> list[dict[str, str]]:
    sentences = [entry]
    if "fix" in entry:
        sentences.append(entry["fix"])
    return sentences


@pytest.mark.parametrize("room", ROOMS)
def test_every_sentence_is_in_both_languages_with_the_same_placeholders(room: str) -> None:
    for name, entry in catalogue(room).items():
        for sentence in _sentences(entry):
            assert sentence.keys() >= {"en", "zh"}, f"{room}.{name}"
            assert _placeholders(sentence["en"]) == _placeholders(sentence["zh"]), f"{room}.{name}"


@pytest.mark.parametrize("room", ROOMS)
def test_the_chinese_is_chinese(room: str) -> None:
    # Names, symbols and formats are the same in both; a sentence of three or more English words is not.
    for name, entry in catalogue(room).items():
        for sentence in _sentences(entry):
            if sentence["en"] != sentence["zh"]:
                continue
            if re.fullmatch(r"(pth2om|pip|git|pytest) [^。，]*", sentence["en"]):
                continue  # a command to type
            words = re.findall(r"[a-z]{2,}", re.sub(r"\{[^}]*\}", "", sentence["en"]))
            assert len(words) < 3, f"{room}.{name} is not translated"


def test_every_key_in_the_code_is_in_a_catalogue_and_every_entry_is_used() -> None:
    known = {f"{room}.{name}" for room in ROOMS for name in catalogue(room)}
    code = "\n".join(path.read_text(encoding="utf-8") for path in MESSAGES.parent.rglob("*.py"))
    code += "\n".join(path.read_text(encoding="utf-8") for path in MESSAGES.parent.rglob("*.html"))
    code += "\n".join(
        path.read_text(encoding="utf-8") for path in MESSAGES.parent.rglob("*.toml") if path.parent != MESSAGES
    )
    named = set(re.findall(rf"[\"'`](({'|'.join(map(re.escape, ROOMS))})\.[A-Za-z0-9_\-]+)[\"'`]", code))
    used = {key for key, _ in named}
    # Keys that are put together: say(f"room.prefix-{x}") or "room." + name.
    patterns = re.findall(rf"[\"']((?:{'|'.join(map(re.escape, ROOMS))})\.[A-Za-z0-9_\-]*)(?:\{{|[\"'] ?\+)", code)
    unknown = {
        key
        for key in used - known
        if not any(key == pattern for pattern in patterns) and not key.endswith((".py", ".toml"))
    }
    missing = {key for key in unknown if not any(entry.startswith(key) for entry in known)}
    suspicious = {
        key for key in missing if re.search(rf"(?:say|Message|Error|Absent)\(\s*[\"']{re.escape(key)}[\"']", code)
    }
    assert not suspicious
    unused = {key for key in known - used if not any(key.startswith(pattern) for pattern in patterns)}
    unused = {key for key in unused if key.removesuffix("-nearest") not in used}
    # Rules of the pre-flight and clean-up name their messages by their own id, built at run time.
    unused = {key for key in unused if key.partition(".")[2] not in code}
    assert not unused


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PTH2OM_LANG": "zh"}, "zh"),
        ({"PTH2OM_LANG": "en", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LC_ALL": "zh_TW.UTF-8", "LANG": "en_US.UTF-8"}, "zh"),
        ({}, "en"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks the system when no variable is set")
def test_language_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, environment, expected) -> None:
    for name in ("PTH2OM_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert language() == expected


def test_message_renders_later_in_either_language() -> None:
    message = Message.from_json(say("store.no-space", stage="onnx").to_json())
    assert "onnx" in message.render("en")
    assert "onnx" in message.render("zh")
    assert message.render("en") != message.render("zh")
    assert "pth2om store gc" in (message.fix("zh") or "")


def test_a_missing_value_stays_visible() -> None:
    assert "{stage}" in say("store.no-space").render("en")


def test_every_printer_shows_a_finding_and_its_remedy_alike() -> None:
    message = Message("ascend.cann-version", {"cann": "10"})
    error = ToolchainError("ascend.cann-version", where="net.onnx", cann="10")
    finding = Finding("preflight.x", "error", message)
    assert message.with_fix("en").splitlines()[1] == f"  → {message.fix('en')}"
    assert error.render("zh") == f"net.onnx：{message.with_fix('zh')}"
    assert finding.line("net.onnx:3", rule=True).endswith(f"preflight.x: {message.with_fix()}")
    assert Message("aipp.fine", {"count": 1}).with_fix("en").count("\n") == 0


def test_sentences_name_what_a_data_set_holds() -> None:
    values = {"count": 3, "images": 7, "first": "images of mine"}
    plain, volumes = (Message("accuracy.unreadable", values | more) for more in ({}, {SAMPLES_ARE: "volumes"}))
    assert plain.render("en").startswith("On 3 of 7 images the output")
    assert volumes.render("en") == plain.render("en").replace("7 images", "7 volumes")  # a file's name stays
    assert "7 个体数据中有 3 个" in volumes.render("zh")
    assert "图片" not in volumes.with_fix("zh").replace("images of mine", "")
    assert "these samples" in Message("accuracy.unreadable", values | {SAMPLES_ARE: "samples"}).with_fix("en")


def test_no_sentence_of_accuracy_keeps_images_for_volumes() -> None:
    """Every entry, in both languages: the words are replaced, placeholders and tensors are not."""
    for name, entry in catalogue("accuracy").items():
        texts = [entry, entry.get("fix", {})]
        for text, to in ((text[to], to) for text in texts for to in ("en", "zh") if to in text):
            found = _named(text, "volumes", to)
            assert re.findall(r"\{\w*", found) == re.findall(r"\{\w*", text), name
            words = re.sub(r"\{[^}]*\}", "", found)
            assert not re.search(r"\bimages?\b|图片", words), (name, words)
            assert words.count("张量") == re.sub(r"\{[^}]*\}", "", text).count("张量")


_COUNTS = (
    "count|many|more|total|runs|gates|oms|models|images|files|layers|days|figures|batches|samples|tensors|nights|errors"
)
_NOT_NOUNS = {"is", "was", "has", "as", "this", "its", "does", "less"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_count_agrees_with_its_noun(room: str) -> None:
    """``{count} gates`` reads "1 gates"; ``{count:gate|gates}`` does not."""
    for name, entry in catalogue(room).items():
        for sentence in _sentences(entry):
            found = re.findall(rf"\{{(?:{_COUNTS})\}} ([a-z-]+s|OMs)\b", sentence["en"])
            assert not set(found) - _NOT_NOUNS, f"{room}.{name}: {found}"
            # Both sides have words, and no Chinese noun needs them.
            for one, more in re.findall(r"\{\w+:([^{}|]*)\|([^{}]*)\}", sentence["en"]):
                assert one.strip() == one, f"{room}.{name}"
                assert more.strip() == more, f"{room}.{name}"
                assert one != more, f"{room}.{name}"
            assert "|" not in "".join(re.findall(r"\{[^{}]*\}", sentence["zh"])), f"{room}.{name}"


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 gates were"), (1, "1 gate was"), (2, "2 gates were"), ("1", "1 gate was")]
)
def test_one_is_singular(count: object, shown: str) -> None:
    assert say("plugin.exit-not-reached", count=count).render("en") == f"The run fails: {shown} not reached."
    assert "{count} gate" in Message("plugin.exit-not-reached").render("en")


def test_other_words_for_images_reach_the_nouns_of_counts() -> None:
    text = "At least {images:image|images} of {images}"
    assert _named(text, "volumes", "en") == "At least {images:volume|volumes} of {images}"


def test_chinese_has_one_word_for_a_gate_and_its_own_punctuation() -> None:
    ascii_marks = r"[\u4e00-\u9fff）」”]: |[\u4e00-\u9fff）]:$|\}: (?=\{|[\u4e00-\u9fff])|[\u4e00-\u9fff]; "
    for room in ROOMS:
        for name, entry in catalogue(room).items():
            for sentence in _sentences(entry):
                text = sentence["zh"]
                assert not re.search(r"(?<!有)限值", text), f"{room}.{name}"
                if re.search(r"[\u4e00-\u9fff]", re.sub(r"\{[^}]*\}", "", text)):
                    assert not re.search(ascii_marks, text), f"{room}.{name}: {text}"


_SAYS = {"say", "render", "with_fix", "fix", "line_of", "in_language", "name_in"}
_HALF = (": ", "; ", ", ", " (")


def _says(node: ast.AST) -> bool:
    """Whether a sentence for the reader is made here."""
    calls = (each.func for each in ast.walk(node) if isinstance(each, ast.Call))
    return bool({each.id if isinstance(each, ast.Name) else getattr(each, "attr", "") for each in calls} & _SAYS)


def _half_width(tree: ast.AST) -> Iterator[int]:
    """Lines at which a translated part is joined to another by a mark that only English has."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for place, part in enumerate(node.values):
                if not (isinstance(part, ast.FormattedValue) and _says(part.value)):
                    continue
                before = node.values[place - 1] if place else None
                after = node.values[place + 1] if place + 1 < len(node.values) else None
                texts = [each.value if isinstance(each, ast.Constant) else "" for each in (before, after)]
                if str(texts[0]).endswith(_HALF) or str(texts[1]).startswith((*_HALF, ":", ";", ")")):
                    yield node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "join":
            mark = node.func.value
            if isinstance(mark, ast.Constant) and mark.value in _HALF and any(map(_says, node.args)):
                yield node.lineno
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            for one, other in ((node.left, node.right), (node.right, node.left)):
                if isinstance(one, ast.Constant) and one.value in _HALF and _says(other):
                    yield node.lineno


def test_translated_parts_are_joined_by_the_marks_of_their_language() -> None:
    """Every module but those that run where pth2om is not installed, and what is written in English alone."""
    root = Path(pth2om.__file__).parent
    found = [
        f"{path.relative_to(root)}:{line}"
        for path in sorted(root.rglob("*.py"))
        if "agent" not in path.parts
        for line in _half_width(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found


@pytest.mark.parametrize(
    "code",
    ['f"{say(1)}: {x}"', 'f"{x}; {y.render()}"', '", ".join(a.fix() for a in b)', 'x + (", " + say(1).render())'],
)
def test_that_scan_finds_each_way_of_joining(code: str) -> None:
    assert list(_half_width(ast.parse(code))) == [1]


def test_parts_that_are_empty_leave_no_mark() -> None:
    assert joined(("a", "", "b"), "; ", "en") == "a; b"
    assert joined(("甲", "", "乙"), ", ", "zh") == "甲、乙"
    assert joined((), ": ", "zh") == ""
    assert bracketed("", "zh") == bracketed("", "en") == ""


def test_a_catalogue_is_read_again_where_its_kept_form_is_of_another_text_or_damaged(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("pth2om.language._CATALOGUES", tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    written, kept = tmp_path / "room.toml", tmp_path / "__pycache__" / "room.catalogue"

    def en() -> str:
        catalogue.cache_clear()
        return catalogue("room")["word"]["en"]

    try:
        written.write_text('[word]\nen = "one"\nzh = "一"\n', encoding="utf-8")
        assert (en(), kept.exists()) == ("one", True)
        monkeypatch.setattr("tomllib.loads", None)
        assert en() == "one"
        monkeypatch.undo()
        monkeypatch.setattr("pth2om.language._CATALOGUES", tmp_path)
        written.write_text('[word]\nen = "two"\nzh = "二"\n', encoding="utf-8")
        assert en() == "two"
        for damage in (b"", b"{", b"[]", b"{}", b'{"digest": 1, "entries": 2}', b"\xff\xfe"):
            kept.write_bytes(damage)
            assert en() == "two"
        kept.unlink(missing_ok=True)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        assert (en(), kept.exists()) == ("two", False)
    finally:
        catalogue.cache_clear()
