"""The stage PyTorch -> TorchScript."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pth2om.conversion.source import Loaded, Source
from pth2om.conversion.stage import Shown, Work
from pth2om.errors import Absent
from pth2om.session import Provenance
from pth2om.spec.torchscript import TorchScript
from pth2om.store import Artifact, file_digest, version_of

PROGRAM = "model.torchscript.pt"
"""The artifact's main file."""


@dataclass(frozen=True)
class TorchScriptStage:
    """Trace or script at one batch size.

    Attributes:
        source: checkpoint and net.
        batch: images per inference.
    """

    source: Source
    batch: int
    name = "torchscript"

    @property
    def version(self) -> int:
        """See `Stage.version`."""
        from pth2om import torchscript

        return torchscript.VERSION

    @property
    def libraries(self) -> tuple[str, ...]:
        """See `Stage.libraries`."""
        return ("pth2om", "torch", "numpy")

    @property
    def label(self) -> str:
        """See `Stage.label`."""
        return f"{self.source.spec.name}-bs{self.batch}"

    @property
    def variant(self) -> str:
        """See `Conversion.variant`."""
        return f"bs{self.batch}"

    @property
    def table(self) -> TorchScript:
        """The spec's table, or its defaults."""
        return self.source.spec.torchscript or TorchScript()

    def inputs(self) -> Mapping[str, str]:
        """See `Stage.inputs`."""
        return self.source.digests

    def options(self) -> Mapping[str, Any]:
        """See `Stage.options`."""
        table = self.table.model_dump(mode="json")
        return {**self.source.options(), "inputs": self.source.inputs(), "torchscript": table, "batch": self.batch}

    def build(self, work: Work) -> Loaded:
        """See `Stage.build`."""
        from pth2om import torchscript

        source = self.source
        if not source.has_torch:
            raise Absent("pipeline.no-torch", where=source.spec.name)
        source.module()
        with source.watching():
            module = source.deployed()
            made = torchscript.make(module, source.spec.inputs, self.table, self.batch, work.folder / PROGRAM)
        file = work.folder / PROGRAM
        details = {"method": made.method, "mean_error": made.mean_error, "twin_error": made.twin_error}
        details |= {"outputs": made.outputs, "sha256": file_digest(file), "bytes": file.stat().st_size}
        return Loaded(made.findings, details)

    def restored(self, value: Any) -> Loaded:  # noqa: ANN401 - JSON
        """See `Stage.restored`."""
        return Loaded.from_json(value)

    def shown(self, result: Loaded, artifact: Artifact) -> Shown:
        """See `Conversion.shown`."""
        return Shown(
            artifact.file(PROGRAM),
            result.details["sha256"],
            Provenance("torch", version_of("torch"), "host"),
            [*self.source.stand_ins(), *result.findings],
            result.details,
        )
