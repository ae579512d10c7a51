"""``acl.mdl``: models, their descriptions, data sets and executions."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cann_double import rules
from cann_double.device import (
    _FILL,
    DESERIALIZE,
    DEVICE,
    GE_BATCH,
    GE_PATH,
    INVALID_MODEL_ID,
    INVALID_PARAM,
    NOT_DYNAMIC,
    SIZE_MISMATCH,
    SUCCESS,
    wait,
)
from cann_double.machine import lost, machine

if TYPE_CHECKING:
    from cann_double import om
    from cann_double.running import Model

GEAR_INPUT = "ascend_mbatch_shape_data"
NUMBERS = {
    number: np.dtype(name)
    for number, name in {
        0: "float32", 1: "float16", 2: "int8", 3: "int32", 4: "uint8", 6: "int16", 7: "uint16", 8: "uint32", 9: "int64",
        10: "uint64", 11: "float64", 12: "bool",
    }.items()
}  # fmt: skip
GE_SIZE, GE_ADDRESS, GE_LENGTH = 145006, 145011, 145012
_models: dict[int, Model] = {}


def element_size(dtype: int) -> int:
    """Bytes of one element."""
    return int(NUMBERS[dtype].itemsize)


def count(dims: Sequence[int]) -> int:
    """How many elements."""
    return int(np.prod(dims, dtype=np.int64))


def load_from_file(path: str) -> tuple[int, int]:
    """A model's number."""
    code, asked = DEVICE.ready("load_from_file")
    if code:
        return 0, code
    if "stray" in asked:  # a helper that outlives the process
        subprocess.Popen(["sleep", "30"], start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    if not Path(path).is_file():
        return 0, DEVICE.fail(GE_PATH, f"E10410: File {path} does not exist.")
    return _load(Path(path).read_bytes())


def load_from_mem(address: int, size: int) -> tuple[int, int]:
    """Likewise, from host memory."""
    from cann_double.device import host

    code, _ = DEVICE.ready("load_from_mem")
    if code:
        return 0, code
    found = host(address, size)
    return (0, DEVICE.fail(INVALID_PARAM)) if found is None else _load(bytes(found))


def _load(data: bytes) -> tuple[int, int]:
    from cann_double.running import load, refusal  # the emulator: a process that only asks for the SoC needs none

    try:
        model = load(data, DEVICE.context or 0)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file
        return 0, DEVICE.fail(DESERIALIZE, f"EZ9999: Inner Error!\n        Parse model failed: {error}")
    wrong = refusal(model.description)
    if wrong is not None:
        model.close()
        return 0, DEVICE.fail(*wrong)
    number = len(_models) + 1
    _models[number] = model
    DEVICE.handles[-number] = ("model", model)
    return number, SUCCESS


def unload(number: int) -> int:
    """In the context in which it was loaded."""
    model = _models.get(number)
    if model is None or -number not in DEVICE.handles:
        return DEVICE.fail(INVALID_MODEL_ID)
    _same_context(model, "unload")
    del DEVICE.handles[-number]
    model.close()
    return SUCCESS


def query_size(path: str) -> tuple[int, int, int]:
    """Bytes of work space and of weights."""
    if not Path(path).is_file():
        return 0, 0, DEVICE.fail(GE_PATH)
    return 1 << 20, Path(path).stat().st_size, SUCCESS


def create_desc() -> int:
    """An empty description."""
    return DEVICE.new("desc", [None])


def get_desc(desc: int, number: int) -> int:
    """Fill it."""
    found, model = DEVICE.get("desc", desc), _models.get(number)
    if found is None:
        return DEVICE.fail(INVALID_PARAM)
    if model is None or -number not in DEVICE.handles:
        return DEVICE.fail(INVALID_MODEL_ID)
    found[0] = model
    return SUCCESS


def destroy_desc(desc: int) -> int:
    """Free it."""
    return DEVICE.drop("desc", desc)


def _model(desc: int) -> Model:
    found = DEVICE.get("desc", desc)
    if found is None or found[0] is None:
        DEVICE.fault("a description was asked that is empty or destroyed")
    model: Model = found[0]
    return model


def _tensor(desc: int, side: str, index: int) -> om.Tensor | None:
    tensors: list[om.Tensor] = getattr(_model(desc).description, side)
    return tensors[index] if 0 <= index < len(tensors) else None


def get_num_inputs(desc: int) -> int:
    """With the one that chooses the gear."""
    return len(_model(desc).description.inputs)


def get_num_outputs(desc: int) -> int:
    """How many."""
    return len(_model(desc).description.outputs)


def get_input_size_by_index(desc: int, index: int) -> int:
    """Bytes of the largest gear; 0 of an open range."""
    tensor = _tensor(desc, "inputs", index)
    return tensor.size if tensor else 0


def get_output_size_by_index(desc: int, index: int) -> int:
    """Likewise."""
    tensor = _tensor(desc, "outputs", index)
    asked = {rule.do: rule.value for rule in rules.pass_by("output-size")}
    return int(asked.get("bytes", tensor.size)) if tensor else 0


def _dims(tensor: om.Tensor | None, dims: Sequence[int] | None = None) -> tuple[dict[str, Any], int]:
    if tensor is None:
        return {}, DEVICE.fail(INVALID_PARAM)
    found = list(tensor.dims if dims is None else dims)
    return {"name": tensor.name, "dimCount": len(found), "dims": found}, SUCCESS


def get_input_dims(desc: int, index: int) -> tuple[dict[str, Any], int]:
    """With -1 where gears differ."""
    return _dims(_tensor(desc, "inputs", index))


def get_input_dims_v2(desc: int, index: int) -> tuple[dict[str, Any], int]:
    """The second form, for AIPP."""
    tensor = _tensor(desc, "inputs", index)
    return _dims(tensor, tensor.second if tensor else None)


def get_output_dims(desc: int, index: int) -> tuple[dict[str, Any], int]:
    """Of the largest gear."""
    return _dims(_tensor(desc, "outputs", index))


def get_cur_output_dims(desc: int, index: int) -> tuple[dict[str, Any], int]:
    """Of the gear that is set, or that ran."""
    model = _model(desc)
    tensor = _tensor(desc, "outputs", index)
    asked = {rule.do: rule.value for rule in rules.pass_by("cur-dims")}
    if "dims" in asked:
        return _dims(tensor, asked["dims"])
    return _dims(tensor, model.current[index] if tensor and model.current else None)


def get_input_data_type(desc: int, index: int) -> int:
    """Number of the type."""
    tensor = _tensor(desc, "inputs", index)
    return tensor.dtype if tensor else -1


def get_output_data_type(desc: int, index: int) -> int:
    """Number of the type."""
    tensor = _tensor(desc, "outputs", index)
    return tensor.dtype if tensor else -1


def get_input_format(desc: int, index: int) -> int:
    """0 NCHW, 1 NHWC, 2 ND."""
    tensor = _tensor(desc, "inputs", index)
    return tensor.format if tensor else -1


def get_output_format(desc: int, index: int) -> int:
    """0 NCHW, 1 NHWC, 2 ND."""
    tensor = _tensor(desc, "outputs", index)
    return tensor.format if tensor else -1


def get_input_name_by_index(desc: int, index: int) -> str:
    """As in the ONNX file."""
    tensor = _tensor(desc, "inputs", index)
    return tensor.name if tensor else ""


def get_output_name_by_index(desc: int, index: int) -> str:
    """``node:index:tensor``."""
    tensor = _tensor(desc, "outputs", index)
    return tensor.name if tensor else ""


def _index(desc: int, side: str, name: str) -> tuple[int, int]:
    names = [tensor.name for tensor in getattr(_model(desc).description, side)]
    if name not in names:
        return 0, DEVICE.fail(INVALID_PARAM, f"EH9999: Inner Error!\n        cannot find {name} in tensor names")
    return names.index(name), SUCCESS


def get_input_index_by_name(desc: int, name: str) -> tuple[int, int]:
    """An unknown name is an error, not -1."""
    return _index(desc, "inputs", name)


def get_output_index_by_name(desc: int, name: str) -> tuple[int, int]:
    """Likewise."""
    return _index(desc, "outputs", name)


def create_dataset() -> int:
    """Without buffers."""
    return DEVICE.new("dataset", {"buffers": [], "descs": {}})


def destroy_dataset(dataset: int) -> int:
    """Its buffers are destroyed by themselves."""
    for handle in (DEVICE.get("dataset", dataset) or {}).get("handles", {}).values():
        DEVICE.handles.pop(handle, None)
    return DEVICE.drop("dataset", dataset)


def add_dataset_buffer(dataset: int, buffer: int) -> tuple[int, int]:
    """At the end."""
    found = DEVICE.get("dataset", dataset)
    if found is None or DEVICE.get("data buffer", buffer) is None:
        return dataset, DEVICE.fail(INVALID_PARAM)
    found["buffers"].append(buffer)
    return dataset, SUCCESS


def get_dataset_num_buffers(dataset: int) -> int:
    """How many."""
    return len((DEVICE.get("dataset", dataset) or {"buffers": []})["buffers"])


def get_dataset_buffer(dataset: int, index: int) -> int:
    """One of them."""
    return int(DEVICE.get("dataset", dataset)["buffers"][index])


def set_dataset_tensor_desc(dataset: int, desc: int, index: int) -> tuple[int, int]:
    """The sizes of an input of a range."""
    found, tensor = DEVICE.get("dataset", dataset), DEVICE.get("tensor desc", desc)
    if found is None or tensor is None or not 0 <= index < len(found["buffers"]):
        return dataset, DEVICE.fail(INVALID_PARAM)
    found["descs"][index] = list(tensor[1])
    return dataset, SUCCESS


def get_dataset_tensor_desc(dataset: int, index: int) -> int:
    """The sizes that a range's execution found; 0 where there are none."""
    found = DEVICE.get("dataset", dataset)
    if found is None or index not in found["descs"]:
        return 0
    # It belongs to the data set: whoever asks does not destroy it.
    DEVICE.handles.pop(found.setdefault("handles", {}).get(index), None)
    handle = DEVICE.new("tensor desc", (found["types"][index], found["descs"][index]))
    found["handles"][index] = handle
    return handle


def get_dynamic_batch(desc: int) -> tuple[dict[str, Any], int]:
    """The batch gears."""
    found = _model(desc).description
    gears = [gear[0] for gear in found.gears] if found.kind == "batch" else []
    return {"batchCount": len(gears), "batch": gears}, SUCCESS


def get_dynamic_hw(desc: int, index: int) -> tuple[dict[str, Any], int]:
    """The gears of height and width; the index is reserved."""
    found = _model(desc).description
    gears = [list(gear) for gear in found.gears] if found.kind == "hw" else []
    return {"hwCount": len(gears), "hw": gears}, SUCCESS


def get_input_dynamic_gear_count(desc: int, index: int) -> tuple[int, int]:
    """Of ``--dynamic_dims``; 0 without."""
    found = _model(desc).description
    return (len(found.gears) if found.kind == "dims" else 0), SUCCESS


def get_input_dynamic_dims(desc: int, index: int, number: int) -> tuple[list[dict[str, Any]], int]:
    """Each gear: the sizes of all inputs, one after the other."""
    found = _model(desc).description
    gears = found.gears if found.kind == "dims" else []
    return [{"name": "", "dimCount": len(gear), "dims": list(gear)} for gear in gears[:number]], SUCCESS


def set_dynamic_batch_size(number: int, dataset: int, index: int, batch: int) -> int:
    """Before every execution."""
    return _set_gear("set_dynamic_batch_size", number, dataset, index, "batch", [int(batch)])


def set_dynamic_hw_size(number: int, dataset: int, index: int, height: int, width: int) -> int:
    """The height first."""
    return _set_gear("set_dynamic_hw_size", number, dataset, index, "hw", [int(height), int(width)])


def set_input_dynamic_dims(number: int, dataset: int, index: int, dims: dict[str, Any]) -> int:
    """The sizes of all inputs, fixed ones included."""
    sizes = [int(size) for size in dims["dims"]][: int(dims["dimCount"])]
    model = _models.get(number)
    if model is not None and len(sizes) != sum(len(tensor.dims) for tensor in model.data_inputs):
        rules.journal(f"set_input_dynamic_dims with {len(sizes)} sizes: those of all inputs are wanted")
        return DEVICE.fail(GE_LENGTH)
    return _set_gear("set_input_dynamic_dims", number, dataset, index, "dims", sizes)


def _set_gear(where: str, number: int, dataset: int, index: int, kind: str, gear: list[int]) -> int:
    code, _ = DEVICE.ready(where)
    if code:
        return code
    model = _models.get(number)
    if model is None:
        return DEVICE.fail(INVALID_MODEL_ID)
    found = model.description
    if found.kind != kind:
        return DEVICE.fail(NOT_DYNAMIC, "EH9999: Inner Error!\n        the model has no such gears")
    names = [tensor.name for tensor in found.inputs]
    if not 0 <= index < len(names) or names[index] != GEAR_INPUT:
        return DEVICE.fail(INVALID_PARAM)
    if gear not in found.gears:
        return DEVICE.fail(GE_BATCH, f"E19999: Inner Error!\n        {gear} is not in the gears {found.gears}")
    block = _gear_block(DEVICE.get("dataset", dataset), index, found.inputs[index].size)
    if block is None:
        return DEVICE.fail(GE_ADDRESS)
    written = np.array(gear, np.int64).tobytes()
    if bytes(block) not in (bytes([_FILL]) * len(block), _written(model)):
        DEVICE.fault("ascend_mbatch_shape_data was written, which the vendor forbids")
    block[:] = written
    model.gear = found.gears.index(gear)
    model.current = found.outputs_by_gear[model.gear]
    return SUCCESS


def _written(model: Model) -> bytes:
    """What a setter left in the buffer."""
    return b"" if model.gear is None else np.array(model.description.gears[model.gear], np.int64).tobytes()


def _gear_block(dataset: Any, index: int, size: int) -> memoryview | None:
    if dataset is None or index >= len(dataset["buffers"]):
        return None
    address, room = DEVICE.get("data buffer", dataset["buffers"][index])
    return DEVICE.view(address, size) if room >= size else None


def execute(number: int, inputs: int, outputs: int) -> int:
    """Returns when the outputs are there."""
    code, asked = DEVICE.ready("execute")
    if code:
        return code
    model = _models.get(number)
    if model is None or -number not in DEVICE.handles:
        return DEVICE.fail(INVALID_MODEL_ID)
    _same_context(model, "execute")
    given, wanted = DEVICE.get("dataset", inputs), DEVICE.get("dataset", outputs)
    found = model.description
    if given is None or wanted is None:
        return DEVICE.fail(INVALID_PARAM)
    if len(given["buffers"]) != len(found.inputs) or len(wanted["buffers"]) != len(found.outputs):
        return DEVICE.fail(SIZE_MISMATCH)
    started = time.perf_counter()
    shapes = _input_shapes(model, given)
    if isinstance(shapes, int):
        return shapes
    if not machine()["computes"] and found.kind == "static":
        zeros = [np.zeros(tensor.dims, NUMBERS[tensor.dtype]) for tensor in found.outputs]
        code = _write(model, wanted, zeros)
        wait(float(machine()["inference_ms"]) - 1000 * (time.perf_counter() - started))
        return code
    feeds = {}
    for tensor, buffer in zip(model.data_inputs, given["buffers"], strict=False):
        address, room = DEVICE.get("data buffer", buffer)
        dtype = NUMBERS[tensor.dtype]
        size = count(shapes[tensor.name]) * dtype.itemsize
        view = DEVICE.view(address, size)
        if room < max(size, tensor.size) or view is None:
            return DEVICE.fail(
                GE_SIZE, f"E19999: Inner Error!\n        input {tensor.name}: {room} bytes, {size} wanted"
            )
        feeds[tensor.name] = np.frombuffer(bytes(view), dtype).reshape(shapes[tensor.name])
    try:
        results = model.run(feeds)
    except Exception as error:  # noqa: BLE001 - a device would fail in words of its own
        if "out of data bounds" in str(error) and not machine().get("checks_bounds"):
            model.current = found.outputs_by_gear[model.gear or 0]
            return SUCCESS  # an index out of range gives whatever lies there (users' logs)
        DEVICE.error = 507011
        return DEVICE.fail(507011, f"EZ9999: Inner Error!\n        {error}")
    results = [_disturbed(result, asked) for result in results]
    model.current = [list(result.shape) for result in results]
    code = _write(model, wanted, results) if "untouched" not in asked else SUCCESS
    model.gear = None
    _forget_gear(model, given)
    if found.kind == "range":
        wanted["descs"] = {place: list(result.shape) for place, result in enumerate(results)}
        wanted["types"] = {place: tensor.dtype for place, tensor in enumerate(found.outputs)}
    wait(float(machine()["inference_ms"]) - 1000 * (time.perf_counter() - started))
    if lost():
        return DEVICE.fail(507899)
    return code


def execute_async(number: int, inputs: int, outputs: int, stream: int) -> int:
    """The double computes at once."""
    if DEVICE.get("stream", stream) is None:
        return DEVICE.fail(107003)
    return execute(number, inputs, outputs)


def _same_context(model: Model, call: str) -> None:
    if DEVICE.context != model.context:
        DEVICE.fault(f"{call} in another context than the one of load")


def _input_shapes(model: Model, given: Any) -> dict[str, list[int]] | int:
    found = model.description
    if found.kind == "static":
        return found.shapes[0]
    if found.kind == "range":
        if len(given["descs"]) != len(found.inputs):
            DEVICE.fault("set_dataset_tensor_desc for some inputs only: all of them are wanted")
        shapes = {tensor.name: given["descs"][place] for place, tensor in enumerate(found.inputs)}
        for name, sizes in shapes.items():
            for size, (low, high) in zip(sizes, found.ranges.get(name, [[n, n] for n in sizes]), strict=True):
                if size < low or (high >= 0 and size > high):
                    return DEVICE.fail(
                        145000, f"E10050: Current dimension size [{size}] is not in the range of [{low}-{high}]"
                    )
        return shapes
    if model.gear is None:
        rules.journal("execute without a setter of the gear before it")
        return DEVICE.fail(GE_ADDRESS)
    place = len(found.inputs) - 1
    block = _gear_block(given, place, found.inputs[place].size)
    if block is None or bytes(block) != _written(model):
        DEVICE.fault("ascend_mbatch_shape_data was written, which the vendor forbids")
    return found.shapes[model.gear]


def _forget_gear(model: Model, given: Any) -> None:
    """The next execution needs its setter again."""
    if model.description.kind in ("batch", "hw", "dims"):
        place = len(model.description.inputs) - 1
        block = _gear_block(given, place, model.description.inputs[place].size)
        if block is not None:
            block[:] = bytes([_FILL]) * len(block)


def _write(model: Model, wanted: Any, results: list[Any]) -> int:
    for tensor, buffer, result in zip(model.description.outputs, wanted["buffers"], results, strict=True):
        described = DEVICE.get("data buffer", buffer)
        data = np.ascontiguousarray(result, NUMBERS[tensor.dtype]).tobytes()
        if described[0] == 0 and described[1] == 0 and model.description.kind == "range":
            address = DEVICE.allocate(len(data))
            if address is None:
                return DEVICE.fail(207001)
            described[:] = [address, len(data)]
        view = DEVICE.view(described[0], len(data))
        if DEVICE.block(described[0]) is None:  # pains.md R15, R19
            DEVICE.error = 507015
            text = "The DDR address of the MTE instruction is out of range."
            return DEVICE.fail(507015, f"EZ9999: Inner Error!\n        {text}")
        if described[1] < max(len(data), tensor.size) or view is None:
            text = f"from user add align:{described[1]} < op_size:{max(len(data), tensor.size)}"
            return DEVICE.fail(GE_SIZE, f"E19999: Inner Error!\n        {text}")
        view[:] = data
    return SUCCESS


def _disturbed(result: Any, asked: dict[str, Any]) -> Any:
    if "zeros" in asked:
        return np.zeros_like(result)
    if "nan" in asked and result.dtype.kind == "f":
        return np.full_like(result, np.nan)
    if "flip" in asked and result.dtype.kind == "f":
        # Other bits each time: a device that is not deterministic.
        flat = result.copy().reshape(-1)
        place = int.from_bytes(os.urandom(4), "little") % max(flat.size, 1)
        flat[place] = np.nextafter(flat[place], flat.dtype.type(np.inf))
        return flat.reshape(result.shape)
    if "shift" in asked and result.dtype.kind == "f":
        return result + result.dtype.type(asked["shift"])
    return result
