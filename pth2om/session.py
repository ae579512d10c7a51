"""Sessions: one protocol for running PyTorch, ONNX and OM."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# As text: the plugin imports this module in every project that has it installed, and NumPy takes 0.1 s.
Array: TypeAlias = "npt.NDArray[np.generic]"
Feeds: TypeAlias = "Mapping[str, Array]"

Ground = Literal["host", "emulated", "double", "device"]
"""Where a figure comes from: this CPU, the emulator, a test double, or a real NPU."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape (None = dynamic) and NumPy dtype of one input or output."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[np.generic]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: ``name``, ``shape``, ``dtype`` (``float32``)."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype.name}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        """From what `to_json` gave, or a board answered.

        Raises:
            KeyError, TypeError, ValueError: it is damaged.
        """
        import numpy as np

        shape = tuple(None if size is None else int(size) for size in data["shape"])
        return cls(str(data["name"]), shape, np.dtype(str(data["dtype"])))


@dataclass(frozen=True)
class Provenance:
    """The tool that computed something.

    Attributes:
        name: ``torch``, ``onnxruntime``, ``emulator``, ``cann``.
        version: of that tool.
        soc: the SoC it computed for, when there is one.
        ground: see `Ground`.
    """

    name: str
    version: str
    ground: Ground
    soc: str | None = None


@runtime_checkable
class Session(Protocol):
    """Something that maps named input arrays to named output arrays.

    Attributes:
        digest: identifies what runs (file bytes and options), so that measurements can be kept in the store.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors `run` expects."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors `run` returns."""

    @property
    def digest(self) -> str:
        """sha256 of everything the outputs depend on besides the feeds; known without opening the model."""

    @property
    def provenance(self) -> Provenance:
        """Who computes."""

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """One inference.

        Args:
            feeds: one C-contiguous array per input, batch axis first.

        Returns:
            One array per output, in the order of `outputs`.
        """

    def close(self) -> None:
        """Free the session's memory; it cannot run afterwards."""

    def __enter__(self) -> Session:
        """The session itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""


def stream(session: Session, each: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
    """Many inferences, in order, computed while the caller works on the outputs before them.

    A session behind a slow link has a ``stream`` of its own, which sends the next inputs while it computes. Any other
    one computes in threads: what computes lets go of the interpreter, so that the caller makes the next feeds ready and
    reads the last outputs meanwhile. One that takes several inferences at a time says so in ``ways``, else it gets one.

    Args:
        session: with or without a ``stream`` of its own.
        each: the feeds, taken in the caller's thread; a few are taken ahead.
    """
    own = getattr(session, "stream", None)
    if own is not None:
        yield from own(each)
        return
    yield from ahead(session.run, each, ways(session))


def ways(session: Session) -> int:
    """How many inferences a session is made to compute at a time: its ``ways``, or those of the one that it feeds."""
    return int(getattr(innermost(session), "ways", 1))


def ahead(
    run: Callable[[Feeds], dict[str, Array]], each: Iterable[Feeds], count: int = 1
) -> Iterator[dict[str, Array]]:
    """What ``run`` returns for each of the feeds, in order; computed in ``count`` threads, so far beyond the caller."""
    from concurrent.futures import Future, ThreadPoolExecutor

    under_way: deque[Future[dict[str, Array]]] = deque()
    with ThreadPoolExecutor(count, "inference") as computing:
        for feeds in each:
            under_way.append(computing.submit(run, feeds))
            if len(under_way) > count:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def innermost(session: Session) -> Session:
    """The session that computes, behind those that only feed it: each of them names the next as ``inner``."""
    while (inner := getattr(session, "inner", None)) is not None:
        session = inner
    return session


@dataclass
class Room:
    """What the memories of one model's sessions may still take together.

    Attributes:
        bytes: of outputs.
        lock: held while something is remembered or forgotten.
    """

    bytes: int = 768 << 20
    lock: threading.Lock = field(default_factory=threading.Lock)


class Remembering:
    """A session that returns stored outputs for feeds it has run before.

    A side gets the same samples once per comparison, and the first batch of them in other questions again; it need not
    compute them again.

    Args:
        session: what computes.
        room: for the stored outputs; what finds no room is computed each time.
    """

    def __init__(self, session: Session, room: Room | None = None) -> None:
        self._session = session
        self._room = room or Room()
        self._known: dict[bytes, dict[str, Array]] = {}

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The session's."""
        return self._session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The session's."""
        return self._session.outputs

    @property
    def digest(self) -> str:
        """The session's."""
        return self._session.digest

    @property
    def provenance(self) -> Provenance:
        """The session's."""
        return self._session.provenance

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """See `Session.run`; the arrays are the caller's own."""
        import numpy as np

        name = hashlib.sha256()  # the fastest of the strong ones where the processor has instructions for it
        for key in sorted(feeds):
            array = np.ascontiguousarray(feeds[key])
            name.update(f"{key}|{array.dtype.str}|{array.shape}|".encode())
            name.update(array.view(np.uint8).data if array.size else b"")
        found = self._known.get(name.digest())
        if found is None:
            found = self._session.run(feeds)
            size = sum(array.nbytes for array in found.values())
            with self._room.lock:  # the same feeds may be under way twice
                if name.digest() not in self._known and size <= self._room.bytes:
                    self._room.bytes -= size
                    self._known[name.digest()] = {key: array.copy() for key, array in found.items()}
            return found
        return {key: array.copy() for key, array in found.items()}

    @property
    def ways(self) -> int:
        """The session's; 0 where it has a stream of its own, and is asked in the caller's thread, one by one."""
        return 0 if hasattr(self._session, "stream") else ways(self._session)

    def stream(self, each: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
        """See `stream`."""
        yield from ahead(self.run, each, self.ways) if self.ways else map(self.run, each)

    def close(self) -> None:
        """Forget, and close the session."""
        with self._room.lock:
            self._room.bytes += sum(array.nbytes for outputs in self._known.values() for array in outputs.values())
            self._known.clear()
        self._session.close()

    def __enter__(self) -> Remembering:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
