"""What a user's Python code reads while it runs: a net, a pickled class that is trusted, whatever these import.

Python reports what it opens, lists and starts (`sys.addaudithook`). What it does not report is wrapped while user code
runs: variables of the environment, questions whether a file is there, and libraries that open files in C++ or Rust.
What can be seen by neither is noted by its kind, so that nobody takes yesterday's artifact for it.

Only what user code does counts, directly or through a library that it calls; not what PyTorch, a library that is being
imported, or pth2om does for itself.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import sysconfig
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Literal

EVERY_VARIABLE = "*"
"""Noted instead of a name when code goes through the names of all variables."""

Owner = Literal["python", "import", "source", "ours", "library", "user"]


@dataclass
class Noted:
    """What was noted, as it was named; `pth2om.checkpoint.reads` tells which of it counts.

    Attributes:
        files: opened for reading, imported, or asked whether they are there; relative where they were named so.
        folders: whose names were listed.
        variables: of the environment.
        packages: installed packages that user code imports, by their importable name.
        unseen: what cannot be followed, by its kind: ``program``, ``network``, ``c``; and what was asked of it.
        place: whether the working directory was asked for.
        scratch: temporary files and folders that were made.
        classes: modules of pickled classes, which are looked up before they are imported.
    """

    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    packages: set[str] = field(default_factory=set)
    unseen: dict[str, str] = field(default_factory=dict)
    place: bool = False
    scratch: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)
    followed: set[str] = field(default_factory=set)  # modules

    def add(self, other: Noted) -> None:
        """Everything of ``other`` too."""
        for name in ("files", "folders", "variables", "packages", "scratch", "followed"):
            getattr(self, name).update(getattr(other, name))
        self.unseen = {**other.unseen, **self.unseen}
        self.place = self.place or other.place

    def size(self) -> int:
        """A number that grows with everything that is noted."""
        sets = (self.files, self.folders, self.variables, self.packages, self.unseen)
        return sum(map(len, sets)) + self.place


_WATCHING: list[Noted] = []
_LIBRARY_VARIABLES: defaultdict[str, set[str]] = defaultdict(set)
"""Variables that a library reads while it is imported, which happens once per process, by its importable name."""
_SILENT = frozenset({"torch", "numpy", "onnx", "onnxruntime", "onnxscript"})
"""Libraries whose own settings do not count: pth2om runs on them, and stages name their versions."""
_busy = threading.local()
_hooked = False


@contextlib.contextmanager
def watched(into: Noted) -> Iterator[None]:
    """Note what user code reads inside the block."""
    global _hooked
    if not _hooked:
        sys.addaudithook(_hook)  # for good: a hook cannot be taken away
        _hooked = True
    if not _WATCHING:
        _wrap()
    _WATCHING.append(into)
    try:
        yield
    finally:
        with _quiet():
            for name in into.classes:
                _imported(name)
        _WATCHING[:] = [noted for noted in _WATCHING if noted is not into]
        if not _WATCHING:
            _unwrap()


def again(noted: Noted) -> None:
    """Count for the current block what was noted earlier: of a module that is not executed a second time."""
    for watching in _WATCHING:
        if watching is not noted:
            watching.add(noted)


# --- who does it ----------------------------------------------------------------------------------------------------

_OWN = str(Path(__file__).resolve().parent.parent) + os.sep
_STANDARD = tuple({os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib")})
_SHOWING_SOURCE = ("linecache.py", "inspect.py", "traceback.py", "tokenize.py", "warnings.py")
_METADATA = os.path.realpath(importlib.import_module("importlib.metadata").__path__[0])


@functools.lru_cache(maxsize=65536)
def owner(filename: str) -> Owner:
    """Whose code a source file is."""
    if filename.startswith("<frozen importlib._"):
        return "import"
    if filename.startswith("<"):
        return "python"  # generated; whoever generated it is further up
    real = os.path.realpath(filename)
    if real.startswith(_OWN):
        return "ours"
    if f"{os.sep}site-packages{os.sep}" in real or f"{os.sep}dist-packages{os.sep}" in real:
        return "library"
    if real.startswith(_STANDARD):
        if real.rpartition(os.sep)[2] in _SHOWING_SOURCE:
            return "source"
        return "import" if real.startswith(_METADATA) else "python"
    return "user"


@dataclass(frozen=True)
class _Act:
    """Who is behind an event: user code, perhaps through libraries, perhaps through an import of them."""

    libraries: tuple[str, ...]  # innermost first
    importing: bool
    first: Owner  # whose code is innermost, besides Python's own


def _act() -> _Act | None:
    """The act behind the current event; None where no user code is behind it."""
    frame: FrameType | None = sys._getframe(1)
    libraries: list[str] = []
    importing = False
    first: Owner | None = None
    while frame is not None:
        filename = frame.f_code.co_filename
        if filename != __file__:
            kind = owner(filename)
            first = first if kind == "python" else first or kind
            if kind == "ours" or first == "source":
                return None
            if kind == "user":
                return _Act(tuple(libraries), importing, first or kind)
            if kind == "library":
                name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
                if name and name not in libraries:
                    libraries.append(name)
            importing = importing or kind == "import"
        frame = frame.f_back
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[bool]:
    """Inside the block nothing is noted; False where that is so already, or where nothing is watched."""
    if not _WATCHING or getattr(_busy, "on", False):
        yield False
        return
    _busy.on = True
    try:
        yield True
    finally:
        _busy.on = False


# --- what Python reports --------------------------------------------------------------------------------------------

_PROGRAMS = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn")
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostby", "socket.sendto", "socket.sendmsg", "urllib.")
_READS = frozenset({"open", "os.listdir", "os.scandir", "sqlite3.connect", "pickle.find_class"})
_MADE = frozenset({"tempfile.mkstemp", "tempfile.mkdtemp"})


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _WATCHING or not (
        event in _READS or event in _MADE or event.startswith((*_PROGRAMS, *_NETWORK, "ctypes.dl"))
    ):
        return
    with _quiet() as noting:
        if noting:
            _event(event, arguments)


def _event(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":
        for noted in _WATCHING:
            noted.classes.add(str(arguments[0]))
        return
    act = _act()
    if act is None:
        return
    if event == "open":
        path, mode, flags = arguments
        if not _writes(mode, flags):
            _files([_behind(path) if isinstance(path, int) else path])
    elif event in ("os.listdir", "os.scandir"):
        if act.first != "import":
            _folder(arguments[0])
    elif event == "sqlite3.connect":
        name = _text(arguments[0]).removeprefix("file:").partition("?")[0]
        _files([name, f"{name}-wal", f"{name}-journal"] if name not in ("", ":memory:") else [])
    elif event in _MADE:
        for noted in _WATCHING:
            noted.scratch.add(os.path.abspath(_text(arguments[0])))  # noqa: PTH100 - pathlib might import
    elif event.startswith("ctypes."):
        if event == "ctypes.dlopen" and arguments[0] is not None:
            _files([arguments[0]] if os.sep in _text(arguments[0]) else [])
        if not act.importing and not act.libraries:
            _unseen("c", arguments[0] if event == "ctypes.dlopen" else arguments[1])
    elif not act.importing:
        program = event.startswith(_PROGRAMS)
        _unseen("program" if program else "network", arguments[0] if arguments else event)


def _writes(mode: object, flags: object) -> bool:
    if isinstance(mode, str):
        return bool(set(mode) & set("wax"))
    asked = int(flags) if isinstance(flags, int) else 0
    return bool(asked & os.O_WRONLY) or (bool(asked & os.O_RDWR) and bool(asked & os.O_CREAT))


def _behind(descriptor: int) -> str | None:
    """The file that a library opened in C before it handed the descriptor to Python; None where that is not told."""
    with contextlib.suppress(OSError):
        name = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - pathlib might import
        return name if name.startswith(os.sep) else None
    return None


def _text(value: object) -> str:
    return os.fsdecode(value) if isinstance(value, str | bytes | os.PathLike) else str(value)


def _files(paths: Iterable[object]) -> None:
    for path in paths:
        if isinstance(path, str | bytes | os.PathLike):
            name = _named(_text(path))
            for noted in _WATCHING:
                noted.files.add(name)


def _folder(path: object) -> None:
    if path is None or isinstance(path, str | bytes | os.PathLike):
        name = _named(_text(path or "."))
        for noted in _WATCHING:
            noted.folders.add(name)


def _named(name: str) -> str:
    """Relative names stay so: from another working directory they mean another file."""
    with contextlib.suppress(OSError):  # the working directory was removed
        return os.path.normpath(name) if _current() == _started else os.path.abspath(name)  # noqa: PTH100 - once for every file that Python opens: a Path takes longer
    return name


def _unseen(kind: str, what: object) -> None:
    text = " ".join(map(_text, what)) if isinstance(what, list | tuple) else _text(what)
    for noted in _WATCHING:
        noted.unseen.setdefault(kind, text[:200])


# --- what Python does not report ------------------------------------------------------------------------------------

_current = os.getcwd  # as it is before it is wrapped
_started = ""
_WRAPPED: list[tuple[Any, str, Any]] = []

_READERS: tuple[tuple[str, str, int, str], ...] = (
    ("safetensors", "safe_open", 0, "filename"),
    ("safetensors.torch", "safe_open", 0, "filename"),
    ("safetensors.numpy", "safe_open", 0, "filename"),
    ("torch", "from_file", 0, "filename"),
    ("torch", "UntypedStorage.from_file", 0, "filename"),
    ("torch._C", "PyTorchFileReader.__init__", 1, "name"),
    ("torch.jit", "load", 0, "f"),
    ("onnxruntime", "InferenceSession.__init__", 1, "path_or_bytes"),
    ("h5py", "File.__init__", 1, "name"),
    ("cv2", "imread", 0, "filename"),
    ("cv2", "imreadmulti", 0, "filename"),
    ("tokenizers", "Tokenizer.from_file", 0, "path"),
    ("torchvision.io", "read_file", 0, "path"),
    ("torchvision.io", "read_image", 0, "path"),
    ("lmdb", "open", 0, "path"),
)
"""Functions that open a file in C, C++ or Rust: module, name, and which argument is the file."""
_FOLLOWED_BY_NOBODY = frozenset({"cffi"})
"""Packages that call C functions by name."""


def _wrap() -> None:
    global _started
    with contextlib.suppress(OSError):
        _started = _current()
    _put(os, "stat", lambda original: _reader(original, 0, "path", asks=True))
    _put(os, "access", lambda original: _reader(original, 0, "path", asks=True))
    _put(os, "getcwd", _place)
    _put(builtins, "__import__", _statement)
    _put(importlib, "import_module", _function)
    environment = type(os.environ)
    _put(environment, "__getitem__", _variable)
    _put(environment, "__iter__", _variables)
    _wrap_readers()


def _wrap_readers() -> None:
    """Wrap the known readers that are imported by now."""
    for module, dotted, position, keyword in _READERS:
        if (holder := sys.modules.get(module)) is None:
            continue
        *within, name = dotted.split(".")
        place: Any = holder
        for part in within:
            place = getattr(place, part, None)
        if place is not None and not any(place is had and name == known for had, known, _ in _WRAPPED):
            with contextlib.suppress(AttributeError, TypeError):  # another version of the library, or a C class
                _put(place, name, functools.partial(_reader, position=position, keyword=keyword))


def _put(place: Any, name: str, wrapper: Callable[[Any], Any]) -> None:  # noqa: ANN401 - a module or a class
    static = vars(place).get(name)  # a staticmethod or classmethod as it is written
    wrapped = wrapper(getattr(place, name))
    setattr(place, name, staticmethod(wrapped) if isinstance(static, staticmethod | classmethod) else wrapped)
    _WRAPPED.append((place, name, static))


def _unwrap() -> None:
    while _WRAPPED:
        place, name, static = _WRAPPED.pop()
        if static is None:
            delattr(place, name)  # it was inherited
        else:
            setattr(place, name, static)


def _reader(original: Callable[..., Any], position: int, keyword: str, *, asks: bool = False) -> Callable[..., Any]:
    """Note the file that a call names; where it only ``asks`` for a file, not for what a silent library asks itself."""

    @functools.wraps(original, updated=())
    def read(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401 - the reader's own
        with _quiet() as noting:
            act = _act() if noting else None
            silent = asks and act is not None and bool(_SILENT.intersection(act.libraries[:1]))
            if act is not None and act.first != "import" and not silent:
                _files([arguments[position] if len(arguments) > position else keywords.get(keyword)])
        return original(*arguments, **keywords)

    return read


def _place(original: Callable[[], str]) -> Callable[[], str]:
    def getcwd() -> str:
        with _quiet() as noting:
            act = _act() if noting else None
            if act is not None and not act.libraries and not act.importing:
                for noted in _WATCHING:
                    noted.place = True
        return original()

    return getcwd


def _variable(original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def getitem(self: Any, key: Any) -> Any:  # noqa: ANN401 - a mapping's
        _asked(self, key)
        return original(self, key)

    return getitem


def _variables(original: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    def iterate(self: Any) -> Iterator[Any]:  # noqa: ANN401 - a mapping's
        _asked(self, EVERY_VARIABLE)
        return original(self)

    return iterate


def _asked(environment: object, key: object) -> None:
    known = environment is os.environ or environment is getattr(os, "environb", None)
    if not known or not isinstance(key, str | bytes):
        return
    with _quiet() as noting:
        act = _act() if noting else None
        if act is None or _SILENT.intersection(act.libraries):
            return
        name = _text(key)
        for noted in _WATCHING:
            noted.variables.add(name)
        if act.importing:
            for library in act.libraries:
                _LIBRARY_VARIABLES[library].add(name)


def _statement(original: Callable[..., Any]) -> Callable[..., Any]:
    def statement(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:  # noqa: ANN401 - builtins.__import__'s
        module = original(name, globals, locals, fromlist, level)
        if _WATCHING and owner(sys._getframe(1).f_code.co_filename) == "user":
            full = name
            if level:
                with contextlib.suppress(ImportError, ValueError, TypeError, KeyError):
                    package = globals.get("__package__") or globals["__name__"].rpartition(".")[0]
                    full = importlib.util.resolve_name("." * level + name, package)
            with _quiet() as noting:
                if noting:
                    _imported(full)
                    for item in fromlist or ():
                        _imported(f"{full}.{item}")
                    _wrap_readers()
        return module

    return statement


def _function(original: Callable[..., ModuleType]) -> Callable[..., ModuleType]:
    def import_module(name: str, package: str | None = None) -> ModuleType:
        module = original(name, package)
        if _WATCHING and owner(sys._getframe(1).f_code.co_filename) == "user":
            with _quiet() as noting:
                if noting:
                    _imported(module.__name__)
                    _wrap_readers()
        return module

    return import_module


def _imported(name: str) -> None:
    """Note a module that user code imports, with the packages around it and what it holds of others."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        module = sys.modules.get(".".join(parts[:count]))
        if module is not None:
            _follow(module)


