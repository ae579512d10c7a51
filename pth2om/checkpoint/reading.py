"""Reading a checkpoint: its tensors by name, and what else it says.

Order: what the bytes are; a scan that runs nothing and checks every size; ``torch.load(weights_only=True)`` where the
scan found nothing but tensors and plain data; and the scanned data itself where torch refuses, which is how the tensors
of a pickled module come out although its classes are not installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pth2om.checkpoint import branches
from pth2om.checkpoint import tensors as numbers
from pth2om.checkpoint.archives import Scan, scanned
from pth2om.checkpoint.formats import READABLE, Kind, kind_of
from pth2om.checkpoint.inert import Array, Inert, PickleError
from pth2om.errors import CheckpointError, Pth2omError, first_line

if TYPE_CHECKING:
    import torch

Read = Literal["weights_only", "inert", "safetensors"]

MEMORY_FACTOR = 16
"""float32 copies may take this many times the file's size, plus 256 MB: float8 to float32 takes 4."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        path: the file.
        kind: what it is by content.
        tensors: by name; half, double, bfloat16 and float8 as float32, integers as they are stored.
        dtypes: number of tensors by their type in the file.
        branch: dotted path of the part they were taken from; ``""`` is the whole file.
        branches: every part that holds weights, preferred first: path -> number of tensors.
        classes: classes and functions the pickle names that are no plain data; none was imported.
        facts: epoch, number and names of classes, whatever else it says in plain values.
        skipped: tensors whose numbers cannot be read (sparse, quantized), with the reason.
        module: whether the weights were found in a pickled module (or a TorchScript archive).
        read_by: ``weights_only`` (torch.load), ``inert`` (this package), ``safetensors``.
        operators: TorchScript calls that read or write files.
    """

    path: Path
    kind: Kind
    tensors: Mapping[str, torch.Tensor]
    dtypes: Mapping[str, int]
    branch: str
    branches: Mapping[str, int]
    classes: tuple[str, ...]
    facts: Mapping[str, Any]
    skipped: Mapping[str, str] = field(default_factory=dict)
    module: bool = False
    read_by: Read = "inert"
    operators: tuple[str, ...] = ()

    @property
    def is_torchscript(self) -> bool:
        """Whether the file is a TorchScript archive, which brings its own code."""
        return self.kind == "torchscript"


def read(path: Path, *, branch: str | None = None) -> Checkpoint:
    """Read a checkpoint without importing or calling anything it names.

    Args:
        path: the file; what it is, is judged by its content.
        branch: take this part (dotted path, or its last word) and no other.

    Raises:
        CheckpointError: it is no checkpoint (and what it is instead), truncated, damaged, declares more than it has,
            holds no tensors, or has no such branch.
    """
    kind = kind_of(path)
    if kind not in READABLE:
        raise not_readable(path, kind)
    try:
        return _read_safetensors(path) if kind == "safetensors" else _read_pickled(path, kind, branch)
    except Pth2omError:
        raise
    except PickleError as error:
        raise CheckpointError("checkpoint.bad-pickle", where=str(path), reason=str(error)) from None
    except OSError as error:
        raise CheckpointError("checkpoint.unreadable", where=str(path), reason=error.strerror or str(error)) from None
    except Exception as error:  # hostile bytes reach zipfile, safetensors and torch, whose exceptions share no base
        raise CheckpointError("checkpoint.damaged", where=str(path), reason=first_line(error)) from error


def not_readable(path: Path, kind: Kind) -> CheckpointError:
    """The error that says what a file is when it is no checkpoint, and what to do with it."""
    with path.open("rb") as file:
        head = file.read(16)
    return CheckpointError(
        f"checkpoint.is-{kind}", where=str(path), size=path.stat().st_size, head=head.hex(" "), name=path.name
    )


def _read_pickled(path: Path, kind: Kind, wanted: str | None) -> Checkpoint:
    with scanned(path, kind) as scan:
        loaded = None if scan.classes or kind not in ("torch-zip", "torch-legacy") else load_plain(path)
        tree = scan.tree if loaded is None else loaded
        found = branches.find(tree, numbers.is_tensor)
        if not found and kind == "torchscript":
            found = [branches.Branch("", {}, scan.tree, True)]  # a program may have no weights
        if not found:
            key = "checkpoint.no-tensors-classes" if scan.classes else "checkpoint.no-tensors"
            raise CheckpointError(key, where=str(path), classes=listed(scan.classes), holds=_described(tree))
        taken = _choose(path, found, wanted)
        return _converted(path, kind, scan, found, taken, loaded is not None)


def load_plain(path: Path) -> Any:  # noqa: ANN401 - whatever was saved
    """``torch.load(weights_only=True)``; None where torch refuses."""
    import warnings

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - a refusal of any kind: the scanned data is taken instead
        return None


def _choose(path: Path, found: list[branches.Branch], wanted: str | None) -> branches.Branch:
    if wanted is None:
        return found[0]
    for branch in found:
        if branch.path == wanted:
            return branch
    for branch in found:
        if branch.path.rpartition(".")[2] == wanted:
            return branch
    names = ", ".join(branch.path or "(root)" for branch in found[:10])
    raise CheckpointError("checkpoint.no-branch", where=str(path), branch=wanted, branches=names)


def _converted(
    path: Path, kind: Kind, scan: Scan, found: list[branches.Branch], taken: branches.Branch, plain: bool
) -> Checkpoint:
    reader = numbers.Reader(
        scan.block, big_endian=scan.big_endian, budget=MEMORY_FACTOR * path.stat().st_size + (256 << 20)
    )
    tensors: dict[str, torch.Tensor] = {}
    skipped: dict[str, str] = {}
    dtypes: dict[str, int] = {}
    for name, value in taken.tensors.items():
        reason = numbers.problem(value)
        if reason is not None:
            skipped[name] = reason
            continue
        tensors[name] = reader.tensor(value)
        dtype = value.dtype if isinstance(value, Array) else str(value.dtype).removeprefix("torch.")
        dtypes[dtype] = dtypes.get(dtype, 0) + 1
    facts = branches.facts(scan.tree, _owner(scan.tree, taken))
    return Checkpoint(
        path=path,
        kind=kind,
        tensors=tensors,
        dtypes=dtypes,
        branch=taken.path,
        branches={branch.path: len(branch.tensors) for branch in found},
        classes=scan.classes,
        facts=facts,
        skipped=skipped,
        module=taken.module,
        read_by="weights_only" if plain else "inert",
        operators=scan.operators,
    )


def _owner(tree: Any, taken: branches.Branch) -> Any:  # noqa: ANN401 - untrusted
    """The described object at a branch's path; the branch's own owner may be torch's loaded twin of it."""
    return taken.owner if isinstance(taken.owner, Inert) else tree


