"""``pth2om store``: list, clean or query the artifact store."""

from __future__ import annotations

import argparse
import re

from pth2om.amounts import size_text
from pth2om.errors import StoreError
from pth2om.escaping import visible
from pth2om.language import say
from pth2om.store import Entry, Store, differences

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    verbs.add_parser("ls", help=say("store.help-ls").render())
    collect = verbs.add_parser("gc", help=say("store.help-gc").render())
    collect.add_argument("--keep", default="5GB", metavar="SIZE", help=say("store.help-keep").render())
    why = verbs.add_parser("why", help=say("store.help-why").render())
    why.add_argument("name", help=say("store.help-name").render())


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    store = Store()
    if arguments.action == "ls":
        return _list(store)
    if arguments.action == "gc":
        removed = store.collect_garbage(_bytes(arguments.keep))
        size = sum(entry.bytes for entry in removed)
        print(say("store.removed", count=len(removed), size=size_text(size)))
        return 0
    return _why(store, arguments.name)


def _list(store: Store) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text  # plain: labels may hold [brackets], which rich would read as markup

    entries = sorted(store.entries(), key=lambda entry: entry.used, reverse=True)
    table = Table(box=None, pad_edge=False)
    for column in ("stage", "label", "size", "created", "key"):
        table.add_column(say(f"store.column-{column}").render(), justify="right" if column == "size" else "left")
    for entry in entries:
        created = say("store.damaged").render() if entry.damaged else entry.created
        row = (entry.stage, entry.label, size_text(entry.bytes), created, entry.key[:12])
        table.add_row(*(Text(visible(cell)) for cell in row))
    console = Console()
    console.print(table)
    total = size_text(sum(entry.bytes for entry in entries))
    console.print(say("store.total", count=len(entries), size=total, root=str(store.root)).render())
    return 0


def _why(store: Store, name: str) -> int:
    """Compare the newest artifact with the one before it: why was it not taken from the store?"""
    whole = [entry for entry in store.entries() if not entry.damaged]
    entries = [entry for entry in whole if entry.label == name or (len(name) >= 6 and entry.key.startswith(name))]
    if not entries:
        raise StoreError("store.no-entry", name=name)
    by_stage: dict[tuple[str, str], list[Entry]] = {}
    for entry in whole:
        if (entry.stage, entry.label) in {(each.stage, each.label) for each in entries}:
            by_stage.setdefault((entry.stage, entry.label), []).append(entry)
    for (stage, label), group in sorted(by_stage.items()):
        group.sort(key=lambda entry: entry.created)
        newest = next((entry for entry in group if entry.key.startswith(name)), group[-1])
        others = [entry for entry in group if entry is not newest]
        print(f"{visible(stage)} {visible(label)} {newest.key[:12]} ({newest.created})")
        if not others:
            print(f"  {say('store.only-one')}")
            continue
        nearest = min(others, key=lambda entry: len(differences(entry.parts, newest.parts)))
        for line in differences(nearest.parts, newest.parts):
            print(f"  {visible(line)}")
    return 0


def _bytes(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS:
        raise StoreError("store.not-a-size", text=text)
    return int(float(match[1]) * _UNITS[match[2].upper()])
