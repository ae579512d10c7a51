"""The record beside calibration ``.bin`` files: which input, dtype and shape each folder holds."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pth2om.errors import QuantizeError
from pth2om.files import write_text
from pth2om.quantize.preprocessing import read_json_with_comments

_FORMAT = 1


def folder_names(inputs: Sequence[str]) -> dict[str, str]:
    """The folder of each input: its name without what paths cannot hold, numbered where two would be the same."""
    taken: dict[str, str] = {}
    for name in inputs:
        plain = re.sub(r"[^A-Za-z0-9_.\-]", "_", name).lstrip(".") or "input"
        free = (plain if number == 0 else f"{plain}_{number}" for number in itertools.count())
        taken[name] = next(one for one in free if one not in taken.values())
    return taken


def write_record(
    path: Path, entries: Mapping[str, Mapping[str, Any]], count: int, images: Sequence[str] | None
) -> None:
    """Write what lies in the folders: inputs with dtype and shape, number of batches, names of the images."""
    places = folder_names(list(entries))
    inputs = [{"name": name, "folder": places[name], **entry} for name, entry in entries.items()]
    record: dict[str, Any] = {"format": _FORMAT, "batches": count, "inputs": inputs}
    if images is not None:
        record["images"] = list(images)
    text = json.dumps(record, indent=1, ensure_ascii=False)
    write_text(path, text + "\n")


def read_record(path: Path) -> dict[str, Any] | None:
    """A record that `write_bins` wrote; None when the file is something else, or not there."""
    try:
        data = read_json_with_comments(path)
    except QuantizeError:
        return None
    plain = isinstance(data, dict) and isinstance(data.get("batches"), int) and isinstance(data.get("inputs"), list)
    return data if plain and all(_is_entry(one) for one in data["inputs"]) else None


def _is_entry(one: Any) -> bool:  # noqa: ANN401 - JSON
    if not isinstance(one, dict) or not isinstance(one.get("shape"), list):
        return False
    texts = [one.get("dtype"), one.get("name", ""), one.get("folder", "")]
    sizes = all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in one["shape"])
    return sizes and all(isinstance(text, str) for text in texts)


def named_folder(folder: Path) -> Path:
    """The folder by a path that ends in its name; a link keeps its own, because the record lies beside the link."""
    return folder if folder.name not in ("", "..") else folder.resolve()
