"""PyTorch as a session: the reference everything else is compared with."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from pth2om.errors import ExportError, first_line
from pth2om.session import Array, Feeds, Provenance, TensorSpec
from pth2om.spec import Input
from pth2om.store import version_of

if TYPE_CHECKING:
    import torch


class TorchSession:
    """Runs a module on this CPU in float32, eval mode, without gradients.

    Args:
        load: gives the module; called on the first run only.
        inputs: the spec's inputs, in the order of the module's arguments.
        output_names: names of the flattened outputs; shorter lists are completed as `output_names` does.
        digest: identifies weights, net and PyTorch version.
        threads: intra-op threads; None leaves PyTorch's choice.
        provenance: what evidence calls it; default PyTorch and its version.
        around: entered around whatever runs the module's code.
    """

    def __init__(
        self,
        load: Callable[[], torch.nn.Module],
        inputs: Sequence[Input],
        output_names: Sequence[str],
        *,
        digest: str,
        threads: int | None = None,
        provenance: Provenance | None = None,
        around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._load = load
        self._around = around
        self._provenance = provenance
        self._inputs = tuple(inputs)
        self._output_names = tuple(output_names)
        self._digest = digest
        self._threads = threads
        self._module: torch.nn.Module | None = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The spec's inputs with a dynamic batch axis."""
        return tuple(
            TensorSpec(entry.name, (None, *entry.shape) if entry.batched else entry.shape, np.dtype(entry.dtype))
            for entry in self._inputs
        )

    @functools.cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, found by running one sample of zeros."""
        feeds = {entry.name: np.zeros(entry.shape_of(1), entry.dtype) for entry in self._inputs}
        return tuple(TensorSpec(name, (None, *array.shape[1:]), array.dtype) for name, array in self.run(feeds).items())

    @property
    def digest(self) -> str:
        """See `Session.digest`."""
        return self._digest

    @property
    def provenance(self) -> Provenance:
        """PyTorch and its version."""
        return self._provenance or Provenance("torch", version_of("torch"), "host")

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """See `Session.run`.

        Raises:
            ExportError: the net fails on these feeds.
        """
        import torch

        if self._module is None:
            self._module = self._load().eval()
            if self._threads is not None:
                torch.set_num_threads(self._threads)
        tensors = [torch.from_numpy(np.array(feeds[entry.name], copy=True)) for entry in self._inputs]
        with torch.inference_mode():
            try:
                with self._around():
                    given = self._module(*tensors)
                arrays = [tensor.numpy() for tensor in flat_tensors(given)]
            except (ExportError, KeyboardInterrupt):
                raise
            except BaseException as error:  # whatever the net's own code raises, sys.exit() and skips too
                raise ExportError("export.forward-failed", reason=first_line(error)) from error
        return dict(zip(output_names(self._output_names, len(arrays)), arrays, strict=True))

    def stream(self, each: Iterable[Feeds]) -> Iterator[dict[str, Array]]:
        """Many inferences, in the caller's thread; see `pth2om.session.stream`.

        PyTorch's threads wait for each other in every layer: beside a caller at work on one of their cores, an
        inference of a small net took twice as long.
        """
        for feeds in each:
            yield self.run(feeds)

    def close(self) -> None:
        """Drop the module."""
        self._module = None

    def __enter__(self) -> TorchSession:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def output_names(asked: Sequence[str], count: int) -> list[str]:
    """Names of ``count`` outputs: the spec's, else ``output``, else ``output0``, ``output1``...

    Raises:
        ExportError: the spec names another number of outputs than the module has.
    """
    if asked:
        if len(asked) != count:
            raise ExportError("export.output-count", named=len(asked), count=count, names=", ".join(asked))
        return list(asked)
    return ["output"] if count == 1 else [f"output{index}" for index in range(count)]


def flat_tensors(value: Any) -> list[torch.Tensor]:  # noqa: ANN401 - whatever a forward returns
    """The tensors of a forward's result, depth first; mappings in their own order, None left out.

    Raises:
        ExportError: it holds something that is no tensor.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in flat_tensors(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in flat_tensors(item)]
    raise ExportError("export.output-kind", kind=type(value).__name__)
