"""ONNX Runtime behind the `Session` protocol."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from pth2om import host
from pth2om.errors import ToolchainError, reason_of
from pth2om.files import is_file
from pth2om.onnxfile.runtime import (
    CPU,
    RefusedError,
    available_providers,
    open_runtime,
    run_runtime,
    runtime_version,
)
from pth2om.session import Array, Feeds, Provenance, TensorSpec
from pth2om.store import file_digest, version_of

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(complex64)": np.complex64,
    "tensor(complex128)": np.complex128,
    "tensor(string)": np.object_,
}


class OnnxSession:
    """An ONNX file run by ONNX Runtime; the runtime is imported and the file opened when something first needs it.

    Args:
        path: the ONNX file.
        digest: sha256 of the file where it is known already (`pth2om.store.Store.digest` remembers it); else computed
            when asked for.
        threads: intra-op threads; None leaves ONNX Runtime's own choice.
        providers: execution providers in order of preference. When the CPU is not among them and the asked provider
            is absent, or would leave nodes to the CPU, opening fails: a silent fall-back would measure something else.
        optimize: ``all`` graph optimizations (ONNX Runtime's default) or ``none``.
        provenance: who computes, where it is not plain ONNX Runtime.
        ways: how many inferences at a time it is made for, see `ways_of`; each takes its share of the threads, which do
            not spin. None: its latency is measured, so it runs one at a time, and its threads spin.

    Attributes:
        ways: how many inferences it takes at a time.
    """

    def __init__(
        self,
        path: Path,
        *,
        digest: str | None = None,
        threads: int | None = None,
        providers: Sequence[str] = (CPU,),
        optimize: Literal["all", "none"] = "all",
        provenance: Provenance | None = None,
        ways: int | None = None,
    ) -> None:
        self.path = Path(path)
        self._digest = digest
        self.ways = ways or 1
        self._threads = threads if ways is None else max(1, (threads or host.threads() or host.cores()) // ways)
        self._spinning = ways is None
        self._providers = tuple(providers)
        self._optimize = optimize
        self._provenance = provenance
        self._closed = False
        self._opened: Any = None
        self._opening = threading.Lock()

    @cached_property
    def digest(self) -> str:
        """sha256 of the file's bytes.

        Raises:
            ToolchainError: the file cannot be read.
        """
        if self._digest is not None:
            return self._digest
        try:
            return file_digest(self.path)
        except OSError as error:
            raise ToolchainError("onnx_session.unreadable", where=str(self.path), reason=reason_of(error)) from None

    @cached_property
    def provenance(self) -> Provenance:
        """Name and version of ONNX Runtime, unless another was given."""
        if self._provenance is not None:
            return self._provenance
        return Provenance("onnxruntime", _version(), "host")

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The graph's inputs; symbolic dimensions are None."""
        return tuple(self._spec(value) for value in self._runtime.get_inputs())

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The graph's outputs; symbolic dimensions are None."""
        return tuple(self._spec(value) for value in self._runtime.get_outputs())

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """One inference.

        Args:
            feeds: one array per input, of the input's dtype and shape.

        Returns:
            One array per output, in the order of `outputs`; an absent optional output is left out.

        Raises:
            ToolchainError: a feed is missing, unknown, or of another dtype or shape; or ONNX Runtime refused to run.
        """
        runtime = self._runtime
        check_feeds(self.inputs, feeds, str(self.path))
        try:
            return run_runtime(runtime, feeds)
        except RefusedError as error:
            raise ToolchainError("onnx_session.failed", where=str(self.path), reason=str(error)) from error

    def close(self) -> None:
        """Free the runtime's memory; the session cannot run afterwards."""
        with self._opening:
            self._closed = True
            self._opened = None

    def open_ahead(self) -> None:
        """Begin to open the file in a thread; what needs it waits for that, and gets the errors."""
        if self._opened is None and not self._closed:
            threading.Thread(target=self._try_to_open, name="opening").start()

    def _try_to_open(self) -> None:
        with contextlib.suppress(ToolchainError):
            _ = self._runtime

    def __enter__(self) -> OnnxSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _runtime(self) -> Any:  # noqa: ANN401 - onnxruntime has no types
        with self._opening:  # several threads may begin at once
            if self._opened is None:
                self._opened = self._checked()
            return self._opened

    def _checked(self) -> Any:  # noqa: ANN401 - onnxruntime has no types
        if self._closed:
            raise ToolchainError("onnx_session.closed", where=str(self.path))
        if not is_file(self.path):
            raise ToolchainError("onnx_session.missing", where=str(self.path))
        available = available_providers()
        for provider in self._providers[:1] if CPU in self._providers else self._providers:
            if provider not in available:
                raise ToolchainError(
                    "onnx_session.no-provider",
                    where=str(self.path),
                    provider=provider,
                    available=", ".join(available),
                )
        try:
            runtime = self._open()
        except RefusedError as error:
            raise ToolchainError("onnx_session.not-opened", where=str(self.path), reason=str(error)) from error
        taken = runtime.get_providers()
        if taken[0] != self._providers[0]:
            raise ToolchainError(
                "onnx_session.fell-back", where=str(self.path), provider=self._providers[0], taken=str(taken[0])
            )
        return runtime

    def _open(self) -> Any:  # noqa: ANN401 - onnxruntime has no types
        return open_runtime(
            self.path,
            threads=self._threads,
            optimize=self._optimize == "all",
            providers=self._providers,
            spinning=self._spinning,
        )

    def _spec(self, value: Any) -> TensorSpec:  # noqa: ANN401 - onnxruntime.NodeArg
        if value.type.startswith(("seq(", "optional(")):
            return TensorSpec(value.name, (), np.dtype(np.object_))
        kind = _DTYPES.get(value.type)
        if kind is None:
            raise ToolchainError("onnx_session.no-dtype", where=str(self.path), name=value.name, type=str(value.type))
        shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in value.shape)
        return TensorSpec(value.name, shape, np.dtype(kind))


