"""From a checkpoint file to a module that runs: float32, eval mode, every weight from the file."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.checkpoint import fitting, nets, reading
from pth2om.checkpoint.formats import READABLE, Kind, kind_of
from pth2om.checkpoint.layout import layout
from pth2om.errors import CheckpointError, first_line
from pth2om.evidence import Finding, Severity
from pth2om.language import Value, say
from pth2om.spec import Spec

if TYPE_CHECKING:
    import torch

FP16_LARGEST = 65504.0
"""Largest finite IEEE half; a larger weight is an infinity on an NPU that computes in fp16."""

_SHOWN = 8


@dataclass(frozen=True)
class LoadedModel:
    """A module with its weights.

    Attributes:
        module: float32, eval mode; a ScriptModule where the file is TorchScript and there is no net.
        findings: what was noticed on the way.
        details: JSON values for the evidence: kind, branch, names changed, counts.
    """

    module: torch.nn.Module
    findings: tuple[Finding, ...]
    details: Mapping[str, Any]


def load_module(spec: Spec, weights: Path, *, trust: bool = False, net: Path | None = None) -> LoadedModel:
    """Load a model's weights into its net, or run the architecture that the file brings.

    Without ``trust`` nothing the file names is imported: its tensors go into ``net``. A TorchScript file without a net
    is run by PyTorch's interpreter; a pickled module made of PyTorch's own layers alone is rebuilt from those. With
    ``trust`` a pickled module is unpickled for real, and the findings name the classes that ran.

    Args:
        spec: the model.
        weights: its checkpoint.
        trust: whether the pickled architecture may run.
        net: its net's file.

    Raises:
        CheckpointError: whatever is wrong with the file, the net, or the two together.
    """
    kind = kind_of(weights)
    if kind not in READABLE:
        raise reading.not_readable(weights, kind)
    if trust and kind != "torchscript":
        trusted = _trusted(weights, reading.read(weights))
        if trusted is not None:
            return trusted
    if net is not None:
        return _into_net(spec, weights, nets.load_net(net))
    if kind == "torchscript":
        return _script(weights, trust=trust)
    return _own_architecture(spec, weights, kind)


# --- into a net -------------------------------------------------------------------------------------------------


def _into_net(spec: Spec, weights: Path, net: nets.Net) -> LoadedModel:
    """The first branch, preferred first, all of whose tensors fit the net."""
    preferred = reading.read(weights)
    first: tuple[reading.Checkpoint, fitting.Fit, Mapping[str, Any]] | None = None
    broken: CheckpointError | None = None
    for checkpoint in _each_branch(preferred):
        tensors = net.rename(checkpoint.tensors)
        inferred, failed = _inferred(net, tensors)
        broken = broken or failed
        for arguments, source in _arguments(spec, checkpoint, tensors, inferred):
            try:
                module = net.build(**arguments).float()
            except CheckpointError as error:
                broken = broken or error  # perhaps only for the arguments that were read off
                continue
            fit = fitting.fit(module, tensors)
            if not fit.fits and spec.source.num_classes is None and _diagnosis(fit, arguments)[0] == "classes":
                # Only the rows of the head differ: they are the number that was wanted.
                arguments, source = {**arguments, "num_classes": fit.mismatched[0].file[0]}, fit.mismatched[0].key
                module = net.build(**arguments).float()
                fit = fitting.fit(module, tensors)
            if fit.fits and failed is None:
                return _filled(module, net, preferred, checkpoint, fit, arguments, source)
            if first is None or (checkpoint is preferred and fit.matched > first[1].matched):
                first = (checkpoint, fit, arguments)
    if broken is not None and (first is None or first[1].part is None):
        raise broken
    assert first is not None
    raise misfit(weights, net, *first)


def _each_branch(preferred: reading.Checkpoint) -> Iterator[reading.Checkpoint]:
    yield preferred
    for path in preferred.branches:
        if path != preferred.branch:
            yield reading.read(preferred.path, branch=path)


def _arguments(
    spec: Spec, checkpoint: reading.Checkpoint, tensors: Mapping[str, torch.Tensor], inferred: Sequence[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Arguments of ``build`` to try, and where the number of classes is from; the spec's word is final."""
    for each in inferred:
        yield from _with_classes(spec, checkpoint, tensors, {**each, **spec.source.arguments})


