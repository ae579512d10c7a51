"""``pth2om bins IMAGES --preprocess RECIPE --output FOLDER``: images into ``.bin`` batches."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pth2om.cli.parsing import numbers, sizes
from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""

    def said(name: str) -> str:
        return say(f"convert.help-{name}").render().replace("%", "%%")

    parser.add_argument("images", metavar="IMAGES", nargs="?", type=Path, help=say("bins.cli-images").render())
    parser.add_argument("--preprocess", type=Path, help=say("bins.cli-preprocess").render())
    parser.add_argument("-o", "--output", required=True, type=Path, help=say("bins.cli-output").render())
    parser.add_argument("--batch", type=int, help=say("bins.cli-batch").render())
    parser.add_argument("--count", type=int, help=say("bins.cli-count").render())
    parser.add_argument("--sheet", action="store_true", help=say("bins.cli-sheet").render())
    parser.add_argument("--input", default="input", help=say("bins.cli-input").render())
    pixels = parser.add_argument_group(say("bins.cli-instead").render())
    pixels.add_argument("--size", metavar="H,W", type=sizes, help=say("bins.cli-size").render())
    pixels.add_argument("--color", choices=("RGB", "BGR", "GRAY"), help=said("color"))
    pixels.add_argument("--mean", metavar="R,G,B", type=numbers, help=said("mean"))
    pixels.add_argument("--std", metavar="R,G,B", type=numbers, help=said("std"))
    pixels.add_argument("--scale", metavar="N", type=float, help=said("scale"))
    pixels.add_argument(
        "--resize",
        choices=("none", "stretch", "letterbox"),
        help=said("resize"),
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the batches and say where they are."""
    from pth2om.errors import QuantizeError
    from pth2om.quantize import bins, preprocessing

    given = {name: getattr(arguments, name) for name in ("color", "scale", "resize", "mean", "std")}
    given = {name: value for name, value in given.items() if value is not None}
    read = None
    if arguments.preprocess is not None:
        read = preprocessing.read_recipe(preprocessing.recipe_path(arguments.preprocess))
    if read is None or given or arguments.size:
        read = preprocessing.of_values(given, arguments.size, read)
    images = arguments.images or read.images
    if images is None:
        raise QuantizeError("bins.no-source", where=str(arguments.preprocess or "--size"))
    batch = read.batch if arguments.batch is None else arguments.batch
    for name, value in (("--batch", batch), ("--count", arguments.count)):
        if value is not None and value < 1:
            raise QuantizeError("bins.wrong-value", name=name, value=str(value))
    if arguments.sheet:
        from pth2om.quantize.sheet import COUNT, write_sheet

        drawn = write_sheet(images, read.preprocess, arguments.output, arguments.count or COUNT)
        print(say("bins.sheet", path=str(arguments.output), count=drawn))
        return 0
    batches = bins.ImageBatches(images, read.preprocess, batch, arguments.input, arguments.count)
    for finding in (*read.findings, *batches.findings):
        print(finding.message, file=sys.stderr)
    written = bins.write_bins(batches, arguments.output)
    shape = "x".join(str(size) for size in (batch, *preprocessing.image_shape(read.preprocess)))
    print(
        say(
            "bins.written",
            batches=written.batches,
            shape=shape,
            dtype="float32",
            folder=str(arguments.output),
            record=str(written.record),
        )
    )
    return 0
