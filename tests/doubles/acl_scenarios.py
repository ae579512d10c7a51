"""What the tests of the `acl` double do with it, each in a process of its own: ``acl_scenarios.py FOLDER SCENARIO...``.

Prints one JSON object: scenario -> how its process ended and what it returned.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import acl
import numpy as np

import pth2om.toolchain.emulator.session  # noqa: F401 - imported once, before the forks
import tests.omfile.om_factory  # noqa: F401 - for what its import registers

FOLDER = Path(sys.argv[1])
KINDS = {0: "float32", 1: "float16", 4: "uint8", 9: "int64"}


class Run:
    """The calls of the vendor's samples, in their order."""

    def __init__(self, path: str) -> None:
        assert acl.init() == 0
        assert acl.rt.set_device(0) == 0
        self.context, code = acl.rt.create_context(0)
        assert code == 0
        self.model, self.code = acl.mdl.load_from_file(path)
        if self.code:
            return
        self.desc = acl.mdl.create_desc()
        assert acl.mdl.get_desc(self.desc, self.model) == 0
        self.blocks: list[int] = []
        self.inputs = self.dataset(acl.mdl.get_num_inputs(self.desc), acl.mdl.get_input_size_by_index)
        self.outputs = self.dataset(acl.mdl.get_num_outputs(self.desc), acl.mdl.get_output_size_by_index)

    def dataset(self, count: int, size_of: Callable[[int, int], int], extra: int = 0) -> int:
        dataset = acl.mdl.create_dataset()
        for index in range(count):
            size = size_of(self.desc, index) or 1 << 16
            address, code = acl.rt.malloc(size + extra, 0)
            assert code == 0
            self.blocks.append(address)
            _, code = acl.mdl.add_dataset_buffer(dataset, acl.create_data_buffer(address, size))
            assert code == 0
        return dataset

    def put(self, index: int, array: np.ndarray) -> int:
        buffer = acl.mdl.get_dataset_buffer(self.inputs, index)
        array = np.ascontiguousarray(array)
        address = acl.get_data_buffer_addr(buffer)
        room = acl.get_data_buffer_size(buffer)
        return acl.rt.memcpy(address, room, array.ctypes.data, array.nbytes, 1)

    def take(self, index: int = 0) -> np.ndarray:
        dims, code = acl.mdl.get_cur_output_dims(self.desc, index)
        assert code == 0
        dtype = KINDS[acl.mdl.get_output_data_type(self.desc, index)]
        array = np.empty(dims["dims"], dtype)
        buffer = acl.mdl.get_dataset_buffer(self.outputs, index)
        address = acl.get_data_buffer_addr(buffer)
        assert acl.rt.memcpy(array.ctypes.data, array.nbytes, address, array.nbytes, 2) == 0
        return array

    def execute(self) -> int:
        return acl.mdl.execute(self.model, self.inputs, self.outputs)

    def gear_index(self) -> int:
        index, code = acl.mdl.get_input_index_by_name(self.desc, "ascend_mbatch_shape_data")
        assert code == 0
        return index

    def end(self) -> int:
        for dataset in (self.inputs, self.outputs):
            for index in range(acl.mdl.get_dataset_num_buffers(dataset)):
                acl.destroy_data_buffer(acl.mdl.get_dataset_buffer(dataset, index))
            acl.mdl.destroy_dataset(dataset)
        for address in self.blocks:
            acl.rt.free(address)
        acl.mdl.destroy_desc(self.desc)
        assert acl.mdl.unload(self.model) == 0
        assert acl.rt.destroy_context(self.context) == 0
        assert acl.rt.reset_device(0) == 0
        return acl.finalize()


def om(name: str) -> str:
    return str(FOLDER / f"{name}.om")


