"""The content of an OM as text: as atc's mode 6 and mode 1 print it, as a JSON summary, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pth2om.escaping import visible
from pth2om.language import say
from pth2om.omfile.checks import check, precision_mode
from pth2om.omfile.container import AICPU_KERNELS, MODEL_DEF, MODEL_TYPES, SO_BINS, TASKS, TBE_KERNELS, WEIGHTS
from pth2om.omfile.inout import OmTensor
from pth2om.omfile.model import OmModel

if TYPE_CHECKING:
    from rich.console import RenderableType

_NOT_SHOWN = "output data_offset data workspace workspace_bytes memory_size weight_size size bt quantize_factor"
_LEFT_OUT = frozenset(_NOT_SHOWN.split())
"""Fields that atc's mode 1 leaves out of its JSON."""


def model_info_text(om: OmModel) -> str:
    """What ``atc --mode=6`` prints between its banners ("ATC guide"; CANN graph engine, ``api/atc/omg.cc``)."""
    recorded = om.attributes.get("om_info_list")
    kinds = (WEIGHTS, TBE_KERNELS, AICPU_KERNELS, TASKS, SO_BINS)
    sizes = [om.partition_size(kind) for kind in kinds]
    if isinstance(recorded, list):  # files before about CANN 6 record four
        sizes[: len(recorded)] = recorded[: len(sizes)]
    names = ("weight_data_size", "tbe_kernels_size", "cust_aicpu_kernel_store_size", "task_info_size", "so_store_size")
    parts = [("modeldef_size", om.partition_size(MODEL_DEF)), *zip(names, sizes, strict=True)]
    system = {"atc_version": om.atc_version, "soc_version": om.soc_version, "framework_type": om.framework}
    resources = [f"{name}[{om.number(name) or 0} B]" for name in ("memory_size", "weight_size")]
    resources += [f"{name}[{om.number(name) or 0}]" for name in ("stream_num", "event_num")]
    lines = (
        "============ Display Model Info start ============",
        f"Original Atc command line: {om.atc_cmdline or ''}",
        "system   info: " + ", ".join(f"{name}[{value or ''}]" for name, value in system.items()) + ".",
        "resource info: " + ", ".join(resources) + ".",
        "om       info: " + ", ".join(f"{name}[{size} B]" for name, size in parts) + ".",
        "============ Display Model Info end   ============",
    )
    return "\n".join(lines)


def model_json(om: OmModel) -> dict[str, Any]:
    """The root model's ModelDef as JSON values, as ``atc --mode=1 --om=x.om`` writes it.

    Attribute maps become lists of ``{"key", "value"}``, attribute names are restored, bytes are text (undecodable ones
    replaced), and the fields that atc leaves out are left out.

    Raises:
        OmFileError: the model definition is damaged or absent.
    """
    data: dict[str, Any] = _json(om.model_def(0))
    return data


def summary(om: OmModel) -> dict[str, Any]:
    """Everything ``pth2om inspect --json`` prints.

    Raises:
        OmFileError: the graph or the kernel table is damaged.
    """
    return {
        "path": str(om.path),
        "size": om.size,
        "name": om.header.name,
        "model_type": MODEL_TYPES.get(om.header.model_type, om.header.model_type),
        "header_version": f"{om.header.version:#x}",
        "models": om.header.models,
        "dynamic": om.header.dynamic,
        "soc_version": om.soc_version,
        "atc_version": om.atc_version,
        "opp_version": om.opp_version,
        "framework": om.framework,
        "atc_cmdline": om.atc_cmdline,
        "precision_mode": precision_mode(om),
        "aipp": om.aipp,
        "memory_size": om.number("memory_size"),
        "weight_size": om.number("weight_size"),
        "stream_num": om.number("stream_num"),
        "event_num": om.number("event_num"),
        "inputs": [_tensor_json(tensor) for tensor in om.inputs],
        "outputs": [_tensor_json(tensor) for tensor in om.outputs],
        "gears": {
            "batches": list(om.inout.batches),
            "image_sizes": [list(size) for size in om.inout.image_sizes],
            "dims": [list(group) for group in om.inout.dims],
        },
        "partitions": [
            {"model": index, "name": part.name, "start": part.start, "size": part.size}
            for index, model in enumerate(om.models)
            for part in model
        ],
        "operators": dict(om.histogram),
        "kernels": [{"name": kernel.name, "unit": kernel.unit, "size": kernel.size} for kernel in om.kernels],
        "host_libraries": list(om.host_libraries),
        "submodels": [{"engine": engine, **summary(inner)} for engine, inner in om.submodels],
        "findings": [finding.to_json() for finding in check(om)],
    }


