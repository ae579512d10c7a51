"""The machines of a run: which is free, and whether they are alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pth2om.errors import LostError, ToolchainError

if TYPE_CHECKING:
    from pth2om.toolchain.cann.board import Board

_TURN = 0.05  # seconds between two looks at boards that are all busy
_DAY = 86400.0


class Boards:
    """Machines that can stand for each other.

    Args:
        boards: at least one.
        wait: seconds until a board must have become free.
    """

    def __init__(self, boards: Sequence[Board], wait: float) -> None:
        self.all = tuple(boards)
        self._wait = wait

    def check(self) -> None:
        """Refuse boards that differ: a run's figures are of one SoC, one CANN and one driver.

        Raises:
            ToolchainError: two of them differ.
            LostError: one cannot be reached.
        """
        first = self.all[0]
        for board in self.all[1:]:
            for what in ("soc", "cann", "driver", "proven"):
                one, other = (str(getattr(each.facts, what)) for each in (first, board))
                if one != other:
                    values = {"one": one or "-", "other": other or "-", "first": first.name, "second": board.name}
                    raise ToolchainError(f"cann.differ-{what}", **values)

    def free(self) -> Board:
        """Lease a board: one that is leased already, else the first that is free; waits where all are busy.

        Raises:
            LostError: none became free in time, or none can be reached.
            ToolchainError: an agent cannot run there.
        """
        for board in self.all:
            if board.is_leased:
                return board
        end = time.monotonic() + self._wait
        lost: LostError | None = None
        while True:
            found = None
            for board in self.all:
                left = end - time.monotonic()
                pause = 0.0 if len(self.all) > 1 else max(0.0, left)
                try:
                    other = board.lease(pause)
                except LostError as error:
                    lost = error
                    continue
                if other is None:
                    return board
                found = (board.name, other)
            if found is None:
                assert lost is not None
                raise lost
            if time.monotonic() >= end:
                raise busy(found[0], self._wait, found[1])
            time.sleep(_TURN)

    def rest(self) -> None:
        """End the device jobs.

        Raises:
            CrashError: a worker crashed or hung while it left.
        """
        for board in self.all:
            board.rest()

    def close(self) -> None:
        """End the connections."""
        for board in self.all:
            with contextlib.suppress(OSError):
                board.close()


def busy(name: str, waited: float, found: Mapping[str, Any]) -> LostError:
    """The error for a board that somebody else held all the time.

    Args:
        name: of the board.
        waited: seconds.
        found: of the agent: see `holder`.
    """
    who, since = holder(found, time.time())
    return LostError("cann.busy" + unsaid(who, since), where=name, seconds=round(waited), holder=who, since=since)


def holder(found: Mapping[str, Any], now: float) -> tuple[str, str]:
    """Who holds a board, and since when by this machine's clock; the board's own may be wrong.

    Args:
        found: ``who``, ``host`` and ``seconds`` as the agent tells them, as far as they are known.
        now: seconds since 1970.

    Returns:
        ``ada@pc7`` and a time; ``""`` for what is not known.
    """
    who = f"{found.get('who', '?')}@{found.get('host', '?')}" if "who" in found or "host" in found else ""
    seconds = found.get("seconds")
    if not isinstance(seconds, int | float):
        return who, ""
    form = "%H:%M:%S" if seconds < _DAY else "%Y-%m-%d %H:%M"
    return who, time.strftime(form, time.localtime(now - seconds))


def unsaid(who: str, since: str) -> str:
    """The ending of a message's key for what `holder` does not know: ``-unnamed``, ``-undated``, or none."""
    return "" if who and since else "-undated" if who else "-unnamed"
