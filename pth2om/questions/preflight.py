"""Whether ATC accepts the ONNX file on this SoC: by the rules, and by the toolchain's front end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.conversion.om_stage import compiles
from pth2om.errors import AtcError
from pth2om.evidence import Finding, GateRecord, Judgement, Limit
from pth2om.questions.subject import Subject, answers
from pth2om.session import Provenance
from pth2om.store import version_of

if TYPE_CHECKING:
    from pth2om.conversion.stage import Built
    from pth2om.spec import Variant
    from pth2om.store import Artifact

_REFUSES_VERSION = 1


@answers("preflight")
def preflight(subject: Subject, variant: Variant, built: Built) -> list[GateRecord]:
    """One gate on what the rules find, which is this machine's word, and one on what the front end refuses.

    The rules are tables, so their ground is always the host. The ground of the front end's findings is the toolchain's:
    emulated or device.

    Args:
        subject: of the variant.
        variant: what is compiled.
        built: the exported ONNX file; of an INT8 variant, its deploy model is looked at.

    Raises:
        Absent: no SoC was given.
        ToolchainError: the toolchain is not available.
    """
    from pth2om import preflight as rules

    pipeline = subject.pipeline
    settings, toolchain = pipeline.settings, pipeline.toolchain()
    if variant.quantized:
        built = pipeline.quantized(variant.shape)  # what atc is given
    options = pipeline.atc_options(variant, built.file)
    asked = {name: value for name, value in options.to_json().items() if name not in ("model", "insert_op_conf")}
    inputs = {"onnx": built.record.digest}
    if options.insert_op_conf:
        inputs["aipp"] = pipeline.store.digest(Path(options.insert_op_conf))
    # The operators installed on this machine are part of the result.
    target = dict(pipeline.source.target.compiler)
    latency_ms = pipeline.spec.gates.latency_ms.get(variant.name)

    def ruled() -> Any:  # noqa: ANN401 - JSON
        with pipeline.source.target.operators.known():
            found = rules.check(built.file, options=options, cann=settings.cann, latency_ms=latency_ms)
        return [finding.to_json() for finding in found]

    def refused() -> Any:  # noqa: ANN401 - JSON
        try:
            found = toolchain.refuses(built.file, options)
        except AtcError as error:
            found = [Finding("atc", "error", error.message)]
        return [finding.to_json() for finding in found]

    by_rules, rules_artifact = subject.measured(
        "preflight",
        rules.VERSION,
        inputs,
        {"atc": asked, "target": target, "latency_ms": latency_ms},
        ("onnx", "pth2om"),
        ruled,
    )
    provenance = toolchain.provenance
    by_front_end, front_artifact = subject.measured(
        "refused",
        _REFUSES_VERSION,
        inputs,
        {
            "atc": asked,
            "target": target,
            "compiler": dict(toolchain.compiler),
            "toolchain": provenance.name,
            "version": provenance.version,
        },
        ("onnx", "pth2om"),
        refused,
    )
    ours = Provenance("pth2om", version_of("pth2om"), "host")
    command = options.command_line() if compiles(toolchain) else ()
    return [
        _gate(subject, "preflight/errors", by_rules, command, ours, inputs, rules_artifact),
        _gate(subject, "preflight/refused", by_front_end, command, provenance, inputs, front_artifact),
    ]


def _gate(
    subject: Subject,
    check: str,
    found: Sequence[Mapping[str, Any]],
    command: Sequence[str],
    provenance: Provenance,
    digests: Mapping[str, str],
    artifact: Artifact,
) -> GateRecord:
    """A gate on the number of errors; notes are left out of its details."""
    findings = [Finding.from_json(entry) for entry in found]
    errors = [finding for finding in findings if finding.severity == "error"]
    warned = [finding for finding in findings if finding.severity == "warning"]
    judgement = Judgement(
        check=check,
        measured=float(len(errors)),
        unit="errors",
        limit=Limit("==", 0),
        verdict="failed" if errors else "passed",
        message=errors[0].message if errors else None,
        details={"findings": [finding.to_json() for finding in errors + warned], "command": command},
    )
    return subject.gate("preflight", judgement, provenance, digests, provenance.ground, artifact)
