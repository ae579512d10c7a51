"""Which torch module made which tensor of the exported ONNX file: for whoever looks for the first bad layer."""

from __future__ import annotations

import ast
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    import torch

_WRAPPER = "module"
"""Attribute under which the exporter holds the user's module."""


def module_names(exported: Path, module: torch.nn.Module) -> dict[str, str]:
    """Names of modules by the tensors that they made.

    Args:
        exported: what the exporter wrote, before any graph pass; passes keep most names of tensors.
        module: what was exported.

    Returns:
        Tensor -> dotted name as in ``named_modules``; ``""`` is the module itself. Tensors of nodes whose scope the
        exporter does not tell are left out.
    """
    import onnx

    known = {name for name, _ in module.named_modules()}
    model = onnx.load(exported, load_external_data=False)
    found: dict[str, str] = {}
    for node in model.graph.node:
        scope = _scope(node)
        if scope is None:
            continue
        name = _resolved(scope, known)
        found |= {output: name for output in node.output if output}
    return found


def _scope(node: onnx.NodeProto) -> list[str] | None:
    """The path of modules around a node, outermost first; None where the exporter does not tell."""
    for entry in node.metadata_props:  # written by the dynamo exporter
        if entry.key == "pkg.torch.onnx.name_scopes":
            try:
                scopes = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError):
                return None
            # The last one is the operator itself; each names the whole path so far.
            return [str(scope) for scope in scopes if scope][:-1][-1:]
    if not node.name.startswith("/"):
        return None
    return node.name.strip("/").split("/")[:-1]  # the TorchScript exporter's names are paths


def _resolved(scope: list[str], known: Collection[str]) -> str:
    """The deepest module of ``known`` on a path of scopes.

    A scope is an attribute (``conv``), or a path from one of the modules above: ``layers.0`` inside ``layers``, or the
    whole path.
    """
    names = scope[1:] if scope and scope[0] == _WRAPPER else scope
    name = ""
    for part in names:
        above: str | None = name
        while above is not None:
            candidate = f"{above}.{part.removeprefix(f'{_WRAPPER}.')}".strip(".")
            if candidate in known:
                name = candidate
                break
            above = above.rpartition(".")[0] if above else None
    return name
