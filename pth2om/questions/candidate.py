"""The candidate of a question: the sessions of one role, by band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pth2om.session import Session

TWIN = "static"
"""The role of an OM that was compiled for one shape alone, beside an OM that serves it as one of its gears."""


@dataclass(frozen=True)
class Candidate:
    """One side of a comparison, or the side that is measured or scored.

    Attributes:
        role: ``torch``, ``onnx``, ``om``, ``fake-quant``, ``int8-weights`` or `TWIN`; the first part of a check's name.
        bands: the ways it can be run: ``fused`` and ``unfused`` of an emulated OM, ``device`` on an NPU; one of the
            name ``""`` for all others.
    """

    role: str
    bands: Mapping[str, Session]

    @classmethod
    def of(cls, session: Session | Mapping[str, Session]) -> Candidate:
        """The candidate of a fixture's value: a session, or the bands of an OM."""
        if isinstance(session, Mapping):
            return cls("om", session)
        name = session.provenance.name
        return cls({"onnxruntime": "onnx"}.get(name, name), {"": session})

    @property
    def session(self) -> Session:
        """The only session, or that of the first band."""
        return next(iter(self.bands.values()))

    def band(self, name: str) -> Session:
        """The session of a band; the only session where there are no bands.

        Each band is compared with the same band, so that rounding alone does not count as a difference.
        """
        return self.bands.get(name, self.session)


def pair(reference: Candidate, candidate: Candidate) -> str:
    """The name of a comparison in evidence: ``torch~onnx``, ``onnx~om``; ``plain~aipp`` for two OMs."""
    return pair_of(reference.role, candidate.role)


def pair_of(reference: str, candidate: str) -> str:
    """As `pair`, by the roles."""
    return "plain~aipp" if reference == candidate == "om" else f"{reference}~{candidate}"
