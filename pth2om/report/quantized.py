"""The report file that ``pth2om quantize`` writes, read back as the stage that a card shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pth2om.errors import DataError
from pth2om.evidence import StageRecord, from_json

SUFFIX = "_quantize.json"
_MOST_BYTES = 64 << 20


def read(path: Path) -> StageRecord:
    """The stage of a quantization: its layers, findings and details.

    Raises:
        DataError: it cannot be read, or is no such file.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError("report.no-quantization", where=str(path))
        data = json.loads(path.read_text(encoding="utf-8"))
        return _stage(path, data)
    except FileNotFoundError:
        raise DataError("report.no-evidence", where=str(path)) from None
    except OSError as error:
        raise DataError("report.unreadable", where=str(path), reason=error.strerror or str(error)) from None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise DataError("report.no-quantization", where=str(path)) from None


def _stage(path: Path, data: Any) -> StageRecord:  # noqa: ANN401 - JSON
    name = path.name.removesuffix(SUFFIX)
    row = {
        "kind": "stage", "model": name, "variant": "int8", "stage": "quantized", "digest": "", "key": "",
        "cached": False, "seconds": 0.0, "provenance": {"name": "pth2om", "version": "", "ground": "host"},
        "findings": data["findings"], "details": {**data["details"], "layers": data["layers"]},
    }  # fmt: skip
    record = from_json(row)
    assert isinstance(record, StageRecord)
    return record
