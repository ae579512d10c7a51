"""What stands for a pickle's objects: descriptions, never the objects.

A class or function is a `Name`, a call of one an `Inert`. A short allow-list (tensor and array reconstruction, ordered
dictionaries, sets, bytes) is *interpreted* here; the functions of those names are never called.

Tensor functions: ``torch/_utils.py``; storages: ``torch/serialization.py``; arrays: NumPy's ``ndarray.__reduce__``; NPU
tensors: ``torch_npu/utils/storage.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class PickleError(ValueError):
    """The bytes are no pickle that this reader can follow."""


@dataclass(frozen=True)
class Name:
    """A class or function a pickle names; never imported."""

    path: str


@dataclass(eq=False)
class Inert:
    """An object of a class that is not built.

    Attributes:
        path: ``module.Class`` or ``module.function`` that would have been called.
        arguments: what it would have been called with.
        state: the attributes of the object.
        items: what would have been appended to or set in it, for list and dict subclasses.
    """

    path: str
    arguments: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Storage:
    """A reference to a block of numbers outside the pickle.

    Attributes:
        key: its name in the archive.
        dtype: torch name of the element type, e.g. ``float16``; ``uint8`` for untyped storages.
        count: number of elements.
    """

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor that is described, not yet read.

    Attributes:
        storage: the block it views.
        dtype: torch name of the element type.
        offset, shape, stride: in elements of `dtype`.
        problem: why its numbers cannot be read (sparse, quantized, meta); None where they can.
    """

    storage: Storage | None
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    problem: str | None = None


@dataclass(eq=False)
class Array:
    """A NumPy array or scalar: its dtype text (``<f4``), shape and raw bytes."""

    dtype: str = ""
    shape: tuple[int, ...] = ()
    data: bytes = b""
    fortran: bool = False
    problem: str | None = None


EMBEDDED = "torch.storage._load_from_bytes"
"""How ``pickle.dump`` (without torch.save) writes a storage: as the bytes of a torch.save of its own."""

STORAGE_TYPES: Mapping[str, str] = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QInt32Storage": "int32",
}

_PLAIN = frozenset(
    {
        "collections.OrderedDict",
        "collections.Counter",
        "collections.defaultdict",
        "collections.deque",
        "torch.Size",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
        "torch.Tensor",
        "torch.serialization._get_layout",
        "_codecs.encode",
        "builtins.set",
        "builtins.frozenset",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.slice",
        "builtins.range",
        "builtins.list",
        "builtins.dict",
        "builtins.tuple",
        "builtins.int",
        "builtins.float",
        "builtins.str",
        "builtins.bool",
        "builtins.object",
        "numpy.dtype",
        "numpy.ndarray",
    }
)
_PLAIN_PREFIXES = ("torch._utils._rebuild_", "torch._tensor._rebuild_from_type_v2", "torch.jit._pickle.")


def is_plain(path: str) -> bool:
    """Whether a name in a pickle stands for data (a tensor, a dictionary), not for a class or function of its own."""
    if path in _PLAIN or path.startswith(_PLAIN_PREFIXES):
        return True
    module, _, name = path.rpartition(".")
    if name in STORAGE_TYPES and module in ("torch", "torch.storage", "torch.cuda", "torch_npu", "torch.npu"):
        return True
    if module == "torch":
        return name in _TORCH_VALUES or name.removesuffix("_") in _TORCH_VALUES
    if module in _NUMPY_MODULES:
        return name in ("_reconstruct", "scalar", "_frombuffer")
    if path.endswith("._rebuild_npu_tensor"):
        return True
    return module.startswith("numpy.dtypes") or path == EMBEDDED


_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
_TORCH_VALUES = frozenset(
    """float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex32 complex64
    complex128 half float double short int long qint8 quint8 qint32 float8_e4m3fn float8_e5m2 float8_e4m3fnuz
    float8_e5m2fnuz strided sparse_coo sparse_csr per_tensor_affine per_channel_affine per_tensor_symmetric
    per_channel_symmetric per_channel_affine_float_qparams contiguous_format channels_last preserve_format""".split()  # noqa: SIM905 - a table of words, not forty quoted lines
)


def hashable(value: Any) -> Any:  # noqa: ANN401 - a dictionary key
    """A key that can be hashed without running far: numbers and texts as they are, everything else by identity.

    Hashing a tuple nested a hundred thousand deep overflows the C stack, so tuples of anything but scalars are not.
    """
    if value is None or isinstance(value, str | int | float | bytes | bool):
        return value
    if isinstance(value, tuple) and all(item is None or isinstance(item, str | int | float | bytes) for item in value):
        return value
    return Inert("(key)", (value,))


