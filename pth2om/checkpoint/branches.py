"""Which part of a checkpoint is the weights.

Training scripts save weights bare, or nested beside an optimizer, a moving average and the epoch; a pickled module
keeps them in ``_parameters`` and ``_buffers``. Every place that holds tensors is found; a moving average (EMA) is
preferred, because the authors' own evaluation uses it; the branch taken and the others are reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pth2om.checkpoint.inert import Inert, PickleError

_KNOWN = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "params",
    "weights",
    "module",
    "generator",
    "g",
    "netg",
    "student",
    "state",
)
"""Names of the weights' branch, likeliest first."""

_NO_WEIGHTS = re.compile(
    r"optim|sched|scaler|^amp$|rng|^callbacks?$|hyper_?param|^loops$|message_hub|criterion|^loss|^best_(acc|fitness)|"
    r"discriminator|^d$|netd|^history$|^config$|^args$|^opt$|^hooks?$",
    re.IGNORECASE,
)
_DEPTH = 6
_MAXIMUM_TENSORS = 200_000
_FACTS = 60


@dataclass(frozen=True)
class Branch:
    """A part of a checkpoint that holds tensors.

    Attributes:
        path: dotted keys from the root; ``""`` is the root itself.
        tensors: by the names a state dict would give them; `Tensor`, `Array` or ``torch.Tensor``.
        owner: the object they were found in.
        module: whether that is a pickled module.
    """

    path: str
    tensors: Mapping[str, Any]
    owner: Any
    module: bool

    @property
    def is_average(self) -> bool:
        """Whether its name says that it is a moving average."""
        return "ema" in re.split(r"[^a-z0-9]+", self.path.lower())


def find(tree: Any, is_tensor: Callable[[Any], bool]) -> list[Branch]:  # noqa: ANN401 - untrusted
    """All branches of ``tree`` that may be weights, the preferred one first.

    Args:
        tree: a scanned or loaded checkpoint.
        is_tensor: tells tensors from everything else.
    """
    found: list[Branch] = []
    _search(tree, (), is_tensor, found, set())
    most = max((len(branch.tensors) for branch in found), default=0)
    # A random generator's state or one loss value is a tensor too, but no model.
    kept = [branch for branch in found if len(branch.tensors) * 10 >= most and not _is_rim(branch, found)]
    return sorted(kept, key=_rank)


def _is_rim(branch: Branch, found: list[Branch]) -> bool:
    """Whether ``branch`` is the few loose tensors around a part of it that holds more."""
    prefix = f"{branch.path}." if branch.path else ""
    return any(
        other is not branch and other.path.startswith(prefix) and len(other.tensors) > len(branch.tensors)
        for other in found
    )


def _rank(branch: Branch) -> tuple[int, int, int]:
    parts = branch.path.lower().split(".") if branch.path else []
    known = min((_KNOWN.index(part) for part in parts if part in _KNOWN), default=len(_KNOWN))
    group = 0 if branch.is_average else 1 if not parts or known < len(_KNOWN) else 2
    return group, known if parts else -1, -len(branch.tensors)


def _search(
    node: Any,  # noqa: ANN401 - untrusted
    path: tuple[str, ...],
    is_tensor: Callable[[Any], bool],
    found: list[Branch],
    seen: set[int],
) -> None:
    if len(path) > _DEPTH or id(node) in seen or len(found) > 1000:
        return
    seen.add(id(node))
    if is_module(node):
        tensors = module_tensors(node, is_tensor)
        if tensors:
            found.append(Branch(".".join(path), tensors, node, True))
        return
    children = _children(node)
    tensors = {key: value for key, value in children.items() if is_tensor(value)}
    if tensors:
        found.append(Branch(".".join(path), tensors, node, False))
    for key, value in children.items():
        if not is_tensor(value) and not _NO_WEIGHTS.search(key):
            _search(value, (*path, key), is_tensor, found, seen)