def tables(om: OmModel) -> list[RenderableType]:
    """What ``pth2om inspect`` prints, for a rich console.

    Raises:
        OmFileError: the graph or the kernel table is damaged.
    """
    from rich.table import Table
    from rich.text import Text  # plain text: names may hold [brackets], which rich would read as markup

    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column()
    facts.add_column(overflow="fold")
    for key, value in _facts(om):
        facts.add_row(say(f"omfile.show-{key}").render(), Text(visible(value)))
    tensors = Table(title=say("omfile.show-tensors").render(), title_justify="left")
    for column in ("", "name", "shape", "dtype", "format", "bytes"):
        tensors.add_column(column, overflow="fold", justify="right" if column == "bytes" else "left")
    for what, group in (("input", om.inputs), ("output", om.outputs)):
        for tensor in group:
            shape = " x ".join(str(size) for size in tensor.shape) or "()"
            row = (tensor.name, shape, tensor.dtype, tensor.format, f"{tensor.size:,}")
            tensors.add_row(say(f"omfile.show-{what}").render(), *(Text(visible(cell)) for cell in row))
    parts = Table(title=say("omfile.show-partitions").render(), title_justify="left")
    for column in ("model", "partition", "start", "bytes"):
        parts.add_column(column, justify="left" if column == "partition" else "right")
    for index, model in enumerate(om.models):
        for part in model:
            parts.add_row(str(index), part.name, f"{part.start:,}", f"{part.size:,}")
    return [facts, tensors, parts, *(finding.message.render() for finding in check(om))]


def _facts(om: OmModel) -> list[tuple[str, str]]:
    unknown = say("omfile.show-not-recorded").render()
    kinds = ", ".join(f"{kind} {count}" for kind, count in list(om.histogram.items())[:12])
    more = max(0, len(om.histogram) - 12)
    rows = [
        ("file", f"{om.path} ({om.size:,} B)"),
        ("soc", om.soc_version or unknown),
        ("versions", f"atc {om.atc_version or unknown}, opp {om.opp_version or unknown}"),
        ("framework", om.framework or unknown),
        ("command", om.atc_cmdline or unknown),
        ("precision", precision_mode(om) or unknown),
        ("memory", f"{om.number('memory_size') or 0:,} B + {om.number('weight_size') or 0:,} B"),
        ("streams", f"{om.number('stream_num') or 0} / {om.number('event_num') or 0}"),
        ("operators", f"{len(om.operators)}: {kinds}" + (f", +{more}" if more else "")),
        ("kernels", str(len(om.kernels))),
    ]
    if om.aipp:
        rows.append(("aipp", om.aipp))
    gears = om.inout.batches or om.inout.image_sizes or om.inout.dims
    if gears:
        rows.append(("gears", "; ".join(str(gear) for gear in gears)))
    if om.host_libraries:
        rows.append(("host", ", ".join(om.host_libraries)))
    rows += [("submodel", f"{inner.header.name} ({engine})") for engine, inner in om.submodels]
    return rows


def _tensor_json(tensor: OmTensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "format": tensor.format,
        "size": tensor.size,
        "aipp_shape": list(tensor.aipp_shape),
        "ranges": [list(pair) for pair in tensor.ranges],
    }


def _json(value: Any) -> Any:  # noqa: ANN401 - JSON values of any depth
    if isinstance(value, Mapping):
        return {
            name: [{"key": key, "value": _json(item)} for key, item in part.items()] if name == "attr" else _json(part)
            for name, part in value.items()
            if name not in _LEFT_OUT
        }
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        # JSON has no infinities; protobuf's own JSON form writes them as strings.
        return value if abs(value) <= 3.5e38 else str(value)
    return value
