"""A verb's arguments as a form, and a filled form as the words of the command line.

Both come from the verb's own parser, so a page has every option that the command line has, and no other.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from pth2om.errors import Pth2omError
from pth2om.gui import places
from pth2om.gui.settings import Settings
from pth2om.language import Message, say

Kind = Literal["text", "number", "choice", "switch", "off-switch", "path"]
Values = Mapping[str, Sequence[str]]
"""Names of fields and what was filled in, each several times where the browser sent it so."""

HIDDEN = frozenset({"help", "json", "preview"})
"""Arguments that a page has no use for: it reads files, and previews as it goes."""

ON, OFF = "on", "off"


@dataclass(frozen=True)
class Field:
    """One argument of a verb.

    Attributes:
        name: in forms: the argument's destination; that of a switch which turns something off is the thing's.
        kind: how it is filled in; an ``off-switch`` is on unless the user turns it off.
        flag: as typed; empty for a place in the line.
        help: the command line's own sentence.
        group: title of the verb's group of arguments.
        choices: of a ``choice``.
        repeated: whether it may be given several times, one a line.
        folder: whether a path is a folder's.
        example: what the command line shows in its place.
        default: of the command line, shown where nothing is filled in.
        alone: whether the flag may also stand without a value; the form has a switch for that beside it.
    """

    name: str
    kind: Kind
    flag: str
    help: str
    group: str
    choices: tuple[str, ...] = ()
    repeated: bool = False
    folder: bool = False
    example: str = ""
    default: str = ""
    alone: bool = False

    @property
    def label(self) -> str:
        """The field's name in words; of an option that is new to the window, the option itself."""
        try:
            return say(f"gui.field-{self.name.replace('_', '-')}").render()
        except KeyError:
            return self.flag or self.name


class Mistake(Exception):  # noqa: N818 - what is wrong with a form, in words
    """A form that the command line would refuse."""


def fields(verb: str, action: str = "") -> tuple[Field, ...]:
    """The fields of a verb, in the parser's order and the reader's language.

    Args:
        verb: module of `pth2om.cli`.
        action: of a verb that has several, such as ``derive``.
    """
    parser = _parser(verb, action)
    titles = {id(one): group.title or "" for group in parser._action_groups for one in group._group_actions}
    found: dict[str, Field] = {}
    for one in parser._actions:
        if one.dest not in HIDDEN and one.dest not in found:
            found[one.dest] = _field(one, titles.get(id(one), ""))
    return tuple(found.values())


def words(verb: str, given: Values, settings: Settings, action: str = "") -> tuple[str, ...]:
    """The words behind ``pth2om VERB`` that the form stands for, the fixed places first.

    Args:
        verb: of `pth2om.cli`.
        given: the form.
        settings: name the folders in which paths must lie.
        action: as `fields`.

    Raises:
        Mistake: the command line would refuse it; says so in its words.
        DataError: a path lies outside of the server's folders.
    """
    line: list[str] = [action] if action else []
    options: list[str] = []
    for field in fields(verb, action):
        for word in _words(field, given, settings):
            (options if field.flag else line).append(word)
    line += options
    _parser(verb, action).parse_args(line[1:] if action else line)
    return tuple(line)


def parsed(verb: str, line: Sequence[str], action: str = "") -> argparse.Namespace:
    """The arguments as the verb would see them.

    Raises:
        Mistake: as `words`.
    """
    return _parser(verb, action).parse_args(list(line))


def last(given: Values, name: str) -> str:
    """What was filled in last, without blanks around it; empty where nothing was."""
    return given[name][-1].strip() if given.get(name) else ""


def said(error: Exception) -> str:
    """What is wrong, with what to do about it."""
    if isinstance(error, Pth2omError):
        message: Message = error.message
        return message.with_fix()
    return str(error)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Mistake(message)


def _parser(verb: str, action: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"pth2om {verb}", add_help=False)
    # The parsers of a verb's actions are made by the class of its own.
    _configure(verb, parser)
    if action:
        subs = next(one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
        chosen: argparse.ArgumentParser = subs.choices[action]
        return chosen
    return parser


def _configure(verb: str, parser: argparse.ArgumentParser) -> None:
    from pth2om.cli import aipp, check, compare, convert, explain, history, inspect, quantize, report

    modules = (aipp, check, compare, convert, explain, history, inspect, quantize, report)
    next(one for one in modules if one.__name__.endswith(f".{verb}")).configure(parser)


def _field(action: argparse.Action, group: str) -> Field:
    flag = next((word for word in action.option_strings if word.startswith("--")), "")
    kind: Kind = "text"
    if isinstance(action, argparse._StoreTrueAction):
        kind = "switch"
    elif isinstance(action, argparse._StoreConstAction):
        kind = "off-switch" if action.const is False else "switch"
    elif action.choices is not None:
        kind = "choice"
    elif action.type is Path or action.metavar in ("FILE", "FOLDER", "DIR", "RUN"):
        kind = "path"
    elif action.type in (int, float):
        kind = "number"
    plain = action.default not in (None, False, argparse.SUPPRESS) and not isinstance(action.default, list)
    return Field(
        name=action.dest,
        kind=kind,
        flag=flag,
        help=(action.help or "").replace("%%", "%"),
        group=group,
        choices=tuple(map(str, action.choices or ())),
        repeated=isinstance(action, argparse._AppendAction) or action.nargs == "+",
        folder=action.metavar in ("FOLDER", "DIR", "RUN"),
        example=action.metavar if isinstance(action.metavar, str) else "",
        default=str(action.default) if plain else "",
        alone=bool(flag) and action.nargs == "?",
    )


def _words(field: Field, given: Values, settings: Settings) -> Iterator[str]:
    value = last(given, field.name)
    if field.kind == "switch":
        if value == ON:
            yield field.flag
        return
    if field.kind == "off-switch":
        if value == OFF:
            yield field.flag
        return
    texts = [line.strip() for text in given.get(field.name, ()) for line in text.splitlines()]
    texts = [text for text in texts if text]
    if field.alone and not texts and last(given, f"{field.name}-alone") == ON:
        yield field.flag
    for text in texts if field.repeated else texts[-1:]:
        if field.kind == "path" or (field.name == "template" and ("/" in text or text.endswith(".py"))):
            word = _path(text, settings)
        else:
            word = text
        if not field.flag:
            if word.startswith("-"):
                raise Mistake(say("gui.dash", name=field.label, text=word).render())
            yield word
        elif word.startswith("-"):
            yield f"{field.flag}={word}"
        else:
            yield field.flag
            yield word


def _path(text: str, settings: Settings) -> str:
    """As typed where it is relative, so that the line can be copied into the project's folder."""
    full = places.confined(text, settings)
    if Path(text).is_absolute() and full.is_relative_to(settings.project):
        return str(full.relative_to(settings.project))
    return str(full) if text.startswith("~") else text
