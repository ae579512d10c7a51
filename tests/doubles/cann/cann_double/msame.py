"""What the double of ``msame`` does (pains.md 3.5 and R31, next.md 1.6)."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cann_double import rules
from cann_double.machine import lost, machine
from cann_double.om import NotADoubleError
from cann_double.running import NUMBERS, Model, load, refusal

OPTIONS = (
    "model", "input", "output", "outfmt", "help", "dump", "profiler", "loop", "dymBatch", "dymDims", "dymHW",
    "dymShape", "device", "outputSize", "debug",
)  # fmt: skip


class RefusedError(Exception):
    """The program ends with this line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as ``msame``; returns its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    rules.pass_by("msame")
    try:
        return _run(_options(words))
    except RefusedError as error:
        print(f"[ERROR] {error}", flush=True)
        return 1


def _options(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("--") or name not in OPTIONS:
            raise RefusedError(f"unknown paramenter {word}")  # the vendor's spelling
        found[name] = value if equals else waiting.pop(0) if waiting else ""
    if found.get("dump") == "true" and found.get("profiler") == "true":
        raise RefusedError("dump and profiler can not both be true")
    if not 1 <= int(found.get("loop", "1")) <= 100:
        raise RefusedError("loop must in 1 to 100")
    return found


def _run(options: dict[str, str]) -> int:
    for line in ("acl init success", "open device 0 success", "create context success", "create stream success"):
        _info(line)
        if lost():
            raise RefusedError("open device 0 failed, errorCode is 507899")
    _info("get run mode success")
    path = Path(options.get("model", ""))
    try:
        model = load(path.read_bytes(), 0)
    except (OSError, NotADoubleError):
        raise RefusedError(f"load model from file failed, model file is {path}") from None
    wrong = refusal(model.description)
    if wrong is not None:
        raise RefusedError(f"load model from file failed, model file is {path}, errorCode is {wrong[0]}")
    _info(f"load model {path} success")
    _info("create model description success")
    shapes = _shapes(model, options)
    output = options.get("output")
    if output and not Path(output).is_dir():
        raise RefusedError(f"the output path {output} does not exist")
    _info("create model output success")
    times: list[float] = []
    for names in _groups(options.get("input", ""), len(shapes)):
        feeds = _feeds(model, shapes, names)
        count = 1 if names and Path(options["input"].split(",")[0]).is_dir() else int(options.get("loop", "1"))
        for _ in range(count):
            _info(f"start to process file:{names[0] if names else ''}")
            for rule in rules.pass_by("msame-execute"):
                if rule.do == "return":
                    raise RefusedError(f"execute model failed, modelId is 1, errorCode is {rule.value}")
            started = time.perf_counter()
            results = model.run(feeds)
            rest = float(machine()["inference_ms"]) / 1000 - (time.perf_counter() - started)
            time.sleep(max(0.0, rest))
            times.append(1000 * (time.perf_counter() - started))
            _info("model execute success")
            print(f"Inference time: {times[-1]:.3f}ms", flush=True)
        if output:
            stem = Path(names[0]).stem if names else "pure_infer_data"
            if machine().get("msame_whole_buffer"):  # the buffers of a model with gears are the largest gear's
                sizes = [tensor.size for tensor in model.description.outputs]
                results = [_whole(result, size) for result, size in zip(results, sizes, strict=True)]
            _write(Path(output), stem, results, options.get("outfmt", "TXT"))
            _info("output data success")
    print(f"Inference average time: {sum(times) / len(times):.6f} ms")
    if len(times) > 1:
        print(f"Inference average time without first time: {sum(times[1:]) / (len(times) - 1):.6f} ms")
    _info("unload model success, model Id is 1")
    _info("Execute sample success")
    model.close()
    return 0


def _shapes(model: Model, options: dict[str, str]) -> dict[str, list[int]]:
    found = model.description
    if found.kind == "static":
        return found.shapes[0]
    if found.kind == "range":
        if len(options.get("outputSize", "").split(",")) != len(found.outputs) or "outputSize" not in options:
            raise RefusedError("the sizes of the outputs are wanted: --outputSize")
        given = options.get("dymShape", "")
        pairs = (group.rpartition(":") for group in given.split(";") if group)
        return {name: [int(size) for size in sizes.split(",")] for name, _, sizes in pairs}
    flag = {"batch": "dymBatch", "hw": "dymHW", "dims": "dymDims"}[found.kind]
    text = options.get(flag, "")
    groups = [group.rpartition(":")[2] for group in text.split(";") if group]
    gear = [int(size) for group in groups for size in group.split(",")]
    if gear not in found.gears:
        raise RefusedError(f"set dynamic gear failed, errorCode is 145013: {flag} {text}")
    return found.shapes[found.gears.index(gear)]


def _groups(text: str, count: int) -> list[list[str]]:
    """The files of each run: one a input; of folders, the files of one place in the sorted lists."""
    if not text:
        return [[]]
    entries = text.split(",")
    if Path(entries[0]).is_dir():
        lists = [sorted(str(path) for path in Path(entry).iterdir()) for entry in entries]
        return [list(names) for names in zip(*lists, strict=False)]
    if len(entries) != count:
        raise RefusedError(f"the number of input files {len(entries)} is not equal to the model's {count}")
    return [entries]


def _feeds(model: Model, shapes: dict[str, list[int]], names: Sequence[str]) -> dict[str, Any]:
    feeds = {}
    for place, tensor in enumerate(model.data_inputs):
        dtype, shape = NUMBERS[tensor.dtype], shapes[tensor.name]
        size = int(np.prod(shape)) * dtype.itemsize
        if not names:
            feeds[tensor.name] = np.zeros(shape, dtype)
            continue
        data = Path(names[place]).read_bytes()
        if len(data) != size:
            text = f"memcpy failed. device buffer size is {size}, input host buffer size is {len(data)}"
            raise RefusedError(text)
        feeds[tensor.name] = np.frombuffer(data, dtype).reshape(shape)
    return feeds


def _write(folder: Path, stem: str, results: Sequence[Any], form: str) -> None:
    if machine().get("msame_stamp"):
        folder = folder / time.strftime("%Y%m%d_%H%M%S")
        folder.mkdir(exist_ok=True)
    for place, result in enumerate(results):
        path = folder / f"{stem}_output_{place}.{'bin' if form.upper() == 'BIN' else 'txt'}"
        if form.upper() == "BIN":
            path.write_bytes(np.ascontiguousarray(result).tobytes())
        else:
            rows = result.reshape(-1, result.shape[-1] if result.ndim else 1)
            path.write_text("".join(" ".join(f"{value:g}" for value in row) + " \n" for row in rows))


def _whole(result: Any, size: int) -> Any:
    data = np.ascontiguousarray(result).reshape(-1)
    return np.concatenate([data, np.zeros(size // data.itemsize - data.size, data.dtype)])


def _info(text: str) -> None:
    print(f"[INFO] {text}", flush=True)
