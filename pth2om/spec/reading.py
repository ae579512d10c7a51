"""Reading a spec or another TOML table; what is wrong is reported with its line and the nearest valid word."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel

from pth2om.errors import SpecError
from pth2om.spec.model import Spec

T = TypeVar("T", bound=BaseModel)
_ASSIGNMENT = re.compile(r"""^((?:[A-Za-z0-9_\-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[A-Za-z0-9_\-"']+)*)\s*=""")


def load(folder: Path) -> Spec:
    """Read ``folder/model.toml``.

    Raises:
        SpecError: the file is missing, not TOML, or wrong; with its line and the nearest valid word.
    """
    path = folder / "model.toml"
    spec, text = parse_text(path, Spec, {"name": folder.name, "folder": folder.absolute()})
    return spec.written_as(text)


def of_text(text: str, name: str) -> Spec:
    """The spec of a model whose file is not here, such as one that a run kept.

    Args:
        text: of the file.
        name: of the model.

    Raises:
        SpecError: it is wrong.
    """
    path = Path(name) / "model.toml"
    extra = {"name": name, "folder": path.parent.absolute()}
    return _parsed(path, text.removeprefix("\ufeff"), Spec, extra).written_as(text)


def parse(path: Path, table: type[T], extra: Mapping[str, Any]) -> T:
    """Read a TOML file into a pydantic model.

    Args:
        path: the file.
        table: the model.
        extra: values that do not come from the file (its name, its folder).

    Raises:
        SpecError: as `load`.
    """
    return parse_text(path, table, extra)[0]


def parse_text(path: Path, table: type[T], extra: Mapping[str, Any]) -> tuple[T, str]:
    """As `parse`, with the text that was read: encoded again it is the bytes of the file.

    Raises:
        SpecError: as `load`.
    """
    text = _text(path)
    return _parsed(path, text.removeprefix("\ufeff"), table, extra), text


def _text(path: Path) -> str:
    """The file's text, byte for byte: with its line ends, and with a byte order mark where it has one."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise SpecError("spec.missing", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError("spec.unreadable", where=str(path), reason=str(error)) from None


def _parsed(path: Path, text: str, table: type[T], extra: Mapping[str, Any]) -> T:
    """See `parse`."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"at line (\d+)", str(error))
        line = int(match[1]) if match else max(1, text.rstrip().count("\n") + 1)  # "at end of document"
        where = f"{path}:{line}"
        raise SpecError("spec.not-toml", where=where, reason=str(error)) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; tables within tables without end
        raise SpecError("spec.not-toml", where=str(path), reason=str(error)) from None
    for name in extra:
        if name in data:
            raise SpecError("spec.reserved", where=f"{path}:{line_of(text, (name,))}", name=name)
    try:
        return table.model_validate({**data, **extra})
    except pydantic.ValidationError as error:
        raise _spec_error(path, text, table, error) from None


_WANTED = {
    **dict.fromkeys(("tuple_type", "list_type"), ("list", "")),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), ("whole", "")),
    **dict.fromkeys(("float_type", "float_parsing"), ("number", "")),
    **dict.fromkeys(("bool_type", "bool_parsing"), ("truth", "")),
    "string_type": ("text", ""),
    "greater_than_equal": ("least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("most", "le"),
}
"""Pydantic's types of complaint about a value that a slip of the pen makes: our sentence, and where its limit is."""


def _spec_error(path: Path, text: str, table: type[BaseModel], error: pydantic.ValidationError) -> SpecError:
    """The first of pydantic's complaints, in the file's own terms."""
    # A misspelt key shows up twice: unknown, and missing under its right name. The misspelling is the cause.
    complaints = error.errors()
    first = next((each for each in complaints if each["type"] == "extra_forbidden"), complaints[0])
    location = tuple(part for part in first["loc"] if not (isinstance(part, str) and part.startswith("function-")))
    where = f"{path}:{line_of(text, location)}"
    name = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        words = _fields_at(table, location[:-1])
        return _with_nearest("spec.unknown-key", where, str(location[-1]), words, name=name)
    if first["type"] == "missing":
        return SpecError("spec.missing-key", where=where, name=name)
    if first["type"] == "string_pattern_mismatch" and location == ("name",):
        return SpecError("spec.folder-name", where=str(path.parent), name=str(first["input"]))
    if first["type"] == "literal_error":
        words = re.findall(r"'([^']*)'", str(first["ctx"]["expected"]))
        return _with_nearest("spec.not-a-choice", where, str(first["input"]), words, name=name)
    reason = re.sub(r"^Value error, ", "", first["msg"])
    if first["type"] == "value_error":
        return SpecError("spec.contradiction", where=where, reason=reason)
    value, limits = _short(first["input"]), first.get("ctx", {})
    if first["type"] in _WANTED:
        key, limit = _WANTED[first["type"]]
        return SpecError(f"spec.wants-{key}", where=where, name=name, value=value, limit=str(limits.get(limit, "")))
    return SpecError("spec.wrong-value", where=where, name=name, value=value, reason=reason)


def _with_nearest(key: str, where: str, word: str, words: Sequence[str], *, name: str) -> SpecError:
    nearest = difflib.get_close_matches(word, words, 1, cutoff=0.4)
    suffix = "-nearest" if nearest else ""
    return SpecError(
        key + suffix, where=where, name=name, word=word, nearest=nearest[0] if nearest else "", words=", ".join(words)
    )


def _fields_at(table: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys allowed in the table at ``location``."""
    kind: Any = table
    for part in location:
        if isinstance(part, str) and kind is not None and part in kind.model_fields:
            kind = _table_in(kind.model_fields[part].annotation)
    if kind is None:
        return []
    return [name for name in kind.model_fields if name not in ("name", "folder") or kind is not Spec]


def _table_in(annotation: Any) -> Any:  # noqa: ANN401 - a type annotation
    """The model class inside ``X | None``, ``tuple[X, ...]`` or ``dict[str, X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _table_in(inner)
        if found is not None:
            return found
    return None


def line_of(text: str, location: Sequence[int | str]) -> int:
    """The line (from 1) of TOML ``text`` where the value at ``location`` is written, or its nearest enclosing table.

    Args:
        text: valid TOML.
        location: keys and list indices, as pydantic gives them.
    """
    counts: dict[tuple[str, ...], int] = {}
    table: tuple[int | str, ...] = ()
    best, best_length = 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        header = re.match(r"^(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$", stripped)
        if header:
            keys = _keys(header[2])
            if header[1] == "[[":
                counts[keys] = counts.get(keys, -1) + 1
                table = (*keys, counts[keys])
            else:
                # A sub-table of a list of tables belongs to the last element of that list.
                table = tuple(
                    part
                    for end in range(len(keys))
                    for part in ((keys[end], counts[keys[: end + 1]]) if keys[: end + 1] in counts else (keys[end],))
                )
            full = table
        else:
            assignment = _ASSIGNMENT.match(stripped)
            if not assignment:
                continue
            full = (*table, *_keys(assignment[1]))
        if len(full) > best_length and _leads(full, location):
            best, best_length = number, len(full)
    return best


def _leads(written: Sequence[int | str], location: Sequence[int | str]) -> bool:
    """Whether ``written`` is how the file comes to ``location``; indices the file does not write are passed over.

    ``[variants] precision = [...]`` stands for a list of tables, so its errors carry an index the file does not have.
    """
    rest = list(location)
    for part in written:
        while rest and isinstance(rest[0], int) and not isinstance(part, int):
            rest.pop(0)
        if not rest or rest.pop(0) != part:
            return False
    return True


def _keys(text: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
