"""ONNX passes: fixes to a graph before it is given to ATC; one file per pass, every change proven.

`clean` is applied to every exported file; `fix` corrects what pre-flight finds in any ONNX file.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.ascend.versions import DEFAULT
from pth2om.evidence import Finding

if TYPE_CHECKING:
    from pth2om.graph.runner import Outcome

VERSION = 2
"""Of what `clean` does; part of what a kept export depends on."""


@dataclass(frozen=True)
class Cleaned:
    """The result of a clean-up.

    Attributes:
        applied: names of the passes that changed the graph, in order.
        findings: what was fixed, and what was undone because it was not proven.
        details: per pass: seconds, nodes before and after, measured difference.
    """

    applied: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    details: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values for the artifact and the evidence; the findings are recorded by the caller."""
        return {"applied": list(self.applied), "details": [dict(entry) for entry in self.details]}


def clean(source: Path, destination: Path, *, simplify: bool, cann: str = DEFAULT) -> Cleaned:
    """Write ``source`` to ``destination`` with fixes for ATC.

    Only what is right for every file: forms that ATC's parser does not read, names and domains, operators that have no
    parser at the file's opset. Where nothing changes the file is copied byte for byte.

    Args:
        source: an ONNX file; external data is looked for beside it.
        destination: the file to write; weights above 1.9 GB lie beside it as ``<name>.data``.
        simplify: whether to simplify the graph as well.
        cann: whose parser decides which operators are written in other words.

    Raises:
        GraphError: `source` cannot be read or `destination` not be written.
    """
    from pth2om.graph import passes
    from pth2om.graph.contract import PassSettings
    from pth2om.graph.document import Document
    from pth2om.graph.runner import run

    document = Document.open(source)
    names = [*passes.CLEAN, *(["simplify"] if simplify else [])]
    return write(run(document, names, PassSettings(cann=cann)), source, destination)


def write(outcome: Outcome, source: Path, destination: Path) -> Cleaned:
    """Write what came of a run; a copy of the source where nothing changed.

    Raises:
        GraphError: `destination` cannot be written.
    """
    from pth2om.errors import GraphError
    from pth2om.files import replacing

    if outcome.steps or outcome.document.weights_outside:
        outcome.document.save(destination)
    else:
        try:
            with replacing(destination) as scratch:
                shutil.copyfile(source, scratch)
        except OSError as error:
            reason = error.strerror or str(error)
            raise GraphError("graph.unwritable", where=str(destination), reason=reason) from None
    return Cleaned(outcome.applied, tuple(outcome.findings), outcome.details())
