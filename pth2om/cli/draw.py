"""``pth2om draw model.onnx``: the graph as an SVG with the pre-flight findings marked, or in Netron."""

from __future__ import annotations

import argparse
from pathlib import Path

from pth2om.cli.target import add_cann
from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``draw``."""
    parser.add_argument("model", type=Path, help=say("preflight.help-model").render())
    parser.add_argument("-o", "--output", type=Path, help=say("graph.help-draw-output").render())
    parser.add_argument("--soc", metavar="NAME", help=say("graph.help-draw-soc").render())
    add_cann(parser)
    parser.add_argument(
        "--layout", choices=("auto", "dot", "own"), default="auto", help=say("graph.help-layout").render()
    )
    parser.add_argument("--limit", type=int, default=1500, metavar="N", help=say("graph.help-limit").render())
    parser.add_argument("--netron", action="store_true", help=say("graph.help-netron").render())


def run(arguments: argparse.Namespace) -> int:
    """Write the SVG, or serve Netron until it is interrupted."""
    if arguments.netron:
        return _netron(arguments.model)
    from pth2om.graph.drawing import draw

    drawn = draw(
        arguments.model,
        arguments.output or arguments.model.with_suffix(".svg"),
        soc=arguments.soc,
        cann=arguments.cann,
        layout=arguments.layout,
        limit=max(arguments.limit, 1),
    )
    print(say("graph.drawn", path=str(drawn.path), shown=drawn.shown, nodes=drawn.nodes, layout=drawn.layout))
    return 0


def _netron(model: Path) -> int:
    from pth2om.errors import GraphError
    from pth2om.onnxfile.reading import read

    try:
        import netron
    except ImportError:
        raise GraphError("graph.netron-absent", where=str(model)) from None
    read(model)  # a file that is not a model is reported here, not in the browser
    netron.start(str(model), browse=True)
    print(say("graph.netron-shown", path=str(model)))
    netron.wait()
    return 0
