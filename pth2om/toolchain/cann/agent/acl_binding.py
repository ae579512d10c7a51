"""The calls of ``acl`` in the order that the vendor's samples and ais_bench share.

init, set_device, create_context; load, describe; per run: the setter of a gear or of the shapes, memcpy to the device,
execute, memcpy back; then data buffers and datasets, description, model, context, device, finalize. Each failing call
is followed at once by ``get_recent_err_msg``, which reads and clears the text of that failure.
"""

from __future__ import annotations

import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from .acl_device import AclError, Buffer, Device, every, recent
from .shapes import ShapeError, fits, gear_of, in_order, written
from .ways import WayError

GEAR_INPUT = "ascend_mbatch_shape_data"
DTYPES = {
    0: "float32", 1: "float16", 2: "int8", 3: "int32", 4: "uint8", 6: "int16", 7: "uint16", 8: "uint32", 9: "int64",
    10: "uint64", 11: "float64", 12: "bool",
}  # fmt: skip
_NUMBERS = {name: number for number, name in DTYPES.items()}
_FORMAT_ND = 2
_FIRST_OUTPUT = 1 << 20  # bytes of an output whose size no call tells
_MOST_OUTPUT = 1 << 30
_TOO_SMALL = (145006,)


class Model:
    """A loaded OM.

    Args:
        device: where it runs.
        path: of the file.

    Attributes:
        kind: ``static``, ``batch``, ``hw``, ``dims`` or ``range``.
        gears: of a ``batch`` one size each, of ``hw`` height and width, of ``dims`` the sizes of all inputs' axes.
        inputs: ``{"name", "dtype", "dims"}`` of each, without `GEAR_INPUT`.
        outputs: likewise.
    """

    def __init__(self, device: Device, path: str) -> None:
        self._device = device
        self._acl = acl = device.acl
        self._input_set: Any = None
        self._output_set: Any = None
        self._inputs: List[Buffer] = []
        self._outputs: List[Buffer] = []
        self._descriptions: List[Any] = []
        self._id = device.made("acl.mdl.load_from_file", acl.mdl.load_from_file(path))
        self._desc = acl.mdl.create_desc()
        device.check("acl.mdl.get_desc", acl.mdl.get_desc(self._desc, self._id))
        count = acl.mdl.get_num_inputs(self._desc)
        names = [acl.mdl.get_input_name_by_index(self._desc, index) for index in range(count)]
        self._gear_index = names.index(GEAR_INPUT) if GEAR_INPUT in names else None
        self._places = [index for index in range(count) if index != self._gear_index]
        self.inputs = [self._input(index, names[index]) for index in self._places]
        self.outputs = [self._output(index) for index in range(acl.mdl.get_num_outputs(self._desc))]
        self.kind, self.gears = self._kind()
        self._written = False

    def _input(self, index: int, name: str) -> Dict[str, Any]:
        mdl = self._acl.mdl
        dtype = _dtype(mdl.get_input_data_type(self._desc, index))
        size = int(mdl.get_input_size_by_index(self._desc, index))
        dims = _dims(self._device.made("acl.mdl.get_input_dims", mdl.get_input_dims(self._desc, index)))
        other = dims
        second = getattr(mdl, "get_input_dims_v2", None)
        if second is not None and size:
            answer, code = second(self._desc, index)
            if self._device.tolerated(code) and (-1 in dims or _bytes(_dims(answer), dtype) == size):
                other = _dims(answer)
        if -1 not in dims and _bytes(dims, dtype) != size:
            dims = other
        # With AIPP one of the two is the picture's and one the model's, and both may have the same product.
        return {"name": str(name), "dtype": dtype, "dims": dims, "other": other, "size": size}

    def _output(self, index: int) -> Dict[str, Any]:
        mdl = self._acl.mdl
        return {
            "name": str(mdl.get_output_name_by_index(self._desc, index)),
            "dtype": _dtype(mdl.get_output_data_type(self._desc, index)),
            "dims": _dims(self._device.made("acl.mdl.get_output_dims", mdl.get_output_dims(self._desc, index))),
            "size": int(mdl.get_output_size_by_index(self._desc, index)),
        }

    def _kind(self) -> Tuple[str, List[List[int]]]:
        mdl = self._acl.mdl
        if self._gear_index is None:
            is_range = any(not entry["size"] or -1 in entry["dims"] for entry in self.inputs)
            return ("range" if is_range else "static"), []
        answer, code = mdl.get_dynamic_batch(self._desc)
        if self._device.tolerated(code) and answer.get("batch"):
            return "batch", [[int(size)] for size in answer["batch"]]
        answer, code = mdl.get_dynamic_hw(self._desc, -1)
        if self._device.tolerated(code) and answer.get("hw"):
            return "hw", [[int(size) for size in pair] for pair in answer["hw"]]
        count = int(self._device.made("gear_count", mdl.get_input_dynamic_gear_count(self._desc, -1)))
        call = "acl.mdl.get_input_dynamic_dims"
        rows = self._device.made(call, mdl.get_input_dynamic_dims(self._desc, -1, count))
        return "dims", [_dims(row) for row in rows]

    # --- running ----------------------------------------------------------------------------------------------------

    def run(self, feeds: Dict[str, Any]) -> Tuple[List[Tuple[str, Any]], Dict[str, int]]:
        """One inference.

        Args:
            feeds: a C-contiguous array for each of `inputs`, of its dtype.

        Returns:
            Name and array of each output, and nanoseconds: ``to_device``, ``execute``, ``from_device``.

        Raises:
            ShapeError: the feeds do not fit.
            AclError: a call failed.
        """
        ordered = self._ordered(feeds)
        self._check(self._acl.rt.set_context(self._device.context), "acl.rt.set_context")
        self._prepare(ordered)
        begun = time.perf_counter_ns()
        for array, buffer in zip(ordered, self._fed):
            buffer.write(array)
        copied = time.perf_counter_ns()
        fresh = not self._written
        if fresh:
            for buffer in self._outputs:
                buffer.fill(0xFF)
            copied = time.perf_counter_ns()
        self._execute()
        executed = time.perf_counter_ns()
        outputs = self._results()
        done = time.perf_counter_ns()
        if fresh:
            self._assert_written(outputs)
            self._written = True
        times = {"to_device": copied - begun, "execute": executed - copied, "from_device": done - executed}
        return outputs, times

    def _ordered(self, feeds: Dict[str, Any]) -> List[Any]:
        ordered = in_order(self.inputs, feeds)
        for entry, array in zip(self.inputs, ordered):
            if _form(entry, array.shape) is None and self.kind != "range":
                raise ShapeError("size", name=entry["name"], wanted=written(entry["dims"]), given=written(array.shape))
        return ordered

    @property
    def _fed(self) -> List[Buffer]:
        return [self._inputs[index] for index in self._places]

    def _prepare(self, arrays: Sequence[Any]) -> None:
        """Buffers of the right size, then the gear or the shapes."""
        if self.kind == "range":
            self._ranged(arrays)
            return
        if self._input_set is None:
            mdl = self._acl.mdl
            self._input_set, self._output_set = mdl.create_dataset(), mdl.create_dataset()
            for index in range(mdl.get_num_inputs(self._desc)):
                size = int(mdl.get_input_size_by_index(self._desc, index))
                self._inputs.append(Buffer(self._device, self._input_set, size))
            for entry in self.outputs:
                self._outputs.append(Buffer(self._device, self._output_set, max(1, entry["size"])))
        if self._gear_index is not None:
            self._set_gear(arrays)

    def _set_gear(self, arrays: Sequence[Any]) -> None:
        mdl = self._acl.mdl
        place = self._device.made(
            "acl.mdl.get_input_index_by_name", mdl.get_input_index_by_name(self._desc, GEAR_INPUT)
        )
        forms = [_form(entry, array.shape) or [] for entry, array in zip(self.inputs, arrays)]
        gear = gear_of(self.kind, self.gears, forms, [array.shape for array in arrays])
        if self.kind == "batch":
            code = mdl.set_dynamic_batch_size(self._id, self._input_set, place, gear[0])
        elif self.kind == "hw":
            code = mdl.set_dynamic_hw_size(self._id, self._input_set, place, gear[0], gear[1])
        else:
            dims = {"name": "", "dimCount": len(gear), "dims": gear}
            code = mdl.set_input_dynamic_dims(self._id, self._input_set, place, dims)
        self._check(code, "acl.mdl.set_" + self.kind)

    def _ranged(self, arrays: Sequence[Any], outputs: Optional[Sequence[int]] = None) -> None:
        """Datasets for these shapes; every input's are set, because a call that sets some mislabels them."""
        self._free()
        mdl = self._acl.mdl
        self._input_set, self._output_set = mdl.create_dataset(), mdl.create_dataset()
        for index, array in enumerate(arrays):
            self._inputs.append(Buffer(self._device, self._input_set, max(1, int(array.nbytes))))
            number = _NUMBERS[array.dtype.name]
            desc = self._acl.create_tensor_desc(number, [int(size) for size in array.shape], _FORMAT_ND)
            self._descriptions.append(desc)
            _, code = mdl.set_dataset_tensor_desc(self._input_set, desc, index)
            self._check(code, "acl.mdl.set_dataset_tensor_desc")
        fed = sum(int(array.nbytes) for array in arrays)
        for index, entry in enumerate(self.outputs):
            size = entry["size"] or max(_FIRST_OUTPUT, 4 * fed)
            self._outputs.append(Buffer(self._device, self._output_set, outputs[index] if outputs else size))
        self._shapes = arrays

    def _execute(self) -> None:
        code = self._acl.mdl.execute(self._id, self._input_set, self._output_set)
        while code in _TOO_SMALL and self.kind == "range" and max(b.size for b in self._outputs) < _MOST_OUTPUT:
            recent(self._acl)
            arrays = self._shapes
            self._ranged(arrays, [buffer.size * 4 for buffer in self._outputs])
            for array, buffer in zip(arrays, self._fed):
                buffer.write(array)
            code = self._acl.mdl.execute(self._id, self._input_set, self._output_set)
        self._check(code, "acl.mdl.execute")

    def _results(self) -> List[Tuple[str, Any]]:
        mdl = self._acl.mdl
        found = []
        for index, (entry, buffer) in enumerate(zip(self.outputs, self._outputs)):
            dims = entry["dims"]
            if self.kind == "range":
                desc = mdl.get_dataset_tensor_desc(self._output_set, index)
                dims = self._described(desc)
            elif self.kind != "static":
                call = "acl.mdl.get_cur_output_dims"
                dims = _dims(self._device.made(call, mdl.get_cur_output_dims(self._desc, index)))
            array = np.empty(dims, np.dtype(entry["dtype"]))
            if array.nbytes > buffer.size:
                wanted = "at most %d bytes" % buffer.size
                raise WayError("output", name=entry["name"], wanted=wanted, given=written(dims))
            if array.nbytes:
                buffer.read(array)
            found.append((entry["name"], array))
        return found

    def _described(self, desc: Any) -> List[int]:
        """The sizes in a tensor description."""
        count = self._acl.get_tensor_desc_num_dims(desc)
        sizes = []
        for axis in range(count):
            answer = self._acl.get_tensor_desc_dim_v2(desc, axis)
            size, code = answer if isinstance(answer, tuple) else (answer, 0)
            self._check(code, "acl.get_tensor_desc_dim_v2")
            sizes.append(int(size))
        return sizes

    def _assert_written(self, outputs: Sequence[Tuple[str, Any]]) -> None:
        """An output that holds the fill of the first run, and another fill after a second one, is never written."""
        untouched = [
            index
            for index, (_, array) in enumerate(outputs)
            if array.nbytes and bool((array.reshape(-1).view(np.uint8) == 0xFF).all())
        ]
        if not untouched or not hasattr(self._acl.rt, "memset"):
            return
        for index in untouched:
            self._outputs[index].fill(0)
        self._execute()
        for index in untouched:
            name, again = self._results()[index]
            if not again.reshape(-1).view(np.uint8).any():
                raise AclError("acl.mdl.execute", 0, "output %s was not written" % name)

    def _check(self, code: Any, call: str) -> None:
        self._device.check(call, code)

    def _free(self) -> None:
        acl = self._acl
        steps: List[Tuple[str, Any]] = [("acl.rt.free", buffer.free) for buffer in (*self._inputs, *self._outputs)]
        made = [dataset for dataset in (self._input_set, self._output_set) if dataset is not None]
        steps += [("acl.mdl.destroy_dataset", _call(acl.mdl.destroy_dataset, dataset)) for dataset in made]
        # Its return value differs between releases.
        steps += [("acl.destroy_tensor_desc", _quiet(acl.destroy_tensor_desc, desc)) for desc in self._descriptions]
        self._inputs, self._outputs, self._descriptions = [], [], []
        self._input_set = self._output_set = None
        every(self._device, steps)

    def close(self) -> None:
        """Buffers and datasets, description, model.

        Raises:
            AclError: a call failed; the others were made all the same.
        """
        mdl = self._acl.mdl
        self._free()
        every(
            self._device,
            (
                ("acl.mdl.destroy_desc", _call(mdl.destroy_desc, self._desc)),
                ("acl.mdl.unload", _call(mdl.unload, self._id)),
            ),
        )


def _call(function: Any, *arguments: Any) -> Any:
    return lambda: function(*arguments)


def _quiet(function: Any, *arguments: Any) -> Any:
    """Called for its effect: whatever it returns counts as success."""

    def made() -> int:
        function(*arguments)
        return 0

    return made


def _dtype(number: Any) -> str:
    if number not in DTYPES:
        raise ShapeError("type", number=number)
    return DTYPES[number]


def _dims(answer: Dict[str, Any]) -> List[int]:
    return [int(size) for size in answer["dims"][: answer.get("dimCount", len(answer["dims"]))]]


def _form(entry: Dict[str, Any], shape: Sequence[int]) -> Optional[List[int]]:
    """The form of an input that a shape fits: with AIPP that of the picture before that of the model."""
    for dims in (entry["other"], entry["dims"]):
        if fits(dims, shape):
            return list(dims)
    return None


def _bytes(dims: Sequence[int], dtype: str) -> int:
    count = np.dtype(dtype).itemsize
    for size in dims:
        count *= size
    return int(count)
