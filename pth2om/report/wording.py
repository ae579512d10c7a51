"""Both languages at once: every sentence of a page stands in it in English and in Chinese, and one of them is shown."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from markupsafe import Markup, escape

from pth2om.evidence import GateRecord
from pth2om.language import Language, Message, Value, catalogue
from pth2om.report.figures import short

_ROOM = re.compile(r"[a-z][a-z0-9_-]*")
_LONGEST = 1200


def both(key: str, **values: Value) -> Markup:
    """The sentence ``report.<key>`` in both languages, as HTML."""
    return _both(key, tuple(values.items()))


@functools.lru_cache(maxsize=4096)
def _both(key: str, values: tuple[tuple[str, Value], ...]) -> Markup:
    message = Message(f"report.{key}", dict(values))
    return pair(message.render("en"), message.render("zh"))


def pair(en: str, zh: str) -> Markup:
    """One text in both languages, as HTML; once, where they are the same."""
    if en == zh:
        return escape(en)
    return Markup("<i lang=en>{}</i><i lang=zh>{}</i>").format(en, zh)


def said(message: Message | None) -> Markup:
    """A sentence out of the evidence, in both languages; empty for none."""
    return Markup("") if message is None else pair(in_language(message, "en"), in_language(message, "zh"))


def advice(message: Message | None) -> Markup:
    """What a sentence out of the evidence says to do, in both languages; empty where it says nothing."""
    en, zh = fix_in_language(message, "en"), fix_in_language(message, "zh")
    return pair(en or zh or "", zh or en or "")


def in_language(message: Message, to: Language) -> str:
    """A sentence of an evidence file, which may be of another version or damaged: its bare key and values then."""
    try:
        if _ROOM.fullmatch(message.key.partition(".")[0]):
            return short(message.render(to), _LONGEST)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, OSError):
        pass
    values = ", ".join(f"{name} = {value}" for name, value in message.values.items())
    return short(f"{message.key} ({values})" if values else message.key, _LONGEST)


def fix_in_language(message: Message | None, to: Language) -> str | None:
    """What to do about it, or None where the catalogue does not say or does not know the sentence."""
    if message is None or not _ROOM.fullmatch(message.key.partition(".")[0]):
        return None
    try:
        fix = message.fix(to)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, OSError):
        return None
    return None if fix is None else short(fix, _LONGEST)


def next_of(gate: GateRecord) -> str:
    """Which question's advice fits a gate: what INT8 moved is a matter of quantization, not of conversion."""
    moved = gate.question == "closeness" and gate.variant.startswith("int8") and not gate.check.startswith("torch~onnx")
    return "quantization" if moved else gate.question


def caption(of: object) -> Markup:
    """The caption of a picture: a message as JSON, or plain text."""
    if isinstance(of, Mapping):
        try:
            return said(Message.from_json(of))
        except (KeyError, TypeError, ValueError):
            return Markup("")
    return escape(short(of, 200)) if isinstance(of, str) else Markup("")


def known(key: str) -> bool:
    """Whether the report's own catalogue has the entry ``key``."""
    return key in catalogue("report")


def name_of(kind: str, word: str) -> Markup:
    """A word that programs use (``cosine``, ``closeness``), said in both languages where the catalogue has it."""
    key = f"{kind}-{word}".replace("_", "-")
    return both(key) if known(key) else escape(short(word, 80))


def name_in(kind: str, word: str, to: Language) -> str:
    """As `name_of`, as plain text in one language."""
    key = f"{kind}-{word}".replace("_", "-")
    return Message(f"report.{key}").render(to) if known(key) else word