def _inferred(
    net: nets.Net, tensors: Mapping[str, torch.Tensor]
) -> tuple[list[dict[str, Any]], CheckpointError | None]:
    """What the net's ``infer`` reads off the tensors, under each naming that it understands.

    A net knows its own names: those in the file may carry ``module.`` or another prefix that all of them share.

    Returns:
        The results; a single empty one, and the first error, where it fails under every naming.
    """
    found: list[dict[str, Any]] = []
    failed: CheckpointError | None = None
    tried: set[tuple[str, ...]] = set()
    for rename in (*fitting.plain_names(tensors), _unchanged):
        named = {rename(name): value for name, value in tensors.items()}
        if len(named) != len(tensors) or tuple(named) in tried:
            continue
        tried.add(tuple(named))
        try:
            inferred = net.infer(named)
        except CheckpointError as error:
            failed = failed or error
            continue
        if inferred not in found:
            found.append(inferred)
    return (found, None) if found else ([{}], failed)


def _unchanged(name: str) -> str:
    return name


def _with_classes(
    spec: Spec, checkpoint: reading.Checkpoint, tensors: Mapping[str, torch.Tensor], known: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], str]]:
    if spec.source.num_classes is not None:
        yield {**known, "num_classes": spec.source.num_classes}, "spec"
        return
    if "num_classes" in known:
        yield known, "net"
        return
    tried: set[int] = set()
    said = checkpoint.facts.get("nc")
    names = checkpoint.facts.get("names")
    last = layout(tensors).classes
    for number, source in (
        (said, "nc"),
        (len(names) if isinstance(names, list) else None, "names"),
        (last.value if last else None, last.source if last else ""),
    ):
        if isinstance(number, int) and number > 0 and number not in tried:
            tried.add(number)
            yield {**known, "num_classes": number}, source
    yield known, "default"


def _filled(
    module: torch.nn.Module,
    net: nets.Net,
    preferred: reading.Checkpoint,
    checkpoint: reading.Checkpoint,
    fit: fitting.Fit,
    arguments: Mapping[str, Any],
    source: str,
) -> LoadedModel:
    _check_numbers(checkpoint.path, fit.tensors, {name for name, _ in module.named_parameters()})
    try:
        module.load_state_dict(dict(fit.tensors), strict=True)
    except Exception as error:  # the net may override load_state_dict
        reason = first_line(error)
        raise CheckpointError(
            "checkpoint.net-broken", where=str(net.path), what="load_state_dict", reason=reason
        ) from error
    _check_copies(checkpoint.path, module, fit.tensors)
    module.eval()
    findings = _findings(checkpoint, fit.tensors)
    if checkpoint.branch != preferred.branch:
        findings.append(
            _finding(
                "not-preferred", "warning", preferred=preferred.branch or "(root)", branch=checkpoint.branch or "(root)"
            )
        )
    if fit.renamed:
        findings.append(_finding("renamed", "info", renamed=fit.renamed))
    if fit.dropped:
        findings.append(_finding("dropped", "info", count=len(fit.dropped), keys=shown(fit.dropped)))
    if fit.defaulted:
        findings.append(_finding("defaulted", "info", count=len(fit.defaulted)))
    if source not in ("spec", "net", "default"):
        findings.append(_finding("classes-read", "info", number=arguments["num_classes"], source=source))
    details = _details(checkpoint, module) | {
        "template": net.name,
        "arguments": {
            key: value if isinstance(value, str | int | float | bool) else str(value)
            for key, value in arguments.items()
        },
        "num_classes_from": source,
        "renamed": fit.renamed,
        "dropped": list(fit.dropped),
        "defaulted": len(fit.defaulted),
    }
    return LoadedModel(module, tuple(findings), details)


def misfit(
    weights: Path, net: nets.Net, checkpoint: reading.Checkpoint, fit: fitting.Fit, arguments: Mapping[str, Any]
) -> CheckpointError:
    """The error that says how a checkpoint and a net differ, with the likeliest remedy."""
    key, values = _diagnosis(fit, arguments)
    return CheckpointError(
        f"checkpoint.misfit-{key}",
        where=str(weights),
        template=net.name,
        net=str(net.path),
        branch=checkpoint.branch or "(root)",
        matched=fit.matched,
        missing=len(fit.missing),
        missing_keys=shown(fit.missing),
        unexpected=len(fit.unexpected),
        unexpected_keys=shown(fit.unexpected),
        mismatched=len(fit.mismatched),
        mismatched_keys="; ".join(map(str, fit.mismatched[:_SHOWN])) or "-",
        **values,
    )