def _described(tree: Any) -> str:  # noqa: ANN401 - untrusted
    if isinstance(tree, dict):
        return "dict: " + (", ".join(str(key)[:40] for key in list(tree)[:8]) or "-")
    return tree.path if isinstance(tree, Inert) else type(tree).__name__


def listed(names: tuple[str, ...], limit: int = 12) -> str:
    """At most ``limit`` names, and how many more there are."""
    shown = ", ".join(names[:limit])
    return f"{shown}, ... (+{len(names) - limit})" if len(names) > limit else shown or "-"


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import safe_open

    tensors: dict[str, torch.Tensor] = {}
    dtypes: dict[str, int] = {}
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
        names = list(file.keys())
        for name in names:
            raw = file.get_tensor(name)
            dtype = str(raw.dtype).removeprefix("torch.")
            dtypes[dtype] = dtypes.get(dtype, 0) + 1
            tensors[name] = raw.float() if raw.dtype.is_floating_point else raw
    if not tensors:
        raise CheckpointError("checkpoint.no-tensors", where=str(path), classes="-", holds="safetensors")
    facts = {key: value for key, value in list(metadata.items())[:60] if len(value) <= 200}
    return Checkpoint(
        path=path,
        kind="safetensors",
        tensors=tensors,
        dtypes=dtypes,
        branch="",
        branches={"": len(tensors)},
        classes=(),
        facts=json.loads(json.dumps(facts)),
        read_by="safetensors",
    )
