"""The parser of the command line: argparse's own headings in the user's language."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from pth2om.language import say


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