_MOST_WAYS = 4
_LARGE_INPUTS = 8 << 20  # bytes of one inference


def ways_of(inputs: Sequence[TensorSpec], threads: int | None) -> int:
    """How many inferences of a model should be under way at a time, where none of them is timed.

    Threads of one inference of a small net wait for each other in every layer, those of several inferences in none. A
    large one keeps its threads busy by itself, and the activations of several would take much memory.

    Args:
        inputs: of the model.
        threads: of all of them together; None: what ``OMP_NUM_THREADS`` says, else one for each core.
    """
    sizes = [math.prod(side or 1 for side in spec.shape) * spec.dtype.itemsize for spec in inputs]
    if sum(sizes) > _LARGE_INPUTS or any(len(spec.shape) > 4 for spec in inputs):  # volumes grow in three directions
        return 1
    return max(1, min(threads or host.threads() or host.cores(), _MOST_WAYS))


def check_feeds(inputs: Sequence[TensorSpec], feeds: Feeds, where: str) -> None:
    """Whether ``feeds`` are what ``inputs`` ask for.

    Raises:
        ToolchainError: naming the first feed that is missing, unknown, or of another dtype or shape.
    """
    known = {spec.name for spec in inputs}
    for name in feeds:
        if name not in known:
            raise ToolchainError(
                "onnx_session.unknown-feed", where=where, name=name, inputs=", ".join(sorted(known)) or "-"
            )
    for spec in inputs:
        if spec.name not in feeds:
            raise ToolchainError(
                "onnx_session.missing-feed", where=where, name=spec.name, given=", ".join(feeds) or "-"
            )
        array = feeds[spec.name]
        if spec.dtype == np.object_ and not isinstance(array, np.ndarray):
            continue  # a sequence or optional: ONNX Runtime checks its elements
        if array.dtype != spec.dtype and not (spec.dtype == np.object_ and array.dtype.kind in "USO"):
            raise ToolchainError(
                "onnx_session.feed-dtype",
                where=where,
                name=spec.name,
                wanted=str(spec.dtype),
                given=str(array.dtype),
            )
        fits = len(array.shape) == len(spec.shape) and all(
            want is None or want == got for want, got in zip(spec.shape, array.shape, strict=True)
        )
        # An input declared without a shape reads as rank 0 in ONNX Runtime; only it knows then.
        if not fits and spec.shape:
            wanted = "x".join("?" if size is None else str(size) for size in spec.shape)
            given = "x".join(str(size) for size in array.shape) or "()"
            raise ToolchainError("onnx_session.feed-shape", where=where, name=spec.name, wanted=wanted, given=given)


def _version() -> str:
    """ONNX Runtime's version without importing it: a run that finds its measurements in the store opens no session."""
    for name in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-cann", "onnxruntime-directml"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return version_of(name)
    return runtime_version()
