"""What a model is compiled for: a SoC, a CANN version and the operator packages that are installed.

A `Target` is read once from what the user gave, and every face reads it here. A key takes the parts that its stage
reads: export and the graph passes `Target.parser`, pre-flight and a compilation `Target.compiler`, and the SoC where it
matters.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pth2om.ascend import families, socs, versions
from pth2om.ascend.custom_ops import Operators
from pth2om.ascend.installed import plugin_keys
from pth2om.ascend.kernels import info_files
from pth2om.errors import ToolchainError
from pth2om.language import Message, say

_UNFILLED = re.compile(r"[${}<>\[\]%*?]|^ascend[ _-]?(x+|version|soc|chip.*|name)?$|^auto$", re.I)
"""A name that a template left open: ``Ascend${chip_name}``, ``<soc>``, ``Ascend`` with an empty variable behind it."""


@dataclass(frozen=True)
class Packages:
    """Digests of the operator packages of this machine: of an installed CANN and of vendor packages beside it.

    Attributes:
        parser: of the ONNX operators that their parser plugins register; ``""`` where they register none.
        kernels: of their operator information files for one family, by content; ``""`` where there is none.
    """

    parser: str = ""
    kernels: str = ""

    @classmethod
    def here(cls, family: str | None) -> Packages:
        """What the environment names now (``ASCEND_OPP_PATH``, ``ASCEND_CUSTOM_OPP_PATH``, the toolkit's folder).

        Args:
            family: key of `families.FAMILIES`; None: no kernels.
        """
        kernels = _digest(_file_digest(path) for path in info_files(family)) if family else ""
        return cls(_digest(plugin_keys()), kernels)


@dataclass(frozen=True)
class Target:
    """What is compiled for; made by `Target.of`, which validates.

    Attributes:
        soc: as ``--soc_version``; None: no SoC was asked for, and nothing is compiled.
        cann: the version whose rules hold: ``8.0.RC2``, ``9.x``.
        packages: the operator packages that were installed when the target was read.
        operators: the custom operators that the model declares.
    """

    soc: str | None = None
    cann: str = versions.DEFAULT
    packages: Packages = field(default_factory=Packages)
    operators: Operators = field(default_factory=Operators)

    @classmethod
    def of(cls, soc: str | None = None, cann: str = versions.DEFAULT) -> Target:
        """What the user asked for, with the packages of this machine.

        Raises:
            ToolchainError: `cann` is no version that is known, or its ``atc`` does not take `soc`.
        """
        release = versions.version(cann)
        problem = None if soc is None else soc_problem(soc, release)
        if problem is not None:
            raise ToolchainError(problem.key, where=None, **problem.values)
        family = families.find(soc)
        return cls(soc, release, Packages.here(family.key if family else None))

    @property
    def generation(self) -> int:
        """7, 8 or 9."""
        return versions.generation(self.cann)

    @property
    def family(self) -> families.Family | None:
        """The SoC's family; None without a SoC, and for one that only an installed CANN knows."""
        return families.find(self.soc)

    @property
    def parser(self) -> Mapping[str, str]:
        """The parts that decide which ONNX operators are registered: for the keys of exports and graph passes."""
        declared = self.operators.digest
        return {"cann": self.cann, "packages": self.packages.parser, **({"operators": declared} if declared else {})}

    @property
    def compiler(self) -> Mapping[str, str]:
        """The parts that decide how a graph is judged and compiled, but for the SoC's name."""
        return {**self.parser, "kernels": self.packages.kernels}

    @property
    def digest(self) -> str:
        """sha256 of all parts."""
        return hashlib.sha256(json.dumps({"soc": self.soc, **self.compiler}, sort_keys=True).encode()).hexdigest()


def soc_problem(soc: str, cann: str) -> Message | None:
    """Why the ``atc`` of a CANN version does not take a SoC name; None when it does.

    Args:
        soc: value of ``--soc_version``.
        cann: a version that `versions.version` takes.
    """
    if soc in socs.names(cann) or socs.installed(soc):
        return None
    if socs.find(soc) is not None:
        return say("ascend.soc-other-release", soc=soc, cann=cann)
    if not soc.strip():
        return say("ascend.soc-empty")
    if _UNFILLED.search(soc):
        return say("ascend.soc-unfilled", soc=soc)
    close = socs.suggestions(soc, cann)
    return say("ascend.soc-close", soc=soc, close=", ".join(close)) if close else say("ascend.soc-unknown", soc=soc)


def _digest(words: Iterable[str]) -> str:
    text = "\n".join(sorted(words))
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return f"unreadable {path.name}"
