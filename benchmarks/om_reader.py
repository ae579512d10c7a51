"""The cost of reading an .om file: bytes read and time, for real files and for a sparse one of 100 MB.

python benchmarks/om_reader.py [FOLDER OR FILE ...]
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import tempfile
import time
from pathlib import Path

from pth2om.omfile import read_om

ROUNDS = 9


def measure(path: Path) -> None:
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        om = read_om(path)
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    operators = len(om.operators)
    graph = time.perf_counter() - start
    print(
        f"{path.name:52} {om.size / 2**20:8.2f} MiB  fetched {om.fetched / 1024:7.1f} KiB"
        f"  header and I/O {statistics.median(seconds) * 1e3:7.2f} ms  {operators:6} operators {graph * 1e3:8.1f} ms"
    )


def large(folder: Path) -> Path:
    """100 MB of weights (a hole), a graph of 20,000 operators."""
    place = Path(__file__).resolve().parent.parent / "tests" / "omfile" / "om_factory.py"
    spec = importlib.util.spec_from_file_location("om_factory", place)
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    operators = tuple(
        make.operator(f"op_{index}", "Conv2D", (make.description(2, (1, 3, 8, 8)),)) for index in range(20_000)
    )
    definition = make.model_def(operators, {"soc_version": make.text("Ascend310B1")})
    records = make.inout((make.tensor("images", (1, 3, 8, 8)),), (make.tensor("o:0:o", (1, 4)),))
    path = folder / "sparse_100mb.om"
    make.sparse_om(path, [(8, records), (0, definition)], 100 * 2**20)
    return path


def main() -> None:
    for word in sys.argv[1:]:
        for path in sorted(Path(word).rglob("*.om")) if Path(word).is_dir() else [Path(word)]:
            measure(path)
    with tempfile.TemporaryDirectory() as folder:
        measure(large(Path(folder)))


if __name__ == "__main__":
    main()
