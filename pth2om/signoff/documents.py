"""What lies beside a statement in a bundle: the evidence, its report, specs, policy and commands; made from a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pth2om.errors import SignoffError
from pth2om.escaping import shell_line
from pth2om.evidence import MOST_BYTES
from pth2om.files import opened
from pth2om.language import Language
from pth2om.release.night import Night, file_of
from pth2om.signoff.canonical import sha256

EVIDENCE = "evidence.jsonl"
REPORT = "report.html"
COMMANDS = "commands.txt"
POLICY = "release.toml"


def documents(run: Path, night: Night, policy: str, language: Language) -> dict[str, bytes]:
    """Name -> bytes; the same for the same run, whoever makes them.

    Args:
        run: its folder, or its evidence file; pictures of the report are taken from beside it.
        night: the same, read.
        policy: text of the policy.
        language: the one that the report shows first.

    Raises:
        SignoffError: the evidence cannot be read.
        DataError: it is damaged.
    """
    from pth2om.report import load
    from pth2om.report.html import Links, render_html

    file = file_of(run)
    evidence = file_bytes(file, MOST_BYTES)
    _each_name_once(file, evidence)
    page = render_html(load(file), language, Links(evidence=EVIDENCE))
    found = {
        EVIDENCE: evidence,
        REPORT: page.encode("utf-8", "replace"),
        COMMANDS: _commands(night).encode("utf-8", "replace"),
        POLICY: policy.encode(),
    }
    for spec in night.specs:
        found[f"specs/{spec.model}.toml"] = spec.text.encode()
    return found


def digests(found: Mapping[str, bytes]) -> dict[str, str]:
    """Name -> sha256."""
    return {name: sha256(data) for name, data in sorted(found.items())}


def file_bytes(path: Path, most: int) -> bytes:
    """The bytes of a file.

    Raises:
        SignoffError: it cannot be read, is no regular file, or is larger than ``most`` bytes.
    """
    try:
        with opened(path) as file:
            data = file.read(most + 1)
    except OSError as error:
        raise SignoffError("signoff.unreadable", where=str(path), reason=error.strerror or "") from None
    if len(data) > most:
        raise SignoffError("signoff.too-large", where=str(path), most=most)
    return data


def apart(output: Path, read: Iterable[Path | None]) -> None:
    """Refuse to write over a file that is read.

    Raises:
        SignoffError: the output is one of them.
    """
    for path in read:
        if path is not None and output.exists() and path.exists() and output.samefile(path):
            raise SignoffError("signoff.output-is-input", where=str(output))


def file_digest(path: Path) -> str:
    """sha256 of a file, read piece by piece.

    Raises:
        SignoffError: it cannot be read.
    """
    try:
        with opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SignoffError("signoff.unreadable", where=str(path), reason=error.strerror or "") from None


def beside(om: Path, name: str) -> Path | None:
    """A file that lies beside an OM, by its name there; None for a name that leads elsewhere."""
    parts = PurePosixPath(name).parts
    inside = bool(parts) and ".." not in parts and not name.startswith("/") and "\\" not in name and ":" not in name
    return om.parent.joinpath(*parts) if inside else None


def differing(om: Path, weights: Mapping[str, str]) -> list[str]:
    """The weights of an OM that do not lie beside it as they were: their names.

    Args:
        om: the OM file.
        weights: name beside it -> sha256.
    """
    found = []
    for name, digest in sorted(weights.items()):
        file = beside(om, name)
        try:
            if file is None or file_digest(file) != digest:
                found.append(name)
        except SignoffError:
            found.append(name)
    return found


def _each_name_once(file: Path, evidence: bytes) -> None:
    """Of a name that stands twice in one object some readers take the first value and some the last.

    Raises:
        SignoffError: there is one.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError
        return found

    for number, line in enumerate(evidence.splitlines(), 1):
        try:
            json.loads(line or b"{}", object_pairs_hook=once)
        except (ValueError, RecursionError):
            raise SignoffError("signoff.twice", where=f"{file}:{number}") from None


def _commands(night: Night) -> str:
    """The commands of the run and of its stages, as they would be typed."""
    lines = [shell_line(run.command) for run in night.runs]
    for stage in sorted(night.stages.values(), key=lambda one: (one.model, one.variant, one.stage)):
        if stage.command:
            lines += [f"# {stage.model}-{stage.variant} {stage.stage} {stage.digest}", shell_line(stage.command)]
    return "\n".join(lines) + "\n"
