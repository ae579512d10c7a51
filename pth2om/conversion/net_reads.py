"""What a model's code reads, kept in the store with the state it was in: known without loading the model again.

A key needs the state of everything that the model's code reads, and only running the code tells what that is. So the
names are kept from the last time it ran, with the state of each. Are all as they were, the code would read the same
again. Is one another, the model is loaded once more, for it may now read other things.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pth2om.checkpoint.reads import Reads
from pth2om.conversion.stage import Value, Work, forget, key_of, run
from pth2om.spec import Spec
from pth2om.store import Store

_ATTEMPTS = 3


class Reader(Protocol):
    """The part of a `pth2om.conversion.source.Source` that is needed here."""

    spec: Spec
    store: Store

    @property
    def written(self) -> dict[str, str]:
        """See `Source.written`."""

    def options(self) -> dict[str, Any]:
        """See `Source.options`."""

    def read(self) -> Reads:
        """See `Source.read`."""

    def load(self) -> Any:  # noqa: ANN401 - not needed here
        """See `Source.load`."""

    def role(self, file: Any) -> str:  # noqa: ANN401 - a Path
        """See `Source.role`."""


@dataclass(frozen=True)
class NetReads:
    """Load the model, and note what its code reads beside the files that are known to belong to it.

    Attributes:
        source: the model's.
        known: what it was known to read before; it stays, for what is read may depend on what changed.
        complete: whether ``known`` is all; then the model is not loaded.
    """

    source: Reader
    known: Reads
    complete: bool = False
    name = "net-reads"
    version = 3
    libraries = ("pth2om", "torch")

    @property
    def label(self) -> str:
        """See `Stage.label`."""
        return self.source.spec.name

    def inputs(self) -> Mapping[str, str]:
        """See `Stage.inputs`."""
        return self.source.written

    def options(self) -> Mapping[str, Any]:
        """See `Stage.options`."""
        return self.source.options()

    def build(self, work: Work) -> Value:  # noqa: ARG002 - a Stage's
        """See `Stage.build`."""
        reads = self.known
        if not self.complete:
            self.source.load()
            reads |= self.source.read()
        return Value({"reads": reads.to_json(), "state": state(self.source, reads)})

    def restored(self, value: Any) -> Value:  # noqa: ANN401 - JSON
        """See `Stage.restored`."""
        return Value(value)


def state(source: Reader, reads: Reads) -> dict[str, str]:
    """The state of what is read, as a part of keys."""
    return reads.state(source.store.digest, source.role)


def is_known(source: Reader) -> bool:
    """Whether it is known without loading the model what its code reads."""
    return source.store.place(key_of(NetReads(source, Reads()))).is_dir()


def known(source: Reader) -> Reads:
    """What the model's code reads, in the state in which it is now; the model is loaded where that is not known.

    Raises:
        Pth2omError: the model cannot be loaded.
    """
    reads = Reads()
    for _ in range(_ATTEMPTS):
        kept = run(NetReads(source, reads), source.store).result.value
        reads = Reads.from_json(kept["reads"])
        if state(source, reads) == kept["state"]:
            break
        forget(NetReads(source, reads), source.store)
    return reads


def keep(source: Reader, reads: Reads) -> None:
    """Remember ``reads`` for the next run."""
    forget(NetReads(source, reads), source.store)
    run(NetReads(source, reads, complete=True), source.store)
