"""The house keeps its shape: arrows go downwards, the faces stay light, modules stay readable."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pth2om

PACKAGE = Path(pth2om.__file__).parent
FLOORS = (
    {"escaping", "language", "terminal", "errors", "session", "evidence", "store", "spec", "progress", "host"},
    {"ascend", "explain", "onnxfile"},
    {"aipp", "checkpoint", "data", "export", "fetch", "omfile", "sessions"},
    {"graph", "preflight", "roofline", "toolchain"},
    {"accuracy", "compare", "latency", "quantize"},
    {"conversion"},
    {"questions", "init_spec"},
    {"report"},
    {"harness", "cli"},
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path, *, top_level_only: bool) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if top_level_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
                found.add(child.module)
                if child.module == "pth2om":
                    found.update(f"pth2om.{alias.name}" for alias in child.names)
            visit(child)

    visit(tree)
    return found


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(path) for path in MODULES} - {"__init__", "__main__"}
    assert rooms <= set(LEVEL)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_arrows_go_downwards(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    for name in imports(path, top_level_only=False):
        parts = name.split(".")
        if parts[0] == "pth2om" and len(parts) > 1 and parts[1] in LEVEL:
            allowed = LEVEL[parts[1]] <= LEVEL[room]
            assert allowed, f"{room} may not use {parts[1]}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_modules_are_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 750


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
