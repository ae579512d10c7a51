"""Whether a changed graph computes what it did: ONNX Runtime before and after, on the same random inputs.

Both sides run with graph optimizations off and the same number of threads, so that a change that keeps the arithmetic
gives the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pth2om.graph.contract import EQUAL, HALF_ROUNDING, PassSettings
from pth2om.graph.document import Document
from pth2om.onnxfile.runtime import RefusedError, open_runtime, run_runtime
from pth2om.onnxfile.walking import STANDARD, all_graphs, integer, subgraphs
from pth2om.session import Array

if TYPE_CHECKING:
    from onnx import NodeProto, ValueInfoProto

FP16_MAX = 65504.0
SEEDS = 3
"""At most that many random inputs; only the first where one run takes longer than `_ENOUGH_SECONDS`."""

_ENOUGH_SECONDS = 0.1
_MOST_ELEMENTS = 2**26
_SIZES = (2, 1, 32, 64, 224, 16, 8, 640, 128, 4, 3, 48, 512)
"""Tried for open dimensions, in this order, until the model runs: small first; strides want 32 and more."""
_FLIPPED = 1e-4
"""Share of whole numbers that may differ under a bound above zero: an ArgMax between near-equal scores."""
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)

_RATE = 16000
"""What a whole-number scalar is tried with last: speech models take their sample rate as an input."""

Feeds = dict[str, Array]
Outputs = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """The result of a proof.

    Attributes:
        state: ``proven``, ``failed``, or ``impossible`` where the model did not run even before the change.
        difference: the largest relative L2 over all outputs and inputs; infinite where shapes or NaN places differ.
        output: where it is.
        reason: why it failed to run, where it did.
    """

    state: Literal["proven", "failed", "impossible"]
    difference: float = 0.0
    output: str = ""
    reason: str = ""


class Reference:
    """The outputs of the unchanged model; computed once, compared as often as needed.

    Args:
        document: the unchanged model.
        settings: its ``input_shapes`` are taken for open dimensions, its ``outputs`` are watched.
    """

    def __init__(self, document: Document, settings: PassSettings) -> None:
        self._document = document
        self._settings = settings
        self._answers: list[tuple[Feeds, Outputs]] | None = None
        self._refusal = ""
        self._session: Any = None
        self._running: Future[list[tuple[Feeds, Outputs]]] | None = None

    def begin(self) -> bool:
        """Start running the unchanged model beside what the caller does next; `answers` waits for it.

        Returns:
            False where ONNX Runtime does not even open it, which shows at once.
        """
        if self._answers is None and self._running is None and not self._refusal:
            try:
                self._opened()
            except RefusedError as error:
                self._refusal = str(error)
                return False
            executor = ThreadPoolExecutor(1)
            self._running = executor.submit(self._run)
            executor.shutdown(wait=False)
        return not self._refusal

    def answers(self) -> list[tuple[Feeds, Outputs]]:
        """Inputs and outputs of the unchanged model.

        Raises:
            RefusedError: it does not run, or not the same way twice.
        """
        if self._refusal:
            raise RefusedError(self._refusal)
        if self._answers is None:
            try:
                self._answers = self._running.result() if self._running is not None else self._run()
            except RefusedError as error:
                self._refusal = str(error)
                raise
        return self._answers

    def judge(self, changed: Document, bound: float, *, clipped: bool = False) -> Verdict:
        """Compare a changed model with the unchanged one.

        Args:
            changed: the model after the passes.
            bound: `EQUAL`, or the largest relative L2.
            clipped: compare what fp16 can hold: values beyond 65504 count as 65504, and NaN may become a number.
        """
        try:
            answers = self.answers()
        except RefusedError as error:
            return Verdict("impossible", reason=str(error))
        worst, place, over = 0.0, "", False
        try:
            session = open_session(changed)
            wanted = {value.name: value.type for value in session.get_inputs()}
            for feeds, expected in answers:
                fitting = {name: _as_type(feeds[name], wanted[name]) for name in wanted if name in feeds}
                got = run_runtime(session, fitting)
                for name, array in expected.items():
                    if name not in got:
                        return Verdict("failed", float("inf"), name, reason=f"output {name} is gone")
                    away = difference(array, got[name], bound, clipped=clipped)
                    if away > worst:
                        worst, place = away, name
                    half = bound > EQUAL and getattr(array, "dtype", None) == np.float16
                    over = over or not away <= (max(bound, HALF_ROUNDING) if half else bound)
        except RefusedError as error:
            return Verdict("failed", float("inf"), reason=str(error))
        return Verdict("failed" if over else "proven", worst, place)

    def _opened(self) -> Any:  # noqa: ANN401 - onnxruntime has no types
        """A session of the unchanged model, made once."""
        if self._session is None:
            if _is_random(self._document):
                raise RefusedError("the model draws random numbers")
            self._session = open_session(self._watched())
        return self._session

    def _watched(self) -> Document:
        outputs = self._settings.outputs
        return _watching(self._document, outputs) if outputs else self._document

    def _run(self) -> list[tuple[Feeds, Outputs]]:
        document, session = self._watched(), self._opened()
        refusal = "no inputs could be made for it"
        for sizes in _candidates(document, self._settings):
            for kind, feeds in enumerate(_feeds(document, sizes, 0)):
                start = time.perf_counter()
                try:
                    outputs = run_runtime(session, feeds)
                except RefusedError as error:
                    refusal = str(error)
                    continue
                seconds = time.perf_counter() - start
                return [(feeds, outputs), *self._more(session, document, sizes, kind, seconds)]
        raise RefusedError(refusal)

    def _more(
        self,
        session: Any,  # noqa: ANN401 - onnxruntime has no types
        document: Document,
        sizes: Mapping[str, tuple[int, ...]],
        kind: int,
        seconds: float,
    ) -> Iterator[tuple[Feeds, Outputs]]:
        if seconds > _ENOUGH_SECONDS:
            return
        for seed in range(1, SEEDS):
            feeds = list(_feeds(document, sizes, seed))[kind]
            try:
                yield feeds, run_runtime(session, feeds)
            except RefusedError:
                return  # the first input is what the proof stands on


def open_session(document: Document) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """ONNX Runtime over a document, graph optimizations off, its weights by reference.

    Raises:
        RefusedError: it refuses the model.
    """
    kinds = {tensor.name: tensor.data_type for tensor in document.graph.initializer}
    weights = {name: (array, kinds[name]) for name, array in document.feed_weights().items()}
    try:
        model = document.model.SerializeToString()
    except ValueError as error:  # more than protobuf holds
        raise RefusedError(str(error)) from None
    return open_runtime(model, optimize=False, initializers=weights)


def difference(expected: Any, got: Any, bound: float, *, clipped: bool = False) -> float:  # noqa: ANN401 - arrays, lists
    """How far apart two outputs are: 0.0 for bit-equal ones, else a relative L2, infinite where they do not compare.

    Args:
        expected: an array, or a list of arrays for a sequence.
        got: the same of the changed model.
        bound: under a bound above zero a few integers may differ (see `_FLIPPED`).
        clipped: see `Reference.judge`.
    """
    if isinstance(expected, list) or isinstance(got, list):
        if not isinstance(expected, list) or not isinstance(got, list) or len(expected) != len(got):
            return float("inf")
        pairs = zip(expected, got, strict=True)
        return max((difference(a, b, bound, clipped=clipped) for a, b in pairs), default=0.0)
    a, b = np.asarray(expected), np.asarray(got)
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind not in "fc":
        wrong = int(np.count_nonzero(a != b))
        if not wrong:
            return 0.0
        return bound if bound > EQUAL and wrong <= _FLIPPED * a.size else float("inf")
    if a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True):
        return 0.0
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    x, y = a.astype(wide), b.astype(wide)
    if clipped:
        y = np.where(np.isnan(x), 0.0, y)
        x = np.clip(np.nan_to_num(x, nan=0.0, posinf=FP16_MAX, neginf=-FP16_MAX), -FP16_MAX, FP16_MAX)
        y = np.clip(y, -FP16_MAX, FP16_MAX)
    finite = np.isfinite(x)
    if not np.array_equal(finite, np.isfinite(y)) or not np.array_equal(x[~finite], y[~finite], equal_nan=True):
        return float("inf")
    distance = float(np.linalg.norm(x[finite] - y[finite]))
    return distance / max(float(np.linalg.norm(x[finite])), 1e-12) if distance else 0.0


def _watching(document: Document, outputs: Sequence[str]) -> Document:
    """The unchanged model with those tensors (or those nodes' outputs) as its outputs."""
    from onnx import helper

    watched = document.clone()
    graph = watched.graph
    made = {name for node in graph.node for name in node.output}
    by_node = {node.name: node for node in graph.node if node.name}
    names = [
        name for word in outputs for name in ([word] if word in made or word not in by_node else by_node[word].output)
    ]
    declared = {value.name: value for value in graph.output}
    kept = [declared[name] if name in declared else helper.make_empty_tensor_value_info(name) for name in names if name]
    copies = [type(value).FromString(value.SerializeToString()) for value in kept]
    del graph.output[:]
    graph.output.extend(copies)
    return watched


def _candidates(document: Document, settings: PassSettings) -> Iterator[dict[str, tuple[int, ...]]]:
    """Concrete sizes of every input; open dimensions of one symbol get one size."""
    values = _real_inputs(document)
    fixed: dict[str, tuple[int, ...]] = {}
    open_ones = False
    for value in values:
        given = settings.input_shapes.get(value.name)
        if given and all(size > 0 for size in given):
            fixed[value.name] = tuple(given)
        else:
            open_ones = open_ones or any(dim.dim_value <= 0 for dim in value.type.tensor_type.shape.dim)
    batches = (2, 1) if open_ones else (1,)
    for size in _SIZES if open_ones else (1,):
        for batch in batches:
            shapes = dict(fixed)
            for value in values:
                if value.name not in fixed:
                    dims = value.type.tensor_type.shape.dim
                    shapes[value.name] = tuple(
                        int(dim.dim_value) if dim.dim_value > 0 else (batch if place == 0 and len(dims) > 1 else size)
                        for place, dim in enumerate(dims)
                    )
            if sum(int(np.prod(shape)) for shape in shapes.values()) <= _MOST_ELEMENTS:
                yield shapes


def _feeds(document: Document, sizes: Mapping[str, tuple[int, ...]], seed: int) -> Iterator[Feeds]:
    """Random inputs of those sizes: integers from {0, 1} first, then zeros (indices), ones (lengths), a rate."""
    values = _real_inputs(document)
    whole = any(value.type.tensor_type.elem_type in (2, 3, 4, 5, 6, 7, 12, 13) for value in values)
    for fill in (None, 0, 1, _RATE) if whole else (None,):
        random = np.random.default_rng(seed)
        yield {value.name: _draw(value, sizes[value.name], random, fill) for value in values}


def _draw(value: ValueInfoProto, shape: tuple[int, ...], random: np.random.Generator, fill: int | None) -> Array:
    from onnx import helper

    kind = value.type.tensor_type.elem_type
    if kind == 8:
        return np.full(shape, "a b", dtype=object)
    if kind == 9:
        return np.asarray(random.integers(0, 2, shape)).astype(bool)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind)) if kind else np.dtype(np.float32)
    if dtype.kind in "iu":
        if fill == _RATE and (dtype.itemsize < 4 or shape not in ((), (1,))):
            fill = 1
        return np.asarray(random.integers(0, 2, shape)).astype(dtype) if fill is None else np.full(shape, fill, dtype)
    return np.asarray(random.standard_normal(shape)).astype(dtype)


def _real_inputs(document: Document) -> list[ValueInfoProto]:
    constant = {tensor.name for tensor in document.graph.initializer}
    return [value for value in document.graph.input if value.name not in constant]


def _is_random(document: Document) -> bool:
    graphs = all_graphs(document.model)
    return any(_draws(node) for graph in graphs for node in graph.node) or any(
        _draws(node) for function in document.model.functions for node in function.node
    )


def _draws(node: NodeProto) -> bool:
    if node.domain not in STANDARD:
        return False
    if node.op_type == "Dropout":
        return integer(node, "training_mode", 0) == 1 or len(node.input) > 2
    return node.op_type in _RANDOM or any(_draws(inner) for graph in subgraphs(node) for inner in graph.node)


def _as_type(array: Array, wanted: str) -> Array:
    """A feed in the type that the changed model asks for: ``tensor(int32)`` where it was ``tensor(int64)``."""
    kinds = {"tensor(int32)": np.int32, "tensor(int64)": np.int64, "tensor(float)": np.float32}
    kind = kinds.get(wanted)
    return array.astype(kind) if kind is not None and array.dtype != kind else array
