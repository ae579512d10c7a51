"""Whatever a user's code reads while it runs is part of the model: a change of it is noticed, or nothing is reused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pth2om.checkpoint.reads import Reads
from pth2om.conversion.net_reads import NetReads
from pth2om.store import Key
from tests.conversion.conftest import Make

NET = """\
import pathlib
import torch
TEMPLATE_NAME = 'linear'
PLACE = pathlib.Path(__file__).resolve().parents[2] / 'elsewhere'

def factor():
{factor}

class Scaled(torch.nn.Linear):
    def __init__(self, factor):
        super().__init__(4, 2)
        self.factor = factor

    def forward(self, x):
        return super().forward(x) * float(self.factor() if callable(self.factor) else self.factor)

def build(num_classes, pretrained=False):
    return Scaled({built})

def deploy(module):
    module.factor = {deployed}
    return module
"""


@pytest.fixture
def place(models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside of the model's, which holds ``a.txt`` and ``b.txt``."""
    folder = models.parent / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text("2")
    return folder


def write(models: Path, factor: str, built: str = "factor()", deployed: str = "module.factor") -> None:
    body = "\n".join(f"    {line}" for line in factor.splitlines())
    (models / "linear" / "net.py").write_text(NET.format(factor=body, built=built, deployed=deployed))


def digests(make: Make) -> dict[str, str]:
    return make("linear").source.digests


def tensors(folder: Path, value: float) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.full(1, value, np.float32)}, folder / "w.safetensors")


def raw(folder: Path, value: float) -> None:
    np.full(1, value, np.float32).tofile(folder / "w.bin")


def database(folder: Path, value: float) -> None:
    import sqlite3

    with sqlite3.connect(folder / "w.db") as connection:
        connection.execute("create table if not exists t (v)")
        connection.execute("delete from t")
        connection.execute("insert into t values (?)", (value,))
    connection.close()


def external(folder: Path, value: float) -> None:
    import onnx

    array = onnx.numpy_helper.from_array(np.full(1, value, np.float32), "w")
    graph = onnx.helper.make_graph([], "g", [], [], [array])
    save = {"save_as_external_data": True, "location": "w.data", "size_threshold": 0}
    (folder / "w.data").unlink(missing_ok=True)
    onnx.save(onnx.helper.make_model(graph), folder / "w.onnx", **save)


def script(folder: Path, value: float) -> None:
    import torch

    torch.jit.trace(torch.nn.Identity(), torch.ones(1)).save(folder / "w.ts")
    with (folder / "w.ts").open("ab") as file:
        file.write(b"x" * int(value))


