"""``pth2om inspect FILE``: what a file is; of an OM, its content."""

from __future__ import annotations

import argparse
from pathlib import Path

from pth2om.escaping import json_text, visible_lines
from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("file", metavar="FILE", type=Path, help=say("omfile.cli-file").render())
    parser.add_argument("--json", action="store_true", help=say("omfile.cli-json").render())
    parser.add_argument("--onnx", metavar="ONNX", type=Path, help=say("omfile.cli-onnx").render())
    parser.add_argument("--soc", metavar="SOC", help=say("omfile.cli-soc").render())


def run(arguments: argparse.Namespace) -> int:
    """Print the file; 1 if it is for another SoC than ``--soc``, or cannot be used."""
    from pth2om.checkpoint.formats import kind_of

    meant = arguments.onnx is not None or arguments.soc is not None or arguments.file.suffix == ".om"
    return _om(arguments) if meant or kind_of(arguments.file) == "om" else _any(arguments)


def _any(arguments: argparse.Namespace) -> int:
    from pth2om.onefile.looking import look

    seen = look(arguments.file)
    if arguments.json:
        print(json_text(seen.to_json(), indent=1))
    else:
        for message in (*seen.said, *((seen.problem,) if seen.problem is not None else ())):
            print(visible_lines(message.with_fix()))
    return int(seen.problem is not None)


def _om(arguments: argparse.Namespace) -> int:
    from pth2om import omfile

    om = omfile.read_om(arguments.file)
    findings = omfile.check_against(om, soc=arguments.soc)
    match = omfile.match_source(om, arguments.onnx) if arguments.onnx else None
    if arguments.json:
        from pth2om.onefile.looking import look

        seen = look(arguments.file).to_json()
        data = omfile.summary(om) | {name: seen[name] for name in ("kind", "family", "said", "doors", "problem")}
        data["findings"] += [finding.to_json() for finding in findings]
        if match is not None:
            data["source"] = {"nodes": match.nodes, "occurring": match.occurring, "recorded": match.recorded}
        print(json_text(data, indent=1))
    else:
        from rich.console import Console

        from pth2om.omfile.show import tables

        console = Console(highlight=False)
        for part in tables(om):
            console.print(part, markup=False) if isinstance(part, str) else console.print(part)
        if match is not None:
            values = {"occurring": match.occurring, "nodes": match.nodes, "share": match.share}
            console.print(say("omfile.match", file=str(arguments.onnx), **values).render(), markup=False)
        for finding in findings:
            console.print(finding.line(), markup=False)
    return int(any(finding.severity == "error" for finding in findings))
