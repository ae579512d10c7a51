"""``compiled.json``: what the emulator made of a model, readable without onnx."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pth2om import __version__
from pth2om.errors import ToolchainError
from pth2om.evidence import Finding
from pth2om.session import Provenance, TensorSpec
from pth2om.toolchain import CompiledModel

RECORD = "compiled.json"
BANDS = ("fused", "unfused")
FORMAT = 1

VERSION = f"{__version__}.1"
"""The emulator's version: pth2om's, and a number raised when the emulation changes what it makes."""


@dataclass(frozen=True)
class Band:
    """One way to compute a model.

    Attributes:
        name: ``fused``: rounded once behind each chain of convolution, batch norm, activation and residual sum;
            ``unfused``: rounded after every operator.
        file: its ONNX file in the compiled folder; of both bands where they compute the same.
        digest: sha256 of the file and of the weights it shares.
        counts: ``nodes`` of the source, ``half_nodes`` that compute in float16, ``rounded`` tensors, ``chains`` and
            ``folded`` batch norms, weights ``clipped`` to +-65504 and ``vanished`` to zero.
        sites: every rounding of the top-level graph: ``tensor``, the float32 tensor ``before`` it, and whether only
            ``positive`` values count (before a Relu).
    """

    name: str
    file: str
    digest: str
    counts: Mapping[str, int]
    sites: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Compiled:
    """The record of one compiled model.

    Attributes:
        folder: where it lies.
        mode: the precision mode asked for.
        scheme: what the emulator does for it.
        soc: the SoC asked for.
        overflow: ``saturate`` or ``infinity``.
        overflow_evidence: ``documented`` or ``inferred``.
        bands: by name.
        inputs: of the graph.
        outputs: of the graph.
        findings: what was noticed.
        version: of the emulator that compiled it.
    """

    folder: Path
    mode: str
    scheme: str
    soc: str
    overflow: str
    overflow_evidence: str
    bands: Mapping[str, Band]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    findings: tuple[Finding, ...]
    version: str = VERSION

    @property
    def digest(self) -> str:
        """sha256 over the bands' digests."""
        return hashlib.sha256("".join(self.bands[name].digest for name in sorted(self.bands)).encode()).hexdigest()

    @property
    def provenance(self) -> Provenance:
        """The emulator that compiled it, for its SoC."""
        return Provenance("emulator", self.version, "emulated", self.soc)

    def band(self, name: str) -> Band:
        """One band.

        Raises:
            ToolchainError: there is none of that name.
        """
        if name not in self.bands:
            raise ToolchainError(
                "emulator.unknown-band", where=str(self.folder), band=name, bands=", ".join(self.bands)
            )
        return self.bands[name]

    def model(self) -> CompiledModel:
        """As the toolchains hand it on."""
        details = {
            "precision_mode": self.mode,
            "overflow": self.overflow,
            "overflow_evidence": self.overflow_evidence,
            "counts": {name: dict(band.counts) for name, band in self.bands.items()},
            "findings": [finding.to_json() for finding in self.findings],
        }
        return CompiledModel(self.folder, self.digest, self.provenance, tuple(self.bands), details)

    def write(self) -> None:
        """Write ``compiled.json`` into the folder."""
        data = {
            "format": FORMAT,
            "version": self.version,
            "mode": self.mode,
            "scheme": self.scheme,
            "soc": self.soc,
            "overflow": self.overflow,
            "overflow_evidence": self.overflow_evidence,
            "bands": {name: asdict(band) for name, band in self.bands.items()},
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "findings": [finding.to_json() for finding in self.findings],
        }
        (self.folder / RECORD).write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")


def read_compiled(folder: Path) -> Compiled:
    """The record of a compiled folder; imports neither onnx nor ONNX Runtime.

    Raises:
        ToolchainError: the folder holds none, or one of a newer format.
    """
    try:
        data = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if data["format"] > FORMAT:
            raise ToolchainError("emulator.not-compiled", where=str(folder))
        return Compiled(
            folder=folder,
            **{name: data[name] for name in ("version", "mode", "scheme", "soc", "overflow", "overflow_evidence")},
            bands={name: Band(**{**band, "sites": tuple(band["sites"])}) for name, band in data["bands"].items()},
            inputs=tuple(TensorSpec.from_json(entry) for entry in data["inputs"]),
            outputs=tuple(TensorSpec.from_json(entry) for entry in data["outputs"]),
            findings=tuple(Finding.from_json(entry) for entry in data["findings"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise ToolchainError("emulator.not-compiled", where=str(folder)) from None
