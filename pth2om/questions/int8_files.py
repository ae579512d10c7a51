"""Whether the files of an INT8 variant are correct, answered as evidence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pth2om.evidence import Finding, GateRecord, Judgement, Limit
from pth2om.language import Message, say
from pth2om.questions.stages import stage
from pth2om.questions.subject import Subject, answers

if TYPE_CHECKING:
    from pth2om.conversion.stage import Built
    from pth2om.data import Samples
    from pth2om.session import Feeds

VERSION = 1
"""Of what is measured here."""

_RUN = 4
"""Batches that are run through both models: what is to be equal bit for bit shows in the first, or in none."""

TWIN_LIMIT = 1e-3
"""Relative L2 between the fake-quant model and the integers where a sum may exceed 2**24, so that FP32 may round it."""

_NOT_WRITTEN = frozenset(
    f"quantize.{rule}"
    for rule in ("not-in-checkpoint", "shared-in-checkpoint", "scaled-in-checkpoint", "bias-not-in-checkpoint")
)
"""Findings of layers whose INT8 weights or bias have no place in the checkpoint."""

WEIGHTS_LIMIT = 1e-5
"""Relative L2 between PyTorch and ONNX Runtime with the same weights: 2e-6 at most on the nets here; one layer whose
weight was not quantized shows at 1e-3."""


@answers("quantization")
def files(subject: Subject, built: Built, samples: Samples) -> list[GateRecord]:
    """Whether the INT8 files are well formed, twins of each other, and as their table of layers says.

    Args:
        subject: of the variant.
        built: its quantized artifact.
        samples: the first few are run through both models.
    """
    from pth2om import preflight
    from pth2om.store import version_of

    deploy, twin = built.file, built.artifact.file("fake_quant.onnx")
    cann = subject.pipeline.settings.cann

    def measure() -> Any:  # noqa: ANN401 - JSON
        from pth2om.quantize import audit
        from pth2om.quantize.network import read_model

        model = read_model(deploy)
        wrong = audit.form(model, read_model(twin))
        # Only the parser's rules, without a chip. The rules of the chip are checked in the pre-flight.
        refused = [found for found in preflight.check(deploy, cann=cann) if found.severity == "error"]
        found = {
            "wrong": [message.to_json() for message in wrong],
            "refused": [finding.to_json() for finding in refused],
        }
        # A malformed file is not run: its numbers would be meaningless, or it could not be opened.
        if wrong:
            return found
        return {**found, "int8": audit.int8_layers(model), "twins": audit.twins_agree(deploy, twin, _few(samples))}

    store = subject.pipeline.store
    inputs = {"deploy": store.digest(deploy), "twin": store.digest(twin), "samples": samples.digest}
    options = {"cann": cann, "preflight": preflight.VERSION, "pth2om": version_of("pth2om")}
    measured, artifact = subject.measured(
        "int8-files", VERSION, inputs, options, ("onnx", "onnxruntime", "numpy"), measure
    )
    judgements = [*_form(measured), *_twins(measured.get("twins")), *_layers(measured.get("int8"), built)]
    provenance = built.record.provenance
    return stage(subject, "quantization", built) + [
        subject.gate("quantization", each, provenance, inputs, "host", artifact) for each in judgements
    ]


def _few(samples: Samples) -> list[Feeds]:
    return [sample.feeds for sample in itertools.islice(samples, _RUN)]


def _form(measured: dict[str, Any]) -> Iterator[Judgement]:
    wrong = [Message.from_json(entry) for entry in measured["wrong"]]
    refused = [Finding.from_json(entry) for entry in measured["refused"]]
    for name, messages in (("form", wrong), ("refused-by-parser", [finding.message for finding in refused])):
        yield Judgement(
            f"quantized/{name}",
            float(len(messages)),
            "errors",
            Limit("==", 0),
            "failed" if messages else "passed",
            message=messages[0] if messages else say(f"quantize.passed-{name}"),
            details={"errors": [message.to_json() for message in messages[:20]]},
        )


def _twins(twins: dict[str, Any] | None) -> Iterator[Judgement]:
    if twins is None:
        return
    whole = twins["exact"] == twins["layers"]
    value = twins["differing"] if whole else twins["relative_l2"]
    limit = Limit("==", 0) if whole else Limit("<=", TWIN_LIMIT)
    holds = twins["values"] > 0 and math.isfinite(value) and limit.holds(value)
    told = say("quantize.twins-differ", **{name: twins[name] for name in ("differing", "values", "relative_l2")})
    yield Judgement(
        f"quantized/twin-{'differing' if whole else 'relative_l2'}",
        float(value),
        "values" if whole else "",
        limit,
        "passed" if holds else "failed",
        message=say("quantize.passed-twin", values=twins["values"], differing=twins["differing"]) if holds else told,
        details=twins,
    )
    yield Judgement(
        "quantized/exact-layers-differing",
        float(twins["layer_differing"]),
        "values",
        Limit("==", 0),
        "passed" if twins["layer_differing"] == 0 else "failed",
        message=say("quantize.exact-layers", **{name: twins[name] for name in ("exact", "layers", "layer_values")}),
        details=twins,
    )


def _layers(int8: list[str] | None, built: Built) -> Iterator[Judgement]:
    """Compare the table of layers with the deploy model: which layers are INT8, and that all others have a reason."""
    if int8 is None:
        return
    table = {row["name"]: row for row in built.record.details["layers"]}
    told = {name for name, row in table.items() if row["int8"]}
    wrong = sorted(told.symmetric_difference(int8))
    wrong += sorted(name for name, row in table.items() if not row["int8"] and not row["reason"])
    message = say("quantize.passed-layers", int8=len(int8), count=len(table), floating=len(table) - len(int8))
    if wrong:
        message = say("quantize.layers-unexplained", count=len(wrong), layers=", ".join(wrong[:5]))
    yield Judgement(
        "quantized/layers-unexplained",
        float(len(wrong)),
        "layers",
        Limit("==", 0),
        "failed" if wrong else "passed",
        message=message,
        details={"layers": wrong[:100]},
    )
    yield Judgement(
        "quantized/int8-layers",
        float(len(int8)),
        "layers",
        Limit(">", 0),
        "passed" if int8 else "failed",
        details={"candidates": len(table)},
    )


@answers("quantization")
def fp32_checkpoint(subject: Subject, built: Built, samples: Samples) -> list[GateRecord]:
    """Whether the INT8 weights, written back as an FP32 checkpoint, load as the original does and compute the same.

    Args:
        subject: of the variant.
        built: its quantized artifact.
        samples: the first few are run through both.

    Raises:
        Absent: the weights are not here, or are no state dict, so none was written.
        CheckpointError: it does not load into the net.
    """
    pipeline = subject.pipeline
    path = pipeline.sessions.fp32_checkpoint(built)
    original, deploy = pipeline.weights, built.file
    assert original is not None

    left = [finding.node or "-" for finding in built.record.findings if finding.rule in _NOT_WRITTEN]

    def measure() -> Any:  # noqa: ANN401 - JSON
        from pth2om import checkpoint
        from pth2om.quantize import audit

        changed = audit.changed_keys(original, path)
        if any(changed.values()):
            return {"changed": changed}
        loaded = checkpoint.load_module(pipeline.spec, path, net=pipeline.net)
        counts = {name: loaded.details[name] for name in ("tensors", "parameters")}
        if left:
            return {"changed": changed, "left": left, **counts}
        gap = audit.relative_gap(deploy, pipeline.int8_weights_session(built), _few(samples))
        return {"changed": changed, "relative_l2": gap, **counts}

    store = pipeline.store
    inputs = {
        "checkpoint": store.digest(path),
        "deploy": store.digest(deploy),
        "samples": samples.digest,
        **{f"source/{name}": digest for name, digest in pipeline.source_digests.items()},
    }
    libraries = ("torch", "onnx", "onnxruntime")
    measured, artifact = subject.measured("fp32-checkpoint", VERSION + 2, inputs, {"left": left}, libraries, measure)
    changed = measured["changed"]
    names = [name for group in changed.values() for name in group]
    told = say("pipeline.fp32-checkpoint", path=str(path))
    if names:
        counts = {kind: len(group) for kind, group in changed.items()}
        told = say("quantize.keys-changed", **counts, names=", ".join(names[:5]))
    judgements = [
        Judgement(
            "fp32-checkpoint/keys-changed",
            float(len(names)),
            "keys",
            Limit("==", 0),
            "failed" if names else "passed",
            message=told,
            details={"path": str(path), **{name: measured.get(name) for name in ("tensors", "parameters")}},
        )
    ]
    if measured.get("left"):
        # What the file computes is then neither the float model nor the INT8 weights: there is nothing to compare with.
        told = say("quantize.weights-partly", count=len(left), layers=", ".join(left[:5]))
        check = "fp32-checkpoint/relative_l2"
        judgements.append(Judgement(check, None, "", Limit("<=", WEIGHTS_LIMIT), "not_measured", message=told))
    if "relative_l2" in measured:
        gap, limit = float(measured["relative_l2"]), Limit("<=", WEIGHTS_LIMIT)
        holds = limit.holds(gap)
        values = {"relative_l2": gap, "limit": WEIGHTS_LIMIT}
        judgements.append(
            Judgement(
                "fp32-checkpoint/relative_l2",
                gap,
                "",
                limit,
                "passed" if holds else "failed",
                message=say("quantize.passed-weights" if holds else "quantize.weights-differ", **values),
            )
        )
    provenance = built.record.provenance
    return [subject.gate("quantization", each, provenance, inputs, "host", artifact) for each in judgements]
