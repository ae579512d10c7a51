"""``--cann`` of the verbs: one reader, the same as the pytest plugin's."""

from __future__ import annotations

import argparse

from pth2om.ascend import versions
from pth2om.errors import ToolchainError
from pth2om.language import say


def add_cann(parser: argparse.ArgumentParser) -> None:
    """Add ``--cann`` to a verb; a text that is no known version ends in usage and exit status 2."""
    parser.add_argument(
        "--cann", type=_version, default=versions.DEFAULT, metavar="VERSION", help=say("ascend.help-cann").render()
    )


def _version(text: str) -> str:
    try:
        return versions.version(text)
    except ToolchainError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
