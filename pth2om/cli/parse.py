"""``pth2om parse SOURCE... [--labels FILE]``: logs and outputs of msame and ais_bench into accuracy and fps."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("sources", metavar="SOURCE", nargs="+", type=Path, help=say("offline.cli-sources").render())
    parser.add_argument("--batch-size", type=int, help=say("offline.cli-batch").render())
    parser.add_argument("--labels", type=Path, help=say("offline.cli-labels").render())
    parser.add_argument("--images", type=int, help=say("offline.cli-images").render())
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help=say("offline.cli-dtype").render()
    )
    parser.add_argument("--soc", default="", help=say("offline.cli-soc").render())
    parser.add_argument("--dataset", default="", help=say("offline.cli-dataset").render())
    parser.add_argument("-o", "--output", type=Path, help=say("offline.cli-output").render())


def run(arguments: argparse.Namespace) -> int:
    """Read each source, write the results and print the table."""
    from pth2om.offline import modelzoo_table, read_sources, write_result

    results = read_sources(
        arguments.sources,
        batch=arguments.batch_size,
        labels=arguments.labels,
        images=arguments.images,
        dtype=arguments.dtype,
    )
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        for result in results:
            path = arguments.output / f"result_bs{result.batch}.json"
            write_result(path, result)
            print(say("offline.written", path=str(path)), file=sys.stderr)
    print(modelzoo_table(results, arguments.soc, arguments.dataset))
    return 1 if any(result.absent or result.not_finite for result in results) else 0
