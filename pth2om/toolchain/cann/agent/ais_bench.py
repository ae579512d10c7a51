"""The vendor's ``ais_bench`` as a way of running an OM: its ``InferSession``, in this process.

Feeds go in as a list in the model's order. Releases before 2023-09 spell the modes of models that are not static with
an m (``dymbatch``); which one this is shows when the first spelling is refused by name.
"""

from __future__ import annotations

import time
from typing import Any, Dict, List, Sequence

import numpy as np

from .shapes import Sizes, gear_of
from .ways import Description, Results, WayError, fed, forms, named

_MODES = {"batch": "batch", "hw": "hw", "dims": "dims", "range": "shape"}
_SPELLINGS = ("dyn", "dym")
_FIRST_OUTPUT = 1 << 20  # bytes of an output whose size is open
_MOST_OUTPUT = 1 << 30
_TOO_SMALL = "from user add align"


class AisBench:
    """A loaded OM.

    Args:
        description: see `ways`.
        path: of the OM.
        device: number of the NPU.

    Raises:
        WayError: there is no ais_bench, or it cannot load the OM.
    """

    def __init__(self, description: Description, path: str, device: int) -> None:
        try:
            from ais_bench.infer.interface import InferSession
        except ImportError as error:
            raise WayError("import", module="ais_bench", reason=str(error)) from error
        self._description = description
        self.facts: Dict[str, Any] = {}
        kind = description["kind"]
        self._modes = [spelling + _MODES[kind] for spelling in _SPELLINGS] if kind in _MODES else ["static"]
        self._session = _called("InferSession", InferSession, device, path)

    def run(self, feeds: Dict[str, Any]) -> Results:
        """One inference.

        Args:
            feeds: a C-contiguous array for each input, of its dtype and shape.

        Returns:
            Name and array of each output, and nanoseconds: ``execute`` where ais_bench keeps it, and ``call``.

        Raises:
            ShapeError: the feeds do not fit.
            WayError: ais_bench reports an error, or returns other outputs than the OM's.
        """
        ordered = fed(self._description, feeds)
        kind = self._description["kind"]
        gear: Sizes = []
        if kind in ("batch", "hw", "dims"):
            shapes = [array.shape for array in ordered]
            gear = gear_of(kind, self._description["gears"], forms(self._description), shapes)
        begun = time.perf_counter_ns()
        arrays = self._inferred(ordered)
        times = {"call": time.perf_counter_ns() - begun, **self._computed()}
        return named(self._description, arrays, gear), times

    def close(self) -> None:
        """Free what the session holds, and end ``acl``, before the process ends.

        Raises:
            WayError: ais_bench reports an error.
        """
        for name in ("free_resource", "finalize"):
            end = getattr(self._session, name, None)
            if end is not None:
                _called("InferSession." + name, end)

    def _inferred(self, ordered: Sequence[Any]) -> List[Any]:
        sizes = self._sizes(ordered)
        while True:
            more = (sizes,) if sizes else ()
            try:
                return list(_called("InferSession.infer", self._session.infer, list(ordered), self._modes[0], *more))
            except WayError as error:
                text = str(error.values["text"])
                if len(self._modes) > 1 and self._modes[0] in text:
                    self._modes = self._modes[1:]
                elif sizes and _TOO_SMALL in text and max(sizes) < _MOST_OUTPUT:
                    sizes = [4 * size for size in sizes]
                else:
                    raise

    def _sizes(self, ordered: Sequence[Any]) -> List[int]:
        """Bytes for each output of a range; empty where the OM knows them."""
        if self._description["kind"] != "range":
            return []
        most = max(_FIRST_OUTPUT, 4 * sum(int(array.nbytes) for array in ordered))
        sizes = []
        for entry in self._description["outputs"]:
            count = int(np.prod(entry["form"], dtype=np.int64)) if -1 not in entry["form"] else 0
            sizes.append(count * np.dtype(entry["dtype"]).itemsize or most)
        return sizes

    def _computed(self) -> Dict[str, int]:
        """The last entry of ``exec_time_list``, which is in ms; nothing where it is kept in another form."""
        for name in ("summary", "sumary"):  # the vendor's spelling before
            ask = getattr(self._session, name, None)
            times = getattr(ask(), "exec_time_list", None) if ask is not None else None
            if times and isinstance(times[-1], (int, float)):
                return {"execute": int(float(times[-1]) * 1e6)}
        return {}


def _called(call: str, function: Any, *arguments: Any) -> Any:
    """What a call returns; ais_bench raises ``RuntimeError: [code][message]``."""
    try:
        return function(*arguments)
    except RuntimeError as error:
        text = str(error)
        code, _, _ = text.lstrip("[").partition("]")
        raise WayError("acl", call=call, code=int(code) if code.isdigit() else -1, text=text) from error
