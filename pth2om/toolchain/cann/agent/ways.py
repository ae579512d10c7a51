"""Ways of running a model other than through `acl_binding`, and what they have in common.

A way is described by the other side, which has read the OM: ``by``; ``kind`` and ``gears`` as in `acl_binding.Model`;
``inputs`` and ``outputs`` with ``name``, ``dtype``, ``form`` (-1 where sizes differ) and, of outputs, ``largest`` (what
the OM records for its largest gear); and what one way alone needs: ``program``, ``options``.
"""

from __future__ import annotations

from typing import Any, Dict, List, Sequence, Tuple

from .shapes import ShapeError, Sizes, fits, in_order, written

Description = Dict[str, Any]
Results = Tuple[List[Tuple[str, Any]], Dict[str, int]]


class WayError(Exception):
    """An inference, or a load, that failed.

    Attributes:
        error: ``crash`` where a program ended badly, ``acl`` where a call returned an error, ``import`` where a module
            is missing, ``fallback`` where something else than the NPU computed, ``output`` where the results are not
            of the model's types and sizes.
        values: for the sentence.
    """

    def __init__(self, error: str, **values: Any) -> None:
        super().__init__("%s %s" % (error, values))
        self.error = error
        self.values = values


def opened(description: Description, path: str, device: int) -> Any:
    """A loaded model with ``run(feeds)``, ``facts`` and ``close()``.

    Args:
        description: see the module.
        path: of the OM, or of the ONNX file.
        device: number of the NPU.

    Raises:
        WayError: it cannot be loaded.
    """
    by = description["by"]
    if by == "msame":
        from .msame import Msame

        return Msame(description, path, device)
    if by == "ais_bench":
        from .ais_bench import AisBench

        return AisBench(description, path, device)
    from .cann_provider import CannProvider

    return CannProvider(description, path, device)


def fed(description: Description, feeds: Dict[str, Any]) -> List[Any]:
    """The arrays in the model's order.

    Raises:
        ShapeError: they do not fit its inputs.
    """
    ordered = in_order(description["inputs"], feeds)
    for entry, array in zip(description["inputs"], ordered):
        if not fits(entry["form"], array.shape):
            raise ShapeError("size", name=entry["name"], wanted=written(entry["form"]), given=written(array.shape))
    return ordered


def forms(description: Description) -> List[Sizes]:
    """Of the inputs."""
    return [list(entry["form"]) for entry in description["inputs"]]


def share(description: Description, entry: Dict[str, Any], gear: Sizes) -> Sizes:
    """The form of an output when a gear ran: of the batch, that share of the largest gear's size.

    Args:
        description: see the module.
        entry: of the output.
        gear: of `gear_of`; empty for a model without gears.
    """
    if description["kind"] != "batch" or not gear:
        return list(entry["form"])
    most = max(size for (size,) in description["gears"])
    return [size if size >= 0 else largest * gear[0] // most for size, largest in zip(entry["form"], entry["largest"])]


def named(description: Description, arrays: Sequence[Any], gear: Sequence[int] = ()) -> List[Tuple[str, Any]]:
    """The results under the model's names.

    Args:
        description: see the module.
        arrays: of the outputs.
        gear: that ran, where the model has gears.

    Raises:
        WayError: there are more or fewer than the model's, or one is of another type or size.
    """
    import numpy as np

    entries = description["outputs"]
    if len(arrays) != len(entries):
        raise WayError("output", name="", wanted="%d outputs" % len(entries), given="%d" % len(arrays))
    found = []
    for entry, result in zip(entries, arrays):
        array = np.ascontiguousarray(result)
        shape = [int(size) for size in np.shape(result)]  # NumPy makes one axis of none
        form = share(description, entry, list(gear))
        if array.dtype.name != entry["dtype"] or not fits(form, shape):
            wanted = "%s %s" % (entry["dtype"], written(form))
            given = "%s %s" % (array.dtype.name, written(shape))
            raise WayError("output", name=entry["name"], wanted=wanted, given=given)
        found.append((entry["name"], array.reshape(shape)))
    return found
