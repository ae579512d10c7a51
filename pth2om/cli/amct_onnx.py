"""``pth2om amct_onnx [--real] -- calibration ...``: the line of the vendor's quantizer, done here or handed to it."""

from __future__ import annotations

import argparse
import sys

from pth2om.cli.passing import after_own, as_arguments, pass_on
from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """The options before ``--``; everything else belongs to amct_onnx."""
    parser.usage = "pth2om amct_onnx [-h] [--real] -- calibration|convert AMCT_ARGUMENTS"
    parser.add_argument("--real", action="store_true", help=say("quantize.cli-amct-real").render())
    parser.add_argument("arguments", nargs="*", metavar="AMCT_ARGUMENTS", help=say("quantize.cli-amct-words").render())
    pass_on(parser, after_own(("-h", "--help", "--real")), as_arguments)


def run(arguments: argparse.Namespace) -> int:
    """Quantize as the line asks; 2 where it asks nothing."""
    from pth2om.progress import terminal
    from pth2om.quantize import amct, amct_line
    from pth2om.quantize.command_line import Outcome

    if not arguments.arguments:
        print(say("quantize.amct-nothing"), file=sys.stderr)
        return 2
    if arguments.real:
        found = amct_line.parsed(arguments.arguments)
        outcome = Outcome(amct.run_command(amct.as_typed(arguments.arguments, found.save_path)))
    else:
        outcome = amct_line.execute(arguments.arguments, terminal)
    for line in outcome.lines():
        print(line)
    for finding in outcome.shown_findings():
        print(finding, file=sys.stderr)
    return outcome.status
