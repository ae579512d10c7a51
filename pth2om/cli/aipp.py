"""``pth2om aipp check FILE``, ``pth2om aipp derive MODEL`` and ``pth2om aipp preview FILE IMAGE``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pth2om.errors import AippError
from pth2om.escaping import visible
from pth2om.language import say

_FORMATS = ("RGB888_U8", "YUV420SP_U8", "XRGB8888_U8", "YUV400_U8")
_STANDARDS = ("601-narrow", "601-wide", "709-narrow", "709-wide")


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help=say("aipp.cli-check").render())
    check.add_argument("file", metavar="FILE", type=Path, help=say("aipp.cli-file").render())
    check.add_argument("--size", metavar="H,W", help=say("aipp.cli-size").render())
    check.add_argument("--soc", metavar="SOC", help=say("aipp.cli-soc").render())
    check.add_argument("--onnx", metavar="ONNX", type=Path, help=say("aipp.cli-onnx").render())
    preview = actions.add_parser("preview", help=say("aipp.cli-preview").render())
    preview.add_argument("file", metavar="FILE", type=Path, help=say("aipp.cli-file").render())
    preview.add_argument("image", metavar="IMAGE", type=Path, help=say("aipp.cli-image").render())
    preview.add_argument("--size", metavar="H,W", help=say("aipp.cli-size").render())
    preview.add_argument("--soc", metavar="SOC", help=say("aipp.cli-soc").render())
    preview.add_argument(
        "-o", "--output", metavar="FILE", type=Path, required=True, help=say("aipp.cli-preview-output").render()
    )
    derive = actions.add_parser("derive", help=say("aipp.cli-derive").render())
    derive.add_argument("model", metavar="MODEL", help=say("aipp.cli-model").render())
    derive.add_argument(
        "--models", metavar="DIR", type=Path, default=Path("models"), help=say("aipp.cli-models").render()
    )
    derive.add_argument("--format", choices=_FORMATS, help=say("aipp.cli-format").render())
    derive.add_argument("--standard", choices=_STANDARDS, default=_STANDARDS[0], help=say("aipp.cli-standard").render())
    derive.add_argument("--nv21", action="store_true", help=say("aipp.cli-nv21").render())
    derive.add_argument("-o", "--output", metavar="FILE", type=Path, help=say("aipp.cli-output").render())


def run(arguments: argparse.Namespace) -> int:
    """Check or derive; 1 when the configuration would be refused."""
    return {"check": _check, "derive": _derive, "preview": _preview}[arguments.action](arguments)


def _check(arguments: argparse.Namespace) -> int:
    from pth2om import aipp

    config = aipp.read_config(arguments.file)
    size = _size(arguments.size) if arguments.size else None
    # Without a size the model's input is unknown, which leaves the comparison of sizes out.
    shape = (1, 3, *size) if size else (1, 3, -1, -1)
    count = max((op.rank for op in config.ops), default=0) + 1
    inputs = [(f"input_{rank}", shape) for rank in range(count)]
    refused = aipp.refusals(config, inputs=inputs)
    found = aipp.findings(config, model_hw=size, soc=arguments.soc)
    if arguments.onnx:
        found += aipp.diagnose(arguments.onnx, config)
    for item in refused:
        place = f"{arguments.file}:{item.line}: " if item.line else ""
        print(visible(f"{place}{item.code}: {item.text}"))
        if item.advice is not None:
            print(f"  → {item.advice.render()}")
    for finding in found:
        print(finding.line(f"{visible(str(arguments.file))}:{finding.details.get('line', 0)}"))
    if not refused and not found:
        print(say("aipp.fine", count=len(config.ops)))
    return int(bool(refused) or any(finding.severity == "error" for finding in found))


def _preview(arguments: argparse.Namespace) -> int:
    from pth2om import aipp
    from pth2om.aipp.preview import write_preview

    config = aipp.read_config(arguments.file)
    size = _size(arguments.size) if arguments.size else None
    seen = write_preview(config, arguments.image, arguments.output, size, soc=arguments.soc)
    shape = " x ".join(map(str, seen.shape))
    print(say("aipp.previewed", path=str(arguments.output), shape=shape, low=f"{seen.low:g}", high=f"{seen.high:g}"))
    if seen.standard:
        print(say("aipp.preview-standard", standard=seen.standard))
    return 0


def _derive(arguments: argparse.Namespace) -> int:
    from pth2om import aipp
    from pth2om.spec import load

    spec = load(arguments.models / arguments.model)
    if spec.preprocess is None:
        raise AippError("aipp.no-preprocess", where=str(arguments.models / arguments.model / "model.toml"))
    form = arguments.format or spec.aipp.input_format
    fed = spec.fed_input
    rank = [entry.name for entry in spec.inputs].index(fed)
    config = aipp.derive(spec.preprocess, form, rank=rank, standard=arguments.standard, nv21=arguments.nv21)
    bound = say("aipp.bound", bound=aipp.error_bound(config, spec.preprocess, rank=rank))
    if arguments.output is None:
        print(aipp.write_config(config), end="")
        print(bound, file=sys.stderr)
    else:
        aipp.save_config(config, arguments.output)
        print(say("aipp.written", path=str(arguments.output)))
        print(bound)
    return 0


def _size(text: str) -> tuple[int, int]:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 2 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise AippError("aipp.not-a-size", text=text)
    return int(parts[0]), int(parts[1])
