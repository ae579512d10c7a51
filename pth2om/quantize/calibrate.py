"""One pass over the calibration images: the distribution of every activation to be quantized."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pth2om.errors import QuantizeError, reason_of
from pth2om.files import write_bytes
from pth2om.host import cores, return_memory, threads
from pth2om.quantize.histogram import Histogram
from pth2om.quantize.network import Array, open_session, run_session, shapes_of

Feeds = Mapping[str, Array]
Progress = Callable[[int, "int | None"], None]
"""Called after every batch with the number of finished batches and, if known, of all batches."""

MEMORY = 256 << 20
"""Bytes of activations that one inference may return; larger amounts take several inferences per batch."""
_SAVE_EVERY = 16
_STATE_FORMAT = 4


@dataclass
class Calibration:
    """The result of a calibration pass.

    Attributes:
        histograms: tensor -> its distribution.
        batches: inferences made.
        images: first axis of the inputs, summed.
        digest: chained sha256 of all feeds, so that two runs on the same images can be recognized.
        resumed: batches that came from an earlier, interrupted run.
        random: the feeds are random numbers, not data.
    """

    histograms: dict[str, Histogram]
    batches: int = 0
    images: int = 0
    digest: str = ""
    resumed: int = 0
    random: bool = False
    details: dict[str, Any] = field(default_factory=dict)


def calibrate(
    model: onnx.ModelProto,
    tensors: Mapping[str, int | None],
    feeds: Iterable[Feeds],
    *,
    total: int | None = None,
    state: Path | None = None,
    key: str = "",
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Calibration:
    """Measure ``tensors`` while ``model`` runs over ``feeds``.

    Memory use is one batch's activations (at most ``memory`` bytes at a time) plus 0.5 MB per tensor, whatever the
    number of batches.

    Args:
        model: the float model.
        tensors: tensor name -> axis of its channels, whose means are kept, or None.
        feeds: input name -> array, one mapping per batch; read once, one at a time.
        total: number of batches, if known; for `progress`.
        state: file in which the counts are saved every 16 batches; an interrupted pass over the same feeds continues
            from it. The caller removes it when it is no longer needed.
        key: what the state depends on apart from the feeds, e.g. the model's digest.
        memory: see above.
        progress: told after each batch.

    Raises:
        QuantizeError: there is no batch, or the feeds do not fit the model.
    """
    names = {value.name for value in model.graph.input}
    found = _load(state, key, tensors)
    sessions: list[tuple[Any, list[str]]] = []
    result = Calibration({name: Histogram() for name in tensors})
    chain = hashlib.sha256()
    chained: tuple[str, ...] = ("", "")
    pending = found
    saved = 0
    try:
        for batch in feeds:
            if not sessions:
                groups = groups_by_memory(model, [name for name in tensors if name not in names], batch, memory)
                sessions = [(_observing(model, group, tensors), group) for group in groups]
            _chain(chain, batch)
            result.batches += 1
            chained = (chained[-1], chain.hexdigest())
            result.images += _images(batch)
            if pending is not None and result.batches <= pending.batches:
                if result.batches == pending.batches:
                    if chained[-1] != pending.digest:
                        raise QuantizeError("quantize.state-of-other-data", where=str(state))
                    result.histograms, result.resumed = pending.histograms, pending.batches
                    saved = result.batches
                continue
            _observe(sessions, batch, result.histograms, tensors, names)
            result.digest = chained[-1]
            if progress is not None:
                progress(result.batches, total)
            if result.batches % _SAVE_EVERY == 0:
                return_memory()  # activations are allocated in many sizes, and the gaps between them add up
            if state is not None and result.batches - saved >= _SAVE_EVERY:
                _save(state, key, result)
                saved = result.batches
    except KeyboardInterrupt:
        counted = {number for one in result.histograms.values() for number in (one.batches, one.begun)}
        # If a tensor lacks the last batch or has only part of it, only the state saved before can be used.
        if state is not None and len(counted) == 1 and (done := counted.pop()) > saved:
            # The batch may have been counted completely although the interrupt came during it.
            result.digest = chained[-1 if done == result.batches else 0]
            result.batches = done
            _save(state, key, result)
        raise
    result.digest = chained[-1]
    if result.batches == 0:
        raise QuantizeError("quantize.no-data")
    if pending is not None and result.batches < pending.batches:
        raise QuantizeError("quantize.state-of-other-data", where=str(state))
    return result


def groups_by_memory(model: onnx.ModelProto, tensors: Sequence[str], batch: Feeds, memory: int) -> list[list[str]]:
    """Split tensors into groups whose values for one batch fit ``memory`` bytes; by inferred shape."""
    shapes = shapes_of(model)
    lead = _images(batch)
    groups: list[list[str]] = [[]]
    used = 0
    for name in tensors:
        shape = shapes.get(name)
        size = memory // 16 if shape is None else 4 * int(np.prod([lead if axis is None else axis for axis in shape]))
        if groups[-1] and used + size > memory:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return [group for group in groups if group]


def _observing(model: onnx.ModelProto, group: Sequence[str], tensors: Mapping[str, int | None]) -> Any:  # noqa: ANN401 - a session
    """A session of the model that returns what is counted for each tensor, in the order of `_parts`.

    The runtime computes codes, extremes and channel means itself, several times as fast as NumPy; only the counting
    remains. The model is unchanged when this returns.
    """
    nodes = []
    for name in group:
        parts = _parts(name, tensors[name])
        if len(parts) == 1:
            continue
        code, low, high = parts[:3]
        nodes.append(onnx.helper.make_node("Cast", [name], [code], to=onnx.TensorProto.FLOAT16))
        nodes.append(onnx.helper.make_node("ReduceMin", [name], [low], keepdims=0))
        nodes.append(onnx.helper.make_node("ReduceMax", [name], [high], keepdims=0))
        if len(parts) > 3:
            nodes.append(onnx.helper.make_node("GlobalAveragePool", [name], [parts[3]]))
    count = len(model.graph.node)
    model.graph.node.extend(nodes)
    try:
        return open_session(model, outputs=[part for name in group for part in _parts(name, tensors[name])])
    finally:
        del model.graph.node[count:]


def _parts(name: str, axis: int | None) -> tuple[str, ...]:
    """The tensors returned for one tensor: FP16 codes, smallest and largest value, means of its planes.

    A tensor with channels on the last axis (of a matrix product) is small and is returned itself.
    """
    if axis == -1:
        return (name,)
    kinds = ("code", "low", "high", "mean") if axis == 1 else ("code", "low", "high")
    return tuple(f"{name}.pth2om.{kind}" for kind in kinds)


def _observe(
    sessions: Sequence[tuple[Any, list[str]]],
    batch: Feeds,
    histograms: Mapping[str, Histogram],
    tensors: Mapping[str, int | None],
    inputs: set[str],
) -> None:
    images = _images(batch)
    for name in tensors:
        if name in inputs:
            histograms[name].update(np.asarray(batch[name], np.float32), tensors[name], images)
    for session, group in sessions:
        values = run_session(session, batch)

        def count(name: str, values: dict[str, Array] = values) -> None:
            found = [values.pop(part) for part in _parts(name, tensors[name])]
            if len(found) == 1:
                histograms[name].update(np.asarray(found[0], np.float32), tensors[name], images)
                return
            codes = np.ascontiguousarray(found[0]).view(np.uint16)
            total = None
            if len(found) > 3 and codes.size:
                means = np.asarray(found[3], np.float64)
                total = means.reshape(means.shape[:2]).sum(axis=0) * (codes.size / means.size)
            histograms[name].add(codes, float(found[1]), float(found[2]), total, images)

        # NumPy releases the interpreter lock while it counts, so threads can share the work.
        with ThreadPoolExecutor(min(4, threads() or cores())) as pool:
            for _ in pool.map(count, group):
                pass


def _images(batch: Feeds) -> int:
    first = next(iter(batch.values()), None)
    return int(first.shape[0]) if first is not None and first.ndim else 1


def _chain(chain: Any, batch: Feeds) -> None:  # noqa: ANN401 - hashlib's hash object has no public type
    for name in sorted(batch):
        value = np.ascontiguousarray(batch[name])
        chain.update(f"{name}:{value.dtype.str}:{value.shape}".encode())
        chain.update(value.data if value.size else b"")


def _save(path: Path, key: str, result: Calibration) -> None:
    """Write the state to a temporary file and rename it."""
    arrays: dict[str, Array] = {}
    names = list(result.histograms)
    for number, name in enumerate(names):
        for part, value in result.histograms[name].state().items():
            arrays[f"{number}/{part}"] = value
    head = {
        "format": _STATE_FORMAT,
        "key": key,
        "tensors": names,
        "batches": result.batches,
        "images": result.images,
        "digest": result.digest,
    }
    buffer = io.BytesIO()
    np.savez(buffer, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays)  # type: ignore[arg-type]  # arrays by name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, buffer.getvalue(), durable=True)
    except OSError as error:
        raise QuantizeError("quantize.not-writable", where=str(path.parent), reason=reason_of(error)) from None


def _load(path: Path | None, key: str, tensors: Mapping[str, int | None]) -> Calibration | None:
    """The state of an earlier run of the same calibration; None if it is missing, damaged or of another run."""
    if path is None or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            head = json.loads(file["head"].tobytes())
            if head["format"] != _STATE_FORMAT or head["key"] != key or head["tensors"] != list(tensors):
                return None
            histograms = {}
            for number, name in enumerate(head["tensors"]):
                parts = ("codes", "counts", "range", "seen", "channel_sum")
                histograms[name] = Histogram.from_state({part: file[f"{number}/{part}"] for part in parts})
    except (OSError, ValueError, KeyError, EOFError):
        return None
    except Exception:  # noqa: BLE001 - zipfile and zlib have their own errors; a damaged state is no state
        return None
    return Calibration(histograms, int(head["batches"]), int(head["images"]), str(head["digest"]))
