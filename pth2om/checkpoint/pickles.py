"""Reading a pickle as data: nothing in it is imported, nothing in it is called.

Python's own unpickler runs what a file names. This one walks the opcodes with `pickletools` and builds plain data and
the descriptions of `pth2om.checkpoint.inert`. Opcodes: Python's ``pickletools`` documentation, protocols 0 to 5.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from pth2om.checkpoint.inert import (
    EMBEDDED,
    Array,
    Inert,
    Name,
    PickleError,
    Storage,
    Tensor,
    called,
    hashable,
    set_array_state,
    storage,
    text_keys,
)

MAXIMUM_OPERATIONS = 5_000_000
"""Opcodes of one pickle; a checkpoint with 10,000 tensors and its optimizer has about 500,000."""

_EMBEDDED_LIMIT = 1 << 31
_EMBEDDED_NAME = b"_load_from_bytes"

_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class Unpickler:
    """Reads one pickle from ``file``, leaving it just behind the STOP.

    Args:
        file: anything with ``read``, ``readline`` and ``tell``; reading past its end must give short results.

    Attributes:
        names: every class or function named, in order, data names included.
        tensors: every tensor described, whether it is reachable from the result or not.
        storages: every storage referred to.
        embedded: bytes of the storages that lie in the pickle itself, by key.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self.names: dict[str, None] = {}
        self.tensors: list[Tensor] = []
        self.storages: dict[Storage, None] = {}
        self.embedded: dict[str, bytes] = {}

    def load(self) -> Any:  # noqa: ANN401 - whatever was pickled
        """The pickled value as plain data, `Name`, `Inert`, `Storage`, `Tensor` and `Array`.

        Raises:
            PickleError: the bytes are no complete pickle.
        """
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(self._file)):
                if count > MAXIMUM_OPERATIONS:
                    raise PickleError("too many opcodes")
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, argument)
        except PickleError:
            raise
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, EOFError) as error:
            # A pickle that pops an empty stack, sets items of a number, names a memo that is not there...
            raise PickleError(f"{type(error).__name__}: {error}"[:200]) from None
        raise PickleError("it ends before its STOP")

    def _step(self, name: str, argument: Any) -> None:  # noqa: ANN401 - the opcode's argument
        if name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name in _PUSHED:
            self._stack.append(argument)
        elif name in _EMPTY:
            self._stack.append(_EMPTY[name]())
        else:
            action = _ACTIONS.get(name)
            if action is None:
                raise PickleError(f"opcode {name} is not supported")
            action(self, argument)

    # --- opcodes ------------------------------------------------------------------------------------------------

    def _marked(self) -> list[Any]:
        items = self._stack
        self._stack = self._marks.pop()
        return items

    def _nothing(self, _: object) -> None:
        """Protocol number and frame length: nothing to build."""

    def _mark(self, _: object) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise PickleError("tuple of too few items")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _container(self, make: Callable[[list[Any]], Any]) -> None:
        items = self._marked()
        self._stack.append(make(items))

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Inert):
            target.elements.extend(items)
        elif isinstance(target, set):
            target.update(hashable(item) for item in items)
        else:
            raise PickleError(f"append to {type(target).__name__}")

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Inert):
            target = target.items
        if not isinstance(target, dict):
            raise PickleError(f"item of {type(target).__name__}")
        for index in range(0, len(items) - 1, 2):
            target[hashable(items[index])] = items[index + 1]

    def _name(self, module: str, name: str) -> None:
        path = f"{_OLD_MODULES.get(module, module)}.{name}"
        self.names[path] = None
        self._stack.append(Name(path))

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._name(module, name)

    def _stack_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise PickleError("a name that is no text")
        self._name(module, name)

    def _reduce(self, _: object) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._call(function, arguments if isinstance(arguments, tuple) else (arguments,))

    def _call(self, function: object, arguments: tuple[Any, ...]) -> None:
        made = self._embedded(arguments) if function == Name(EMBEDDED) else called(function, arguments)
        if isinstance(made, Tensor):
            self.tensors.append(made)
        self._stack.append(made)

    def _embedded(self, arguments: tuple[Any, ...]) -> Storage | Inert:
        """A storage that lies in the pickle, as the bytes of a torch.save in the format before zip (see `archives`)."""
        data = arguments[0] if arguments else None
        if not isinstance(data, bytes) or len(data) > _EMBEDDED_LIMIT or data.count(_EMBEDDED_NAME):
            return Inert(EMBEDDED, arguments)
        file = io.BytesIO(data)
        for _ in range(3):
            Unpickler(file).load()
        inner = Unpickler(file).load()
        Unpickler(file).load()
        if not isinstance(inner, Storage) or int.from_bytes(file.read(8), "little") != inner.count:
            raise PickleError("a storage that is none")
        key = f"embedded-{len(self.embedded)}"
        self.embedded[key] = file.read()
        return Storage(key, inner.dtype, inner.count)

    def _new_keywords(self, _: object) -> None:
        keywords, arguments, function = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._call(function, arguments if isinstance(arguments, tuple) else (arguments,))
        made = self._stack[-1]
        if isinstance(made, Inert) and isinstance(keywords, dict):
            made.state.update(text_keys(keywords))

    def _instance(self, argument: str) -> None:
        items = self._marked()
        self._global(argument)
        function = self._stack.pop()
        self._call(function, tuple(items))

    def _object(self, _: object) -> None:
        items = self._marked()
        self._call(items[0], tuple(items[1:]))

    def _build(self, _: object) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Inert):
            parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
            for part in parts:
                if isinstance(part, dict):
                    target.state.update(text_keys(part))
            if not any(isinstance(part, dict) for part in parts):
                target.state["(state)"] = state
        elif isinstance(target, Array):
            set_array_state(target, state)
        # State of a dictionary, a tensor or a number is attributes that Python code hung on it: no weights.

    def _persistent(self, _: object) -> None:
        self._refer(self._stack.pop())

    def _refer(self, reference: object) -> None:
        made = storage(reference)
        if isinstance(made, Storage):
            self.storages[made] = None
        self._stack.append(made)

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _extension(self, argument: int) -> None:
        # copyreg's extension registry belongs to a running program; here it is only a name.
        self._name("copyreg", f"extension{argument}")

    def _pop(self, _: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._marked()

    def _pop_mark(self, _: object) -> None:
        self._marked()

    def _duplicate(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def _pair(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _one(self, _: object) -> None:
        item = self._stack.pop()
        self._append([item])


_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: Mapping[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_PUSHED = frozenset(
    """INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES
    BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT BINFLOAT""".split()  # noqa: SIM905 - a table of words, not forty quoted lines
)
_ACTIONS: Mapping[str, Callable[[Unpickler, Any], None]] = {
    "PROTO": Unpickler._nothing,
    "FRAME": Unpickler._nothing,
    "MARK": Unpickler._mark,
    "POP": Unpickler._pop,
    "POP_MARK": Unpickler._pop_mark,
    "DUP": Unpickler._duplicate,
    "TUPLE": lambda reader, _: reader._container(tuple),
    "TUPLE1": lambda reader, _: reader._tuple(1),
    "TUPLE2": lambda reader, _: reader._tuple(2),
    "TUPLE3": lambda reader, _: reader._tuple(3),
    "LIST": lambda reader, _: reader._container(list),
    "DICT": lambda reader, _: reader._container(
        lambda items: {hashable(items[index]): items[index + 1] for index in range(0, len(items) - 1, 2)}
    ),
    "FROZENSET": lambda reader, _: reader._container(lambda items: frozenset(hashable(item) for item in items)),
    "APPEND": Unpickler._one,
    "APPENDS": lambda reader, _: reader._append(reader._marked()),
    "ADDITEMS": lambda reader, _: reader._append(reader._marked()),
    "SETITEM": Unpickler._pair,
    "SETITEMS": lambda reader, _: reader._set_items(reader._marked()),
    "GLOBAL": Unpickler._global,
    "STACK_GLOBAL": Unpickler._stack_global,
    "REDUCE": Unpickler._reduce,
    "NEWOBJ": Unpickler._reduce,
    "NEWOBJ_EX": Unpickler._new_keywords,
    "INST": Unpickler._instance,
    "OBJ": Unpickler._object,
    "BUILD": Unpickler._build,
    "PERSID": Unpickler._refer,
    "BINPERSID": Unpickler._persistent,
    "GET": Unpickler._get,
    "BINGET": Unpickler._get,
    "LONG_BINGET": Unpickler._get,
    "PUT": Unpickler._put,
    "BINPUT": Unpickler._put,
    "LONG_BINPUT": Unpickler._put,
    "MEMOIZE": Unpickler._memoize,
    "EXT1": Unpickler._extension,
    "EXT2": Unpickler._extension,
    "EXT4": Unpickler._extension,
}