def _follow(module: ModuleType) -> None:
    """Note a module; of a user's also those that it got something from, for it may have been imported long before."""
    waiting = [module]
    while waiting:
        current = waiting.pop()
        name, file = str(getattr(current, "__name__", "")), getattr(current, "__file__", None)
        kind = owner(file) if isinstance(file, str) else "python"
        package = name.partition(".")[0]
        fresh = [noted for noted in _WATCHING if name not in noted.followed]
        for noted in fresh:
            noted.followed.add(name)
            if kind == "user" and isinstance(file, str):
                noted.files.add(os.path.abspath(file))  # noqa: PTH100 - pathlib might import
            elif kind == "library":
                noted.packages.add(package)
                noted.variables |= _LIBRARY_VARIABLES.get(package, set())
                if package in _FOLLOWED_BY_NOBODY:
                    noted.unseen.setdefault("c", package)
        if kind == "user" and fresh:
            for value in list(vars(current).values()):
                if isinstance(value, ModuleType):
                    waiting.append(value)
                elif isinstance(of := getattr(type(value), "__module__", None) and _origin(value), str):
                    found = sys.modules.get(of)
                    waiting += [found] if found is not None else []


def _origin(value: object) -> object:
    """The name of the module that a function or class is from; None of anything else."""
    return getattr(value, "__module__", None) if callable(value) else None
