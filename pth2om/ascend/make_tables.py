"""Makes the tables of ``pth2om/preflight/tables`` from the collected facts about CANN.

::

    python -m pth2om.ascend.make_tables FOLDER

``FOLDER`` holds ``onnx_op_support.json``, ``onnx_op_unsupported.json``, ``ascend_op_soc.json`` and
``soc_versions.json``: extracts of public repositories and documents. Each row keeps where it comes from, and each
source its date. The output is sorted and compact, so that the same facts give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pth2om.ascend import TABLES
from pth2om.ascend.parser_table import pack
from pth2om.files import write_bytes, write_text

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


def kernel_table(facts: Mapping[str, Any]) -> dict[str, Any]:
    """``kernels.json.gz``: per GE operator and SoC family the kernels and the input dtypes their definitions list.

    ``core`` and ``cpu`` rows are ``[source key, source number, {input: dtype set number or null}]``; null means that
    the definition picks the dtypes in code. ``supported`` is true, false or null (unknown) per family.

    Args:
        facts: ``ascend_op_soc.json``.
    """
    sources, kinds = _Numbered(), _Numbered()

    def rows(definitions: Mapping[str, Any]) -> list[Any]:
        return [
            [
                key,
                sources(definition["source"]),
                {
                    name: None if dtypes is None else kinds(",".join(dtypes))
                    for name, dtypes in (definition.get("inputs") or {}).items()
                },
            ]
            for key, definition in sorted(definitions.items())
        ]

    operators: dict[str, Any] = {}
    for name, entry in sorted(facts["ops"].items()):
        documented = entry.get("documented_dtype_combinations", {})
        row = {
            "core": {family: rows(found) for family, found in sorted(entry["aicore"].items())},
            "cpu": rows(entry.get("aicpu") or {}),
            "supported": dict(sorted(entry["soc_supported"].items())),
            "restricted": entry.get("header_restriction"),
            "documented": {family: found for family, found in documented.items() if isinstance(found, list)},
            "order": documented.get("order"),
        }
        operators[name] = {key: value for key, value in row.items() if value}
    return {
        "meta": {
            "what": "kernels of the GE operators that ONNX plugins map to, by SoC family",
            "date": {
                "cann9_open": OPEN_DATE,
                "cann9_910b_info": "2026-06",
                "canndev_2022_06": CANNDEV_DATE,
                "experimental": OPEN_DATE,
            },
            "closed": "most 310P/310B/910 kernels are closed; their dtype lists are those of 2022",
        },
        "sources": sources.texts,
        "dtypes": kinds.texts,
        "operators": operators,
    }


_SOC_FIELDS = (
    "ai_core_count",
    "vector_core_count",
    "cube_freq_mhz",
    "derived_fp16_tflops",
    "derived_int8_tops",
    "published_fp16_tflops",
    "published_int8_tops",
    "derived_from_card_memory_gbs",
    "published_memory_gbs",
    "derived_memory_gbs",
    "device_memory_bytes",
    "cube_fp32",
    "cube_bf16",
    "source",
)


def soc_table(facts: Mapping[str, Any]) -> dict[str, Any]:
    """``socs.json``: the names of ``--soc_version``, their family, since and until which release, and their figures.

    Args:
        facts: ``soc_versions.json``.
    """
    rows: dict[str, Any] = {}
    for name, entry in sorted(facts["soc_versions"].items()):
        releases = entry["in_platform_config_of"]
        row: dict[str, Any] = {"family": _family(name, facts["families"], entry)}
        row.update({key: entry[key] for key in _SOC_FIELDS if entry.get(key) is not None})
        if releases:
            row["releases"] = [releases[0], releases[-1]]
        rows[name] = row
    return {
        "meta": {
            "what": "valid --soc_version strings and figures of each chip",
            "date": "2026-08-22 (platform_config of hicann/runtime, v8.5.0-beta.1 to master)",
            "derived_fp16_tflops": "ai_core_count x cube_freq x m x n x k x 2 from the platform ini: a peak",
        },
        "aliases": facts["meta"]["aliases"],
        "families": {
            family.lower(): {
                key: value for key, value in entry.items() if key in ("product", "old_name", "cube_bf16", "cube_fp32")
            }
            for family, entry in facts["families"].items()
        },
        "socs": rows,
    }


def standard_table(facts: Mapping[str, Any]) -> dict[str, Any]:
    """``onnx_standard.json``: at which opsets each standard operator exists.

    Args:
        facts: ``onnx_op_unsupported.json``.
    """
    return {
        "meta": {
            "what": "opsets 7 to 28 at which a standard ai.onnx operator exists",
            "onnx": facts["meta"]["onnx_version"],
        },
        "operators": {
            entry["onnx_op"]: "{}-{}".format(*entry["valid_opsets_7_to_28"])
            for entry in sorted(facts["ops"], key=lambda entry: str(entry["onnx_op"]))
        },
    }


def _family(name: str, families: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    listed = [family for family, row in families.items() if name in row["strings"]]
    return (listed[0] if listed else str(entry["short_name"])).lower()


def write_packed(path: Path, data: Mapping[str, Any]) -> None:
    """Write gzipped compact JSON, without a time stamp, by a temporary file."""
    write_bytes(path, gzip.compress(_compact(data).encode(), 9, mtime=0))


def write(path: Path, data: Mapping[str, Any]) -> None:
    """Write compact JSON, one top-level row a line so that differences can be read; by a temporary file."""
    lines = []
    for key, value in data.items():
        if isinstance(value, dict) and key != "meta":
            rows = ",\n".join(f"{json.dumps(name)}:{_compact(row)}" for name, row in value.items())
            lines.append(f"{json.dumps(key)}:{{\n{rows}\n}}")
        else:
            lines.append(f"{json.dumps(key)}:{_compact(value)}")
    write_text(path, "{" + ",\n".join(lines) + "}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Write all tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of the facts")
    parser.add_argument("--to", type=Path, default=TABLES, help="where to write (default: the package)")
    arguments = parser.parse_args(argv)
    arguments.to.mkdir(parents=True, exist_ok=True)
    support = json.loads((arguments.folder / "onnx_op_support.json").read_text(encoding="utf-8"))
    write(arguments.to / "onnx_parsers.json", parser_table(support))
    kernels = json.loads((arguments.folder / "ascend_op_soc.json").read_text(encoding="utf-8"))
    write_packed(arguments.to / "kernels.json.gz", kernel_table(kernels))
    socs = json.loads((arguments.folder / "soc_versions.json").read_text(encoding="utf-8"))
    write(arguments.to / "socs.json", soc_table(socs))
    standard = json.loads((arguments.folder / "onnx_op_unsupported.json").read_text(encoding="utf-8"))
    write(arguments.to / "onnx_standard.json", standard_table(standard))
    return 0


def _list(value: str | Sequence[str] | None) -> Sequence[str]:
    return [] if value is None else [value] if isinstance(value, str) else value


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    raise SystemExit(main())
