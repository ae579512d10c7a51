"""``release.toml``: what has to be proven before a release is signed.

::

    [release]
    name = "yolov6n 1.2"             # printed by verify
    soc = "Ascend310B1"
    models = ["yolov6n"]             # names or patterns; each must fit a model of the run
    variants = ["fp16-*", "int8-*"]  # patterns; default: every variant in the specs

    [proof]
    device = ["closeness", "accuracy", "latency"]   # answered for every variant, on a device only; this is the default;
                                                    # at least one
    questions = ["checkpoint", "export"]            # answered for every variant, on whatever ground; default: none

    [waivers]
    accept = false                   # whether a waived gate may be in a release; default: no
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PrivateAttr

from pth2om.errors import SpecError
from pth2om.evidence import Question
from pth2om.signoff.canonical import sha256
from pth2om.spec import parse_text
from pth2om.spec.tables import Table

MOST_BYTES = 1 << 20


class Release(Table):
    """``[release]``: what is released."""

    name: str = Field(min_length=1, max_length=200)
    soc: str = Field(min_length=1)
    models: tuple[str, ...] = Field(min_length=1)
    variants: tuple[str, ...] = Field(default=("*",), min_length=1)


class Proof(Table):
    """``[proof]``: which questions must have an answer, and which of these on a device."""

    device: tuple[Question, ...] = Field(default=("closeness", "accuracy", "latency"), min_length=1)
    questions: tuple[Question, ...] = ()


class Waiving(Table):
    """``[waivers]``."""

    accept: bool = Field(default=False, strict=True)


class Policy(Table):
    """The file.

    Attributes:
        text: as it was read.
    """

    release: Release
    proof: Proof = Proof()
    waivers: Waiving = Waiving()
    _text: str = PrivateAttr("")

    @property
    def text(self) -> str:
        """See the class."""
        return self._text

    @property
    def digest(self) -> str:
        """sha256 of the file."""
        return sha256(self._text.encode())


def read(path: Path) -> Policy:
    """Read a policy.

    Raises:
        SpecError: there is none, or it is wrong; with its line and the nearest valid word.
    """
    try:
        if not path.exists():
            raise SpecError("signoff.no-policy", where=str(path))
        if not path.is_file():
            raise SpecError("spec.unreadable", where=str(path), reason="not a regular file")
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise SpecError("signoff.too-large", where=str(path), most=MOST_BYTES)
    except OSError as error:
        raise SpecError("spec.unreadable", where=str(path), reason=error.strerror or str(error)) from None
    policy, text = parse_text(path, Policy, {})
    policy._text = text
    return policy
