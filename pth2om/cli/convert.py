"""``pth2om convert FILE --soc NAME [-- ATC ARGUMENTS]``: one file to a checked OM, or its rehearsal."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from pth2om.cli.parsing import numbers, sizes
from pth2om.cli.passing import pass_on
from pth2om.cli.target import add_cann
from pth2om.errors import Pth2omError
from pth2om.escaping import json_text
from pth2om.host import data_roots
from pth2om.language import say
from pth2om.onefile.options import Options
from pth2om.spec import Aipp, Precision, Task

_FORMATS = get_args(Aipp.model_fields["input_format"].annotation)


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments; those of `Options`, and the file."""
    parser.usage = "pth2om convert [-h] FILE [--soc NAME] [options] [-- ATC_ARGUMENTS]"
    parser.add_argument("file", metavar="FILE", type=Path, help=_text("file"))
    parser.add_argument("--soc", metavar="NAME", help=_text("soc"))
    add_cann(parser)
    parser.add_argument("--toolchain", metavar="NAME", help=_text("toolchain"))
    parser.add_argument("--real", dest="toolchain", action="store_const", const="cann", help=_text("real"))
    parser.add_argument(
        "--board", dest="boards", metavar="ssh://USER@HOST", action="append", default=[], help=_text("board")
    )
    out = parser.add_argument_group("output")
    out.add_argument("-o", "--output", metavar="FOLDER", type=Path, help=_text("output"))
    out.add_argument("--name", help=_text("name"))
    out.add_argument("--force", action="store_true", help=_text("force"))
    out.add_argument(
        "--save-spec", metavar="FOLDER", type=Path, nargs="?", const=Path("models"), help=_text("save-spec")
    )
    out.add_argument("--json", action="store_true", help=_text("json"))
    out.add_argument("--preview", action="store_true", help=_text("preview"))
    model = parser.add_argument_group("model")
    model.add_argument("--template", metavar="NAME|FILE", help=_text("template"))
    model.add_argument("--templates", metavar="FOLDER", type=Path, help=_text("templates"))
    model.add_argument("--num-classes", metavar="N", type=int, help=_text("num-classes"))
    model.add_argument("--trust", action="store_true", help=_text("trust"))
    model.add_argument("--task", choices=get_args(Task), help=_text("task"))
    shape = parser.add_argument_group("input")
    shape.add_argument("--batch", metavar="N", type=int, help=_text("batch"))
    shape.add_argument("--channels", "--in-channels", metavar="N", type=int, help=_text("channels"))
    shape.add_argument("--size", metavar="H[,W]", type=sizes, help=_text("size"))
    shape.add_argument("--input-shape", metavar="SHAPES", help=_text("input-shape"))
    shape.add_argument("--dynamic-batch-size", metavar="N,N", type=_sizes_of(1), help=_text("dynamic-batch-size"))
    shape.add_argument("--dynamic-image-size", metavar="H,W;H,W", type=_sizes_of(2), help=_text("dynamic-image-size"))
    shape.add_argument("--dynamic-dims", metavar="N,N;N,N", type=_sizes_of(0), help=_text("dynamic-dims"))
    shape.add_argument("--dtype", metavar="NAME:DTYPE", action="append", default=[], help=_text("dtype"))
    export = parser.add_argument_group("ONNX")
    export.add_argument("--opset", metavar="N", type=int, help=_text("opset"))
    export.add_argument("--no-fallback", dest="fallback", action="store_const", const=False, help=_text("no-fallback"))
    export.add_argument("--exporter", choices=("torchscript", "dynamo"), help=_text("exporter"))
    export.add_argument(
        "--torchscript", choices=("auto", "trace", "script"), nargs="?", const="auto", help=_text("torchscript")
    )
    export.add_argument("--dynamic-axes", dest="dynamic_batch", action="store_true", help=_text("dynamic-axes"))
    export.add_argument(
        "--no-validate-onnx", dest="validate_onnx", action="store_const", const=False, help=_text("no-validate-onnx")
    )
    om = parser.add_argument_group("OM")
    om.add_argument(
        "--precision", choices=[one for one in get_args(Precision) if one != "int8"], help=_text("precision")
    )
    om.add_argument("--mixed", dest="precision", action="store_const", const="mixed", help=_text("mixed"))
    om.add_argument("--output-type", choices=("FP32", "FP16", "UINT8", "INT8"), help=_text("output-type"))
    om.add_argument("--no-precheck", dest="precheck", action="store_const", const=False, help=_text("no-precheck"))
    om.add_argument(
        "--no-validate-om", dest="validate_om", action="store_const", const=False, help=_text("no-validate-om")
    )
    om.add_argument("--atc", metavar="ARGUMENTS", type=_words, help=_text("atc"))
    pixels = parser.add_argument_group("pixels")
    pixels.add_argument("--aipp", metavar="FILE", nargs="?", const="", help=_text("aipp"))
    pixels.add_argument("--aipp-format", choices=_FORMATS, help=_text("aipp-format"))
    pixels.add_argument("--color", choices=("RGB", "BGR", "GRAY"), help=_text("color"))
    pixels.add_argument("--mean", metavar="R,G,B", type=numbers, help=_text("mean"))
    pixels.add_argument("--std", metavar="R,G,B", type=numbers, help=_text("std"))
    pixels.add_argument("--scale", metavar="N", type=float, help=_text("scale"))
    pixels.add_argument("--resize", choices=("none", "stretch", "letterbox"), help=_text("resize"))
    pixels.add_argument("--preprocess", dest="recipe", metavar="FILE", type=Path, help=_text("preprocess"))
    int8 = parser.add_argument_group("INT8")
    int8.add_argument("--int8", action="store_true", help=_text("int8"))
    int8.add_argument("--calib", metavar="FOLDER", type=Path, action="append", default=[], help=_text("calib"))
    int8.add_argument("--images", metavar="N", type=int, help=_text("images"))
    int8.add_argument("--random-calibration", action="store_true", help=_text("random-calibration"))
    int8.add_argument("--calibration-config", metavar="FILE", type=Path, help=_text("calibration-config"))
    int8.add_argument("--quantized", metavar="FILE", type=Path, help=_text("quantized"))
    int8.add_argument("--quantizer", choices=("pth2om", "amct_onnx"), help=_text("quantizer"))
    model.add_argument("--configuration", metavar="NAME", help=_text("configuration"))
    score = parser.add_argument_group("accuracy")
    score.add_argument("--dataset", metavar="FOLDER", type=Path, help=_text("dataset"))
    pass_on(parser, _split, _to_atc)


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands behind ``--`` is atc's. ``--atc`` and its value are joined: to argparse the value is an option."""
    place = words.index("--") if "--" in words else len(words)
    own = words[:place]
    while "--atc" in own[:-1]:
        at = own.index("--atc")
        own[at : at + 2] = [f"--atc={own[at + 1]}"]
    return own, words[place + 1 :]