def _diagnosis(fit: fitting.Fit, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Value]]:
    if fit.part is not None:
        return "part", {"part": fit.part, "quoted": repr(fit.part)}
    if fit.normed:
        return fit.normed, {}
    if fit.mismatched and not fit.missing and not fit.unexpected:
        heads = {
            (entry.file[0], entry.net[0]) for entry in fit.mismatched if entry.file[1:] == entry.net[1:] and entry.file
        }
        if len(heads) == 1 and len(fit.mismatched) <= 12:
            file, ours = heads.pop()
            built = arguments.get("num_classes")
            # A detector's head has several rows a class; only a plain head's rows are the number itself.
            if built is None or ours == built:
                return "classes", {"file_classes": file, "net_classes": ours}
        first = fit.mismatched[0]
        if len(fit.mismatched) == 1 and len(first.file) == len(first.net) >= 3 and first.file[1] != first.net[1]:
            return "channels", {"file_channels": first.file[1], "net_channels": first.net[1], "key": first.key}
        return "shapes", {}
    if fit.matched * 4 < len(fit.unexpected):
        return "other-net", {}
    return "keys", {}


# --- the file's own architecture ----------------------------------------------------------------------------------


def _script(weights: Path, *, trust: bool) -> LoadedModel:
    """A TorchScript archive as PyTorch's interpreter runs it; it holds no Python, but it is a program."""
    import torch

    checkpoint = reading.read(weights)
    if checkpoint.operators and not trust:
        raise CheckpointError(
            "checkpoint.script-reaches-out", where=str(weights), calls=", ".join(checkpoint.operators)
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module: torch.nn.Module = torch.jit.load(str(weights), map_location="cpu")  # type: ignore[no-untyped-call]  # torch
        module = module.float().eval()
    except Exception as error:  # PyTorch raises RuntimeError for most, not for all
        raise CheckpointError("checkpoint.script-broken", where=str(weights), reason=first_line(error)) from error
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    _check_numbers(weights, state, {name for name, _ in module.named_parameters()})
    findings = [_finding("script", "info"), *_findings(checkpoint, state)]
    return LoadedModel(module, tuple(findings), _details(checkpoint, module))


def _own_architecture(spec: Spec, weights: Path, kind: Kind) -> LoadedModel:
    """A pickled module of PyTorch's own layers; every other file needs a net or trust."""
    checkpoint = reading.read(weights)
    own = _torch_layers(checkpoint.classes)
    import torch

    allowing = getattr(torch.serialization, "safe_globals", None)  # since PyTorch 2.5
    if checkpoint.module and own is not None and allowing is not None:
        with allowing(list(own)):
            tree = reading.load_plain(weights)
        module = _module_in(tree, checkpoint)
        if module is not None:
            return _taken(
                checkpoint, module, _finding("torch-layers", "info", classes=reading.listed(checkpoint.classes))
            )
    values: dict[str, Value] = {
        "model": spec.name,
        "count": len(checkpoint.tensors),
        "keys": shown(tuple(checkpoint.tensors), 4),
        "kind": kind,
    }
    foreign = tuple(name for name in checkpoint.classes if not name.startswith("torch."))
    if checkpoint.module or foreign:
        classes = reading.listed(foreign or checkpoint.classes)
        raise CheckpointError("checkpoint.needs-trust-or-net", where=str(weights), classes=classes, **values)
    raise CheckpointError("checkpoint.needs-net", where=str(weights), **values)


def _torch_layers(classes: tuple[str, ...]) -> tuple[Any, ...] | None:
    """The classes themselves, where every one is a layer that PyTorch ships; None where one is not."""
    import torch

    found: list[Any] = []
    for path in classes:
        module, _, name = path.rpartition(".")
        layer = getattr(sys.modules.get(module), name, None) if module.startswith("torch.nn.modules.") else None
        if not (isinstance(layer, type) and issubclass(layer, torch.nn.Module)):
            return None
        found.append(layer)
    return tuple(found) or None


def _trusted(weights: Path, checkpoint: reading.Checkpoint) -> LoadedModel | None:
    """The pickled module, unpickled for real; None where the file holds tensors only."""
    import torch

    if not checkpoint.module:
        return None
    classes = reading.listed(checkpoint.classes, 40)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = torch.load(weights, map_location="cpu", weights_only=False)
    except (ImportError, AttributeError) as error:
        reason = first_line(error)
        raise CheckpointError(
            "checkpoint.classes-absent", where=str(weights), reason=reason, classes=classes
        ) from error
    except Exception as error:  # foreign code runs here, by the user's leave, and raises what it likes
        raise CheckpointError("checkpoint.trusted-failed", where=str(weights), reason=first_line(error)) from error
    module = _module_in(tree, checkpoint)
    if module is None:
        raise CheckpointError("checkpoint.trusted-failed", where=str(weights), reason="no torch.nn.Module")
    return _taken(checkpoint, module, _finding("trusted", "warning", classes=classes))


def _module_in(tree: Any, checkpoint: reading.Checkpoint) -> torch.nn.Module | None:  # noqa: ANN401 - untrusted
    """The module at the checkpoint's branch of the really loaded object."""
    import torch

    for part in checkpoint.branch.split(".") if checkpoint.branch else []:
        tree = tree.get(part) if isinstance(tree, Mapping) else getattr(tree, part, None)
    return tree if isinstance(tree, torch.nn.Module) else None


def _taken(checkpoint: reading.Checkpoint, module: torch.nn.Module, finding: Finding) -> LoadedModel:
    import torch

    module = module.float().eval()
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    _check_numbers(checkpoint.path, state, {name for name, _ in module.named_parameters()})
    return LoadedModel(module, (finding, *_findings(checkpoint, state)), _details(checkpoint, module))


# --- what is said -------------------------------------------------------------------------------------------------


def _check_numbers(path: Path, tensors: Mapping[str, torch.Tensor], parameters: set[str]) -> None:
    """NaN anywhere, and infinities in parameters and running statistics, are no model; a mask's infinities are."""
    bad: list[str] = []
    for name, value in tensors.items():
        if not value.is_floating_point() or not value.numel():
            continue
        learned = name in parameters or name.rpartition(".")[2] in ("running_mean", "running_var")
        if (not bool(value.isfinite().all())) if learned else bool(value.isnan().any()):
            bad.append(name)
    if bad:
        raise CheckpointError("checkpoint.not-finite", where=str(path), count=len(bad), keys=shown(tuple(bad)))


def _check_copies(path: Path, module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """A tensor that the file holds under several names (nnU-Net: its encoder, twice) must be the same each time.

    Loading takes the last of them without a message.
    """
    state = module.state_dict()
    places: dict[tuple[object, ...], list[str]] = {}
    for name in tensors:
        if name in state and state[name].numel():
            place = (state[name].data_ptr(), tuple(state[name].shape), tuple(state[name].stride()))
            places.setdefault(place, []).append(name)
    differ = [
        name
        for first, *others in places.values()
        for name in others
        if not bool((tensors[name] == tensors[first]).all())
    ]
    if differ:
        raise CheckpointError("checkpoint.copies-differ", where=str(path), count=len(differ), keys=shown(tuple(differ)))


def _findings(checkpoint: reading.Checkpoint, tensors: Mapping[str, torch.Tensor]) -> list[Finding]:
    found: list[Finding] = []
    others = [path or "(root)" for path in checkpoint.branches if path != checkpoint.branch]
    if checkpoint.branch or others:
        key = "branch" if others else "branch-only"
        found.append(_finding(key, "info", branch=checkpoint.branch or "(root)", others=", ".join(others[:_SHOWN])))
    if checkpoint.read_by == "inert" and checkpoint.classes and not checkpoint.is_torchscript:
        found.append(_finding("inert", "info", classes=reading.listed(checkpoint.classes)))
    converted = {name: count for name, count in checkpoint.dtypes.items() if name in ("float16", "bfloat16", "float64")}
    for name, count in sorted(converted.items()):
        found.append(_finding("converted", "info", count=count, dtype=name))
    if checkpoint.skipped:
        name, reason = next(iter(checkpoint.skipped.items()))
        found.append(_finding("skipped", "warning", count=len(checkpoint.skipped), key=name, reason=reason))
    large = [name for name, value in tensors.items() if _beyond_fp16(value)]
    if large:
        found.append(_finding("beyond-fp16", "warning", count=len(large), keys=shown(tuple(large))))
    return found


def _beyond_fp16(value: torch.Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return False
    largest = value.abs().amax()
    return bool(largest > FP16_LARGEST)


def _details(checkpoint: reading.Checkpoint, module: torch.nn.Module) -> dict[str, Any]:
    return {
        "kind": checkpoint.kind,
        "read_by": checkpoint.read_by,
        "branch": checkpoint.branch,
        "branches": dict(checkpoint.branches),
        "classes": list(checkpoint.classes[:100]),
        "tensors": len(checkpoint.tensors),
        "dtypes": dict(checkpoint.dtypes),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "facts": {key: value for key, value in checkpoint.facts.items() if not isinstance(value, list)},
    }


def _finding(name: str, severity: Severity, **values: Value) -> Finding:
    return Finding(f"checkpoint.{name}", severity, say(f"checkpoint.{name}", **values))


def shown(names: tuple[str, ...], limit: int = _SHOWN) -> str:
    """At most ``limit`` keys, and how many more there are."""
    return reading.listed(names, limit)
