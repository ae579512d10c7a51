"""Standard output and error of whatever console there is: one rule for every verb and for the pytest plugin."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator

from pth2om.language import speak_english

_SPELLED = {
    "→": "->", "←": "<-", "…": "...", "×": "x", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "−": "-", "–": "-",
    "—": "-", "·": "-", "•": "*", "“": '"', "”": '"', "‘": "'", "’": "'", "±": "+/-", "µ": "u", "²": "^2",
}  # fmt: skip
_HANDLER = "pth2om-console"


def prepare_streams() -> None:
    """Let no sign that the console cannot show end a command, and choose a language that it can show.

    A console of code page 1252 or 850 (Windows), a pipe or a log with ``PYTHONIOENCODING`` has no arrow, and Python's
    streams are strict by default. Such a sign is spelled (``->``), and what has no spelling becomes ``?``.
    """
    choose_language()
    codecs.register_error(_HANDLER, _spelled)
    for stream in {id(each): each for each in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)}.values():
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "replace", "backslashreplace"):
            stream.reconfigure(errors=_HANDLER)


def choose_language() -> None:
    """Speak English where the console has no Chinese: question marks can be read in no language."""
    encoding = getattr(sys.__stdout__, "encoding", None) or "utf-8"
    try:
        "中文，（）".encode(encoding)
    except (UnicodeError, LookupError):
        speak_english()


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(map(_spelling, letters)), error.end


def _spelling(letter: str) -> str:
    if "\ud800" <= letter <= "\udfff":
        return f"\\u{ord(letter):04x}"
    return _SPELLED.get(letter, "?")


@contextlib.contextmanager
def silent(descriptor: int) -> Iterator[None]:
    """Suppress standard output (1) or standard error (2) inside the block, also what C++ writes there."""
    stream = sys.stdout if descriptor == 1 else sys.stderr
    redirect = contextlib.redirect_stdout if descriptor == 1 else contextlib.redirect_stderr
    stream.flush()
    kept = os.dup(descriptor)
    with open(os.devnull, "wb") as nowhere, redirect(io.StringIO()):  # noqa: PTH123 - a device
        os.dup2(nowhere.fileno(), descriptor)
        try:
            yield
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)
