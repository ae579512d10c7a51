"""Host bodies: the torch operators that a net calls, computed by the Python functions that a spec names.

A kernel takes only some dtypes. What it does not take is cast before, in PyTorch as in the exported file, and the
result has the kernel's dtype: one rule for both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.errors import ExportError, first_line
from pth2om.spec.custom_ops import CustomOp

if TYPE_CHECKING:
    import torch

Body = Callable[..., "torch.Tensor | Sequence[torch.Tensor]"]
"""Inputs in order, attributes by name; one tensor, or one for each output."""

Bodies = Mapping[str, Body]
"""Label of an operator -> its body."""

_LIBRARIES: list[Any] = []
_SCHEMAS: dict[str, str] = {}
_ACTIVE: dict[str, tuple[CustomOp, Body]] = {}


def load_bodies(operators: Sequence[CustomOp], folder: Path) -> dict[str, Body]:
    """The bodies of those operators that name one.

    Args:
        operators: complete declarations.
        folder: of the spec, where their files lie.

    Raises:
        CheckpointError: a file does not run.
        ExportError: a file or function is not there.
    """
    from pth2om.checkpoint.nets import run_file
    from pth2om.files import is_file

    found: dict[str, Body] = {}
    for entry in operators:
        if entry.body is None:
            continue
        name, _, function = entry.body.rpartition(":")
        path = folder / name
        if not is_file(path):
            raise ExportError("export.body-absent", where=str(path), operator=entry.label)
        body = getattr(run_file(path.resolve())[0], function, None)
        if not callable(body):
            raise ExportError("export.body-no-function", where=str(path), operator=entry.label, function=function)
        found[entry.label] = body
    return found


def use(module: torch.nn.Module, operators: Sequence[CustomOp], bodies: Bodies) -> None:
    """Let a module's calls of the operators' symbols run their bodies, now and whenever it runs again.

    Args:
        module: the net.
        operators: complete declarations.
        bodies: of `load_bodies`.

    Raises:
        ExportError: a symbol is registered with other arguments already.
    """
    chosen = [(entry, bodies[entry.label]) for entry in operators if entry.symbol and entry.label in bodies]
    for entry, _ in chosen:
        _register(entry)

    def activate(*_: object) -> None:
        _ACTIVE.update({str(entry.symbol): (entry, body) for entry, body in chosen})

    activate()
    if chosen:
        module.register_forward_pre_hook(activate)


def run_body(operator: CustomOp, body: Body, inputs: Sequence[torch.Tensor], attributes: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a tensor, or several
    """What the operator computes: inputs cast to dtypes that its kernels take, results of the kernels' dtypes.

    Raises:
        ExportError: the body fails, or returns another number of tensors than the operator has outputs.
    """
    import torch

    cast = []
    for port, tensor in zip(operator.inputs, inputs, strict=True):
        known = {getattr(torch, kind) for kind in port.dtypes}
        cast.append(tensor if tensor.dtype in known else tensor.to(getattr(torch, port.dtypes[0])))
    try:
        result = body(*cast, **attributes)
    except Exception as error:  # whatever the user's code raises
        raise ExportError("export.body-fails", operator=operator.label, reason=first_line(error)) from error
    results = [result] if isinstance(result, torch.Tensor) else list(result)
    if len(results) != len(operator.outputs):
        raise ExportError(
            "export.body-outputs", operator=operator.label, wanted=len(operator.outputs), count=len(results)
        )
    typed = [one.to(getattr(torch, entry.dtype)) for one, entry in zip(results, operator.outputs, strict=True)]
    return typed[0] if len(typed) == 1 else tuple(typed)


def _register(operator: CustomOp) -> None:
    import torch

    symbol = str(operator.symbol)
    space, _, name = symbol.partition("::")
    schema = _schema(operator, name)
    known = _SCHEMAS.get(symbol)
    if known is not None:
        if known != schema:
            raise ExportError("export.symbol-differs", symbol=symbol, known=known, wanted=schema)
        return
    library = torch.library.Library(space, "FRAGMENT")  # type: ignore[no-untyped-call]  # torch has no types here

    def dispatch(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401 - of the operator
        entry, body = _ACTIVE[symbol]
        count = len(entry.inputs)
        given = dict(zip(entry.attributes, arguments[count:], strict=False)) | keywords
        return run_body(entry, body, arguments[:count], {**entry.attributes, **given})

    try:
        library.define(schema)  # type: ignore[no-untyped-call]  # torch has no types here
        library.impl(name, dispatch, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]  # torch has no types here
    except RuntimeError:  # an extension that is installed has it already: only its CPU side is ours
        try:
            library.impl(name, dispatch, "CPU")  # type: ignore[no-untyped-call]  # torch has no types here
        except RuntimeError as error:
            raise ExportError("export.symbol-differs", symbol=symbol, known=first_line(error), wanted=schema) from error
    _LIBRARIES.append(library)
    _SCHEMAS[symbol] = schema


def _schema(operator: CustomOp, name: str) -> str:
    words = [f"Tensor {port.name}" for port in operator.inputs]
    for attribute, value in operator.attributes.items():
        kinds = {bool: "bool", int: "int", float: "float", str: "str"}
        if isinstance(value, tuple):
            kind = "float[]" if any(isinstance(one, float) for one in value) else "int[]"
            default = "[" + ", ".join(str(one) for one in value) + "]"
        else:
            kind, default = kinds[type(value)], f'"{value}"' if isinstance(value, str) else str(value)
        words.append(f"{kind} {attribute}={default}")
    count = len(operator.outputs)
    result = "Tensor" if count == 1 else f"({', '.join(['Tensor'] * count)})"
    return f"{name}({', '.join(words)}) -> {result}"