READERS: dict[str, tuple[Any, str]] = {
    "safe_open": (
        tensors,
        "import safetensors as s\nwith s.safe_open(PLACE / 'w.safetensors', 'pt') as f:\n    return f.get_tensor('a')",
    ),
    "load_file": (
        tensors,
        "from safetensors.torch import load_file\nreturn load_file(str(PLACE / 'w.safetensors'))['a']",
    ),
    "from_file": (raw, "return torch.from_file(str(PLACE / 'w.bin'), size=1)"),
    "storage": (raw, "return 1 + len(torch.UntypedStorage.from_file(str(PLACE / 'w.bin'), False, 4))"),
    "memmap": (raw, "import numpy\nreturn numpy.memmap(PLACE / 'w.bin', numpy.float32, 'r')[0]"),
    "fromfile": (raw, "import numpy\nreturn numpy.fromfile(PLACE / 'w.bin', numpy.float32)[0]"),
    "sqlite": (
        database,
        "import sqlite3\nreturn sqlite3.connect(PLACE / 'w.db').execute('select v from t').fetchone()[0]",
    ),
    "onnx": (external, "import onnx\nonnx.load(PLACE / 'w.onnx')\nreturn 1"),
    "torchscript": (script, "torch.jit.load(str(PLACE / 'w.ts'))\nreturn 1"),
    "relative": (lambda folder, value: (folder / "a.txt").write_text(str(value)), "return float(open('a.txt').read())"),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_file_outside_of_the_folder_counts_however_it_is_read(
    make: Make, models: Path, place: Path, reader: str
) -> None:
    prepare, body = READERS[reader]
    write(models, body)
    prepare(place, 2.0)
    first = digests(make)
    assert digests(make) == first
    prepare(place, 5.0)
    second = digests(make)
    assert second != first
    assert digests(make) == second


def test_variables_of_the_environment_count(make: Make, models: Path, place: Path, monkeypatch: Any) -> None:
    write(models, "import os\nif 'NET_WIDE' in os.environ:\n    return 3\nreturn float(os.getenv('NET_FACTOR', '1'))")
    seen = [digests(make)]
    for name, value in (("NET_FACTOR", "4"), ("NET_FACTOR", "5"), ("NET_WIDE", "")):
        monkeypatch.setenv(name, value)
        seen.append(digests(make))
    assert len({repr(sorted(each.items())) for each in seen}) == 4
    monkeypatch.setenv("NET_UNREAD", "1")
    assert digests(make) == seen[-1]


@pytest.mark.parametrize("way", ["os.listdir(PLACE)", "list(PLACE.glob('*.txt'))", "list(os.scandir(PLACE))"])
def test_the_names_in_a_folder_count(make: Make, models: Path, place: Path, way: str) -> None:
    write(models, f"import os\nreturn len({way})")
    first = digests(make)
    (place / "a.txt").write_text("other")
    assert digests(make) == first
    (place / "c.txt").write_text("")
    assert digests(make) != first


@pytest.mark.parametrize("way", ["(PLACE / 'c.txt').exists()", "os.path.isfile('c.txt')", "os.access('c.txt', 0)"])
def test_a_file_that_was_looked_for_in_vain_counts(make: Make, models: Path, place: Path, way: str) -> None:
    write(models, f"import os\nreturn 2 if {way} else 1")
    first = digests(make)
    (place / "c.txt").write_text("")
    assert digests(make) != first


def test_the_working_directory_counts_where_it_is_asked_for(
    make: Make, models: Path, place: Path, monkeypatch: Any
) -> None:
    write(models, "import os\nreturn 1 + len(os.getcwd())")
    first = digests(make)
    (place / "inner").mkdir()
    monkeypatch.chdir(place / "inner")
    assert digests(make) != first


@pytest.mark.parametrize("way", ["import", "again", "resources"])
def test_a_module_from_elsewhere_counts_with_its_data(
    make: Make, models: Path, place: Path, monkeypatch: Any, way: str
) -> None:
    name = f"keys_package_{way}"
    package = place / "src" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from .inner import VALUE\n")
    (package / "inner.py").write_text("VALUE = 2\n")
    (package / "data.txt").write_text("2")
    monkeypatch.syspath_prepend(str(place / "src"))
    body = f"import {name} as p\nreturn p.VALUE"
    if way == "resources":
        body = f"import importlib.resources as r\nreturn float(r.files({name!r}).joinpath('data.txt').read_text())"
    if way == "again":
        __import__(name)  # as a project's own conftest.py may do
    write(models, body)
    first = digests(make)
    changed = package / ("data.txt" if way == "resources" else "inner.py")
    changed.write_text("VALUE = 3\n" if changed.suffix == ".py" else "3")
    for module in (name, f"{name}.inner"):
        sys.modules.pop(module, None)
    assert digests(make) != first


def test_the_version_of_an_installed_package_counts(make: Make, models: Path, place: Path, monkeypatch: Any) -> None:
    site = place / "site-packages"
    (site / "keys_timm").mkdir(parents=True)
    (site / "keys_timm" / "__init__.py").write_text("import os\nVALUE = 2 if os.environ.get('KEYS_TIMM') else 3\n")
    information = site / "keys_timm-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: keys-timm\nVersion: 1.0\n")
    (information / "top_level.txt").write_text("keys_timm\n")
    monkeypatch.syspath_prepend(str(site))
    write(models, "import keys_timm\nreturn keys_timm.VALUE")
    first = digests(make)
    assert first["package/keys-timm"] == "1.0"
    assert "package/torch" not in first  # stages name it
    monkeypatch.setenv("KEYS_TIMM", "1")
    second = digests(make)
    assert second != first
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: keys-timm\nVersion: 1.1\n")
    assert digests(make)["package/keys-timm"] == "1.1"
    for module in [each for each in sys.modules if each.startswith("keys_timm")]:
        del sys.modules[module]


