"""``board_agent.pyz selftest FOLDER``: tries on this machine what pth2om assumes of ``acl``.

The folder holds small OMs: ``static.om`` (one float32 input ``x``, one output), ``batch.om`` (gears 1, 2, 4),
``hw.om``, ``range.om``; those that are absent are not tried. Every step is a process of its own, because some may end
by a signal. Prints one JSON object: id of the assumption -> whether it ``holds``, and what was ``seen``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Dict, List, Tuple

from . import selftest_faults as faults

Rows = Dict[str, Dict[str, Any]]

_GEAR = "ascend_mbatch_shape_data"
_STEPS = (("basics", 60.0), ("threads", 60.0), ("damaged", 60.0), ("batch", 60.0), ("hw", 60.0), ("range", 60.0))
_NUMBERS = {"float32": 0, "float16": 1, "uint8": 4, "int64": 9}


class _Model:
    """A loaded OM with its buffers, in the vendor's order of calls."""

    def __init__(self, acl: Any, path: str) -> None:
        self.acl = acl
        self.first = time.perf_counter()
        self.set_device = acl.rt.set_device(0)
        self.first = time.perf_counter() - self.first
        self.context, self.created = acl.rt.create_context(0)
        self.number, self.code = acl.mdl.load_from_file(path)
        if self.code:
            return
        self.desc = acl.mdl.create_desc()
        acl.mdl.get_desc(self.desc, self.number)
        self.blocks: List[int] = []
        self.buffers: List[int] = []
        self.inputs = self._dataset(acl.mdl.get_num_inputs(self.desc), acl.mdl.get_input_size_by_index)
        self.outputs = self._dataset(acl.mdl.get_num_outputs(self.desc), acl.mdl.get_output_size_by_index)

    def _dataset(self, count: int, size_of: Any) -> int:
        dataset = self.acl.mdl.create_dataset()
        for index in range(count):
            size = size_of(self.desc, index) or 1 << 20
            address, _ = self.acl.rt.malloc(size, 0)
            buffer = self.acl.create_data_buffer(address, size)
            self.blocks.append(address)
            self.buffers.append(buffer)
            self.acl.mdl.add_dataset_buffer(dataset, buffer)
        return int(dataset)

    def put(self, array: Any, index: int = 0) -> int:
        size = self.acl.mdl.get_input_size_by_index(self.desc, index) or 1 << 20
        return int(self.acl.rt.memcpy(self.blocks[index], size, array.ctypes.data, array.nbytes, 1))

    def take(self, count: int) -> Any:
        """So many float32 values of the first output's buffer."""
        import numpy as np

        array = np.empty(count, np.float32)
        first = self.acl.mdl.get_num_inputs(self.desc)
        code = self.acl.rt.memcpy(array.ctypes.data, array.nbytes, self.blocks[first], array.nbytes, 2)
        return array if code == 0 else None

    def execute(self) -> int:
        return int(self.acl.mdl.execute(self.number, self.inputs, self.outputs))

    def shape(self) -> List[int]:
        """Of the output that ran."""
        dims, _ = self.acl.mdl.get_cur_output_dims(self.desc, 0)
        return list(dims.get("dims", []))

    def gear(self) -> Tuple[int, int]:
        index, code = self.acl.mdl.get_input_index_by_name(self.desc, _GEAR)
        return int(index), int(code)

    def close(self) -> int:
        acl = self.acl
        if not self.code:
            acl.mdl.destroy_dataset(self.inputs)
            acl.mdl.destroy_dataset(self.outputs)
            for buffer in self.buffers:
                acl.destroy_data_buffer(buffer)
            for address in self.blocks:
                acl.rt.free(address)
            acl.mdl.destroy_desc(self.desc)
            acl.mdl.unload(self.number)
        acl.rt.destroy_context(self.context)
        acl.rt.reset_device(0)
        return int(acl.finalize())


