"""A double of ais_bench's ``InferSession``, as its API is recorded (pains.md 3.4); the numerics are the emulator's.

It loads the double's OM as the double of ``acl`` does, and demands the same of its caller: inputs in the model's order
and of its size, and a mode that is the model's. ``machine.json``: ``ais_bench`` is ``new`` (from 2023-09 on) or ``old``
(modes with an m, ``sumary``, no ``out_array``). Rules at ``ais_bench`` and ``ais_bench-infer``: ``return`` raises a
code, ``size`` drops the last sample of each output, ``whole`` returns the largest gear's buffer, ``dtype`` float16,
``shift`` adds ``value``.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from cann_double import rules
from cann_double.device import wait
from cann_double.machine import machine
from cann_double.running import NUMBERS, load, refusal

_MODES = {"static": "static", "batch": "batch", "hw": "hw", "dims": "dims", "range": "shape"}


def _refuse(code: int, text: str) -> RuntimeError:
    return RuntimeError(f"[{code}][{text}]")


class InferSession:
    """A loaded OM."""

    def __init__(
        self, device_id: int, model_path: str, acl_json_path: str | None = None, debug: bool = False, loop: int = 1
    ) -> None:
        for rule in rules.pass_by("ais_bench"):
            if rule.do == "return":
                raise _refuse(int(rule.value), "ACL: load failed")
        if device_id != 0:
            raise _refuse(1004, "invalid parameter")
        self._model = load(Path(model_path).read_bytes(), 0)
        wrong = refusal(self._model.description)
        if wrong is not None:
            raise _refuse(*wrong)
        self._times: list[float] = []
        self._old = machine().get("ais_bench") == "old"

    def get_inputs(self) -> list[SimpleNamespace]:
        """Name, type and size of each."""
        return [SimpleNamespace(name=t.name, shape=t.dims, size=t.size) for t in self._model.data_inputs]

    def infer(
        self, feeds: list[Any], mode: str = "static", custom_sizes: int | list[int] = 100000, out_array: bool = True
    ) -> list[Any]:
        """One inference; the results are NumPy arrays of the sizes that ran."""
        asked = {rule.do: rule.value for rule in rules.pass_by("ais_bench-infer")}
        if "return" in asked:
            raise _refuse(int(asked["return"]), "ACL: execute failed")
        found = self._model.description
        stem = _MODES[found.kind]
        spelled = stem if stem == "static" else f"{'dym' if self._old else 'dyn'}{stem}"
        known = ["static", *(f"{'dym' if self._old else 'dyn'}{name}" for name in ("batch", "hw", "dims", "shape"))]
        if mode not in known:
            raise RuntimeError(f"wrong infer_mode:{mode}, only support {','.join(known)}")
        if mode != spelled:
            raise _refuse(1, "ACL: invalid parameter")
        shapes = self._shapes(feeds)
        given = {}
        for tensor, array in zip(self._model.data_inputs, feeds, strict=True):
            wanted = int(np.prod(shapes[tensor.name])) * NUMBERS[tensor.dtype].itemsize
            if array.nbytes != wanted:
                raise _refuse(1, f"input size {array.nbytes} not match {wanted}")
            given[tensor.name] = np.frombuffer(array.tobytes(), NUMBERS[tensor.dtype]).reshape(shapes[tensor.name])
        begun = time.perf_counter()
        results = self._model.run(given)
        wait(float(machine()["inference_ms"]) - 1000 * (time.perf_counter() - begun))
        factor = float(machine().get("ais_bench_factor", 1.0))
        self._times.append(factor * 1000 * (time.perf_counter() - begun))
        if found.kind == "range":
            rooms = custom_sizes if isinstance(custom_sizes, list) else [custom_sizes] * len(results)
            for room, result in zip(rooms, results, strict=True):
                if room < result.nbytes:
                    raise _refuse(1, f"from user add align:{room} < op_size:{result.nbytes}")
        if "whole" in asked:  # the buffers of a model with gears are the largest gear's
            results = [np.resize(result, largest) for result, largest in zip(results, self._largest(), strict=True)]
        if "shift" in asked:
            results = [result + result.dtype.type(asked["shift"]) for result in results]
        if "size" in asked:
            results = [result[:-1] for result in results]
        if "dtype" in asked:
            results = [result.astype(np.float16) for result in results]
        return results

    def _shapes(self, feeds: list[Any]) -> dict[str, list[int]]:
        """Of the inputs: the one gear that the feeds have; of a range, the feeds' own."""
        found = self._model.description
        if len(feeds) != len(self._model.data_inputs):
            raise _refuse(1004, f"{len(feeds)} inputs")
        fed = {t.name: list(a.shape) for t, a in zip(self._model.data_inputs, feeds, strict=True)}
        if found.kind == "range":
            return fed
        if fed not in found.shapes:
            raise _refuse(145013, f"dynamic batch size invalid: {fed}")
        return fed

    def _largest(self) -> list[list[int]]:
        """Shapes of the outputs of the largest gear."""
        return max(self._model.description.outputs_by_gear, key=lambda shapes: sum(map(int, map(np.prod, shapes))))

    def summary(self) -> SimpleNamespace:
        """Milliseconds of each inference."""
        return SimpleNamespace(exec_time_list=list(self._times))

    def sumary(self) -> SimpleNamespace:
        """The spelling of old releases."""
        return SimpleNamespace(exec_time_list=list(self._times))

    def __getattribute__(self, name: str) -> Any:
        if name == "summary" and object.__getattribute__(self, "_old"):
            raise AttributeError(name)
        return object.__getattribute__(self, name)

    def free_resource(self) -> None:
        """The model's memory."""
        self._model.close()

    @staticmethod
    def finalize() -> None:
        """The end of ``acl``."""
        rules.pass_by("finalize")
