"""The one place that opens ONNX Runtime: every session's options, providers and refusals."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om import host
from pth2om.errors import first_line
from pth2om.onnxfile.functions import apart

Array = npt.NDArray[np.generic]

CPU = "CPUExecutionProvider"
BFLOAT16 = 16
"""Of ``TensorProto.DataType``: NumPy has no such type, so its values come as uint16."""


class RefusedError(Exception):
    """ONNX Runtime does not take a model, or does not run it on these inputs; the first line of its reason as text."""


def open_runtime(
    model: Path | bytes,
    *,
    threads: int | None = None,
    optimize: bool = True,
    providers: Sequence[str] = (CPU,),
    lean: bool = False,
    spinning: bool = False,
    initializers: Mapping[str, tuple[Array, int]] | None = None,
    written: Path | None = None,
) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """An ``onnxruntime.InferenceSession``; nothing is logged, because what it logs it also raises.

    Args:
        model: a file, or a serialized model without external data.
        threads: intra-op threads; None: what ``OMP_NUM_THREADS`` says, else ONNX Runtime's own choice.
        optimize: whether the graph is optimized; without it, nodes run as they are written.
        providers: in order of preference. Without the CPU among them no node may fall back to it.
        lean: memory grows by what is asked for, not by doubling.
        spinning: threads wait for work at full speed, as ONNX Runtime's own choice is, for what is timed. Beside other
            work they only take its time: on two busy cores the acceptance of a small model took 1.4 times as long.
        initializers: name to values and ``TensorProto.DataType`` of initializers whose data the model refers to.
        written: where the optimized model is written.

    Raises:
        RefusedError: ONNX Runtime does not take the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Nodes in the file's order, and tensors allocated one by one: the default order computes all branches before it
    # adds up the first two, and a pattern of a run holds the peak twice. Results and times are the same.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.enable_mem_pattern = False
    threads = threads or host.threads()
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if CPU not in providers:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if written is not None:
        options.optimized_model_filepath = str(written)
    chosen: list[Any] = list(providers)
    if lean:
        chosen = [(name, {"arena_extend_strategy": "kSameAsRequested"}) if name == CPU else name for name in chosen]
    try:
        if initializers:
            values = [_value(array, kind) for array, kind in initializers.values()]
            options.add_external_initializers(list(initializers), values)
        source = model if isinstance(model, bytes) else str(model)
        try:
            return onnxruntime.InferenceSession(source, options, providers=chosen)
        except Exception as error:  # of no common base, as below
            other = _apart(model) if "No Op registered for" in str(error) else None
            if other is None:
                raise
            return onnxruntime.InferenceSession(other, options, providers=chosen)
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        raise RefusedError(first_line(error)) from error


def _apart(model: Path | bytes) -> bytes | None:
    """The model without functions in its standard domain; None where it has none there."""
    import onnx

    proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    return proto.SerializeToString() if apart(proto) else None


def run_runtime(
    session: Any,  # noqa: ANN401 - onnxruntime has no types
    feeds: Mapping[str, Array],
    outputs: Sequence[str] | None = None,
    *,
    seconds: float | None = None,
) -> dict[str, Any]:
    """One inference.

    Args:
        session: of `open_runtime`.
        feeds: one array per input.
        outputs: names of those wanted; all by default.
        seconds: ends a run that takes longer, between two of its nodes.

    Returns:
        Outputs by name; absent optional ones are left out.

    Raises:
        RefusedError: ONNX Runtime does not run it on these inputs.
    """
    names = list(outputs) if outputs is not None else [value.name for value in session.get_outputs()]
    options = timer = None
    if seconds is not None:
        import onnxruntime

        options = onnxruntime.RunOptions()
        timer = threading.Timer(seconds, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
    try:
        values = session.run(names, dict(feeds), options)
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        raise RefusedError(first_line(error)) from error
    finally:
        if timer is not None:
            timer.cancel()
    return {name: value for name, value in zip(names, values, strict=True) if value is not None}


def available_providers() -> list[str]:
    """The execution providers of this installation."""
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def runtime_version() -> str:
    """The version of the installed ONNX Runtime."""
    import onnxruntime

    return str(onnxruntime.__version__)


def _value(array: Array, kind: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
    import onnxruntime

    if kind == BFLOAT16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), kind)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)
