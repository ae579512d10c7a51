"""Ways of running on a machine with CANN: what each can do, and what the agent is told of a model.

``acl`` (pth2om's own binding) does everything. ``ais_bench`` runs every OM too. ``msame`` returns bytes without sizes.
``onnxruntime-cann`` runs no OM: ONNX Runtime's CANN provider compiles the ONNX file itself, so it is a second opinion
on the NPU and on no file that atc made.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.errors import ToolchainError
from pth2om.store import file_digest
from pth2om.toolchain import NO_OM, CompiledModel

if TYPE_CHECKING:
    from pth2om.ascend.atc_options import AtcOptions
    from pth2om.session import Provenance
    from pth2om.toolchain.cann.compiling import Asked

_GEARS = ("dynamic_batch_size", "dynamic_image_size", "dynamic_dims")
_AMCT = ("AscendQuant", "AscendDequant", "AscendWeightQuant", "AscendAntiQuant")


def described(compiled: CompiledModel, by: str) -> dict[str, Any]:
    """What the agent is told of a model; see `pth2om.toolchain.cann.agent.ways`.

    Args:
        compiled: by atc, or by `gathered`.
        by: a way other than ``acl``.

    Raises:
        ToolchainError: this way cannot run it, or it was not compiled for this way.
        OmFileError: the OM cannot be read.
    """
    if (by == NO_OM) != ("provider" in compiled.details):
        raise ToolchainError("cann.other-way", where=str(compiled.path), by=by)
    sides = {side: [_entry(row) for row in compiled.details[side]] for side in ("inputs", "outputs")}
    if by == NO_OM:
        return {"by": by, "kind": "static", "gears": [], "options": dict(compiled.details["provider"]), **sides}
    from pth2om.omfile import read_om

    om = read_om(compiled.path)
    found = om.inout
    gears: Mapping[str, list[list[int]]] = {
        "batch": [[size] for size in found.batches],
        "hw": [list(sizes) for sizes in found.image_sizes],
        "dims": [list(sizes) for sizes in found.dims],
    }
    kind = next((name for name, rows in gears.items() if rows), "")
    if not kind:
        kind = "range" if any(-1 in entry["form"] for entry in sides["inputs"]) else "static"
    for entry, tensor in zip(sides["outputs"], om.outputs, strict=False):
        entry["largest"] = list(tensor.shape)
        if by == "msame" and kind not in ("static", "batch") and -1 in entry["form"]:
            raise ToolchainError("cann.open-output", where=str(compiled.path), by=by, name=entry["name"])
    return {"by": by, "kind": kind, "gears": gears.get(kind, []), **sides}


def refusal(model: Path, options: AtcOptions) -> ToolchainError | None:
    """Why ONNX Runtime's CANN provider cannot do what atc is asked for: AIPP, gears, ranges, layers of AMCT.

    Args:
        model: an ONNX file.
        options: of atc, were it asked.

    Raises:
        GraphError: the ONNX file cannot be read.
    """
    from pth2om.onnxfile.reading import read
    from pth2om.toolchain.cann.compiling import Asked, specs_of

    lacks = "aipp" if options.insert_op_conf else ""
    lacks = lacks or ("shapes" if any(getattr(options, flag) for flag in _GEARS) else "")
    lacks = lacks or ("amct" if any(node.op_type in _AMCT for node in read(model).graph.node) else "")
    if not lacks and any(None in spec.shape for spec in specs_of(Asked(model, options, 0.0))[0]):
        lacks = "shapes"
    return ToolchainError(f"cann.provider-{lacks}", where=model.name, by=NO_OM) if lacks else None


def gathered(asked: Asked, destination: Path, provenance: Provenance) -> CompiledModel:
    """What ONNX Runtime is given instead of an OM: the ONNX file and its weights, and the provider's options.

    Args:
        asked: of atc, were it asked.
        destination: the artifact's folder.
        provenance: who runs it.

    Raises:
        ToolchainError: see `refusal`.
        GraphError: the ONNX file cannot be read.
    """
    from pth2om.toolchain.cann.compiling import external_files, specs_of

    options = asked.options
    refused = refusal(asked.model, options)
    if refused is not None:
        raise refused
    inputs, outputs = specs_of(asked)
    path = destination / "model.onnx"
    shutil.copyfile(asked.model, path)
    beside = external_files(asked.model)
    for location, file in beside.items():
        (destination / location).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, destination / location)
    details = {
        "inputs": [spec.to_json() for spec in inputs],
        "outputs": [spec.to_json() for spec in outputs],
        "provider": provider_options(options),
        "beside": sorted(beside),
        "findings": [],
    }
    # Not the ONNX file's own digest, which the session on this CPU has: what one of them answers is not the other's.
    parts = [file_digest(path), {name: file_digest(destination / name) for name in sorted(beside)}, details["provider"]]
    digest = hashlib.sha256(json.dumps([NO_OM, parts], sort_keys=True).encode()).hexdigest()
    return CompiledModel(path, digest, provenance, details=details).write(destination)


def files_of(compiled: CompiledModel) -> tuple[str, dict[str, Path]]:
    """The name under which the agent loads a model, and everything that has to lie there."""
    path = compiled.path
    files = {path.name: path}
    beside = path.parent / "weight"
    files.update({f"weight/{entry.name}": entry for entry in sorted(beside.glob("*")) if entry.is_file()})
    names = (*compiled.details.get("beside", ()), *compiled.details.get("weights", ()))
    files.update({name: path.parent / name for name in names})
    return path.name, files


def provider_options(options: AtcOptions) -> dict[str, str]:
    """The provider's options for those of atc that it knows too."""
    asked = {"precision_mode": options.precision_mode, "op_select_impl_mode": options.op_select_implmode}
    return {name: str(value) for name, value in asked.items() if value}


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    form = [-1 if size is None else int(size) for size in row["shape"]]
    return {"name": str(row["name"]), "dtype": str(row["dtype"]), "form": form}