def _children(node: Any) -> dict[str, Any]:  # noqa: ANN401 - untrusted
    """The named values inside a dictionary, a dictionary of a foreign class, or a foreign object."""
    if isinstance(node, Inert):
        children = {key: value for key, value in node.items.items() if isinstance(key, str)}
        return children or dict(node.state)
    if isinstance(node, dict):
        return {key: value for key, value in node.items() if isinstance(key, str)}
    return {}


def is_module(node: Any) -> bool:  # noqa: ANN401 - untrusted
    """Whether ``node`` is a pickled ``torch.nn.Module`` (or the root object of a TorchScript archive)."""
    return isinstance(node, Inert) and (
        node.path.startswith("__torch__.") or bool({"_parameters", "_modules", "_buffers"} & set(node.state))
    )


def module_tensors(module: Inert, is_tensor: Callable[[Any], bool]) -> dict[str, Any]:
    """Tensors of a pickled module, named as its ``state_dict()`` would name them.

    Raises:
        PickleError: modules nested without end.
    """
    tensors: dict[str, Any] = {}
    stack: list[tuple[str, Inert, int]] = [("", module, 0)]
    visits = 0
    while stack:
        prefix, node, depth = stack.pop()
        visits += 1
        if depth > 100 or visits > _MAXIMUM_TENSORS or len(tensors) > _MAXIMUM_TENSORS:
            raise PickleError("modules nested without end")
        own, inner = _module_parts(node)
        tensors.update((prefix + key, value) for key, value in own.items() if is_tensor(value))
        # Last in, first out: reversed, the children come in their own order.
        stack.extend(
            (f"{prefix}{key}.", child, depth + 1) for key, child in reversed(inner.items()) if is_module(child)
        )
    return tensors


def _module_parts(node: Inert) -> tuple[dict[str, Any], dict[str, Any]]:
    if node.path.startswith("__torch__."):
        return node.state, node.state
    own: dict[str, Any] = {}
    hidden = node.state.get("_non_persistent_buffers_set")
    hidden = hidden if isinstance(hidden, set | list) else ()
    for table in ("_parameters", "_buffers"):
        entries = _children(node.state.get(table))
        own.update((key, value) for key, value in entries.items() if table == "_parameters" or key not in hidden)
    return own, _children(node.state.get("_modules"))


def facts(tree: Any, owner: Any) -> dict[str, Any]:  # noqa: ANN401 - untrusted
    """What else a checkpoint says about itself, as JSON values: epoch, number and names of classes, image size.

    Args:
        tree: the whole checkpoint.
        owner: the object the weights were found in.
    """
    said: dict[str, Any] = {}
    sources: list[tuple[str, Any]] = [("", tree)]
    sources += [
        (f"{key}.", value) for key, value in _children(tree).items() if key in ("train_args", "meta", "args", "opt")
    ]
    if isinstance(owner, Inert):
        sources += [("", owner), ("yaml.", owner.state.get("yaml"))]
    for prefix, source in sources:
        for key, value in _children(source).items():
            plain = _json(value)
            if plain is not None and key != "training" and not key.startswith("_") and len(said) < _FACTS:
                said.setdefault(prefix + key, plain)
    return said


def _json(value: Any) -> Any:  # noqa: ANN401 - JSON
    """A scalar, or a list or number-keyed dictionary of short texts (class names); None for everything else."""
    if isinstance(value, bool | int | float) and not (isinstance(value, int) and abs(value) > 1 << 62):
        return value
    if isinstance(value, str):
        return value if len(value) <= 200 else None
    if isinstance(value, dict) and value and all(isinstance(key, int) for key in value):
        value = [value[key] for key in sorted(value)]
    if (
        isinstance(value, list)
        and 0 < len(value) <= 2000
        and all(isinstance(item, str) and len(item) <= 200 for item in value)
    ):
        return value
    return None
