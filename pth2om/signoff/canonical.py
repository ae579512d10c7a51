"""The one way in which JSON is written here: two texts with the same meaning are the same bytes, or one is refused.

A file that is only valid JSON can be changed without changing what it says (spaces, order, the last bits of base64).
Whatever is signed or bundled is therefore read by writing it again and comparing the bytes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pth2om.errors import SignoffError


def write(value: Any) -> bytes:  # noqa: ANN401 - JSON values
    """JSON values as bytes: keys sorted, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def read(data: bytes) -> Any:  # noqa: ANN401 - JSON values
    """The values that `write` made these bytes of.

    Raises:
        SignoffError: the bytes are not JSON, or not as `write` writes it.
    """
    try:
        value = json.loads(data)
        if b"\\ud" in data:  # half a pair is no text: nothing can write it as UTF-8
            json.dumps(value, ensure_ascii=False).encode()
        same = write(value) == data
    except (ValueError, RecursionError):
        raise SignoffError("signoff.not-json") from None
    if not same:
        raise SignoffError("signoff.not-canonical")
    return value


def sha256(data: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