def basics(folder: str) -> Rows:
    """Order, codes, types, names, numbers, times."""
    import acl
    import numpy as np

    rows: Rows = {}
    soc = acl.get_soc_name()
    first, second = acl.init(), acl.init()
    model = _Model(acl, os.path.join(folder, "static.om"))
    rows["R2"] = _row(bool(soc), soc or "no name")
    codes = [model.set_device, model.created, model.code]
    rows["R3"] = _row(codes == [0, 0, 0], "set_device, create_context, load_from_file: %s" % codes)
    if model.code:
        return rows
    _, wrong = acl.mdl.load_from_file(os.path.join(folder, "absent.om"))
    text, again = acl.get_recent_err_msg(), acl.get_recent_err_msg()
    seen = "%s, then %s" % ("a text" if text else "nothing", "a text" if again else "nothing")
    rows["R7"] = _row(wrong != 0 and bool(text) and not again, seen)
    dims, _ = acl.mdl.get_input_dims(model.desc, 0)
    out, _ = acl.mdl.get_output_dims(model.desc, 0)
    shape = [int(size) for size in dims["dims"]]
    count = int(np.prod(out["dims"]))
    number = acl.mdl.get_input_data_type(model.desc, 0)
    size = acl.mdl.get_input_size_by_index(model.desc, 0)
    rows["R8"] = _row(number == _NUMBERS["float32"], "float32 is %s" % number)
    names = (acl.mdl.get_input_name_by_index(model.desc, 0), acl.mdl.get_output_name_by_index(model.desc, 0))
    sized = size == 4 * int(np.prod(shape))
    rows["R9"] = _row(
        names[0] == "x" and names[1].count(":") >= 2 and sized, "%s, %s, %d bytes" % (names[0], names[1], size)
    )
    feed = np.random.RandomState(0).randn(*shape).astype(np.float32)
    back = np.zeros_like(feed)
    codes = [model.put(feed), acl.rt.memcpy(back.ctypes.data, back.nbytes, model.blocks[0], back.nbytes, 2)]
    mode, _ = acl.rt.get_run_mode()
    rows["R5"] = _row(codes == [0, 0] and bool((back == feed).all()), "codes %s, run mode %s" % (codes, mode))
    _, total, code = acl.rt.get_mem_info(0)
    linux = _linux_memory()
    seen = "acl %d MB, Linux %d MB" % (total >> 20, linux >> 20)
    rows["T4"] = {"holds": None if code or not str(soc).startswith("Ascend310B") else total <= linux, "seen": seen}
    took, results, codes = [], [], []
    for _ in range(20):
        begun = time.perf_counter()
        codes.append(model.execute())
        took.append(1000 * (time.perf_counter() - begun))
        array = model.take(count) if codes[-1] == 0 else None
        results.append(b"" if array is None else array.tobytes())
    ran = not any(codes)
    seen = "20 executions, codes %s" % ", ".join(str(code) for code in sorted(set(codes)))
    rows["R6"] = {"holds": all(results) if all(results) or not ran else None, "seen": seen}
    rows["N3"] = _row(all(results) and len(set(results)) == 1, "%d different results of 20" % len(set(results)))
    later = sorted(took[1:])[len(took) // 2]
    seen = "set_device %.3f s; first execution %.3f ms, then %.3f ms" % (model.first, took[0], later)
    rows["T1"] = _row(took[0] > later, seen)
    if all(results):
        np.save(os.path.join(folder, "seen.npy"), np.frombuffer(results[0], np.float32).reshape(out["dims"]))
        np.save(os.path.join(folder, "fed.npy"), feed)
    ended = model.close()
    last = acl.finalize()
    seen = "init %s, %s; finalize %s, %s" % (first, second, ended, last)
    rows["R1"] = _row((first, second, ended, last) == (0, 100002, 0, 100037), seen)
    return rows


def _linux_memory() -> int:
    with open("/proc/meminfo") as file:
        return int(next(line.split()[1] for line in file if line.startswith("MemTotal"))) << 10


def threads(folder: str) -> Rows:
    """A thread without the context."""
    import acl

    acl.init()
    model = _Model(acl, os.path.join(folder, "static.om"))
    seen: List[int] = []

    def work() -> None:
        seen.append(model.execute())
        acl.rt.set_context(model.context)
        seen.append(model.execute())

    if model.code:
        return {}
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    model.close()
    return {"R4": _row(seen == [107002, 0], "without %s, with it %s" % tuple(seen))}


def damaged(folder: str) -> Rows:
    """A truncated OM, loaded by a process that goes on."""
    import acl

    with open(os.path.join(folder, "static.om"), "rb") as whole:
        data = whole.read()
    path = os.path.join(folder, "damaged.om")
    with open(path, "wb") as half:
        half.write(data[: len(data) // 2])
    acl.init()
    model = _Model(acl, path)
    model.close()
    return {"R16": _row(model.code in (100012, 100013, 145002, 500002, 145000), "code %s" % model.code)}


def batch(folder: str) -> Rows:
    """Gears of the batch: 1, 2, 4."""
    import acl
    import numpy as np

    acl.init()
    model = _Model(acl, os.path.join(folder, "batch.om"))
    if model.code:
        return {"G1": _row(False, "load_from_file: %s" % model.code)}
    count = acl.mdl.get_num_inputs(model.desc)
    last = acl.mdl.get_input_name_by_index(model.desc, count - 1)
    index, code = model.gear()
    rows = {"G1": _row(last == _GEAR and code == 0, "%d inputs, the last is %s" % (count, last))}
    dims, _ = acl.mdl.get_input_dims(model.desc, 0)
    size = acl.mdl.get_input_size_by_index(model.desc, 0)
    one = [abs(int(value)) for value in dims["dims"]]
    feed = np.random.RandomState(1).randn(2, *one[1:]).astype(np.float32)
    codes = [acl.mdl.set_dynamic_batch_size(model.number, model.inputs, index, batch) for batch in (3, 2)]
    model.put(feed)
    ran = model.execute()
    shape = model.shape()
    seen = "size %d of %s; after batch 2: %s" % (size, dims["dims"], shape)
    rows["G2"] = _row(ran == 0 and size == 2 * feed.nbytes and shape[:1] == [2], seen)
    rows["G3"] = _row(
        codes[0] != 0 and codes[1] == 0 and ran == 0,
        "batch 3: %s, batch 2: %s, execute: %s" % (codes[0], codes[1], ran),
    )
    model.close()
    return rows


def hw(folder: str) -> Rows:
    """Gears of the picture's size: 8 x 8, 8 x 12."""
    import acl

    acl.init()
    model = _Model(acl, os.path.join(folder, "hw.om"))
    if model.code:
        return {"G4": _row(False, "load_from_file: %s" % model.code)}
    index, _ = model.gear()
    codes = [acl.mdl.set_dynamic_hw_size(model.number, model.inputs, index, *size) for size in ((12, 8), (8, 12))]
    model.close()
    return {"G4": _row(codes[0] != 0 and codes[1] == 0, "(12, 8): %s, (8, 12): %s" % tuple(codes))}


def range_(folder: str) -> Rows:
    """A batch from 1 to 4 without gears."""
    import acl
    import numpy as np

    acl.init()
    model = _Model(acl, os.path.join(folder, "range.om"))
    if model.code:
        return {"G6": _row(False, "load_from_file: %s" % model.code)}
    size = acl.mdl.get_input_size_by_index(model.desc, 0)
    dims, _ = acl.mdl.get_input_dims(model.desc, 0)
    shape = [3, *(abs(int(value)) for value in dims["dims"][1:])]
    desc = acl.create_tensor_desc(0, shape, 2)
    _, code = acl.mdl.set_dataset_tensor_desc(model.inputs, desc, 0)
    model.put(np.ones(shape, np.float32))
    ran = model.execute()
    found = acl.mdl.get_dataset_tensor_desc(model.outputs, 0) if ran == 0 else 0
    real = acl.get_tensor_desc_size(found) if found else 0
    acl.destroy_tensor_desc(desc)
    model.close()
    seen = "size %d; setter %s, execute %s; output %d bytes" % (size, code, ran, real)
    return {"G5": _row(size == 0 and code == 0 and ran == 0 and real > 0, seen), "G6": _row(ran == 0, seen)}


def flush(folder: str) -> Rows:
    """How long ``acl.finalize`` takes."""
    import acl

    acl.init()
    model = _Model(acl, os.path.join(folder, "static.om"))
    begun = time.perf_counter()
    model.close()
    return {"R11": {"holds": None, "seen": "%.3f" % (time.perf_counter() - begun)}}


def opened(folder: str, name: str) -> _Model:
    """A model loaded in this process, which has initialised nothing yet.

    Raises:
        SystemExit: it cannot be loaded.
    """
    import acl

    acl.init()
    model = _Model(acl, os.path.join(folder, name))
    if model.code:
        raise SystemExit("load_from_file: %s" % model.code)
    return model


_TRIED = {
    **faults.STEPS,
    "basics": basics,
    "threads": threads,
    "damaged": damaged,
    "batch": batch,
    "hw": hw,
    "range": range_,
    "flush": flush,
}
_WANTS = {"batch": "batch.om", "hw": "hw.om", "range": "range.om"}
_OF = {
    "basics": ("R1", "R2", "R3", "R5", "R6", "R7", "R8", "R9", "N3", "T1", "T4"),
    "threads": ("R4",),
    "damaged": ("R16",),
    "batch": ("G1", "G2", "G3"),
    "hw": ("G4",),
    "range": ("G5", "G6"),
}


def main(arguments: List[str], program: List[str]) -> int:
    """Try everything, or one step, and print it.

    Args:
        arguments: the folder; then a step.
        program: what starts this agent, behind a Python.
    """
    if len(arguments) > 1:
        print(json.dumps(_TRIED[arguments[1]](arguments[0])))
    else:
        print(json.dumps(everything(arguments[0], [sys.executable, *program], dict(os.environ))))
    return 0


def everything(folder: str, command: List[str], environment: Dict[str, str]) -> Rows:
    """Every step for which there is an OM.

    Args:
        folder: with the OMs.
        command: what starts this agent in a Python that has ``acl``.
        environment: of CANN.
    """
    quick = dict(environment, ASCEND_LOG_DEVICE_FLUSH_TIMEOUT="0")
    rows: Rows = {}
    for name, limit in _STEPS:
        if not os.path.exists(os.path.join(folder, _WANTS.get(name, "static.om"))):
            continue
        rows.update(_rows(folder, command, name, limit, quick))
    if os.path.exists(os.path.join(folder, "static.om")):
        rows.update(_flush(folder, command, environment, quick))
        rows.update(_provoked(folder, command, quick))
    rows.update(_killed(folder, command, quick))
    return rows


def _provoked(folder: str, command: List[str], environment: Dict[str, str]) -> Rows:
    """The steps that provoke faults, and an undisturbed one after them."""
    found: Rows = {}
    how: Dict[str, str] = {}
    crashed = False
    for name in [*faults.ORDER, "provider", "after"]:
        wants = {"gather": "gather.om", "provider": "unique.onnx"}.get(name, "static.om")
        if not os.path.exists(os.path.join(folder, wants)):
            continue
        done, printed, ended = _process(folder, command, "whole" if name == "after" else name, 60.0, environment)
        if ended:
            how[name] = ended
        crashed = crashed or (name == "unfinished" and done != 0)
        found.update({name if key == "whole" else key: row for key, row in printed.items()})
    return faults.rows(found, how, crashed)


def _flush(folder: str, command: List[str], environment: Dict[str, str], quick: Dict[str, str]) -> Rows:
    times = []
    waiting = {name: value for name, value in environment.items() if name != "ASCEND_LOG_DEVICE_FLUSH_TIMEOUT"}
    for given in (waiting, quick):
        found, how = _step(folder, command, "flush", 60.0, given)
        if not found:
            return {"R11": _row(False, how)}
        times.append(float(found["R11"]["seen"]))
    return {"R11": _row(times[1] < 0.5, "%.2f s; without the wait for logs %.2f s" % tuple(times))}


def _killed(folder: str, command: List[str], environment: Dict[str, str]) -> Rows:
    """A process that is killed while it executes, and the next one."""
    if not os.path.exists(os.path.join(folder, "static.om")):
        return {}
    process = subprocess.Popen(
        [*command, "selftest", folder, "loop"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    process.stdout.readline()
    begun = time.perf_counter()
    process.send_signal(signal.SIGKILL)
    process.wait()
    took = time.perf_counter() - begun
    process.stdout.close()
    found, how = _step(folder, command, "threads", 60.0, environment)
    seen = "%.2f s, between one execution and the next" % took
    return {"R14": _row(took < 1.0, seen), "R13": _row(bool(found), how or "the next process runs")}


def _rows(folder: str, command: List[str], name: str, limit: float, environment: Dict[str, str]) -> Rows:
    """The rows of a step; they fail where its process does."""
    found, how = _step(folder, command, name, limit, environment)
    return found or {key: _row(False, how) for key in _OF[name]}


def _step(folder: str, command: List[str], name: str, limit: float, environment: Dict[str, str]) -> Tuple[Rows, str]:
    """What a step returned; or how its process ended."""
    status, rows, how = _process(folder, command, name, limit, environment)
    return (rows, "") if status == 0 and rows else ({}, how or "nothing was printed")


def _process(
    folder: str, command: List[str], name: str, limit: float, environment: Dict[str, str]
) -> Tuple[int, Rows, str]:
    """Status of a step's process, what it printed, and how it ended where that was not with 0."""
    try:
        done = subprocess.run(
            [*command, "selftest", folder, name],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return -1, {}, "no answer after %g s" % limit
    try:
        rows = dict(json.loads(done.stdout.decode("utf-8", "replace").splitlines()[-1]))
    except (ValueError, IndexError, TypeError):
        rows = {}
    if done.returncode == 0:
        return 0, rows, ""
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    ended = "status %d" % done.returncode
    if done.returncode < 0:
        ended = signal.Signals(-done.returncode).name
    return done.returncode, rows, "%s %s" % (ended, lines[-1][:200] if lines else "")


def _row(holds: bool, seen: Any) -> Dict[str, Any]:
    return {"holds": bool(holds), "seen": str(seen)}
