"""An ``amct_onnx`` command line as typed, done by this package: ``calibration`` and ``convert``.

Options, dtypes and rules are those of the vendor's tool (CANN AMCT guide, "amct_onnx calibration"): names may be cut
short, ``--data_dir`` and ``--data_types`` have one part per input separated by ``;``, a file is one whole batch, and an
evaluator excludes shapes and data. Files get the tool's names. Ranges are found by its default algorithms, IFMR for
activations and ARQ for weights, unless ``--calibration_config`` asks for others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from pth2om.errors import QuantizeError
from pth2om.files import is_file
from pth2om.language import say
from pth2om.progress import Progress
from pth2om.quantize.bins import InputShape
from pth2om.quantize.command_line import Outcome
from pth2om.quantize.request import check_writable

_DATA = ("input_shape", "data_dir", "data_types")
_DTYPES = frozenset(
    {"float64", "float32", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"}
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise QuantizeError("quantize.amct-line", reason=message)


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """The options of a line, without the program.

    Raises:
        QuantizeError: the tool would not take it; says why.
    """
    parser = _Parser(prog="amct_onnx", add_help=False)
    commands = parser.add_subparsers(dest="what", required=True, parser_class=_Parser)
    calibration = commands.add_parser("calibration", add_help=False)
    calibration.add_argument("--model", required=True)
    calibration.add_argument("--save_path", required=True)
    for name in (*_DATA, "evaluator", "calibration_config"):
        calibration.add_argument(f"--{name}")
    calibration.add_argument("--batch_num", type=int, default=1)
    convert = commands.add_parser("convert", add_help=False)
    convert.add_argument("--model", required=True)
    convert.add_argument("--save_path", required=True)
    found = parser.parse_args(list(words))
    for name, value in vars(found).items():
        if value == "":
            raise QuantizeError("quantize.amct-empty", option=f"--{name}")
    if Path(found.save_path).name in ("", ".", ".."):
        raise QuantizeError("quantize.amct-prefix", value=found.save_path)
    if found.what == "calibration":
        _check_calibration(found)
    return found


def _check_calibration(found: argparse.Namespace) -> None:
    given = [f"--{name}" for name in _DATA if getattr(found, name) is not None]
    if found.evaluator is not None and given:
        raise QuantizeError("quantize.amct-evaluator", options=", ".join(given))
    if found.evaluator is None and len(given) < len(_DATA):
        absent = [f"--{name}" for name in _DATA if getattr(found, name) is None]
        raise QuantizeError("quantize.amct-absent", options=", ".join(absent))
    if found.batch_num < 1:
        raise QuantizeError("quantize.flag-value", flag="--batch_num", value=str(found.batch_num))


def execute(words: Sequence[str], progress: Progress) -> Outcome:
    """Do what the line asks.

    Args:
        words: without the program.
        progress: where calibration reports how far it is.

    Raises:
        QuantizeError: the line is wrong, asks for an evaluator, or see `pth2om.quantize.api.quantize`.
    """
    from pth2om.quantize import api
    from pth2om.quantize.amct_config import AmctConfig, read_config
    from pth2om.quantize.bins import open_bins

    found = parsed(words)
    model, prefix = Path(found.model), Path(found.save_path)
    for option, path in (("--model", found.model), ("--calibration_config", vars(found).get("calibration_config"))):
        if path is not None and not is_file(Path(path)):
            raise QuantizeError("quantize.amct-no-file", where=path, option=option)
    check_writable(prefix.parent)
    if found.what == "convert":
        return Outcome(api.convert(model, prefix.parent, prefix=prefix.name))
    if found.evaluator is not None:
        # It is the user's program for a session with the vendor's operators; only the vendor's tool can run it.
        raise QuantizeError("quantize.amct-evaluator-real", where=found.evaluator)
    inputs = _inputs(found)
    batches = open_bins([Path(folder) for folder in _parts(found.data_dir)], inputs, found.batch_num)
    if len(batches) < found.batch_num:
        raise QuantizeError("quantize.amct-few", where=found.data_dir, count=len(batches), wanted=found.batch_num)
    path = found.calibration_config
    settings, findings = (AmctConfig("cfg", []) if path is None else read_config(Path(path))).settings()
    with progress.counted(str(say("quantize.calibrating")), len(batches)) as seen:
        result = api.quantize(model, batches, settings, prefix.parent, prefix=prefix.name, progress=seen)
    return Outcome(replace(result, findings=(*batches.findings, *findings, *result.findings)))


def _inputs(found: argparse.Namespace) -> list[InputShape]:
    shapes = []
    for part in _parts(found.input_shape):
        name, _, text = part.rpartition(":")
        sizes = [size.strip() for size in text.split(",")]
        whole = all(size.isascii() and size.isdigit() and int(size[:10]) > 0 for size in sizes)
        # -1 is read as "whatever the file's size gives", as the tool's reshape does.
        opened = whole or (sizes[0] == "-1" and all(size.isascii() and size.isdigit() for size in sizes[1:]))
        if not name or not opened:
            raise QuantizeError("quantize.amct-shape", text=found.input_shape)
        shapes.append((name, tuple(None if size == "-1" else int(size[:10]) for size in sizes)))
    dtypes, folders = _parts(found.data_types), _parts(found.data_dir)
    if not len(shapes) == len(dtypes) == len(folders):
        counts = (len(shapes), len(dtypes), len(folders))
        raise QuantizeError("quantize.amct-counts", shapes=counts[0], dtypes=counts[1], folders=counts[2])
    wrong = [dtype for dtype in dtypes if dtype not in _DTYPES]
    if wrong:
        raise QuantizeError("quantize.amct-dtype", dtype=wrong[0], known=", ".join(sorted(_DTYPES)))
    return [InputShape(name, shape, dtype) for (name, shape), dtype in zip(shapes, dtypes, strict=True)]


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.strip().strip(";").split(";")]
