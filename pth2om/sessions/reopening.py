"""A session that opens itself again after what runs it went away."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from pth2om.errors import LostError
from pth2om.session import Array, Feeds, Provenance, Session, TensorSpec, ahead, stream, ways


class Reopening:
    """Opens a session when it is first needed, and anew when its child process or link was lost.

    A run that lost its session is tried once more on a new one; a second loss in a row is raised, and the next run
    tries again. A loss is never remembered: it tells nothing about the model.

    Args:
        make: opens the session.
    """

    def __init__(self, make: Callable[[], Session]) -> None:
        self._make = make
        self._session: Session | None = None

    @property
    def inner(self) -> Session | None:
        """The session that is open; None while none is."""
        return self._session

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The session's."""
        return self._opened().inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The session's."""
        return self._opened().outputs

    @property
    def digest(self) -> str:
        """The session's."""
        return self._opened().digest

    @property
    def provenance(self) -> Provenance:
        """The session's."""
        return self._opened().provenance

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """One inference; see `Session.run`.

        Raises:
            LostError: the session was lost twice in a row.
        """
        try:
            return self._opened().run(feeds)
        except LostError:
            self.close()
        try:
            return self._opened().run(feeds)
        except LostError:
            self.close()
            raise

    def stream(self, each: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
        """Many inferences; see `pth2om.session.stream`. A session with a stream of its own takes it up after a loss.

        Raises:
            LostError: the session was lost twice in a row.
        """
        session = self._opened()
        if hasattr(session, "stream"):
            yield from stream(session, each)
        else:
            yield from ahead(self.run, each, ways(session))

    def close(self) -> None:
        """Close the session; the next run opens it again."""
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(LostError):  # what was lost is closed
                session.close()

    def __enter__(self) -> Reopening:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _opened(self) -> Session:
        if self._session is None:
            self._session = self._make()
        return self._session
