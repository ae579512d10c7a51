"""``pth2om bundle``: one file to send, with the statement and all that it is about except the OM files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pth2om.errors import SignoffError
from pth2om.files import write_bytes
from pth2om.language import Language
from pth2om.release import night as nights
from pth2om.signoff import archive, documents, envelope
from pth2om.signoff.statement import DRAFT_PREDICATE

STATEMENT = "statement.json"
DRAFT_STATEMENT = "DRAFT-UNPROVEN-statement.json"


@dataclass(frozen=True)
class Bundle:
    """What was written.

    Attributes:
        path: the zip file.
        names: what is in it.
        draft: whether its statement is a draft.
    """

    path: Path
    names: tuple[str, ...]
    draft: bool


def bundle(run: Path, output: Path, statement: Path | None = None) -> Bundle:
    """Write the bundle of a run that was signed off or drafted.

    Args:
        run: its folder, or its evidence file.
        output: the zip file.
        statement: of the run; default ``statement.json`` in its folder, then in the current one.

    Raises:
        SignoffError: there is no statement, it is of another run, or the file cannot be written.
        DataError: the evidence is missing or damaged.
    """
    night = nights.read(run)
    path = _statement(run, statement)
    documents.apart(output, (path, nights.file_of(run)))
    sealed = documents.file_bytes(path, envelope.MOST_BYTES)
    opened = envelope.opened(sealed)
    told = opened.statement.get("predicate")
    promised = told.get("documents") if isinstance(told, Mapping) else None
    release = told.get("release") if isinstance(told, Mapping) else None
    by = release.get("policy") if isinstance(release, Mapping) else None
    text = by.get("text") if isinstance(by, Mapping) else None
    if not isinstance(told, Mapping) or not isinstance(promised, Mapping) or not isinstance(text, str):
        raise SignoffError("signoff.no-envelope", where=str(path))
    language: Language = "zh" if told.get("reportLanguage") == "zh" else "en"
    found = documents.documents(run, night, text, language)
    given = {name: {"sha256": digest} for name, digest in documents.digests(found).items()}
    other = sorted(name for name in {*given, *promised} if given.get(name) != promised.get(name))
    if other:
        raise SignoffError("signoff.other-documents", where=str(path), name=other[0][:100])
    draft = opened.statement.get("predicateType") == DRAFT_PREDICATE
    found[DRAFT_STATEMENT if draft else STATEMENT] = sealed
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(output, archive.write(found))
    except OSError as error:
        raise SignoffError("signoff.unwritable", where=str(output), reason=error.strerror or "") from None
    return Bundle(output, tuple(sorted(found)), draft)


def _statement(run: Path, given: Path | None) -> Path:
    folder = run if run.is_dir() else run.parent
    asked = (given,) if given is not None else (folder / STATEMENT, Path(STATEMENT))
    found = next((path for path in asked if path.is_file()), None)
    if found is None:
        raise SignoffError("signoff.no-statement", where=str(asked[0]))
    return found
