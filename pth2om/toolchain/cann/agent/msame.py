"""The vendor's ``msame`` as a way of running an OM: inputs and outputs are files, and each inference is a process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from typing import Any, Dict, List, Sequence

import numpy as np

from .shapes import Sizes, gear_of
from .ways import Description, Results, WayError, fed, forms, share

_TIME = re.compile(r"^Inference time: ([\d.]+) ?ms", re.MULTILINE)
_SHOWN = 4000


class Msame:
    """An OM, loaded anew by each run.

    msame writes bytes without sizes. So each output has one shape, or with gears of the batch a share of the largest.

    Args:
        description: see `ways`; with ``program``, where msame lies.
        path: of the OM.
        device: number of the NPU.
    """

    def __init__(self, description: Description, path: str, device: int) -> None:
        self._description = description
        self.facts: Dict[str, Any] = {}
        self._path = path
        self._device = device

    def run(self, feeds: Dict[str, Any]) -> Results:
        """One inference.

        Args:
            feeds: a C-contiguous array for each input, of its dtype and shape.

        Returns:
            Name and array of each output, and the nanoseconds that msame prints: ``execute``.

        Raises:
            ShapeError: the feeds do not fit.
            WayError: msame ended badly, or a file of results is missing or of another size.
        """
        ordered = fed(self._description, feeds)
        gear: Sizes = []
        if self._description["kind"] in ("batch", "hw", "dims"):
            shapes = [array.shape for array in ordered]
            gear = gear_of(self._description["kind"], self._description["gears"], forms(self._description), shapes)
        folder = tempfile.mkdtemp(dir=os.path.dirname(self._path))
        try:
            return self._ran(folder, ordered, gear)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Nothing is held between two runs."""

    def _ran(self, folder: str, ordered: Sequence[Any], gear: Sizes) -> Results:
        results = os.path.join(folder, "results")
        os.mkdir(results)  # msame does not make it
        paths = []
        for place, array in enumerate(ordered):
            paths.append(os.path.join(folder, "input_%d.bin" % place))
            array.tofile(paths[-1])
        command = [self._description["program"], "--model", self._path, "--input", ",".join(paths)]
        command += ["--output", results, "--outfmt", "BIN", "--loop", "1", "--device", str(self._device)]
        done = subprocess.run(
            [*command, *self._sizes(ordered, gear)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        said = done.stdout.decode("utf-8", "replace")
        found = _TIME.search(said)
        if done.returncode != 0 or found is None:
            self._fail(done.returncode, said)
        written = {}
        for parent, _, names in os.walk(results):  # some releases make a folder named after the time
            written.update({name: os.path.join(parent, name) for name in names})
        outputs = []
        for place, entry in enumerate(self._description["outputs"]):
            kind, path = np.dtype(entry["dtype"]), written.get("input_0_output_%d.bin" % place, "")
            shape = share(self._description, entry, gear)
            wanted = _count(shape) * kind.itemsize
            whole = _count(entry["largest"]) * kind.itemsize if gear else wanted
            size = os.path.getsize(path) if path else -1
            if size not in (wanted, whole):  # with gears the buffer is the largest one's
                given = "no file" if size < 0 else "%d bytes" % size
                self._fail(done.returncode, "%s\noutput %d: %s, %d bytes wanted" % (said, place, given, wanted))
            outputs.append((entry["name"], np.fromfile(path, kind, _count(shape)).reshape(shape)))
        assert found is not None
        return outputs, {"execute": int(float(found[1]) * 1e6)}

    def _sizes(self, ordered: Sequence[Any], gear: Sizes) -> List[str]:
        """The options that choose a gear, or the sizes within a range."""
        kind = self._description["kind"]
        names = [entry["name"] for entry in self._description["inputs"]]
        every = ";".join("%s:%s" % (name, _listed(array.shape)) for name, array in zip(names, ordered))
        if kind == "range":
            outputs = self._description["outputs"]
            sizes = [_count(entry["form"]) * np.dtype(entry["dtype"]).itemsize for entry in outputs]
            return ["--dymShape", every, "--outputSize", _listed(sizes)]
        return {
            "batch": ["--dymBatch", _listed(gear)],
            "hw": ["--dymHW", _listed(gear)],
            "dims": ["--dymDims", every],
        }.get(kind, [])

    def _fail(self, code: int, said: str) -> None:
        from .child import how_ended

        raise WayError("crash", **how_ended(code), text=said[-_SHOWN:])


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= int(size)
    return count


def _listed(sizes: Sequence[int]) -> str:
    return ",".join(str(int(size)) for size in sizes)
