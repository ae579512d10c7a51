"""One gear of a session that serves several: what tests and measurements of that gear are about."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from pth2om.session import Array, Feeds, Provenance, Session, TensorSpec
from pth2om.sessions.onnx import check_feeds

if TYPE_CHECKING:
    from pth2om.spec import Input, Shape


class AtGear:
    """A session of all gears, fed at one of them; it is shared, so closing this closes nothing.

    Args:
        session: takes the shapes of every gear.
        shape: the gear.
        inputs: the spec's inputs.
    """

    def __init__(self, session: Session, shape: Shape, inputs: Sequence[Input]) -> None:
        self._session = session
        self._shape = shape
        self._sizes = {entry.name: shape.of(entry) for entry in inputs}

    @property
    def inner(self) -> Session:
        """The session that is fed."""
        return self._session

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The session's, with the sizes of the gear."""
        return tuple(
            TensorSpec(spec.name, self._sizes.get(spec.name, spec.shape), spec.dtype) for spec in self._session.inputs
        )

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The session's; sizes in which the gears differ are None."""
        return self._session.outputs

    @property
    def digest(self) -> str:
        """The session's, with the gear: what is measured at another gear is another measurement."""
        return f"{self._session.digest}@{self._shape.name}"

    @property
    def provenance(self) -> Provenance:
        """The session's."""
        return self._session.provenance

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """See `Session.run`.

        Raises:
            ToolchainError: the feeds have not the gear's shapes.
        """
        check_feeds(self.inputs, feeds, self._shape.name)
        return self._session.run(feeds)

    def close(self) -> None:
        """Nothing: the other gears use the session too."""

    def __enter__(self) -> AtGear:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing."""