def text_keys(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """The entries of ``mapping`` whose keys are text."""
    return {key: value for key, value in mapping.items() if isinstance(key, str)}


def storage(reference: Any) -> Any:  # noqa: ANN401 - a persistent id
    """``("storage", type, key, device, count[, view])`` as a `Storage`; anything else stays inert."""
    if not (isinstance(reference, tuple) and len(reference) >= 5 and reference[0] in ("storage", b"storage")):
        return Inert("(persistent)", (reference,))
    kind, key, count = reference[1], reference[2], reference[4]
    if len(reference) > 5 and reference[5] is not None:
        return Inert("(storage view)", (reference,))
    key = key.decode("ascii", "replace") if isinstance(key, bytes) else str(key)
    dtype = STORAGE_TYPES.get(kind.path.rpartition(".")[2]) if isinstance(kind, Name) else None
    if dtype is None or not _is_count(count):
        return Inert("(storage)", (reference,))
    return Storage(key, dtype, count)


def _is_count(value: Any) -> bool:  # noqa: ANN401 - untrusted
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def called(function: Any, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401 - untrusted
    """What stands for ``function(*arguments)``: data where the name is on the allow-list, an `Inert` elsewhere."""
    if not isinstance(function, Name):
        return Inert("(call of no name)", (function, arguments))
    path = function.path
    rebuilt = _rebuilt(path, arguments)
    if rebuilt is not None:
        return rebuilt
    if path == "collections.OrderedDict" or path in ("collections.defaultdict", "collections.Counter", "builtins.dict"):
        return _as_dictionary(arguments)
    if path in ("builtins.list", "builtins.tuple", "torch.Size", "builtins.set", "builtins.frozenset") and arguments:
        items = list(arguments[0]) if isinstance(arguments[0], list | tuple | set | frozenset) else []
        return tuple(items) if path in ("builtins.tuple", "torch.Size") else items
    if path in ("builtins.list", "collections.deque"):
        return []
    if path == "builtins.set":
        return set()
    if path == "_codecs.encode" and arguments and isinstance(arguments[0], str):
        return arguments[0].encode("latin1", "replace")
    if path.startswith("torch.jit._pickle.") and arguments:
        return arguments[0]
    return Inert(path, arguments)


def _as_dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """``OrderedDict([[k, v], ...])`` (protocols 0 and 1) and ``OrderedDict()`` (2 and above)."""
    for argument in arguments:
        if isinstance(argument, dict):
            return dict(argument)
        if isinstance(argument, list):
            pairs = [pair for pair in argument if isinstance(pair, list | tuple) and len(pair) == 2]
            return {hashable(pair[0]): pair[1] for pair in pairs}
    return {}


def _rebuilt(path: str, arguments: tuple[Any, ...]) -> Tensor | Array | None:
    """The tensor or array that a reconstruction function of that name describes; None where it is none."""
    name = path.rpartition(".")[2]
    if path.startswith("torch._utils._rebuild_") or name == "_rebuild_npu_tensor":
        return _rebuilt_tensor(name, arguments)
    if path in ("torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.Tensor"):
        return arguments[0] if arguments and isinstance(arguments[0], Tensor) else None
    if path == "torch._tensor._rebuild_from_type_v2" and len(arguments) >= 3:
        inner, parameters = arguments[0], arguments[2]
        return called(inner, parameters) if isinstance(parameters, tuple) and isinstance(inner, Name) else None
    if path == "numpy.dtype" and arguments and isinstance(arguments[0], str | bytes):
        text = arguments[0].decode("ascii", "replace") if isinstance(arguments[0], bytes) else arguments[0]
        return Array(dtype=text)
    if path.startswith("numpy.dtypes.") and not arguments:
        return None
    if path.rpartition(".")[0] in _NUMPY_MODULES:
        return _rebuilt_array(name, arguments)
    return None


def _rebuilt_tensor(name: str, arguments: tuple[Any, ...]) -> Tensor | None:
    if name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
        return arguments[0] if arguments and isinstance(arguments[0], Tensor) else None
    plain = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_npu_tensor")
    if name not in plain:
        kind = name.removeprefix("_rebuild_").removesuffix("_no_storage").replace("_", " ")
        return Tensor(None, "float32", 0, (), (), problem=kind)
    if len(arguments) < 4 or not isinstance(arguments[0], Storage):
        return Tensor(None, "float32", 0, (), (), problem="tensor without storage")
    storage, offset, shape, stride = arguments[:4]
    dtype = storage.dtype
    if name == "_rebuild_tensor_v3" and len(arguments) > 6 and isinstance(arguments[6], Name):
        dtype = arguments[6].path.rpartition(".")[2]
    numbers = (offset, *shape, *stride) if isinstance(shape, tuple) and isinstance(stride, tuple) else (-1,)
    if len(shape) != len(stride) or len(shape) > 64 or not all(_is_count(number) for number in numbers):
        raise PickleError("a tensor whose shape is no shape")
    return Tensor(storage, dtype, offset, shape, stride)


def _rebuilt_array(name: str, arguments: tuple[Any, ...]) -> Array | None:
    if name == "_reconstruct":
        return Array(problem="array without data")
    if name == "scalar" and len(arguments) == 2 and isinstance(arguments[0], Array):
        data = arguments[1]
        data = data.encode("latin1", "replace") if isinstance(data, str) else data
        return Array(arguments[0].dtype, (), data) if isinstance(data, bytes) else Array(problem="object")
    if name == "_frombuffer" and len(arguments) >= 3 and isinstance(arguments[1], Array):
        data, dtype, shape = arguments[0], arguments[1].dtype, arguments[2]
        if isinstance(data, bytes | bytearray) and isinstance(shape, tuple):
            return Array(dtype, shape, bytes(data), fortran=len(arguments) > 3 and arguments[3] == "F")
    return None


def set_array_state(target: Array, state: Any) -> None:  # noqa: ANN401 - untrusted
    """``ndarray.__setstate__((version, shape, dtype, fortran, data))`` and ``dtype.__setstate__((3, "<", ...))``."""
    if not isinstance(state, tuple):
        return
    if len(state) >= 5 and isinstance(state[2], Array) and isinstance(state[1], tuple):
        data = state[4].encode("latin1", "replace") if isinstance(state[4], str) else state[4]
        target.dtype, target.shape, target.fortran = state[2].dtype, state[1], bool(state[3])
        target.problem = None if isinstance(data, bytes | bytearray) else "object array"
        target.data = bytes(data) if isinstance(data, bytes | bytearray) else b""
    elif len(state) >= 2 and state[1] in ("<", ">", "|", "=", b"<", b">", b"|", b"="):
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        target.dtype = order + target.dtype.lstrip("<>|=")
