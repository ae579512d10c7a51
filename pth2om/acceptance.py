"""The questions of an acceptance run, answered: measured through the store, judged against the spec, as evidence.

Each method of `Acceptance` answers one question about one model or variant and returns its `GateRecord`s. Measurements
are kept in the store under the digests of what was measured, so a second run with the same files measures nothing again
and says so (``cached``, ``measured_at``).
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

from pth2om.errors import Absent, Pth2omError
from pth2om.evidence import GateRecord, Judgement, Limit, Question
from pth2om.pipeline import Built, Pipeline
from pth2om.session import Provenance, Session
from pth2om.spec import Variant
from pth2om.store import Artifact, Key


class Acceptance:
    """Answers for one model, and for one variant or batch of it.

    Args:
        pipeline: the model's stages.
        variant: the variant in question, or None.
        batch: the batch size in question, or None.
    """

    def __init__(self, pipeline: Pipeline, variant: Variant | None = None, batch: int | None = None) -> None:
        self.pipeline = pipeline
        self.variant = variant
        self.batch = variant.batch if variant else batch

    @property
    def case(self) -> str:
        """What evidence calls this case: ``fp16-bs1``, ``bs4`` or ``""``."""
        if self.variant is not None:
            return self.variant.name
        return "" if self.batch is None else f"bs{self.batch}"

    # --- stages -------------------------------------------------------------------------------------------------

    def stage(self, question: Question, built: Built) -> list[GateRecord]:
        """A stage is accepted when none of its findings is an error."""
        errors = [finding for finding in built.record.findings if finding.severity == "error"]
        judgement = Judgement(
            check=f"{built.record.stage}/findings",
            measured=float(len(errors)),
            unit="errors",
            limit=Limit("==", 0),
            verdict="failed" if errors else "passed",
            message=errors[0].message if errors else None,
            details={"findings": [finding.to_json() for finding in built.record.findings]},
        )
        ground = built.record.provenance.ground
        return [
            self._gate(question, judgement, built.record.provenance, {built.record.stage: built.record.digest}, ground)
        ]

    def failed(self, question: Question, check: str, error: Pth2omError) -> GateRecord:
        """The evidence of a question that could not be answered: failed, or not measured when something is absent."""
        absent = isinstance(error, Absent)
        details = {"where": error.where} if error.where else {}
        judgement = Judgement(
            check, None, "", None, "not_measured" if absent else "failed", message=error.message, details=details
        )
        return self._gate(question, judgement, None, {}, "host")

    # --- measurements -------------------------------------------------------------------------------------------

    def measured(
        self,
        kind: str,
        version: int,
        inputs: Mapping[str, str],
        options: Mapping[str, Any],
        libraries: Sequence[str],
        measure: Callable[[], Any],
    ) -> tuple[Any, Artifact]:
        """``measure()`` through the store.

        Args:
            kind: name of the measurement, the store's stage.
            version: of the measuring code.
            inputs: role -> digest.
            options: whatever else it depends on.
            libraries: whose versions it depends on.
            measure: returns JSON values.
        """
        key = Key(
            kind,
            version,
            inputs,
            options,
            {name: metadata.version(name) for name in libraries},
            f"{self.pipeline.spec.name}-{self.case}",
        )
        return self.pipeline.store.measurement(key, measure)

    def gates(
        self,
        question: Question,
        judgements: Sequence[Judgement],
        session: Session,
        digests: Mapping[str, str],
        artifact: Artifact | None = None,
    ) -> list[GateRecord]:
        """Evidence of ``judgements`` about ``session``."""
        provenance = session.provenance
        return [self._gate(question, each, provenance, digests, provenance.ground, artifact) for each in judgements]

    def _gate(
        self,
        question: Question,
        judgement: Judgement,
        provenance: Provenance | None,
        digests: Mapping[str, str],
        ground: Any,  # noqa: ANN401 - a Ground
        artifact: Artifact | None = None,
    ) -> GateRecord:
        return GateRecord(
            model=self.pipeline.spec.name,
            variant=self.case,
            soc=self.pipeline.settings.soc if self.variant is not None else None,
            question=question,
            check=judgement.check,
            measured=judgement.measured,
            unit=judgement.unit,
            limit=judgement.limit,
            verdict=judgement.verdict,
            ground=ground,
            interval=judgement.interval,
            message=judgement.message,
            provenance=provenance,
            digests=digests,
            details=judgement.details,
            seed=judgement.seed,
            cached=artifact.cached if artifact else False,
            measured_at=artifact.created if artifact else "",
            host=host_fingerprint(),
        )


def host_fingerprint() -> str:
    """12 hex digits that tell machines apart: processor, core count, operating system; no names, no addresses."""
    import os

    text = "|".join([platform.machine(), _processor(), str(os.cpu_count()), platform.system()])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def environment() -> dict[str, Any]:
    """What a reader needs to repeat a run: versions, processor, cores, memory, operating system."""
    import os
    import sys

    packages = ("torch", "onnx", "onnxruntime", "onnxslim", "numpy", "pytest", "faster-coco-eval", "pillow")
    versions: dict[str, str] = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "pth2om": metadata.version("pth2om"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "byteorder": sys.byteorder,
        "host": host_fingerprint(),
        "packages": versions,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - no Path for /proc
            for line in file:
                if line.lower().startswith(("model name", "hardware", "cpu model")):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None  # Windows
