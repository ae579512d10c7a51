"""Fitting a checkpoint's tensors to a net: all of them, or a report; never a part.

A half-loaded net converts without complaint and predicts noise. So names are changed only in ways after which *every*
key fits: a common prefix removed or added, wrapper components (``module``, ``_orig_mod``) removed.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Counters that the thop profiler leaves in a module and so in its checkpoints (YOLOX and many others), and the number
# of models that torch.optim.swa_utils.AveragedModel has averaged.
_PROFILER = re.compile(r"(^|\.)total_(ops|params)$|^n_averaged$")
# Only momentum=None uses it, and only in training; PyTorch itself fills it in for checkpoints from before 0.4.1.
_COUNTER = re.compile(r"(^|\.)num_batches_tracked$")


@dataclass(frozen=True)
class Mismatch:
    """A tensor whose shape is not the net's."""

    key: str
    file: tuple[int, ...]
    net: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.key} {list(self.file)} != {list(self.net)}"


@dataclass(frozen=True)
class Fit:
    """How tensors fit a net.

    Attributes:
        tensors: by the net's names, complete, where everything fits; empty elsewhere.
        renamed: what was done to the names: ``-module.`` (removed), ``+model.`` (added), ``~module`` (removed inside),
            ``hooks`` (by the net's own loading code), ``parametrizations`` (weight or spectral norm by its other
            names).
        matched: number of keys with the right name and shape.
        missing: keys of the net that the file has not.
        unexpected: keys of the file that the net has not.
        mismatched: keys of both with different shapes.
        dropped: profiler counters left out.
        defaulted: ``num_batches_tracked`` counters the file has not.
        part: prefix under which a part of the file's keys would fit the whole net; `unexpected` are then the others.
        normed: ``folded`` where the net has weight norm and the file holds the product, ``unfolded`` where the net has
            plain weights and the file has weight norm.
    """

    tensors: Mapping[str, torch.Tensor]
    renamed: str = ""
    matched: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    dropped: tuple[str, ...] = ()
    defaulted: tuple[str, ...] = ()
    part: str | None = field(default=None)
    normed: Literal["", "folded", "unfolded"] = ""

    @property
    def fits(self) -> bool:
        """Whether every key of the net has its tensor and every tensor its key."""
        return not (self.missing or self.unexpected or self.mismatched)


def fit(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> Fit:
    """Match ``tensors`` to the keys and shapes of ``module``; the module is not changed.

    Args:
        module: the net.
        tensors: a state dict.

    Returns:
        The first renaming after which everything fits; else the report of the best one.
    """
    import torch

    expected = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    best: Fit | None = None
    for renamed, candidate in _candidates(tensors, list(expected)):
        if len(candidate) != len(tensors):
            continue  # two keys became one
        found = _compare(expected, candidate, renamed)
        if found.fits:
            return found
        if best is None or found.matched > best.matched:
            best = found
    assert best is not None
    hooked = _by_hooks(module, tensors)
    return hooked if hooked is not None else _with_norms(_with_part(best, expected, tensors))


def plain_names(names: Iterable[str]) -> list[Callable[[str], str]]:
    """Ways to bring names to those that a net may use: wrappers removed, then every prefix that all names share."""
    prefixes = _common_prefixes([_unwrapped(name) for name in names])
    return [_unwrapped, *(functools.partial(_without, prefix) for prefix in prefixes)]


def _without(prefix: str, name: str) -> str:
    return _unwrapped(name).removeprefix(prefix)


def _candidates(
    tensors: Mapping[str, torch.Tensor], expected: list[str]
) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The tensors under every renaming, the least first; then each with the other names of weight and spectral norm."""
    for renamed, rename in _renamings(list(tensors), expected):
        yield renamed, {rename(name): value for name, value in tensors.items()}
    for translate in (_parametrized_to_old, _old_to_parametrized):
        names = translate(list(tensors), expected)
        if names:
            translated = {names.get(name, name): value for name, value in tensors.items()}
            for renamed, rename in _renamings(list(translated), expected):
                label = f"{renamed} parametrizations".strip()
                yield label, {rename(name): value for name, value in translated.items()}


# torch.nn.utils.weight_norm and spectral_norm (hooks) against torch.nn.utils.parametrizations: the same tensors, with
# the same shapes and meaning (g and v; the weight and its singular vectors).
_PARAMETRIZED = re.compile(r"^(?P<owner>(?:.*\.)?)parametrizations\.(?P<name>\w+)\.(?P<role>original[01]?|0\._[uv])$")
_OLD_ROLES = {"original0": "_g", "original1": "_v", "original": "_orig", "0._u": "_u", "0._v": "_v"}


def _parametrized_to_old(names: list[str], expected: list[str]) -> dict[str, str]:
    """New names -> old ones, where the net has old ones."""
    if not any(name.endswith(("_g", "_orig")) for name in expected):
        return {}
    matches = {name: match for name in names if (match := _PARAMETRIZED.match(name))}
    return {name: match["owner"] + match["name"] + _OLD_ROLES[match["role"]] for name, match in matches.items()}


def _old_to_parametrized(names: list[str], expected: list[str]) -> dict[str, str]:
    """Old names -> new ones, where the net has new ones."""
    if not any(".parametrizations." in f".{name}" for name in expected):
        return {}
    known = set(names)
    found: dict[str, str] = {}
    for name in names:
        for first, roles in (("_g", ("original0", "original1")), ("_orig", ("original", "0._u", "0._v"))):
            base = name.removesuffix(first)
            if base == name:
                continue
            owner, _, leaf = base.rpartition(".")
            place = f"{owner}.parametrizations.{leaf}" if owner else f"parametrizations.{leaf}"
            old = {role: base + _OLD_ROLES[role] for role in roles}
            if known.issuperset(old.values()):
                found |= {value: f"{place}.{role}" for role, value in old.items()}
    return found


def _renamings(names: list[str], expected: list[str]) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Ways to change all names, the least first."""
    yield "", lambda name: name
    wrapped = any(part in _WRAPPERS for name in names for part in name.split("."))
    for prefix in _common_prefixes(names):
        yield f"-{prefix}", lambda name, prefix=prefix: name.removeprefix(prefix)  # type: ignore[misc]  # mypy: a default
    if wrapped:
        yield "~module", _unwrapped
        for prefix in _common_prefixes([_unwrapped(name) for name in names]):
            yield f"~module -{prefix}", lambda name, prefix=prefix: _unwrapped(name).removeprefix(prefix)  # type: ignore[misc]  # mypy: a default
    for prefix in _common_prefixes(expected):
        yield f"+{prefix}", lambda name, prefix=prefix: prefix + name  # type: ignore[misc]  # mypy: a default
        if wrapped:
            yield f"~module +{prefix}", lambda name, prefix=prefix: prefix + _unwrapped(name)  # type: ignore[misc]  # mypy: a default


def _common_prefixes(names: list[str]) -> list[str]:
    """``module.``, ``module.model.`` ... as far as all names share them."""
    prefixes: list[str] = []
    if not names:
        return prefixes
    parts = [name.split(".") for name in names if not _PROFILER.search(name)] or [[""]]
    for depth in range(min(len(name) for name in parts) - 1):
        if len({name[depth] for name in parts}) != 1:
            break
        prefixes.append((prefixes[-1] if prefixes else "") + parts[0][depth] + ".")
    return prefixes


def _unwrapped(name: str) -> str:
    *parents, leaf = name.split(".")
    return ".".join([*(part for part in parents if part not in _WRAPPERS), leaf])


def _compare(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], renamed: str) -> Fit:
    from torch.nn.parameter import is_lazy

    taken: dict[str, torch.Tensor] = {}
    mismatched: list[Mismatch] = []
    for name, value in given.items():
        target = expected.get(name)
        if target is None:
            continue
        if is_lazy(target) or target.shape == value.shape:
            taken[name] = value
        elif target.numel() == value.numel() == 1:
            taken[name] = value.reshape(target.shape)  # PyTorch 0.3 saved scalars with one axis
        else:
            mismatched.append(Mismatch(name, tuple(value.shape), tuple(target.shape)))
    missing = [name for name in expected if name not in given]
    taken.update(_tied(missing, expected, taken))
    missing = [name for name in missing if name not in taken]
    unexpected = [name for name in given if name not in expected]
    fits = not mismatched and all(map(_COUNTER.search, missing)) and all(map(_PROFILER.search, unexpected))
    if not fits:
        return Fit({}, renamed, len(taken), tuple(missing), tuple(unexpected), tuple(mismatched))
    # Counters of a fresh net are 0, as PyTorch fills them in.
    taken.update((name, expected[name]) for name in missing)
    return Fit(taken, renamed, len(taken), dropped=tuple(unexpected), defaulted=tuple(missing))


