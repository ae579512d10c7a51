"""The messages for users, in Chinese and in English.

Every sentence for users is in a catalogue, ``pth2om/messages/<room>.toml``, once per language::

    [truncated]
    en = "{path} ends after {size} bytes: the copy is incomplete."
    zh = "{path} 只有 {size} 字节：文件不完整。"
    fix.en = "Copy it again and compare its sha256 with the origin."
    fix.zh = "重新复制，并与来源核对 sha256。"

A count agrees with its noun by ``{count:gate|gates}``, see `formatted`.

Code names a sentence by ``room.entry`` and passes the values; the language is chosen when the sentence is shown, so
evidence recorded on one machine can be read in the reader's language on another.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import locale
import os
import re
import string
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pth2om.escaping import visible_values
from pth2om.files import write_bytes

Language = Literal["en", "zh"]
Value = str | int | float | bool | None

SAMPLES_ARE = "samples_are"
"""A value that says what a sentence about images is about in truth: ``volumes`` or ``samples``."""

_NOUNS: Mapping[str, Mapping[Language, Mapping[str, str]]] = {
    "volumes": {
        "en": {"images": "volumes", "image": "volume", "Images": "Volumes"},
        "zh": {"张图片": "个体数据", "图片": "体数据", "张": "个"},
    },
    "samples": {
        "en": {"images": "samples", "image": "sample", "Images": "Samples"},
        "zh": {"张图片": "个样本", "图片": "样本", "张": "个"},
    },
}
"""What else a data set may hold -> the word in a sentence, and what stands there instead."""

_CATALOGUES = Path(__file__).parent / "messages"
_english_only = False
_reader: ContextVar[Language | None] = ContextVar("reader", default=None)


def speak_english() -> None:
    """Always render in English from now on: the console cannot show Chinese."""
    global _english_only
    _english_only = True


@contextlib.contextmanager
def speaking(to: Language) -> Iterator[None]:
    """Inside the block, in this thread or task alone, the reader's language is ``to``: one server has many readers."""
    token = _reader.set(to)
    try:
        yield
    finally:
        _reader.reset(token)


def language() -> Language:
    """The reader's language: `speaking`'s, else ``PTH2OM_LANG`` (``zh`` or ``en``), else the locale's, else English."""
    reader = _reader.get()
    if reader is not None:
        return reader
    if _english_only:
        return "en"
    asked = os.environ.get("PTH2OM_LANG", "")
    if not asked:
        asked = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    if not asked and sys.platform == "win32":
        # Windows has no LANG; the C runtime's locale names the user's language ("Chinese (Simplified)_China").
        asked = locale.getlocale()[0] or ""
    return "zh" if asked.lower().startswith(("zh", "chinese")) else "en"


@functools.cache
def catalogue(room: str) -> Mapping[str, Any]:
    """All entries of one room's catalogue.

    As JSON, which is read in a fiftieth of the time, they are kept in ``__pycache__`` beside the catalogue, on the
    terms of Python's own compiled modules: nothing is written with ``PYTHONDONTWRITEBYTECODE``, nor where the folder
    cannot be written, and what was made of another text is not used.

    Raises:
        KeyError: when there is no catalogue of that name (a mistake in pth2om, not of its user).
    """
    path = _CATALOGUES / f"{room}.toml"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise KeyError(f"no message catalogue {path}") from None
    digest = hashlib.sha256(text).hexdigest()
    kept = path.parent / "__pycache__" / f"{room}.catalogue"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(kept.read_bytes())
        if found["digest"] == digest:
            return dict(found["entries"])
    import tomllib

    entries = tomllib.loads(text.decode("utf-8"))
    if not sys.dont_write_bytecode:
        with contextlib.suppress(OSError):
            kept.parent.mkdir(exist_ok=True)
            write_bytes(kept, json.dumps({"digest": digest, "entries": entries}, ensure_ascii=False).encode())
    return entries


