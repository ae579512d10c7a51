"""Makes the tables of ``pth2om/preflight/tables`` from the collected facts about CANN.

::

    python -m pth2om.preflight.make_tables FOLDER

``FOLDER`` holds ``onnx_op_support.json``, ``onnx_op_unsupported.json``, ``ascend_op_soc.json`` and
``soc_versions.json``: extracts of public repositories and documents. Each row keeps where it comes from, and each
source its date. The output is sorted and compact, so that the same facts give the same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pth2om.preflight.lookup import TABLES, pack

OPEN_DATE = "2026-08"
"""Snapshot of the open cann/ge and cann/ops-* repositories (CANN 9.2 in development)."""

CANNDEV_DATE = "2022-06-30"
"""Snapshot of canndev (about CANN 5.1 to 6.0)."""


class _Numbered:
    """Strings kept once and referred to by number."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return self._numbers[text]


def parser_table(support: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``onnx_parsers.json``: per ``domain::Type`` its registered opsets, GE types, source and notes.

    Args:
        support: rows of ``onnx_op_support.json``.
    """
    sources, notes = _Numbered(), _Numbered()
    operators: dict[str, Any] = {}
    for entry in sorted(support, key=lambda entry: (entry["domain"], entry["onnx_op"])):
        if entry["onnx_op"].startswith("("):
            continue
        history = entry.get("history", {})
        row: dict[str, Any] = {
            "opsets": pack(entry["opsets"]),
            "ge": entry["ascend_op_type"],
            "source": [sources(text) for text in _list(entry["source"])],
            "notes": [notes(text) for text in entry["constraints"]],
            "standard": entry["onnx_standard"],
            "since": history.get("first_open_tag"),
            "opsets_2022": pack(history.get("canndev_2022_06_opsets") or ()),
            "listed_5": history.get("listed_in_cann_5046_docs", False),
            "listed_8": history.get("listed_in_cann_800_docs", False),
            "by_opset": [[pack(part["opsets"]), part["types"]] for part in entry.get("ascend_op_type_by_opset", ())],
            "unknown": entry.get("status") == "unknown",
            "experimental": entry.get("experimental", False),
        }
        operators[f"{entry['domain']}::{entry['onnx_op']}"] = {key: value for key, value in row.items() if value}
    return {
        "meta": {
            "what": "ONNX plugin registrations of ATC, by exact domain::opset::Type",
            "date": {
                "opsets, ge, source, notes": OPEN_DATE,
                "opsets_2022": CANNDEV_DATE,
                "listed_5": "CANN 5.0.4.6 operator list",
                "listed_8": "CANN 8.0.0 operator list",
            },
            "since": "first open tag of the operator repositories that has it",
        },
        "sources": sources.texts,
        "notes": notes.texts,
        "operators": operators,
    }


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Write compact JSON, one top-level row a line so that differences can be read; by a temporary file."""
    lines = []
    for key, value in data.items():
        if isinstance(value, dict) and key != "meta":
            rows = ",\n".join(f"{json.dumps(name)}:{_compact(row)}" for name, row in value.items())
            lines.append(f"{json.dumps(key)}:{{\n{rows}\n}}")
        else:
            lines.append(f"{json.dumps(key)}:{_compact(value)}")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
    temporary.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Write all tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of the facts")
    parser.add_argument("--to", type=Path, default=TABLES, help="where to write (default: the package)")
    arguments = parser.parse_args(argv)
    arguments.to.mkdir(parents=True, exist_ok=True)
    support = json.loads((arguments.folder / "onnx_op_support.json").read_text(encoding="utf-8"))
    write(arguments.to / "onnx_parsers.json", parser_table(support))
    return 0


def _list(value: str | Sequence[str] | None) -> Sequence[str]:
    return [] if value is None else [value] if isinstance(value, str) else value


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    raise SystemExit(main())
