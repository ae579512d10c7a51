"""Makes text from files safe for the place where it is written.

Names of tensors, nodes, layers and files, and lines of logs, are untrusted: a line break in a comment can make them
code, an escape character can control a terminal, a bidirectional mark can change how they read. Every
writer takes the function of its target: `visible` for terminals, logs and comments, `toml_string`, `shell_line`,
`json_text`; Python source takes ``repr()``, HTML is escaped by its templates, Markdown by `pth2om.report.markdown`.
"""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

LONGEST = 20_000
"""Most characters of one value that are shown."""

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ACTING = re.compile(r"[\x00-\x1f\x7f-\x9f\xad\u0600-\u2fff\ud800-\uffff\U000e0000-\U0010ffff]")


def visible(text: str, most: int = LONGEST) -> str:
    r"""``text`` on one line, with every character that is not displayed but has an effect written as an escape.

    Control characters, line and paragraph separators, bidirectional and zero-width marks, unpaired surrogates and
    unassigned code points become ``\n``, ``\x1b``, ``\u2028``; spaces of every width stay.

    Args:
        text: from anywhere.
        most: characters kept; of a longer text the first and the last half.
    """
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]} … {text[-half:]}"
    if text.isprintable():
        return text
    return "".join(letter if _shows(letter) else _SHORT.get(letter) or _code(letter) for letter in text)


def visible_lines(text: str) -> str:
    """As `visible`, for a text of several lines that keeps its line feeds."""
    return "\n".join(visible(line) for line in text.split("\n"))


def toml_string(text: str) -> str:
    """A TOML basic string that reads back as ``text``.

    Raises:
        UnicodeEncodeError: ``text`` holds unpaired surrogates (an undecodable file name), which TOML cannot express.
    """
    text.encode("utf-8")
    # TOML knows JSON's escapes, and \\UXXXXXXXX; json.dumps leaves DEL and the separators as they are.
    return _ACTING.sub(_unless_shown, json.dumps(text, ensure_ascii=False))


def shell_line(words: Iterable[str]) -> str:
    """A command as typed into bash or zsh, on one line for every content of its words."""
    return " ".join(_shell_word(word) for word in words)


def json_text(value: Any, indent: int | None = None) -> str:  # noqa: ANN401 - JSON values
    """JSON for a terminal: names are readable, characters with an effect are JSON escapes."""
    return _ACTING.sub(_unless_shown_json, json.dumps(value, ensure_ascii=False, indent=indent))


def visible_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a sentence with every text made `visible`."""
    return {name: visible(value) if isinstance(value, str) else value for name, value in values.items()}


def _shows(letter: str) -> bool:
    return letter.isprintable() or unicodedata.category(letter) == "Zs"


def _code(letter: str) -> str:
    number = ord(letter)
    return f"\\x{number:02x}" if number < 0x80 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _unless_shown(match: re.Match[str]) -> str:
    letter = match.group()
    number = ord(letter)
    return letter if _shows(letter) else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _unless_shown_json(match: re.Match[str]) -> str:
    letter = match.group()
    # The line feeds between entries are json's own: those inside strings are escaped already.
    return letter if letter == "\n" or _shows(letter) else json.dumps(letter)[1:-1]


def _shell_word(word: str) -> str:
    if all(map(_shows, word)):
        return shlex.quote(word)
    quoted = visible(word.replace("\\", "\\\\").replace("'", "\\'"), most=len(word) * 2)
    return f"$'{quoted}'"
