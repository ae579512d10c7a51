"""Writes the page of ONNX operators x opsets x SoCs from the packaged tables.

::

    python -m pth2om.ascend.operators_page docs

writes ``docs/operators.md`` and ``docs/operators.zh.md``; a test keeps them up to date.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pth2om.ascend import TABLES, parser_table
from pth2om.ascend.kernels import Kernels

FAMILIES = (
    ("ascend310", "310"),
    ("ascend310p", "310P"),
    ("ascend310b", "310B"),
    ("ascend910", "910"),
    ("ascend910b", "910B"),
    ("ascend910_93", "910_93"),
    ("ascend950", "950"),
)
_MARKS = {"core": "C", "cpu": "A", "none": "-", "unknown": "?"}

_WORDS: dict[str, dict[str, Any]] = {
    "en": {
        "title": "ONNX operators, opsets and SoCs",
        "intro": (
            "Made by `python -m pth2om.ascend.operators_page docs` from the tables of `pth2om check`. ATC looks up "
            "`domain::opset::Type` with the opset of the **model**: an operator that is not listed for that number is "
            "not found, whatever its own history. Sources: plugin registrations of the public CANN "
            "operator repositories (2026-08), kernel definitions of the same repositories, the 910B operator library "
            "(2026-06), canndev (2022-06-30) and the per-product operator lists. Nothing here was run on a chip."
        ),
        "legend": (
            "**C** an AI Core kernel is listed · **A** only an AI CPU kernel is public · **-** left out of the "
            "product's list · **?** unknown (most kernels of 310P, 310B and 910 are closed). Several letters: one "
            "for each Ascend operator that the plugin may make. *Holes*: opsets 8 to 18 at which the operator exists "
            "in ONNX and ATC does not register it."
        ),
        "standard": "Standard operators",
        "never": "Never registered",
        "never-intro": "Standard operators without any registration; a model that holds one is refused with E13010.",
        "private": "Private names",
        "private-intro": "Registered names that are no standard operators: torch_npu, AMCT and others export them.",
        "columns": ("operator", "opsets", "holes", "Ascend operators"),
        "any": "any",
    },
    "zh": {
        "title": "ONNX 算子、opset 与 SoC",
        "intro": (
            "由 `python -m pth2om.ascend.operators_page docs` 根据 `pth2om check` 的表格"
            "生成。"
            "ATC 用**模型**的 opset 查找 `domain::opset::Type`："
            "没有列出该编号的算子就找不到，与算子自身的版本历史无关。"
            "来源：公开 CANN 算子仓的插件注册（2026-08）、同仓的算子定义、910B 算子信息库（2026-06）、"
            "canndev（2022-06-30）以及各产品的算子清单。以下内容均未在芯片上运行。"
        ),
        "legend": (
            "**C** 有 AI Core 实现 · **A** 公开的只有 AI CPU 实现 · "
            "**-** 产品清单中没有 · "
            "**?** 未知（310P、310B、910 的多数实现未公开）。"
            "多个字母对应插件可能生成的多个昇腾算子。"
            "*缺口*：ONNX 中存在、但 ATC 在 8 到 18 之间没有注册的 opset。"
        ),
        "standard": "标准算子",
        "never": "从未注册",
        "never-intro": "没有任何注册的标准算子；含有它们的模型会以 E13010 被拒绝。",
        "private": "私有名称",
        "private-intro": "已注册但不是标准算子的名称：由 torch_npu、AMCT 等导出。",
        "columns": ("算子", "opset", "缺口", "昇腾算子"),
        "any": "任意",
    },
}


def render(language: str) -> str:
    """The page in ``en`` or ``zh``."""
    words = _WORDS[language]
    standard = _standard()
    table = parser_table.table()["operators"]
    heads = [*words["columns"], *(name for _, name in FAMILIES)]
    lines = [f"# {words['title']}", "", words["intro"], "", words["legend"], "", f"## {words['standard']}", ""]
    lines += _header(heads)
    for name in sorted(standard):
        row = table.get(f"ai.onnx::{name}")
        if row is not None and (row.get("opsets") or name in parser_table.ANY_OPSET):
            lines.append(_line(name, row, standard[name], words["any"]))
    never = sorted(name for name in standard if not (table.get(f"ai.onnx::{name}") or {}).get("opsets"))
    lines += ["", f"## {words['never']}", "", words["never-intro"], ""]
    lines.append(", ".join(f"`{name}`" for name in never if name not in parser_table.ANY_OPSET))
    lines += ["", f"## {words['private']}", "", words["private-intro"], "", *_header(heads)]
    for key, row in table.items():
        domain, _, name = key.partition("::")
        if (domain != "ai.onnx" or name not in standard) and row.get("opsets"):
            lines.append(_line(name if domain == "ai.onnx" else key, row, "", words["any"]))
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write both pages; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="the folder of the documentation")
    folder = parser.parse_args(argv).folder
    for language, path in (("en", folder / "operators.md"), ("zh", folder / "operators.zh.md")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(language), encoding="utf-8")
    return 0


def _standard() -> dict[str, str]:
    """Standard operators and the opsets (7 to 28) at which they exist; Constant is taken at any."""
    with (TABLES / "onnx_standard.json").open(encoding="utf-8") as file:
        spans: dict[str, str] = json.load(file)["operators"]
    return {**spans, **dict.fromkeys(parser_table.ANY_OPSET, "")}


def _header(heads: Sequence[str]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"


def _line(name: str, row: dict[str, Any], span: str, any_opset: str) -> str:
    registered = set(parser_table.unpack(row.get("opsets", "")))
    holes = parser_table.pack(
        [opset for opset in parser_table.unpack(span) if 8 <= opset <= 18 and opset not in registered]
    )
    made = row.get("ge", [])
    marks = [
        "".join(_MARKS[Kernels(family).look_up(kind).verdict] for kind in made) if made else "?"
        for family, _ in FAMILIES
    ]
    opsets = row.get("opsets") or any_opset
    return f"| {name} | {opsets} | {holes} | {', '.join(made)} | {' | '.join(marks)} |"


if __name__ == "__main__":
    raise SystemExit(main())
