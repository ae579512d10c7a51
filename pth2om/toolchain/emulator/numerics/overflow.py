"""Where values leave float16's range: counted on given inputs, tensor by tensor."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pth2om.files import write_bytes
from pth2om.onnxfile.reading import read
from pth2om.session import Feeds
from pth2om.sessions.onnx import OnnxSession
from pth2om.toolchain.emulator.numerics.compiled import Compiled
from pth2om.toolchain.emulator.numerics.rounding import HALF_OVERFLOW
from pth2om.toolchain.emulator.numerics.weights import DATA_FILE


@dataclass(frozen=True)
class TensorOverflow:
    """What happened to one tensor where it was rounded to float16, summed over all feeds.

    Attributes:
        tensor: its name in the source graph.
        elements: how many values were rounded.
        overflowed: values whose magnitude is 65520 or more: infinity, or 65504 on a saturating SoC.
        vanished: values that were not zero and became zero.
        largest: the largest magnitude before rounding.
    """

    tensor: str
    elements: int
    overflowed: int
    vanished: int
    largest: float


def overflow_report(compiled: Compiled, feeds: Feeds | Iterable[Feeds], band: str = "unfused") -> list[TensorOverflow]:
    """Count overflow and underflow at every rounding of the top-level graph.

    Args:
        compiled: what `compile_numerics` wrote.
        feeds: one set of inputs, or several; memory does not grow with their number.
        band: which graph.

    Returns:
        One entry per rounded tensor, in graph order.

    Raises:
        ToolchainError: as `OnnxSession.run`.
    """
    chosen = compiled.band(band)
    model = read(compiled.folder / chosen.file)
    sites = [dict(site) for site in chosen.sites]
    _count_in_graph(model, sites)
    totals = np.zeros((len(sites), 3), np.int64)
    largest = np.zeros(len(sites))
    with tempfile.TemporaryDirectory(prefix="pth2om-") as folder:
        path = Path(folder) / "counting.onnx"
        write_bytes(path, model.SerializeToString())
        if (compiled.folder / DATA_FILE).exists():
            _beside(compiled.folder / DATA_FILE, Path(folder) / DATA_FILE)
        with OnnxSession(path) as session:
            for each in [feeds] if _is_one(feeds) else feeds:
                results = session.run(each)  # type: ignore[arg-type]  # feeds by name
                for index in range(len(sites)):
                    totals[index] += np.array([results[f"pth2om_{kind}_{index}"] for kind in ("n", "over", "zero")])
                    largest[index] = max(largest[index], float(results[f"pth2om_max_{index}"]))
    return [
        TensorOverflow(_source_name(site["tensor"]), int(count[0]), int(count[1]), int(count[2]), float(top))
        for site, count, top in zip(sites, totals, largest, strict=True)
    ]


def _is_one(feeds: Feeds | Iterable[Feeds]) -> bool:
    return hasattr(feeds, "keys")


def _source_name(tensor: str) -> str:
    """A graph input's rounded copy is named after it."""
    return tensor.removesuffix("__fp16").removesuffix("__fp32")


def _beside(data: Path, link: Path) -> None:
    """The shared weights where ONNX Runtime looks for them, copied only where links are not possible."""
    import os
    import shutil

    try:
        os.link(data, link)
    except OSError:
        shutil.copyfile(data, link)


def _count_in_graph(model: onnx.ModelProto, sites: list[dict[str, object]]) -> None:
    """Add four scalar outputs per site, so that no tensor leaves the graph."""
    graph = model.graph
    constants = {"pth2om_bound": np.float32(HALF_OVERFLOW), "pth2om_nothing": np.float32(0)}
    graph.initializer.extend(numpy_helper.from_array(np.array(value), name) for name, value in constants.items())
    shape = numpy_helper.from_array(np.array([-1], np.int64), "pth2om_flat")
    graph.initializer.append(shape)
    for index, site in enumerate(sites):
        before, after = str(site["before"]), str(site["tensor"])
        tag = f"pth2om_{index}"
        make = helper.make_node
        nodes = [
            make("Reshape", [before, "pth2om_flat"], [f"{tag}_flat"]),
            make("Relu" if site["positive"] else "Abs", [f"{tag}_flat"], [f"{tag}_size"]),
            make("Reshape", [after, "pth2om_flat"], [f"{tag}_after"]),
            make("Less", [f"{tag}_size", "pth2om_bound"], [f"{tag}_inside"]),
            make("Not", [f"{tag}_inside"], [f"{tag}_outside"]),
            make("Abs", [f"{tag}_after"], [f"{tag}_left"]),
            make("Greater", [f"{tag}_left", "pth2om_nothing"], [f"{tag}_some"]),
            make("Not", [f"{tag}_some"], [f"{tag}_none"]),
            make("Greater", [f"{tag}_size", "pth2om_nothing"], [f"{tag}_was"]),
            make("And", [f"{tag}_none", f"{tag}_was"], [f"{tag}_lost"]),
            make("Cast", [f"{tag}_outside"], [f"{tag}_over64"], to=TensorProto.INT64),
            make("Cast", [f"{tag}_lost"], [f"{tag}_lost64"], to=TensorProto.INT64),
            make("Size", [f"{tag}_flat"], [f"pth2om_n_{index}"]),
            make("ReduceMax", [f"{tag}_size"], [f"pth2om_max_{index}"], keepdims=0),
        ]
        for source, kind in ((f"{tag}_over64", "over"), (f"{tag}_lost64", "zero")):
            nodes.append(make("ReduceSum", [source], [f"pth2om_{kind}_{index}"], keepdims=0))
        graph.node.extend(nodes)
        for kind, dtype in (("n", 7), ("over", 7), ("zero", 7), ("max", 1)):
            graph.output.append(helper.make_tensor_value_info(f"pth2om_{kind}_{index}", dtype, []))
