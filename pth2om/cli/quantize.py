"""``pth2om quantize MODEL.onnx --calib DATA``, or ``pth2om quantize SPEC``: INT8, and the files that ATC takes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from pth2om.escaping import json_text
from pth2om.language import say
from pth2om.progress import Progress, terminal
from pth2om.spec.tables import Activations, Balancing, Weights


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""

    def text(name: str) -> str:
        return say(f"quantize.cli-{name}").render().replace("%", "%%")

    parser.add_argument("model", metavar="MODEL", type=Path, help=text("model"))
    data = parser.add_argument_group("data")
    data.add_argument("--calib", metavar="FOLDER", type=Path, action="append", default=[], help=text("calib"))
    data.add_argument("--preprocess", metavar="RECIPE", type=Path, help=text("preprocess"))
    data.add_argument("--images", metavar="N", type=int, help=text("images"))
    data.add_argument("--batch", metavar="N", type=int, help=text("batch"))
    data.add_argument("--random-calibration", action="store_true", help=text("random"))
    how = parser.add_argument_group("how")
    how.add_argument("--activations", choices=get_args(Activations), help=text("activations"))
    how.add_argument("--weights", choices=get_args(Weights), help=text("weights"))
    how.add_argument("--symmetric", action="store_true", help=text("symmetric"))
    how.add_argument("--skip", metavar="PATTERN", action="append", default=[], help=text("skip"))
    how.add_argument("--only", metavar="PATTERN", action="append", default=[], help=text("only"))
    how.add_argument("--balance", choices=get_args(Balancing), help=text("balance"))
    how.add_argument("--equalize", action="store_true", help=text("equalize"))
    how.add_argument("--no-bias-correction", action="store_true", help=text("no-bias-correction"))
    how.add_argument("--small-channels", action="store_true", help=text("small-channels"))
    how.add_argument("--cfg", metavar="FILE", type=Path, help=text("cfg"))
    how.add_argument("--max-drop", metavar="SHARE", help=text("max-drop"))
    how.add_argument("--labels", metavar="FILE", type=Path, help=text("labels"))
    how.add_argument("--convert", action="store_true", help=text("convert"))
    how.add_argument("--amct", action="store_true", help=text("amct"))
    how.add_argument("--evaluator", metavar="FILE", type=Path, help=text("evaluator"))
    how.add_argument("--command", metavar="TEMPLATE", help=text("command"))
    how.add_argument("--preview", action="store_true", help=text("preview"))
    out = parser.add_argument_group("output")
    out.add_argument("-o", "--output", metavar="FOLDER", type=Path, help=text("output"))
    out.add_argument("--prefix", help=text("prefix"))
    out.add_argument("--checkpoint", metavar="FILE", type=Path, help=text("checkpoint"))
    out.add_argument("--sensitivity", action="store_true", help=text("sensitivity"))
    out.add_argument("--json", action="store_true", help=text("json"))


def run(arguments: argparse.Namespace) -> int:
    """Quantize as asked and list the files."""
    from pth2om.conversion import int8_delivery
    from pth2om.quantize import command_line
    from pth2om.quantize.request import Request

    request = Request(**{name: value for name, value in vars(arguments).items() if name != "verb"})
    folder = int8_delivery.spec_folder(request.model)
    shown = Progress() if arguments.json else terminal
    outcome = command_line.execute(request, shown) if folder is None else int8_delivery.write(request, folder)
    if arguments.json:
        print(json_text(outcome.to_json(), indent=1))
        return outcome.status
    for line in outcome.lines():
        print(line)
    for finding in outcome.shown_findings():
        print(finding, file=sys.stderr)
    return outcome.status
