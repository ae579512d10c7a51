"""Stages: what is built or measured once per key. `run` is the only maker of keys, artifacts and stage records.

A stage is a pure function of its inputs: it names them, its options and its libraries, and `run` makes the key from
these. What it builds lies in the store with its result as ``result.json``, so a second run reads it back. A measurement
is a stage too (`Measurement`).
"""

from __future__ import annotations

import copy
import errno
import json
import subprocess
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pth2om.errors import Pth2omError, causes
from pth2om.evidence import Finding, StageRecord
from pth2om.progress import Progress, terminal
from pth2om.session import Provenance
from pth2om.store import Artifact, Key, Store, version_of

_RESULT = "result.json"


class Stored(Protocol):
    """What a stage returns: values that ``result.json`` keeps."""

    def to_json(self) -> Any:  # noqa: ANN401 - JSON
        """As plain JSON values."""


T = TypeVar("T", bound=Stored)
T_co = TypeVar("T_co", bound=Stored, covariant=True)


@dataclass(frozen=True)
class Work:
    """What a stage builds with.

    Attributes:
        folder: empty; what is written here is the artifact, once the stage has returned.
        resume: a folder that survives a kill, so that long work can be taken up again; removed when the stage has
            returned. It is there only when the stage has made it.
        progress: where long work reports how far it is.
    """

    folder: Path
    resume: Path
    progress: Progress


class Stage(Protocol[T_co]):
    """A conversion step or a measurement."""

    @property
    def name(self) -> str:
        """``onnx``, ``closeness``...; a folder of the store."""

    @property
    def version(self) -> int:
        """Raised when the stage's code changes what it makes."""

    @property
    def libraries(self) -> tuple[str, ...]:
        """Distributions whose versions the result depends on."""

    @property
    def label(self) -> str:
        """For people: ``yolov6n-fp16-bs1``; not part of the key."""

    def inputs(self) -> Mapping[str, str]:
        """Role -> digest, with the parts of the target that the stage reads."""

    def options(self) -> Mapping[str, Any]:
        """Whatever else it depends on, as JSON values."""

    def build(self, work: Work) -> T_co:
        """Do it.

        Raises:
            Pth2omError: it cannot be done.
        """

    def restored(self, value: Any) -> T_co:  # noqa: ANN401 - JSON
        """The result from what its ``to_json`` gave."""


@dataclass(frozen=True)
class Done(Generic[T]):
    """A stage's result, the artifact that holds it, and the digests of what it was made of, by role."""

    result: T
    artifact: Artifact
    inputs: Mapping[str, str]


def key_of(stage: Stage[Any]) -> Key:
    """What the store calls the artifact of ``stage``."""
    libraries = {library: version_of(library) for library in stage.libraries}
    return Key(stage.name, stage.version, stage.inputs(), stage.options(), libraries, stage.label)


def run(stage: Stage[T], store: Store, progress: Progress = terminal) -> Done[T]:
    """The result of ``stage``, from the store or built now.

    A failed stage is not tried again, because that can take an hour, unless the failure was transient: a lost link, a
    crash, a full disk or a time-out is not the model's fault.

    Raises:
        Pth2omError: what the stage raises.
        StoreError: the store cannot be written.
    """
    key = key_of(stage)
    if key.digest in store.failures:
        raise copy.copy(store.failures[key.digest])

    def build(folder: Path) -> None:
        result = stage.build(Work(folder, store.resume(key), progress))
        (folder / _RESULT).write_text(json.dumps(result.to_json(), ensure_ascii=False), encoding="utf-8")

    try:
        artifact = store.artifact(key, build)
    except Pth2omError as error:
        if not _is_transient(error):
            # A copy without the traceback, which would hold what the stage failed on.
            store.failures[key.digest] = copy.copy(error)
        raise
    return Done(stage.restored(artifact.json(_RESULT)), artifact, key.inputs)