def feed(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def whole() -> Any:
    run = Run(om("static"))
    run.put(0, feed(1, 3, 8, 8))
    codes = [run.execute()]
    first = run.take()
    codes.append(run.execute())
    same = first.tobytes() == run.take().tobytes()
    np.save(FOLDER / "static.npy", first)
    kinds = [acl.mdl.get_input_data_type(run.desc, 0), acl.mdl.get_output_data_type(run.desc, 0)]
    names = [acl.mdl.get_input_name_by_index(run.desc, 0), acl.mdl.get_output_name_by_index(run.desc, 0)]
    return {"codes": codes, "same": same, "kinds": kinds, "names": names, "end": run.end()}


def second_init() -> Any:
    return [acl.init(), acl.init(), acl.finalize(), acl.finalize(), acl.init()]


def soc_before_model() -> Any:
    return [acl.get_soc_name(), acl.init(), acl.get_soc_name(), acl.finalize()]


def no_context_in_thread() -> Any:
    run = Run(om("static"))
    found: list[Any] = []

    def work() -> None:
        found.append(run.execute())
        found.append(acl.get_recent_err_msg())
        found.append(acl.get_recent_err_msg())
        found.append(acl.rt.set_context(run.context))
        run.put(0, feed(1, 3, 8, 8))
        found.append(run.execute())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return [*found, run.end()]


def other_context() -> Any:
    run = Run(om("static"))
    acl.rt.create_context(0)
    return run.execute()


def batch() -> Any:
    run = Run(om("batch"))
    index = run.gear_index()
    sizes = [acl.mdl.get_input_size_by_index(run.desc, place) for place in (0, 1)]
    before = acl.mdl.get_output_dims(run.desc, 0)[0]["dims"]
    codes = [acl.mdl.set_dynamic_batch_size(run.model, run.inputs, index, 3)]
    codes.append(acl.mdl.set_dynamic_batch_size(run.model, run.inputs, index, 2))
    codes.append(run.put(0, feed(2, 3, 8, 8)))
    codes.append(run.execute())
    out = run.take()
    np.save(FOLDER / "batch.npy", out)
    buffer = acl.get_data_buffer_addr(acl.mdl.get_dataset_buffer(run.outputs, 0))
    rest = np.empty(out.nbytes, np.uint8)
    acl.rt.memcpy(rest.ctypes.data, rest.nbytes, buffer + out.nbytes, rest.nbytes, 2)
    return {
        "dims": acl.mdl.get_input_dims(run.desc, 0)[0],
        "sizes": sizes,
        "largest": before,
        "codes": codes,
        "shape": out.shape,
        "untouched": bool((rest == 0xA5).all()),
        "gears": acl.mdl.get_dynamic_batch(run.desc)[0]["batch"],
        "wrong setter": acl.mdl.set_dynamic_hw_size(run.model, run.inputs, index, 8, 8),
        "unset": run.execute(),
        "end": run.end(),
    }


def write_gear_input() -> Any:
    run = Run(om("batch"))
    index = run.gear_index()
    run.put(index, np.zeros(1, np.int64))
    return acl.mdl.set_dynamic_batch_size(run.model, run.inputs, index, 2)


def pictures() -> Any:
    run = Run(om("hw"))
    index = run.gear_index()
    run.put(0, feed(1, 3, 8, 12))
    codes = [
        acl.mdl.set_dynamic_hw_size(run.model, run.inputs, index, 12, 8),
        acl.mdl.set_dynamic_hw_size(run.model, run.inputs, index, 8, 12),
        run.execute(),
    ]
    return {
        "codes": codes,
        "shape": run.take().shape,
        "gear input": acl.mdl.get_input_dims(run.desc, index)[0]["dims"],
        "gears": acl.mdl.get_dynamic_hw(run.desc, -1)[0]["hw"],
        "end": run.end(),
    }


def dims() -> Any:
    run = Run(om("dims"))
    index = run.gear_index()
    count = acl.mdl.get_input_dynamic_gear_count(run.desc, -1)[0]
    gears = acl.mdl.get_input_dynamic_dims(run.desc, -1, count)[0]
    partial = acl.mdl.set_input_dynamic_dims(run.model, run.inputs, index, {"name": "", "dimCount": 1, "dims": [2]})
    run.put(0, feed(2, 3, 8, 8))
    full = acl.mdl.set_input_dynamic_dims(run.model, run.inputs, index, gears[1])
    return {
        "gears": [gear["dims"] for gear in gears],
        "partial": partial,
        "full": full,
        "execute": run.execute(),
        "shape": run.take().shape,
        "end": run.end(),
    }


def ranges() -> Any:
    run = Run(om("range"))
    sizes = [acl.mdl.get_input_size_by_index(run.desc, 0), acl.mdl.get_output_size_by_index(run.desc, 0)]
    desc = acl.create_tensor_desc(0, [3, 3, 8, 8], 2)
    _, code = acl.mdl.set_dataset_tensor_desc(run.inputs, desc, 0)
    run.put(0, feed(3, 3, 8, 8))
    executed = run.execute()
    found = acl.mdl.get_dataset_tensor_desc(run.outputs, 0)
    size = acl.get_tensor_desc_size(found)
    np.save(FOLDER / "range.npy", run.take())
    acl.destroy_tensor_desc(desc)
    return {"sizes": sizes, "codes": [code, executed], "bytes": size, "end": run.end()}


def range_unset() -> Any:
    run = Run(om("range"))
    run.put(0, feed(3, 3, 8, 8))
    return run.execute()


def leak() -> Any:
    acl.init()
    acl.rt.set_device(0)
    acl.rt.malloc(1024, 0)
    return [acl.rt.reset_device(0), acl.finalize()]


def no_finalize() -> Any:
    acl.init()
    acl.rt.set_device(0)
    return "ends"


def host_pointer_as_device() -> Any:
    run = Run(om("static"))
    array = feed(1, 3, 8, 8)
    wrong = acl.rt.memcpy(array.ctypes.data, array.nbytes, array.ctypes.data, array.nbytes, 1)
    too_long = acl.rt.memcpy(run.blocks[0], 10, array.ctypes.data, array.nbytes, 1)
    return [wrong, too_long, run.end()]


def small_buffer() -> Any:
    run = Run(om("static"))
    buffer = acl.mdl.get_dataset_buffer(run.outputs, 0)
    acl.update_data_buffer(buffer, acl.get_data_buffer_addr(buffer), 16)
    return [run.execute(), run.end()]


def utilities() -> Any:
    data = b"abcdef"
    address = acl.util.bytes_to_ptr(data)
    array = np.arange(6, dtype=np.float32)
    view = acl.util.ptr_to_numpy(acl.util.numpy_to_ptr(array), (2, 3), 11)
    return [acl.util.ptr_to_bytes(address, 6).decode(), view.tolist(), sorted(set(dir(acl.util)) & {"ptr_to_bytes"})]


def broken_files() -> Any:
    codes = {}
    acl.init()
    acl.rt.set_device(0)
    for name in ("truncated", "foreign-soc", "newer", "absent"):
        _, codes[name] = acl.mdl.load_from_file(om(name))
        codes[f"{name} text"] = acl.get_recent_err_msg()
    acl.rt.reset_device(0)
    acl.finalize()
    return codes


def memory() -> Any:
    acl.init()
    acl.rt.set_device(0)
    free, total, code = acl.rt.get_mem_info(0)
    address, ok = acl.rt.malloc(1 << 20, 2)
    after = acl.rt.get_mem_info(0)[0]
    _, huge = acl.rt.malloc(1 << 40, 0)
    text = acl.get_recent_err_msg()
    acl.rt.free(address)
    acl.rt.reset_device(0)
    return [total >> 20, free >> 20, free - after, code, ok, huge, text, acl.finalize()]


def failing() -> Any:
    """Two executions under whatever rule the test has set."""
    run = Run(om("static"))
    if run.code:
        acl.rt.reset_device(0)
        return {"load": run.code, "text": acl.get_recent_err_msg(), "end": acl.finalize()}
    run.put(0, feed(1, 3, 8, 8))
    first = run.execute()
    text = acl.get_recent_err_msg()
    second = run.execute()
    result = run.take().ravel()[:4].tolist() if not first and not second else []
    size = acl.mdl.get_output_size_by_index(run.desc, 0)
    found = {"codes": [first, second], "text": text, "result": result, "size": size}
    return {**found, "end": acl.finalize() if second == 507899 else run.end()}


def main() -> None:
    """Each scenario in a fork; a dead one leaves its signal."""
    results: dict[str, Any] = {}
    for asked in sys.argv[2:]:
        scenario, _, rest = asked.partition(" ")
        name, _, rules = rest.partition(" ")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            if rules:
                os.environ["PTH2OM_DOUBLE_RULES"] = rules
            outcome = json.dumps(globals()[scenario]())
            os.write(writer, outcome.encode())
            os.close(writer)
            sys.exit(0)  # with the hooks of exit, as a program ends
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            text = stream.read()
        _, status = os.waitpid(child, 0)
        entry: dict[str, Any] = {"status": os.waitstatus_to_exitcode(status)}
        with suppress(ValueError):
            entry["value"] = json.loads(text)
        results[name or scenario] = entry
    print(json.dumps(results))


if __name__ == "__main__":
    main()
