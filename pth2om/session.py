"""Things that run: one protocol for PyTorch, ONNX and OM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Feeds = Mapping[str, Array]

Ground = Literal["host", "emulated", "double", "device"]
"""Where a figure comes from: this CPU, the emulator, a test double, or a real NPU."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape (None = dynamic) and NumPy dtype of one input or output."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[np.generic]


@dataclass(frozen=True)
class Provenance:
    """Who computed something.

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
        """Free what the session holds; it cannot run afterwards."""

    def __enter__(self) -> Session:
        """The session itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
