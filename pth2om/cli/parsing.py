"""The parser of the command line: argparse's own headings and errors in the user's language."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from pth2om.language import say

_ERRORS = {
    "cli.wrong-argument": r"argument (?P<name>.+?): (?P<reason>.+)",
    "cli.required": r"the following arguments are required: (?P<names>.+)",
    "cli.one-required": r"one of the arguments (?P<names>.+) is required",
    "cli.unrecognized": r"unrecognized arguments: (?P<names>.+)",
    "cli.ambiguous": r"ambiguous option: (?P<option>.+) could match (?P<names>.+)",
    "cli.expected-one": r"expected one argument",
    "cli.expected-more": r"expected at least one argument",
    "cli.expected-most": r"expected at most one argument",
    "cli.expected-count": r"expected (?P<count>\d+) arguments?",
    "cli.invalid-choice": r"invalid choice: (?P<value>.+?) \((?P<valid>choose from .+|maybe .+)\)",
    "cli.invalid-value": r"invalid (?P<type>\w+) value: (?P<value>.+)",
    "cli.not-with": r"not allowed with argument (?P<name>.+)",
    "cli.explicit": r"ignored explicit argument (?P<value>.+)",
}
"""What argparse itself can object, by the entry that holds it in both languages."""


def told(error: str) -> str:
    """A sentence of argparse in the reader's language; as it is where it is none of argparse's own."""
    for key, pattern in _ERRORS.items():
        found = re.fullmatch(pattern, error, re.DOTALL)
        if found is not None:
            values = found.groupdict()
            if "reason" in values:
                values["reason"] = told(values["reason"])
            if "valid" in values:
                values["valid"] = values["valid"].removeprefix("choose from ")
            return say(key, **values).render()
    return error


class _Formatter(argparse.HelpFormatter):
    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None = None,
    ) -> None:
        # An empty prefix is argparse's own: so it asks for the name of a verb.
        super().add_usage(usage, actions, groups, say("cli.usage").render() if prefix is None else prefix)


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` whose help has no English words of argparse's; its verbs are of this class too."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - argparse's own
        settings.setdefault("formatter_class", _Formatter)
        super().__init__(**settings, add_help=False)
        self._positionals.title = say("cli.positionals").render()
        self._optionals.title = say("cli.options").render()
        self.add_argument("-h", "--help", action="help", help=say("cli.show-help").render())

    def error(self, message: str) -> NoReturn:
        """Print usage and what is wrong, and exit with 2."""
        self.print_usage(sys.stderr)
        self.exit(2, say("cli.error", program=self.prog, reason=told(message)).render() + "\n")


def sizes(text: str) -> tuple[int, ...]:
    """A type of argparse: one to three sizes, as ``224,224`` or ``224x224``."""
    try:
        found = tuple(int(part) for part in text.replace("x", ",").strip("[]() ").split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1 or len(found) > 3:
        raise argparse.ArgumentTypeError(say("convert.bad-size", text=text).render())
    return found


def numbers(text: str) -> tuple[float, ...]:
    """A type of argparse: numbers with commas between them."""
    try:
        found = tuple(float(part) for part in text.strip("[]() ").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(say("convert.bad-numbers", text=text).render()) from None
    return found
