"""``pth2om torchscript FILE|MODEL``: a TorchScript program, compared with PyTorch, and its ONNX with a drawing."""

from __future__ import annotations

import argparse
from pathlib import Path

from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("source", type=Path, help=say("torchscript.help-source").render())
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help=say("torchscript.help-output").render())
    parser.add_argument("--input-shape", default="", metavar="SHAPES", help=say("torchscript.help-shape").render())
    parser.add_argument("--outputs", default="", metavar="NAMES", help=say("torchscript.help-outputs").render())
    parser.add_argument(
        "--opset", type=int, default=17, choices=range(8, 19), help=say("torchscript.help-opset").render()
    )
    parser.add_argument("--int32", action="store_true", help=say("torchscript.help-int32").render())
    parser.add_argument("--data-dir", type=Path, action="append", metavar="DIR", help=say("starter.help-data").render())


def run(arguments: argparse.Namespace) -> int:
    """Do it; 1 when a finding is an error."""
    from pth2om.conversion.torchscript_delivery import deliver
    from pth2om.host import data_roots

    found = deliver(
        arguments.source,
        arguments.output,
        shapes=arguments.input_shape,
        outputs=[name.strip() for name in arguments.outputs.split(",") if name.strip()],
        opset=arguments.opset,
        int32=arguments.int32,
        data_roots=[*(arguments.data_dir or ()), *data_roots()],
    )
    twin = "-" if found.twin_error is None else f"{found.twin_error:.2g}"
    error = f"{found.mean_error:.2g}"
    print(say("torchscript.made", method=found.method, error=error, inputs=found.inputs, twin=twin))
    error = f"{found.onnx_error:.2g}"
    print(say("torchscript.compared", opset=found.opset, error=error, inputs=found.inputs))
    for finding in found.findings:
        print(finding.line())
    for path in found.written:
        print(say("torchscript.wrote", path=str(path)))
    return int(any(finding.severity == "error" for finding in found.findings))
