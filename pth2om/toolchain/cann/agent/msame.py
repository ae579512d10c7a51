"""The vendor's ``msame`` as a way of running an OM: inputs and outputs are files, and each inference is a process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

_TIME = re.compile(r"^Inference time: ([\d.]+) ?ms", re.MULTILINE)
_SHOWN = 4000


class MsameError(Exception):
    """An inference that failed.

    Attributes:
        error: ``crash`` where msame ended badly, ``feeds-...`` where the feeds are not the OM's.
        values: for the sentence.
    """

    def __init__(self, error: str, **values: Any) -> None:
        super().__init__("%s %s" % (error, values))
        self.error = error
        self.values = values


class Msame:
    """An OM of one shape, loaded anew by each run.

    Args:
        program: where msame lies.
        path: of the OM.
        inputs: ``name``, ``dtype`` and ``shape`` of each, in the OM's order; every size is known.
        outputs: likewise.
    """

    def __init__(
        self, program: str, path: str, inputs: Sequence[Dict[str, Any]], outputs: Sequence[Dict[str, Any]]
    ) -> None:
        self._program = program
        self._path = path
        self._inputs = inputs
        self._outputs = outputs

    def run(self, feeds: Dict[str, Any]) -> Tuple[List[Tuple[str, Any]], Dict[str, int]]:
        """One inference.

        Args:
            feeds: a C-contiguous array for each input, of its dtype and shape.

        Returns:
            Name and array of each output, and the nanoseconds that msame prints: ``execute``.

        Raises:
            MsameError: the feeds do not fit, msame ended badly, or a file of results is missing or of another size.
        """
        self._check(feeds)
        folder = tempfile.mkdtemp(dir=os.path.dirname(self._path))
        try:
            return self._ran(folder, feeds)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Nothing is held between two runs."""

    def _check(self, feeds: Dict[str, Any]) -> None:
        names = [entry["name"] for entry in self._inputs]
        if sorted(names) != sorted(feeds):
            raise MsameError("feeds-inputs", wanted=", ".join(names), given=", ".join(feeds))
        for entry in self._inputs:
            array = feeds[entry["name"]]
            for key, wanted, given in (
                ("dtype", entry["dtype"], array.dtype.name),
                ("size", list(entry["shape"]), list(array.shape)),
            ):
                if wanted != given:
                    raise MsameError("feeds-" + key, name=entry["name"], wanted=str(wanted), given=str(given))

    def _ran(self, folder: str, feeds: Dict[str, Any]) -> Tuple[List[Tuple[str, Any]], Dict[str, int]]:
        results = os.path.join(folder, "results")
        os.mkdir(results)  # msame does not make it
        paths = []
        for place, entry in enumerate(self._inputs):
            paths.append(os.path.join(folder, "input_%d.bin" % place))
            feeds[entry["name"]].tofile(paths[-1])
        command = [self._program, "--model", self._path, "--input", ",".join(paths)]
        done = subprocess.run(
            [*command, "--output", results, "--outfmt", "BIN", "--loop", "1"],
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
        for place, entry in enumerate(self._outputs):
            kind, path = np.dtype(entry["dtype"]), written.get("input_0_output_%d.bin" % place, "")
            count = int(np.prod(entry["shape"], dtype=np.int64))
            if not path or os.path.getsize(path) != count * kind.itemsize:
                size = "no file" if not path else "%d bytes" % os.path.getsize(path)
                text = "output %d: %s, %d bytes wanted" % (place, size, count * kind.itemsize)
                self._fail(done.returncode, "%s\n%s" % (said, text))
            outputs.append((entry["name"], np.fromfile(path, kind).reshape(entry["shape"])))
        assert found is not None
        return outputs, {"execute": int(float(found[1]) * 1e6)}

    def _fail(self, code: int, said: str) -> None:
        from .child import how_ended

        raise MsameError("crash", **how_ended(code), text=said[-_SHOWN:])
