"""Nets: Python files with ``TEMPLATE_NAME`` and ``build(num_classes, pretrained=False)``, in the repo or outside.

A net may define further hooks, all optional:

* ``infer(state_dict) -> dict``: arguments of ``build`` read off a checkpoint (``num_classes``, ``in_channels``...);
* ``rename(state_dict) -> dict``: another key layout brought to this net's;
* ``deploy(module) -> module``: re-parameterize before export.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pth2om.checkpoint.reads import counted
from pth2om.checkpoint.watching import Noted, again, watched
from pth2om.errors import CheckpointError, Pth2omError, first_line
from pth2om.files import is_file, is_folder
from pth2om.store import file_digest

if TYPE_CHECKING:
    import torch

DEFAULT_CLASSES = 1000
"""``num_classes`` where neither the spec, the checkpoint nor ``build`` says one: ImageNet's."""


@dataclass(frozen=True)
class Net:
    """A net template.

    Attributes:
        name: its ``TEMPLATE_NAME``.
        path: its file.
        source: the executed module.
        noted: what its file read when it was executed.
    """

    name: str
    path: Path
    source: ModuleType
    noted: Noted = field(default_factory=Noted, compare=False)

    def build(self, num_classes: int | None = None, **arguments: Any) -> torch.nn.Module:  # noqa: ANN401 - the net's own
        """A fresh module with random weights.

        Args:
            num_classes: None leaves the template's default, or `DEFAULT_CLASSES` where it has none.
            **arguments: further arguments of the template's ``build``.

        Raises:
            CheckpointError: the template's code fails, or returns no module.
        """
        import torch

        template = self.source.build
        parameters = inspect.signature(template).parameters
        takes_any = any(entry.kind is entry.VAR_KEYWORD for entry in parameters.values())
        if "pretrained" in parameters or takes_any:
            arguments.setdefault("pretrained", False)
        if num_classes is None:
            entry = parameters.get("num_classes")
            if entry is None or entry.default is entry.empty:
                num_classes = DEFAULT_CLASSES
        chosen = {} if num_classes is None else {"num_classes": num_classes}
        if "num_classes" not in parameters and not takes_any:
            # Its first parameter has another name; the contract is the position.
            module = self._call("build", template, *chosen.values(), **arguments)
        else:
            module = self._call("build", template, **chosen, **arguments)
        if not isinstance(module, torch.nn.Module):
            raise CheckpointError("checkpoint.net-no-module", where=str(self.path), kind=type(module).__name__)
        return module

    def infer(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Arguments of ``build`` that the template reads off a state dict; empty where it has no ``infer``.

        Raises:
            CheckpointError: the template's code fails.
        """
        hook = getattr(self.source, "infer", None)
        return {} if hook is None else dict(self._call("infer", hook, dict(tensors)) or {})

    def rename(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The state dict in this net's key layout; unchanged where the template has no ``rename``.

        Raises:
            CheckpointError: the template's code fails.
        """
        hook = getattr(self.source, "rename", None)
        return dict(tensors) if hook is None else dict(self._call("rename", hook, dict(tensors)))

    def deployed(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module as it is exported (branches merged); unchanged where the template has no ``deploy``.

        Raises:
            CheckpointError: the template's code fails.
        """
        hook = getattr(self.source, "deploy", None)
        if hook is None:
            return module
        deployed: torch.nn.Module = self._call("deploy", hook, module)
        return deployed.eval()

    def _call(self, name: str, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401 - the net's
        with _importable(self.path.parent), _explained(self.path, name):
            return function(*arguments, **keywords)


@dataclass(frozen=True)
class _Loaded:
    content: str
    net: Net


_LOADED: dict[Path, _Loaded] = {}
"""By path. Run twice, a file makes two sets of classes, and a module that was built by one is no instance of the
other's: ``deploy`` would find nothing to merge."""


def load_net(path: Path) -> Net:
    """Run a net's file, once for the same content, and take its ``TEMPLATE_NAME`` and ``build``.

    Args:
        path: a Python file; modules beside it may be imported by it.

    Raises:
        CheckpointError: it does not exist, does not run, or lacks one of the two.
    """
    if not is_file(path):
        nearby = ", ".join(sorted(entry.name for entry in path.glob("*.py"))) if is_folder(path) else ""
        raise CheckpointError("checkpoint.net-missing", where=str(path), found=nearby or "-")
    path = path.absolute()
    known = _LOADED.get(path)
    if known is not None and known.content == _content(path, known.net.noted):
        again(known.net.noted)
        return known.net
    module, noted = run_file(path)
    title, build = getattr(module, "TEMPLATE_NAME", None), getattr(module, "build", None)
    if not isinstance(title, str) or not title or not callable(build):
        absent = "build(num_classes, pretrained=False)" if isinstance(title, str) and title else "TEMPLATE_NAME"
        raise CheckpointError("checkpoint.net-incomplete", where=str(path), absent=absent)
    net = Net(title, path, module, noted)
    _LOADED[path] = _Loaded(_content(path, noted), net)
    return net


def run_file(path: Path) -> tuple[ModuleType, Noted]:
    """Run a Python file of the user's; modules beside it may be imported by it.

    Returns:
        The module, and what it read when it was executed.

    Raises:
        CheckpointError: it does not run.
    """
    name = f"pth2om_net_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise CheckpointError("checkpoint.net-missing", where=str(path), found="-")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pickles look their module up there
    noted = Noted()
    with _importable(path.parent), watched(noted), _explained(path, path.name):
        specification.loader.exec_module(module)
    return module, noted


def _content(path: Path, noted: Noted) -> str:
    """Digest of the net's files, and of the state of what it read when it was executed."""
    files = sorted(net_files(path))
    state = counted(noted).state(file_digest, str)
    parts = [*(file.read_bytes() for file in files), repr(sorted(state.items())).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def net_files(path: Path) -> tuple[Path, ...]:
    """The net's file and every file beside it that it imports, directly or not; what a digest of the net must cover.

    Args:
        path: a net's Python file.
    """
    found: dict[Path, None] = {}
    waiting = [path.absolute()]
    while waiting:
        current = waiting.pop()
        if current in found or not current.is_file():
            continue
        found[current] = None
        with contextlib.suppress(SyntaxError, ValueError, OSError):
            for node in _imports(current.read_bytes()):
                waiting.extend(_imported_files(node, path.absolute().parent, current.parent))
    return tuple(found)


@functools.lru_cache(maxsize=64)
def _imports(content: bytes) -> tuple[ast.AST, ...]:
    """The statements of a module that import something; kept, for the same few files are asked for again and again."""
    return tuple(node for node in ast.walk(ast.parse(content)) if isinstance(node, ast.Import | ast.ImportFrom))


def _imported_files(node: ast.AST, root: Path, folder: Path) -> list[Path]:
    if isinstance(node, ast.Import):
        modules = [(root, alias.name) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = root
        if node.level:
            base = folder
            for _ in range(node.level - 1):
                base = base.parent
        modules = [(base, node.module or "")]
        modules += [(base, f"{node.module}.{alias.name}" if node.module else alias.name) for alias in node.names]
    else:
        return []
    files: list[Path] = []
    for base, dotted in modules:
        place = base.joinpath(*dotted.split(".")) if dotted else base
        files += [place.with_suffix(".py"), place / "__init__.py"] if dotted else []
        files += [parent / "__init__.py" for parent in place.parents if parent.is_relative_to(base) and parent != base]
    return [file for file in files if file.is_file()]


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let a net import the modules beside it, and forget them after: another net may have its own ``blocks.py``."""
    before = set(sys.modules)
    writes = sys.dont_write_bytecode
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True  # a template's folder is the user's, not ours to fill with __pycache__
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            if origin and Path(origin).is_relative_to(folder) and "site-packages" not in origin:
                sys.modules.pop(name, None)


@contextlib.contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a net's code raises into an error that names its line.

    So a net that calls ``sys.exit()`` or ``pytest.skip()`` fails: that its weights are absent is told by others, and
    what the model's own code refuses is the model's fault.
    """
    try:
        yield
    except Pth2omError:
        raise
    except NotImplementedError:
        raise CheckpointError("checkpoint.net-stub", where=str(path), name=path.name) from None
    except SyntaxError as error:
        raise CheckpointError(
            "checkpoint.net-broken", where=f"{error.filename or path}:{error.lineno}", what=what, reason=error.msg
        ) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the net is the user's code and raises what it likes, sys.exit() and skips too
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
        where = f"{path}:{frames[-1].lineno}" if frames else str(path)
        reason = first_line(f"{type(error).__name__}: {error}")
        raise CheckpointError("checkpoint.net-broken", where=where, what=what, reason=reason) from error
