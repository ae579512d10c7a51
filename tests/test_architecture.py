"""The house keeps its shape: arrows go downwards, the faces stay light, modules stay readable."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import pth2om

PACKAGE = Path(pth2om.__file__).parent
FLOORS = (
    {
        "amounts",
        "escaping",
        "language",
        "own_words",
        "terminal",
        "errors",
        "session",
        "evidence",
        "store",
        "spec",
        "progress",
        "files",
        "host",
        "on_demand",
    },
    {"ascend", "explain", "onnxfile"},
    {
        "aipp",
        "checkpoint",
        "custom_ops",
        "data",
        "export",
        "export_probe",
        "fetch",
        "omfile",
        "sessions",
        "torchscript",
    },
    {"graph", "preflight", "roofline", "toolchain"},
    {"accuracy", "segmentation", "compare", "latency", "quantize"},
    {"conversion", "offline"},
    {"questions", "drafting"},
    {"release"},
    {"report"},
    {"ci", "onefile", "signoff"},
    {"harness", "cli", "gui"},
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MOST_LINES = 500
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@functools.cache
def imports(path: Path) -> set[str]:
    """Every module of this package that a module names: imported anywhere, for types only, or by a string.

    A string counts when it is a module's whole name (what ``importlib`` and ``python -m`` take), or the beginning of an
    f-string that goes on behind a dot: then every module that it may mean counts.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # The version is a constant; reading it needs nothing of the public functions that stand beside it.
            whole = {f"{node.module}.{alias.name}" for alias in node.names if alias.name != "__version__"}
            # `from room import module` names the module; anything else is of the module before `import`.
            found.update(name if name in NAMES else node.module for name in whole)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            found.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            first = node.values[0]
            if isinstance(first, ast.Constant) and str(first.value).endswith("."):
                found.update(name for name in NAMES if name.startswith(str(first.value)))
    return (found & NAMES.keys()) - {name_of(path)}


def name_of(path: Path) -> str:
    parts = ("pth2om", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}

ALLOWED_CIRCLES: dict[frozenset[str], str] = {}
"""Modules that need each other, and why they may."""


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected groups of more than one module (Tarjan)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(arrows[name]):
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in arrows:
        if name not in number:
            visit(name)
    return found


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(path) for path in MODULES} - {"__init__", "__main__"}
    assert rooms <= set(LEVEL)


def test_every_room_has_its_test_folder() -> None:
    tests = Path(__file__).parent
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {room for room in rooms if not list((tests / room).glob("test_*.py"))} == set()
    # Flat are only tests of modules that lie flat themselves.
    assert {room for room in rooms if (tests / f"test_{room}.py").exists()} == set()


def test_arrows_go_downwards() -> None:
    wrong = []
    for path in MODULES:
        room = room_of(path)
        rooms = {name.split(".")[1] for name in imports(path) if "." in name} & LEVEL.keys()
        if room in LEVEL:
            wrong += [f"{name_of(path)} may not use {other}" for other in rooms if LEVEL[other] > LEVEL[room]]
    assert wrong == []


def test_no_module_needs_itself_round_a_corner() -> None:
    """Also on one floor, for types only, or by a module's name in a string."""
    arrows = {name: imports(path) for name, path in NAMES.items()}
    assert [group for group in circles(arrows) if frozenset(group) not in ALLOWED_CIRCLES] == []


def test_circles_and_hidden_imports_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    source = tmp_path / "probe.py"
    source.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from pth2om.evidence import Finding\n"
        "def later():\n    import pth2om.store\n"
        "    importlib.import_module('pth2om.quantize.emulate')\n"
        "    importlib.import_module(f'pth2om.graph.passes.{name}')\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    named = {"pth2om.evidence", "pth2om.store", "pth2om.quantize.emulate", "pth2om.graph.passes.clamp"}
    assert named <= imports(source)


def test_modules_are_readable() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize(
    "module", ["pth2om.harness.plugin", "pth2om.cli", "pth2om.conversion.pipeline", "pth2om.questions.accuracy"]
)
def test_the_faces_are_light(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "heavy = {'torch', 'onnx', 'onnxruntime', 'scipy', 'PIL', 'jinja2', 'rich'} & set(sys.modules); "
        "print(*heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_the_plugin_is_lighter_still() -> None:
    """Every pytest loads it where pth2om is installed, whether there is something to accept or not."""
    code = (
        "import sys, pth2om.harness.plugin; "
        "print(*sorted({name.split('.')[1] for name in sys.modules if name.startswith('pth2om.')}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    rooms = "errors escaping files harness language progress release terminal"
    assert (done.stdout.strip(), done.stderr) == (rooms, "")
