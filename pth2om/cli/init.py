"""``pth2om init NAME``: write a first spec for a checkpoint or an ONNX file; alone: the acceptance tests only."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from pth2om.drafting.start import start, write_tests
from pth2om.errors import CheckpointError
from pth2om.files import from_here
from pth2om.host import data_roots
from pth2om.language import say
from pth2om.spec import Task


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help=say("starter.help-name").render())
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help=say("starter.help-checkpoint").render())
    source.add_argument("--onnx", type=Path, metavar="FILE", help=say("starter.help-onnx").render())
    parser.add_argument("--net", type=Path, metavar="FILE", help=say("starter.help-net").render())
    parser.add_argument(
        "--models", type=Path, metavar="DIR", default=Path("models"), help=say("starter.help-models").render()
    )
    parser.add_argument("--task", choices=get_args(Task), help=say("starter.help-task").render())
    parser.add_argument("--input-shape", type=_shape, metavar="C,H,W", help=say("starter.help-shape").render())
    parser.add_argument("--plans", type=Path, metavar="FILE", help=say("starter.help-plans").render())
    parser.add_argument("--configuration", metavar="NAME", help=say("starter.help-configuration").render())
    parser.add_argument("--data-dir", type=Path, action="append", metavar="DIR", help=say("starter.help-data").render())


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    source = arguments.onnx or arguments.checkpoint
    if arguments.name is None and source is None:
        written = write_tests(arguments.models.absolute().parent)
        for path in written:
            print(say("starter.wrote", path=str(from_here(path))))
        if not written:
            print(say("starter.tests-there", folder=str(arguments.models.parent / "test_cases")))
        return 0
    if arguments.name is None or source is None:
        raise CheckpointError("starter.name-and-file")
    roots = [*(arguments.data_dir or ()), *data_roots()]
    started = start(
        arguments.name,
        source,
        models=arguments.models,
        net=arguments.net,
        task=arguments.task,
        shape=arguments.input_shape,
        plans=arguments.plans,
        configuration=arguments.configuration,
        data_roots=roots,
    )
    for message in started.said:
        print(message)
    for path in started.written:
        print(say("starter.wrote", path=str(from_here(path))))
    for number, step in enumerate(started.next_steps, 1):
        print(f"  {number}. {step}")
    return 0


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.replace("x", ",").strip("[]() ").split(",") if part.strip())
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(say("starter.bad-shape", text=text).render())
    return sizes