@dataclass(frozen=True)
class Message:
    """One sentence of a catalogue with its values; rendered where it is read.

    Attributes:
        key: ``room.entry``.
        values: what the sentence's ``{placeholders}`` stand for; JSON scalars, so that it travels in evidence.
    """

    key: str
    values: Mapping[str, Value] = field(default_factory=dict)

    def render(self, to: Language | None = None) -> str:
        """The sentence in language ``to`` (default: the reader's)."""
        return self._pick(self._entry(), to)

    def fix(self, to: Language | None = None) -> str | None:
        """What to do about it, when the catalogue knows; in language ``to`` (default: the reader's)."""
        entry = self._entry().get("fix")
        return None if entry is None else self._pick(entry, to)

    def with_fix(self, to: Language | None = None) -> str:
        """The sentence and, on a line of its own behind an arrow, what to do about it: how every printer shows both."""
        text, fix = self.render(to), self.fix(to)
        return f"{text}\n  → {fix}" if fix else text

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        scalars = str | int | float | bool | None
        values = {name: value if isinstance(value, scalars) else str(value) for name, value in self.values.items()}
        return {"key": self.key, "values": values}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Message:
        """The inverse of `to_json`."""
        return cls(str(data["key"]), dict(data.get("values", {})))

    def _entry(self) -> Mapping[str, Any]:
        room, _, name = self.key.partition(".")
        return cast("Mapping[str, Any]", catalogue(room)[name])

    def _pick(self, entry: Mapping[str, str], to: Language | None) -> str:
        text = _named(entry[to or language()], str(self.values.get(SAMPLES_ARE, "")), to or language())
        # Values come from files: characters with an effect on a terminal, a comment or a log are escaped.
        return formatted(text, visible_values(self.values))

    def __str__(self) -> str:
        return self.render()


@functools.cache
def _named(text: str, samples: str, to: Language) -> str:
    """The text of a catalogue with other words for images; placeholders keep their names."""
    words = _NOUNS.get(samples, {}).get(to, {})
    if not words:
        return text
    # A tensor (张量) is none of the counted.
    names = (rf"\b{word}\b" if word.isascii() else rf"{word}(?!量)" for word in words)
    # Of a count only the name is kept: its nouns are words of the sentence.
    pattern = r"\{[^{}|]*\}|\{\w+:(?=[^{}]*\|)|" + "|".join(names)
    return re.sub(pattern, lambda match: words.get(match[0], match[0]), text)


def formatted(text: str, values: Mapping[str, Value]) -> str:
    """A sentence with its placeholders filled in; one without a value stays visible.

    ``{count:gate was|gates were}`` is a count with what stands behind it, for one and for any other number.

    >>> formatted("{count:gate was|gates were} lost", {"count": 1}), formatted("{n:run|runs}", {"n": 0})
    ('1 gate was lost', '0 runs')
    """
    filled = _Values(values)
    return _COUNTS.vformat(text, (), filled) if "|" in text else text.format_map(filled)


class _Counts(string.Formatter):
    """Knows ``{count:gate|gates}`` besides Python's own forms, which take longer by it."""

    def format_field(self, value: Any, spec: str) -> str:  # noqa: ANN401 - as its base class has it
        one, bar, more = spec.partition("|")
        if not bar:
            return format(value, spec)
        return f"{value} {one if str(value) == '1' else more}"


_COUNTS = _Counts()


class _Values(dict[str, Value]):
    """Leaves an unknown placeholder visible instead of hiding the whole sentence behind a KeyError."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"


Mark = Literal[": ", ", ", "; "]
_FULL_WIDTH: Mapping[str, str] = {": ": "：", ", ": "、", "; ": "；"}


def joined(parts: Iterable[str], mark: Mark, to: Language | None = None) -> str:
    """Parts of a line, one of which at least is a sentence or a word for the reader: a label and its text, a list.

    Chinese has marks of full width, without a space. Parts that are empty are left out.

    Args:
        parts: in the reader's language, or names.
        mark: between them, as English has it.
        to: the language (default: the reader's).

    >>> joined(("net.onnx", "", "error"), ": ", "en"), joined(("net.onnx", "错误"), ": ", "zh")
    ('net.onnx: error', 'net.onnx：错误')
    """
    return (mark if (to or language()) == "en" else _FULL_WIDTH[mark]).join(filter(None, parts))


def bracketed(text: str, to: Language | None = None) -> str:
    """A text in parentheses as it stands behind a word; nothing for none.

    >>> "cosine" + bracketed("emulated", "en"), "cosine" + bracketed("模拟", "zh")
    ('cosine (emulated)', 'cosine（模拟）')
    """
    if not text:
        return ""
    return f" ({text})" if (to or language()) == "en" else f"（{text}）"


def say(key: str, /, **values: Value) -> Message:
    """Short for ``Message(key, values)``."""
    return Message(key, values)