def _tied(
    missing: list[str], expected: Mapping[str, torch.Tensor], taken: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Missing keys that are the same parameter as one that is there (safetensors stores a shared tensor once)."""
    if not missing:
        return {}
    from torch.nn.parameter import is_lazy

    def place(value: torch.Tensor) -> tuple[object, ...]:
        return value.data_ptr(), tuple(value.shape), tuple(value.stride())

    known = {place(expected[name]): name for name in taken if not is_lazy(expected[name]) and expected[name].numel()}
    return {
        name: taken[known[place(expected[name])]]
        for name in missing
        if not is_lazy(expected[name]) and expected[name].numel() and place(expected[name]) in known
    }


def _by_hooks(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> Fit | None:
    """Let the net's own loading code (``_load_from_state_dict``, pre-hooks) try, on a copy, strictly."""
    try:
        twin = copy.deepcopy(module)
        twin.load_state_dict(dict(tensors), strict=True)
    except Exception:  # noqa: BLE001 - the net's own code; its refusal is what the report already says
        return None
    state = dict(twin.state_dict())
    return Fit(state, "hooks", len(state))


def _with_part(best: Fit, expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> Fit:
    """``best`` with the prefix under which a part of the tensors would fit the net, if there is one."""
    prefixes = {name[: -len(first)] for first in list(expected)[:1] for name in tensors if name.endswith("." + first)}
    for prefix in sorted(prefixes):
        inner = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        if _compare(expected, inner, "").fits:
            others = tuple(name for name in tensors if not name.startswith(prefix))
            return dataclasses.replace(best, unexpected=others, part=prefix)
    return best


def _with_norms(best: Fit) -> Fit:
    """``best`` with word of a weight norm that only one side has, where that is all that differs."""

    def owners(names: Iterable[str]) -> set[str]:
        known = set(names)
        old = {name[:-2] for name in known if name.endswith("_g") and f"{name[:-2]}_v" in known}
        matches = [match for name in known if (match := _PARAMETRIZED.match(name)) and match["role"] == "original0"]
        return old | {match["owner"] + match["name"] for match in matches}

    if best.part is None and not best.mismatched:
        normed = owners(best.missing)
        if normed and normed == set(best.unexpected):
            return dataclasses.replace(best, normed="folded")
        normed = owners(best.unexpected)
        if normed and normed == set(best.missing):
            return dataclasses.replace(best, normed="unfolded")
    return best
