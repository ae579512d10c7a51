"""``pth2om ci github``: a workflow that runs the models of a repository for several chips, in shards."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pth2om.ascend.target import Target
from pth2om.errors import Pth2omError
from pth2om.escaping import shell_line
from pth2om.files import write_text
from pth2om.language import language

PLACE = Path(".github/workflows/pth2om.yml")
MOST_JOBS = 256
"""Jobs that GitHub starts of one matrix."""
_USUAL_SHARDS = 4
_TEMPLATE = Path(__file__).with_name("github.yml")
_NAMES = re.compile(r"@([A-Z]+)@")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_WORDS = re.compile(r"[ -~]{1,500}")


@dataclass(frozen=True)
class Asked:
    """What a workflow is written for.

    Attributes:
        socs: as in ``--soc``.
        shards: jobs a chip; None: one a model, at most four.
        install: the words behind ``pip install``.
    """

    socs: Sequence[str]
    shards: int | None = None
    install: str = "pth2om"


def workflow(asked: Asked, models: Path) -> str:
    """The text of the workflow.

    Args:
        asked: see there.
        models: the folder of specs.

    Raises:
        ToolchainError: a SoC is unknown.
        Pth2omError: there are no specs, too many jobs, or words that do not fit on one line of the workflow.
    """
    for soc in asked.socs:
        Target.of(soc, "9.x")
        if not _PLAIN.fullmatch(soc):
            raise Pth2omError("ci.not-plain", text=soc)
    specs = len(list(models.glob("*/model.toml")))
    if not specs:
        raise Pth2omError("ci.no-specs", where=str(models))
    shards = asked.shards if asked.shards is not None else min(specs, _USUAL_SHARDS)
    if shards < 1 or shards * len(asked.socs) > MOST_JOBS:
        raise Pth2omError("ci.too-many-jobs", shards=shards, socs=len(asked.socs), most=MOST_JOBS)
    install = _typed(asked.install)
    command = ["pth2om", "ci", "github", *(word for soc in asked.socs for word in ("--soc", soc))]
    command += ["--shards", str(shards)]
    command += ["--install", asked.install] if asked.install != Asked.install else []
    values = {
        "COMMAND": shell_line(command),
        "LANGUAGE": language(),
        "SHARDS": str(shards),
        "NUMBERS": ", ".join(str(number) for number in range(1, shards + 1)),
        "SOCS": ", ".join(asked.socs),
        "INSTALL": install,
    }
    return _NAMES.sub(lambda name: values[name[1]], _TEMPLATE.read_text(encoding="utf-8"))


def _typed(text: str) -> str:
    """Words as they stand in a script: ``pth2om>=1`` is one of them, and no file ``=1`` to write to.

    Raises:
        Pth2omError: they do not fit on one line of the workflow, or GitHub would put something in their place.
    """
    try:
        typed = shell_line(shlex.split(text))
    except ValueError:  # half a pair of quotes
        typed = ""
    if not _WORDS.fullmatch(text) or not typed or "${{" in text or "${{" in typed:
        raise Pth2omError("ci.not-plain", text=text)
    return typed


def write(text: str, path: Path, *, force: bool = False) -> bool:
    """Write a workflow; False where that very text is there already.

    Raises:
        Pth2omError: there is another file, and `force` is not given; or it cannot be written.
    """
    try:
        if path.exists():
            if path.read_bytes() == text.encode():
                return False
            if not force:
                raise Pth2omError("ci.exists", where=str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise Pth2omError("ci.unwritable", where=str(path), reason=error.strerror or str(error)) from None
    return True
