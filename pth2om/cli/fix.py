"""``pth2om fix model.onnx -o fixed.onnx``: fix what pre-flight finds; every change is proven or undone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pth2om.cli.target import add_cann
from pth2om.escaping import json_text
from pth2om.language import joined, say

if TYPE_CHECKING:
    from pth2om.evidence import Finding
    from pth2om.graph.fixing import Fixed


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``fix``."""
    parser.add_argument("model", type=Path, nargs="?", help=say("graph.help-fix-model").render())
    parser.add_argument("-o", "--output", type=Path, help=say("graph.help-output").render())
    parser.add_argument("--soc", metavar="NAME", help=say("preflight.help-soc").render())
    add_cann(parser)
    passes_help = say("graph.help-passes").render()
    parser.add_argument("--pass", "--passes", dest="passes", action="append", metavar="NAMES", help=passes_help)
    parser.add_argument("--skip", action="append", default=[], metavar="NAMES", help=say("graph.help-skip").render())
    parser.add_argument("--input-shape", default="", metavar="SHAPES", help=say("preflight.help-input-shape").render())
    parser.add_argument("--outputs", default="", metavar="NAMES", help=say("graph.help-outputs").render())
    parser.add_argument("--opset", type=int, default=17, choices=range(8, 19), help=say("graph.help-opset").render())
    parser.add_argument("--int32-inputs", action="store_true", help=say("graph.help-int32-inputs").render())
    simplifiers = ("auto", "onnxslim", "onnxsim")
    parser.add_argument("--simplifier", choices=simplifiers, default="auto", help=say("graph.help-simplifier").render())
    parser.add_argument(
        "--time-limit", type=float, default=300.0, metavar="S", help=say("graph.help-time-limit").render()
    )
    parser.add_argument("--keep-unproven", action="store_true", help=say("graph.help-keep-unproven").render())
    parser.add_argument("--force", action="store_true", help=say("graph.help-force").render())
    parser.add_argument("--json", action="store_true", help=say("preflight.help-json").render())
    parser.add_argument("--list", action="store_true", help=say("graph.help-list").render())
    parser.set_defaults(usage=parser.format_usage())


def run(arguments: argparse.Namespace) -> int:
    """Write the mended file; 0 when pre-flight finds no error in it, else 1."""
    if arguments.list:
        return _list()
    if arguments.model is None:
        print(arguments.usage, end="", file=sys.stderr)
        return 2
    from pth2om.ascend.shapes import static_shapes
    from pth2om.graph.contract import PassSettings
    from pth2om.graph.fixing import fix

    settings = PassSettings(
        input_shapes=static_shapes(arguments.input_shape) if arguments.input_shape.strip() else {},
        outputs=tuple(_words([arguments.outputs])),
        opset=arguments.opset,
        cann=arguments.cann,
        int32_inputs=arguments.int32_inputs,
        simplifier=arguments.simplifier,
        time_limit=arguments.time_limit,
        keep_unproven=arguments.keep_unproven,
    )
    fixed = fix(
        arguments.model,
        arguments.output or arguments.model.with_suffix(".fixed.onnx"),
        settings=settings,
        soc=arguments.soc,
        names=None if arguments.passes is None else _words(arguments.passes),
        skip=_words(arguments.skip),
        force=arguments.force,
    )
    if arguments.json:
        print(json_text(fixed.to_json(), indent=2))
    else:
        _print(arguments.model, fixed)
    return int(_count(fixed.after, "error") > 0)


def _words(texts: list[str]) -> list[str]:
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def _list() -> int:
    from pth2om.graph import passes

    print(say("graph.fix-list"))
    width = max(map(len, passes.ORDER))
    for name in passes.ORDER:
        print(f"  {name:{width}}  {say(f'graph.about-{name}')}")
    return 0


def _count(findings: tuple[Finding, ...], severity: str) -> int:
    return sum(finding.severity == severity for finding in findings)


def _print(model: Path, fixed: Fixed) -> None:
    print(say("graph.fix-title", model=model.name, nodes=fixed.nodes[0], opset=fixed.opset[0]))
    counts = {"errors": _count(fixed.before, "error"), "warnings": _count(fixed.before, "warning")}
    print(say("graph.fix-before", **counts))
    applied = {f"graph.{name}" for name in fixed.cleaned.applied}
    for finding in fixed.cleaned.findings:
        mark = "done" if finding.rule in applied else "undone-mark" if finding.rule == "graph.undone" else "left-mark"
        print("  " + joined((say(f"graph.{mark}").render(), finding.message.with_fix()), ": "))
    _print_proof(fixed)
    counts = {"errors": _count(fixed.after, "error"), "warnings": _count(fixed.after, "warning")}
    print(say("graph.fix-after", **counts, nodes=fixed.nodes[1]))
    for finding in fixed.after:
        if finding.severity == "error":
            print(finding.line())
    if fixed.cleaned.applied:
        print(say("graph.fix-written", path=str(fixed.path), passes=", ".join(fixed.cleaned.applied)))
    else:
        print(say("graph.fix-nothing", path=str(fixed.path)))


def _print_proof(fixed: Fixed) -> None:
    proven = [entry for entry in fixed.cleaned.details if entry["proven"]]
    if not proven:
        return
    difference = max(float(entry["difference"]) for entry in proven)
    if difference:
        bound = max(float(entry["bound"]) for entry in proven)
        print(say("graph.fix-proof", difference=f"{difference:.2g}", bound=f"{bound:g}"))
    else:
        print(say("graph.fix-proof-equal"))
