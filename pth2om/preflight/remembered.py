"""What was found out about a model's file, kept for the process as long as the file does not change.

The front end looks at a model before it compiles, after the pre-flight looked at the same file, once a variant.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

from pth2om.files import state_of

T = TypeVar("T")

_MOST = 48
"""Answers that are kept: some kilobytes for each hundred nodes."""

_kept: OrderedDict[Hashable, Any] = OrderedDict()
_looking = threading.Lock()


def remembered(path: Path, asked: Hashable, find_out: Callable[[], T]) -> T:
    """An answer about a file, found out once as long as the file does not change.

    Args:
        path: the file; about one that cannot be looked at nothing is kept.
        asked: the question, with all that its answer depends on besides the file.
        find_out: gives the answer, which nobody may change afterwards.
    """
    try:
        key = (str(path.resolve()), state_of(path), asked)
    except (OSError, RuntimeError):
        return find_out()
    with _looking:
        if key in _kept:
            _kept.move_to_end(key)
            answer: T = _kept[key]
            return answer
    answer = find_out()
    with _looking:
        _kept[key] = answer
        while len(_kept) > _MOST:
            _kept.popitem(last=False)
    return answer
