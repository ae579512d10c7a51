"""``pth2om evaluate MODEL --soc NAME --batch-size 1,4,8``: convert, infer, accuracy and fps, in one command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from pth2om.cli.target import add_cann
from pth2om.language import say
from pth2om.spec import Precision


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("model", type=Path, help=say("offline.help-model").render())
    parser.add_argument("--soc", metavar="NAME", help=say("offline.help-soc").render())
    add_cann(parser)
    parser.add_argument("--toolchain", metavar="NAME", help=say("offline.help-toolchain").render())
    parser.add_argument("--board", metavar="ssh://USER@HOST", action="append", help=say("offline.help-board").render())
    parser.add_argument("--batch-size", metavar="N[,N...]", type=_sizes, help=say("offline.help-batches").render())
    parser.add_argument("--precision", choices=get_args(Precision), help=say("offline.help-precision").render())
    parser.add_argument("--dataset", metavar="NAME", help=say("offline.help-dataset").render())
    parser.add_argument("--datasets-path", metavar="DIR", type=Path, help=say("offline.help-datasets-path").render())
    parser.add_argument("--images", metavar="N", type=int, help=say("offline.help-images").render())
    parser.add_argument("--weights", metavar="FILE", type=Path, help=say("offline.help-weights").render())
    parser.add_argument("--trust", action="store_true", help=say("offline.help-trust").render())
    parser.add_argument("--outfmt", choices=("BIN", "TXT"), default="BIN", help=say("offline.help-outfmt").render())
    parser.add_argument("--bins", action="store_true", help=say("offline.help-bins").render())
    parser.add_argument("--calib", type=Path, default=Path("calib"), help=say("golden.help-calib").render())
    parser.add_argument("--data-dir", type=Path, action="append", metavar="DIR", help=say("starter.help-data").render())
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, help=say("offline.help-evaluate-output").render())


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print the table; 0 where an accuracy was measured and nothing contradicts the model."""
    from pth2om.conversion.pipeline import Pipeline, RunSettings
    from pth2om.errors import DataError
    from pth2om.host import data_roots
    from pth2om.offline.evaluating import evaluate
    from pth2om.spec import load
    from pth2om.store import Store
    from pth2om.toolchain import Access
    from pth2om.toolchain.choosing import named

    folder = arguments.model.parent if arguments.model.name == "model.toml" else arguments.model
    spec = load(folder)
    if arguments.images is not None and arguments.images < 1:
        raise DataError("offline.wrong-option", name="--images", value=arguments.images)
    boards = tuple(arguments.board or ())
    dataset = arguments.dataset or next((entry.name for entry in spec.datasets if entry.metric == "top1"), "")
    settings = RunSettings(
        folder.parent,
        arguments.calib,
        (*(arguments.data_dir or ()), *data_roots()),
        soc=arguments.soc,
        toolchain=named(arguments.toolchain, boards),
        access=Access(boards=boards),
        cann=arguments.cann,
        weights={} if arguments.weights is None else {spec.name: arguments.weights},
        datasets={} if arguments.datasets_path is None else {dataset: arguments.datasets_path},
        trust=frozenset({spec.name}) if arguments.trust else frozenset(),
        subset=arguments.images,
    )
    output = arguments.output or Path("results") / f"{spec.name}-{arguments.soc or 'onnx'}"
    pipeline = Pipeline(spec, settings, Store())
    try:
        done = evaluate(
            pipeline,
            output,
            arguments.batch_size or spec.batches,
            precision=arguments.precision,
            dataset=arguments.dataset,
            form=arguments.outfmt,
            inputs=arguments.bins,
            told=lambda message: print(message, file=sys.stderr, flush=True),
        )
    finally:
        pipeline.close()
    print(done.table)
    for remark in done.remarks:
        print(remark.with_fix())
    return done.status


def _sizes(text: str) -> tuple[int, ...]:
    """``1,4,8`` as numbers.

    Raises:
        ArgumentTypeError: it is not of that form; reported with the usage.
    """
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(say("offline.wrong-sizes", text=text).render()) from None