_MACHINE = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "ENOMEM", "EMFILE", "ENFILE", "EAGAIN", "EINTR", "ESTALE", "EROFS")
    if hasattr(errno, name)
)
"""Errors of the system that are the machine's: a full disk, no memory, too many open files."""


def _is_transient(error: BaseException) -> bool:
    """Whether trying again may succeed: the error itself is of that kind, or what it was made of is."""
    for seen in causes(error):
        lost = isinstance(seen, MemoryError | ConnectionError | TimeoutError | subprocess.TimeoutExpired)
        machine = isinstance(seen, OSError) and seen.errno in _MACHINE
        if lost or machine or (isinstance(seen, Pth2omError) and seen.transient):
            return True
    return False


def forget(stage: Stage[Any], store: Store) -> None:
    """Remove the artifact of ``stage``, if there is one, so that it is built anew."""
    store.forget(key_of(stage))


# --- measurements -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Value:
    """JSON values as a stage's result."""

    value: Any

    def to_json(self) -> Any:  # noqa: ANN401 - JSON
        """The values."""
        return self.value


@dataclass(frozen=True)
class Measurement:
    """A measurement as a stage.

    Attributes:
        name: of the measurement.
        version: of the code that measures (or, for what is computed from measurements, that judges).
        libraries: whose versions the value depends on.
        label: for people.
        digests: role -> digest of what is measured.
        asked: whatever else it depends on.
        measure: returns JSON values.
    """

    name: str
    version: int
    libraries: tuple[str, ...]
    label: str
    digests: Mapping[str, str]
    asked: Mapping[str, Any]
    measure: Callable[[Work], Any] = field(compare=False)

    def inputs(self) -> Mapping[str, str]:
        """See `Stage.inputs`."""
        return self.digests

    def options(self) -> Mapping[str, Any]:
        """See `Stage.options`."""
        return self.asked

    def build(self, work: Work) -> Value:
        """See `Stage.build`."""
        return Value(self.measure(work))

    def restored(self, value: Any) -> Value:  # noqa: ANN401 - JSON
        """See `Stage.restored`."""
        return Value(value)


# --- stages that the evidence has a record of -----------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """What the evidence says of a finished stage.

    Attributes:
        file: its main file.
        digest: of that file.
        provenance: who built it.
        findings: what was noticed.
        details: see `StageRecord`.
        command: the command line, where the stage is one.
    """

    file: Path
    digest: str
    provenance: Provenance
    findings: Sequence[Finding] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] = ()


class Conversion(Stage[T], Protocol[T]):
    """A stage on the way from checkpoint to OM."""

    @property
    def variant(self) -> str:
        """``fp16-bs1``, ``bs1``, or empty where the stage is the model's."""

    def shown(self, result: T, artifact: Artifact) -> Shown:
        """What the evidence says of it."""


@dataclass(frozen=True)
class Built:
    """A stage's artifact and what the evidence says of it.

    Attributes:
        artifact: its folder in the store.
        file: its main file.
        record: for the evidence.
    """

    artifact: Artifact
    file: Path
    record: StageRecord


def built(
    stage: Conversion[T], store: Store, model: str, records: MutableMapping[tuple[str, str], StageRecord]
) -> Built:
    """Run a conversion stage and record it.

    Args:
        stage: the step.
        store: where artifacts are kept.
        model: name of the spec.
        records: (variant, stage) -> record of this run; the new one is added.

    Raises:
        Pth2omError: see `run`.
    """
    done = run(stage, store)
    shown = stage.shown(done.result, done.artifact)
    record = StageRecord(
        model=model,
        variant=stage.variant,
        stage=stage.name,
        digest=shown.digest,
        key=done.artifact.key,
        cached=done.artifact.cached,
        seconds=done.artifact.seconds,
        provenance=shown.provenance,
        command=tuple(shown.command),
        inputs=dict(done.inputs),
        findings=tuple(shown.findings),
        details=shown.details,
    )
    # The first record tells whether this run built it; later look-ups of the same run would all report "cached".
    record = records.setdefault((stage.variant, stage.name), record)
    return Built(done.artifact, shown.file, record)
