"""CANN versions: the one reader of ``--cann``, and whose rules a version stands for."""

from __future__ import annotations

import re

from pth2om.errors import ToolchainError

DEFAULT = "9.x"

_VERSION = re.compile(
    r"v?([789](?:\.(?:x|[0-9]{1,4}))?(?:[.-](?:[0-9]{1,4}|(?:rc|alpha|beta|pre|spc)[0-9]{0,4}))*)", re.IGNORECASE
)


def version(text: str) -> str:
    """A CANN version without blanks around it and without ``v`` before it.

    Args:
        text: ``7.0``, ``8.0.RC2``, ``8.5.0-beta.1``, ``9`` or ``9.x``.

    Raises:
        ToolchainError: it is no version, or one whose rules are not known (older than 7, newer than 9).
    """
    match = _VERSION.fullmatch(text.strip()) if len(text) < 80 else None
    if match is None:
        raise ToolchainError("ascend.cann-version", cann=text[:80])
    return match[1]


def generation(cann: str) -> int:
    """7, 8 or 9: whose rules and texts hold for a version.

    Raises:
        ToolchainError: as `version`.
    """
    return int(version(cann)[0])


def at_least(cann: str, major: int, minor: int) -> bool:
    """Whether a version is that one or newer; of ``9`` and ``9.x`` nobody knows the minor number, so it counts as 0.

    Raises:
        ToolchainError: as `version`.
    """
    first, _, rest = version(cann).partition(".")
    digits = re.match(r"\d+", rest)
    return (int(re.match(r"\d+", first)[0]), int(digits[0]) if digits else 0) >= (major, minor)  # type: ignore[index]  # the pattern fits by now
