"""Python's collector of garbage rests while a run begins and while it ends.

What is made between the reading of the options and the first test (modules, specs, tests) stays to the end, and the
end itself is near once the report is drawn. Looking through all that for garbage, again and again, takes a tenth of a
second run.
"""

from __future__ import annotations

import atexit
import gc

import pytest

_RESTS = pytest.StashKey[bool]()


def rest(config: pytest.Config) -> None:
    """Collect nothing before `work`, or before the session ends, where it does not come to its tests."""
    if gc.isenabled():
        gc.disable()
        config.stash[_RESTS] = True
        config.add_cleanup(lambda: work(config))
        # The interpreter's own end looks through everything once more; with PyTorch in it that takes 0.4 s.
        atexit.register(gc.freeze)


def keep() -> None:
    """Never look through what there is now: also the collections that pytest makes at its end then take no time."""
    gc.freeze()


def work(config: pytest.Config) -> None:
    """Collect again, but not what there is now; does nothing where the caller of pytest switched it off."""
    if config.stash.get(_RESTS, False):
        config.stash[_RESTS] = False
        keep()
        gc.enable()
