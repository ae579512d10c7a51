"""``pth2om gui``: the same functions in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from pth2om.errors import DataError
from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""

    def text(name: str) -> str:
        return say(f"gui.cli-{name}").render()

    parser.add_argument("--port", type=int, metavar="N", help=text("port"))
    parser.add_argument("--root", type=Path, metavar="FOLDER", action="append", default=[], help=text("root"))
    parser.add_argument("--jobs", type=int, metavar="N", help=text("jobs"))
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=text("host"))
    parser.add_argument("--name", metavar="NAME", action="append", default=[], help=text("name"))
    parser.add_argument("--state", type=Path, metavar="FOLDER", help=text("state"))
    parser.add_argument("--open", action="store_true", help=text("open"))


def run(arguments: argparse.Namespace) -> int:
    """Serve until it is interrupted."""
    try:
        from pth2om.gui import serving
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "pth2om":
            raise
        raise DataError("gui.not-installed", name=str(error.name)) from None
    return serving.serve(
        project=Path.cwd(),
        port=arguments.port,
        roots=arguments.root,
        jobs=arguments.jobs,
        host=arguments.host,
        names=arguments.name,
        state=arguments.state,
        browser=arguments.open,
    )