def _to_atc(found: argparse.Namespace, passed: list[str]) -> None:
    found.atc = (*(found.atc or ()), *passed)


def run(arguments: argparse.Namespace) -> int:
    """Convert and print; 0 where nothing contradicts the model, 1 where a gate failed, 2 where it was refused."""
    from pth2om.onefile import advice, convert, wording

    options = options_of(arguments)
    try:
        if arguments.preview:
            from pth2om.onefile.previewing import preview

            print(preview(arguments.file, arguments.soc, options))
            return 0
        done = convert(arguments.file, arguments.soc, options)
    except Pth2omError as error:
        print(error, file=sys.stderr)
        command = advice.after_refusal(error, arguments.file, arguments.soc, options)
        print(say("convert.next", command=command), file=sys.stderr)
        return 2
    if arguments.json:
        print(json_text(wording.summary(done), 1))
    else:
        for line in wording.lines(done):
            print(line)
    return done.status


def options_of(arguments: argparse.Namespace) -> Options:
    """The options that were typed; all others keep their defaults."""
    known = {entry.name for entry in fields(Options)}
    values: dict[str, Any] = {}
    for name, value in vars(arguments).items():
        if name in known and value not in (None, [], ()):
            values[name] = tuple(value) if isinstance(value, list) else value
    if arguments.aipp is not None:
        del values["aipp"]
        values |= {"aipp_config": Path(arguments.aipp)} if arguments.aipp else {"aipp": True}
    if arguments.dtype:
        pairs = [text.rpartition(":") for text in arguments.dtype]
        values["dtypes"] = {name: dtype for name, _, dtype in pairs}
    return Options(**values, data_roots=tuple(data_roots()))


def _text(name: str) -> str:
    return say(f"convert.help-{name}").render().replace("%", "%%")


def _sizes_of(each: int) -> Callable[[str], tuple[Any, ...]]:
    """A type of argparse: ``1,2,4`` (one size each), or groups between ``;``; of 0 sizes: of any number."""

    def read(text: str) -> tuple[Any, ...]:
        groups = [group.strip() for group in text.strip().strip(";").split(";")]
        groups = groups[0].split(",") if each == 1 and len(groups) == 1 else groups
        try:
            sizes = [tuple(int(part) for part in group.replace("x", ",").split(",")) for group in groups]
        except ValueError:
            sizes = []
        if not sizes or min(min(group) for group in sizes) < 1 or (each and any(len(one) != each for one in sizes)):
            raise argparse.ArgumentTypeError(say(f"convert.bad-gears-{each}", text=text).render())
        return tuple(group[0] for group in sizes) if each == 1 else tuple(sizes)

    return read


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(say("convert.bad-words", text=text, reason=str(error)).render()) from None