OUTSIDE = {
    "program": "import subprocess, sys\nreturn len(subprocess.run([sys.executable, '-S', '-c', ''], check=True).args)",
    "network": "import socket\nreturn len(socket.getaddrinfo('127.0.0.1', 80)[:1])",
    "c": "import ctypes\nctypes.CDLL(None).getpid()\nreturn 1",
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_what_cannot_be_followed_is_built_anew_in_every_run_and_says_why(
    make: Make, models: Path, place: Path, kind: str
) -> None:
    write(models, OUTSIDE[kind])
    run = make("linear")
    built = run.checkpoint()
    assert f"unseen/{kind}" in run.source.digests
    assert any(finding.message.key == f"pipeline.unseen-{kind}" for finding in built.record.findings)
    assert make("linear", run=run.settings.run).checkpoint().record.cached  # another worker of the same run
    assert not make("linear").checkpoint().record.cached


@pytest.mark.parametrize("where", ["deploy", "forward", "torchscript"])
def test_what_is_read_after_loading_counts_from_the_next_run_on(
    make: Make, models: Path, place: Path, where: str
) -> None:
    deployed = "factor()" if where == "deploy" else "module.factor"
    write(models, "return float((PLACE / 'a.txt').read_text())", "1.0" if where == "deploy" else "factor", deployed)
    feeds = {"x": np.ones((1, 4), np.float32)}
    if where == "torchscript":
        spec = models / "linear" / "model.toml"
        spec.write_text(spec.read_text() + "\n[torchscript]\n")

    def output() -> tuple[bool, Any]:
        pipeline = make("linear")
        built = pipeline.onnx(1)
        value = pipeline.onnx_session(1).run(feeds)["output"]
        pipeline.close()
        return built.record.cached, value

    _, first = output()
    (place / "a.txt").write_text("5")
    cached, second = output()
    assert not cached
    np.testing.assert_allclose(second, first * 2.5, rtol=1e-5)
    assert output()[0]
    (place / "a.txt").write_text("2")
    np.testing.assert_allclose(output()[1], first, rtol=1e-5)


def test_a_file_that_only_a_changed_file_names_counts(make: Make, models: Path, place: Path) -> None:
    write(models, "return float((PLACE / (PLACE / 'a.txt').read_text()).read_text())")
    (place / "a.txt").write_text("b.txt")
    (place / "c.txt").write_text("7")
    first = digests(make)
    (place / "a.txt").write_text("c.txt")
    second = digests(make)
    (place / "c.txt").write_text("8")
    assert len({repr(sorted(each.items())) for each in (first, second, digests(make))}) == 3


def test_what_trusted_classes_read_counts(make: Make, models: Path, place: Path, monkeypatch: Any) -> None:
    import torch

    (place / "keys_trusted.py").write_text(
        "import pathlib\nimport torch\n\nclass Net(torch.nn.Linear):\n    def __setstate__(self, state):\n"
        "        super().__setstate__(state)\n"
        f"        self.factor = float(pathlib.Path({str(place / 'a.txt')!r}).read_text())\n"
    )
    monkeypatch.syspath_prepend(str(place))
    import keys_trusted

    (models / "linear" / "net.py").unlink()
    torch.save(keys_trusted.Net(4, 2), models / "linear" / "net.pth")

    def trusted() -> dict[str, str]:
        sys.modules.pop("keys_trusted", None)
        return make("linear", trust=frozenset({"linear"})).source.digests

    first = trusted()
    (place / "a.txt").write_text("3")
    second = trusted()
    with (place / "keys_trusted.py").open("a") as file:
        file.write("# changed\n")
    assert len({repr(sorted(each.items())) for each in (first, second, trusted())}) == 3


def test_a_list_of_an_older_version_is_not_believed(make: Make, models: Path, place: Path) -> None:
    write(models, "return float((PLACE / 'a.txt').read_text())")
    pipeline = make("linear")
    stage = NetReads(pipeline.source, Reads())
    for version in range(1, stage.version):
        key = Key(stage.name, version, stage.inputs(), stage.options(), {"pth2om": "0"})
        pipeline.store.artifact(key, lambda folder: (folder / "result.json").write_text("[]") and None)
    first = pipeline.source.digests
    assert any(role.endswith("a.txt") for role in first)
