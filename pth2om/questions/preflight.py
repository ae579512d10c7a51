"""Whether ATC will take the ONNX file on this SoC, as far as the tables know."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.evidence import Finding, GateRecord, Judgement, Limit

if TYPE_CHECKING:
    from pth2om.conversion.stage import Built
    from pth2om.questions.subject import Subject
    from pth2om.spec import Variant

_OPERATOR_PACKAGES = ("ASCEND_OPP_PATH", "ASCEND_CUSTOM_OPP_PATH", "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")


def preflight(subject: Subject, variant: Variant, built: Built) -> list[GateRecord]:
    """Whether ATC will take the ONNX file on this SoC: what the rules find.

    Args:
        subject: of the variant.
        variant: what is compiled.
        built: the exported ONNX file; of an INT8 variant, its deploy model is looked at.

    Raises:
        Absent: no SoC was asked for.
    """
    from pth2om import preflight as rules

    pipeline = subject.pipeline
    settings = pipeline.settings
    toolchain = pipeline.toolchain()
    if variant.precision == "int8":
        built = pipeline.quantized(variant.batch)  # what atc is given
    options = pipeline.atc_options(variant, built.file)
    asked = {name: value for name, value in options.to_json().items() if name not in ("model", "insert_op_conf")}
    inputs = {"onnx": built.record.digest}
    if options.insert_op_conf:
        inputs["aipp"] = pipeline.store.digest(Path(options.insert_op_conf))
    # Whose operators are installed on this machine is part of the answer.
    packages = {name: os.environ[name] for name in _OPERATOR_PACKAGES if name in os.environ}
    latency_ms = pipeline.spec.gates.latency_ms.get(variant.name)

    def measure() -> Any:  # noqa: ANN401 - JSON
        found = rules.check(built.file, options=options, cann=settings.cann, latency_ms=latency_ms)
        return [finding.to_json() for finding in found]

    found, artifact = subject.measured(
        "preflight",
        rules.VERSION,
        inputs,
        {"atc": asked, "cann": settings.cann, "latency_ms": latency_ms, "packages": packages},
        ("onnx", "pth2om"),
        measure,
    )
    findings = [Finding.from_json(entry) for entry in found]
    errors = [finding for finding in findings if finding.severity == "error"]
    warned = [finding for finding in findings if finding.severity == "warning"]
    judgement = Judgement(
        check="preflight/errors",
        measured=float(len(errors)),
        unit="errors",
        limit=Limit("==", 0),
        verdict="failed" if errors else "passed",
        message=errors[0].message if errors else None,
        details={"findings": [finding.to_json() for finding in errors + warned], "command": options.command_line()},
    )
    provenance = toolchain.provenance
    digests = {"onnx": built.record.digest}
    return [subject.gate("preflight", judgement, provenance, digests, provenance.ground, artifact)]
