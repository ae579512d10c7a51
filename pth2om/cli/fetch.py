"""``pth2om fetch``: show address, sha256 and licence, then download after confirmation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pth2om import fetch
from pth2om.amounts import size_text
from pth2om.escaping import visible
from pth2om.language import say
from pth2om.progress import counted


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help=say("fetch.help-name").render())
    parser.add_argument("--yes", action="store_true", help=say("fetch.help-yes").render())
    parser.add_argument("--to", type=Path, metavar="DIR", help=say("fetch.help-to").render())
    parser.add_argument(
        "--manifest", type=Path, default=fetch.MANIFEST, metavar="FILE", help=say("fetch.help-manifest").render()
    )


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    if arguments.name is None:
        for name, entry in fetch.entries(arguments.manifest).items():
            print(f"{visible(name):16} {visible(entry.title)}")
        return 0
    entry = fetch.find(arguments.name, arguments.manifest)
    folder = arguments.to or fetch.cache_folder(arguments.name, entry)
    _show(entry, folder)
    if fetch.offline():
        raise fetch.FetchError("fetch.offline", where=arguments.name)
    if not arguments.yes and not _agreed():
        print(say("fetch.not-agreed", name=arguments.name))
        return 1
    for file in entry.files:
        done = _one(file, folder)
        if done.downloaded:
            key = "fetch.resumed" if done.resumed_from else "fetch.done"
            print(say(key, path=str(done.path), size=size_text(done.downloaded), before=size_text(done.resumed_from)))
        else:
            print(say("fetch.present", path=str(done.path)))
        print(say("fetch.digest" if file.sha256 else "fetch.digest-unchecked", sha256=done.sha256))
    if entry.kind == "dataset":
        print(say("fetch.dataset", name=arguments.name, folder=str(folder)))
    return 0


def _show(entry: fetch.Entry, folder: Path) -> None:
    print(visible(entry.title))
    print(say("fetch.licence", licence=entry.licence))
    for file in entry.files:
        print(say("fetch.address", url=file.url))
        size = size_text(file.bytes) if file.bytes else say("fetch.unknown-size").render()
        print(say("fetch.expected", sha256=file.sha256 or say("fetch.unknown-digest").render(), size=size))
    print(say("fetch.destination", folder=str(folder)))


def _agreed() -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    answer = input(say("fetch.question").render() + " ").strip().lower()
    return answer in ("y", "yes", "是", "好")


def _one(file: fetch.File, folder: Path) -> fetch.Fetched:
    with counted(file.name, file.bytes or 0) as seen:
        return fetch.fetch(file, folder, progress=lambda have, _: seen(have))
