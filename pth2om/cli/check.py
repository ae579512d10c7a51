"""``pth2om check model.onnx --soc Ascend310B1``: which nodes ATC or the chip does not accept, and what to do."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pth2om.cli.target import add_cann
from pth2om.escaping import json_text
from pth2om.language import say

if TYPE_CHECKING:
    from pth2om.ascend.atc_options import AtcOptions
    from pth2om.evidence import Finding


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``check``."""
    parser.add_argument("model", type=Path, help=say("preflight.help-model").render())
    parser.add_argument("--soc", metavar="NAME", help=say("preflight.help-soc").render())
    add_cann(parser)
    parser.add_argument("--input-shape", metavar="SHAPES", help=say("preflight.help-input-shape").render())
    parser.add_argument("--precision-mode", metavar="MODE", help=say("preflight.help-precision").render())
    parser.add_argument("--latency-ms", type=float, metavar="MS", help=say("preflight.help-latency").render())
    parser.add_argument("--json", action="store_true", help=say("preflight.help-json").render())
    parser.add_argument("--strict", action="store_true", help=say("preflight.help-strict").render())


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; 1 when one of them is an error (or, with ``--strict``, a warning)."""
    from pth2om.preflight import check

    findings = check(
        arguments.model,
        soc=arguments.soc,
        options=_options(arguments),
        cann=arguments.cann,
        latency_ms=arguments.latency_ms,
    )
    if arguments.json:
        print(json_text(_json(arguments, findings), indent=2))
    elif sys.stdout.isatty():
        _print_table(arguments, findings)
    else:
        _print_plain(arguments, findings)
    failing = {"error", "warning"} if arguments.strict else {"error"}
    return int(any(finding.severity in failing for finding in findings))


def _options(arguments: argparse.Namespace) -> AtcOptions | None:
    from pth2om.ascend.atc_options import AtcOptions

    if not (arguments.input_shape or arguments.precision_mode):
        return None
    mode = arguments.precision_mode
    newer = mode in ("fp16", "origin", "cube_fp16in_fp32out", "mixed_float16", "mixed_bfloat16")
    return AtcOptions(
        model=str(arguments.model),
        soc_version=arguments.soc,
        input_shape=arguments.input_shape,
        precision_mode=None if newer else mode,
        precision_mode_v2=mode if newer else None,
    )


def _json(arguments: argparse.Namespace, findings: list[Finding]) -> dict[str, object]:
    return {
        "model": str(arguments.model),
        "soc": arguments.soc,
        "cann": arguments.cann,
        "findings": [
            {**finding.to_json(), "text": finding.message.render(), "fix": finding.message.fix()}
            for finding in findings
        ],
    }


def _title(arguments: argparse.Namespace) -> str:
    soc = arguments.soc or say("preflight.any-soc").render()
    return say("preflight.title", model=arguments.model.name, soc=soc, cann=arguments.cann).render()


def _summary(findings: list[Finding]) -> str:
    counts = {kind: sum(item.severity == kind for item in findings) for kind in ("error", "warning", "info")}
    summary = say("preflight.summary", errors=counts["error"], warnings=counts["warning"], infos=counts["info"])
    return summary.render()


def _print_plain(arguments: argparse.Namespace, findings: list[Finding]) -> None:
    print(_title(arguments))
    for finding in findings:
        print(finding.line(rule=True))
    print(_summary(findings))


def _print_table(arguments: argparse.Namespace, findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(title=escape(_title(arguments)), show_lines=True, expand=True)
    table.add_column(say("preflight.column-severity").render(), no_wrap=True)
    table.add_column(say("preflight.column-rule").render(), overflow="fold", ratio=2)
    table.add_column(say("preflight.column-finding").render(), overflow="fold", ratio=7)
    colours = {"error": "red", "warning": "yellow", "info": "cyan"}
    for finding in findings:
        text = escape(finding.message.render())
        fix = finding.message.fix()
        cell = f"{text}\n[dim]→ {escape(fix)}[/dim]" if fix else text
        colour = colours[finding.severity]
        table.add_row(f"[{colour}]{finding.severity_name}[/{colour}]", finding.rule.removeprefix("preflight."), cell)
    if findings:
        console.print(table)
    else:
        console.print(escape(_title(arguments)))
    console.print(escape(_summary(findings)))
