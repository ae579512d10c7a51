"""What the double of ``amct_onnx`` does (amct.md 1.1 to 1.4)."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cann_double import rules
from pth2om.errors import Pth2omError
from pth2om.quantize import QuantizeSettings, convert, quantize


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as ``amct_onnx``; returns its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    asked = {rule.do: rule.value for rule in rules.pass_by("amct_onnx")}
    if "error" in asked:
        print(asked["error"], file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(prog="amct_onnx")
    verbs = parser.add_subparsers(dest="verb", required=True)
    calibration = verbs.add_parser("calibration")
    for name in ("model", "save_path"):
        calibration.add_argument(f"--{name}", required=True)
    for name in ("input_shape", "data_dir", "data_types", "evaluator", "calibration_config"):
        calibration.add_argument(f"--{name}", default="")
    calibration.add_argument("--batch_num", type=int, default=1)
    converting = verbs.add_parser("convert")
    for name in ("model", "save_path"):
        converting.add_argument(f"--{name}", required=True)
    options = parser.parse_args(words)
    _log("INFO", f"amct_onnx {options.verb} begins")
    if options.verb == "convert":
        return _convert(Path(options.model), Path(options.save_path))
    given = [options.input_shape, options.data_dir, options.data_types]
    if options.evaluator and any(given):
        return _fail("the argument evaluator excludes input_shape, data_dir and data_types")
    if not options.evaluator and not all(given):
        return _fail("input_shape, data_dir and data_types are needed where there is no evaluator")
    try:
        batches = _batches(options.input_shape, options.data_dir, options.data_types, options.batch_num)
    except ValueError as error:
        return _fail(str(error))
    stem = Path(options.save_path)
    with tempfile.TemporaryDirectory(prefix="amct-double-", dir=rules.home()) as folder:
        try:
            result = quantize(Path(options.model), iter(batches), QuantizeSettings(), Path(folder))
        except Pth2omError as error:
            return _fail(str(error))
        stem.parent.mkdir(parents=True, exist_ok=True)
        endings = {"deploy": "_deploy_model.onnx", "fake_quant": "_fake_quant_model.onnx", "quant": "_quant.json"}
        for name, file in result.files.items():
            ending = endings.get(name, f"_{name}{file.suffix}")
            shutil.copyfile(file, f"{stem}{ending}")
    _log("INFO", "amct_onnx calibration success")
    return 0


def _convert(model: Path, stem: Path) -> int:
    """A QDQ model: deploy and fake-quant (amct.md 1.1 and 2.8), no ``_quant.json``."""
    import onnx

    try:
        graph = onnx.load(model).graph
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
        return _fail(f"the model {model} cannot be read: {error}")
    wrong = _unfit(graph)
    if wrong:
        return _fail(wrong)
    stem.parent.mkdir(parents=True, exist_ok=True)
    try:
        convert(model, stem.parent, prefix=stem.name)
    except Pth2omError as error:
        return _fail(str(error))
    _log("INFO", "amct_onnx convert success")
    return 0


def _unfit(graph: Any) -> str:
    """Why the vendor's tool does not take a graph; empty where it does."""
    made = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: list(tensor.dims) for tensor in graph.initializer}

    def pair(name: str) -> tuple[Any, Any] | None:
        after = made.get(name)
        before = made.get(after.input[0]) if after is not None and after.op_type == "DequantizeLinear" else None
        return (before, after) if before is not None and before.op_type == "QuantizeLinear" else None

    layers = 0
    for node in graph.node:
        if node.op_type not in _SIDES or not any(pair(name) for name in node.input):
            continue
        layers += 1
        pairs = [pair(name) for name in node.input[: _SIDES[node.op_type]]]
        if node.op_type == "Add":
            pairs = [found for found in pairs if found]
        if not all(pairs):
            return f"layer {node.name} has QuantizeLinear and DequantizeLinear on one side only"
        for before, after in filter(None, pairs):
            if list(before.input[1:]) != list(after.input[1:]):
                return f"layer {node.name}: the two nodes of a pair have other factors"
            scales = int(np.prod(constants.get(before.input[1], [1])))
            if node.op_type in ("Gemm", "MatMul") and scales > 1:
                return f"layer {node.name}: {node.op_type} takes one factor for the whole weight"
    return "" if layers else "there is no layer with QuantizeLinear and DequantizeLinear in the model"


_SIDES = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "MatMul": 2, "Add": 2}
"""Layers that ``convert`` takes, and how many of their inputs carry a pair."""


def _batches(shapes: str, folders: str, types: str, count: int) -> list[dict[str, np.ndarray]]:
    """One file of each folder a batch, sorted by name, exactly the bytes of the declared shape."""
    named = []
    for entry in shapes.strip(";").split(";"):
        name, _, sizes = entry.rpartition(":")  # names may hold a colon
        named.append((name, [int(size) for size in sizes.split(",")]))
    kinds, places = types.strip(";").split(";"), folders.strip(";").split(";")
    if not len(named) == len(kinds) == len(places):
        raise ValueError("input_shape, data_dir and data_types are of different lengths")
    files = [sorted(path for path in Path(place).iterdir() if path.is_file()) for place in places]
    if min(map(len, files)) < count:
        raise ValueError(f"there are {min(map(len, files))} files for {count} batches")
    batches = []
    for number in range(count):
        batch = {}
        for (name, sizes), kind, listed in zip(named, kinds, files, strict=True):
            array = np.fromfile(listed[number], kind)
            wanted = int(np.prod(sizes))
            if array.size != wanted and -1 not in sizes:
                raise ValueError(f"input image size[{array.size}] is not equal to model input size[{wanted}]")
            batch[name] = array.reshape(sizes)
        batches.append(batch)
    return batches


def _fail(text: str) -> int:
    _log("ERROR", text)
    print(f"[ERROR][AMCT] {text}", file=sys.stderr)
    return 1


def _log(level: str, text: str) -> None:
    folder = Path("amct_log")
    folder.mkdir(exist_ok=True)
    with (folder / "amct_onnx.log").open("a") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} - {level} - [AMCT]:[AMCT]: {text}\n")
