"""Data that a recipe makes: once, anew when the recipe changes, and ahead of time in a child that leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pth2om.conversion.data import ModelData
from pth2om.conversion.settings import RunSettings
from pth2om.data import drawn, load_manifest, made_ahead, open_dataset
from pth2om.errors import DataError, SpecError
from pth2om.store import Store
from tests.data.test_datasets import manifest

RECIPE = (
    "import numpy as np\n"
    "def make(folder):\n"
    "    np.savez(folder / 'drawn.npz', x=np.full((2, 3, 3), 7, np.uint8), y=np.array([0, 1]))\n"
)


@pytest.fixture
def calib(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("PTH2OM_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("pth2om.data.recipes.cores", lambda: 2)
    return tmp_path / "calib"


def recipe(calib: Path, name: str = "drawn", text: str = RECIPE, extra: str = "") -> Path:
    folder = manifest(calib, name, f'kind = "npz"\nfile = "drawn.npz"\nrecipe = "make.py"\n{extra}')
    (folder / "make.py").write_text(text)
    return folder


def until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_made_once_and_again_when_the_recipe_changes(calib: Path) -> None:
    folder = recipe(calib)
    first = open_dataset("drawn", calib_root=calib)
    again = open_dataset("drawn", calib_root=calib)
    assert first.folder == again.folder
    assert first.image(0)[0, 0, 0] == 7
    (folder / "make.py").write_text(RECIPE.replace("7", "8"))
    changed = open_dataset("drawn", calib_root=calib)
    assert changed.image(0)[0, 0, 0] == 8
    assert changed.digest != first.digest


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("make = 3\n", "data.recipe-without-make"),
        ("def make(folder):\n    raise ValueError('no ink')\n", "data.recipe-failed"),
        ("import nowhere_to_be_found\n", "data.recipe-failed"),
    ],
)
def test_a_recipe_that_fails_is_named(calib: Path, text: str, key: str) -> None:
    recipe(calib, text=text)
    with pytest.raises(DataError) as caught:
        open_dataset("drawn", calib_root=calib)
    assert caught.value.message.key == key


def test_a_recipe_that_makes_another_count_than_it_says(calib: Path) -> None:
    recipe(calib, extra="count = 3\n")
    with pytest.raises(DataError, match=r"made 2 samples.*count = 3"):
        open_dataset("drawn", calib_root=calib)


def test_a_count_without_a_recipe_is_refused(calib: Path) -> None:
    with pytest.raises(SpecError, match="recipe"):
        load_manifest(manifest(calib, "plain", 'kind = "npz"\ncount = 3\n'))


def test_the_size_is_known_before_anything_is_made(calib: Path, tmp_path: Path) -> None:
    """Else a run could not say at its start that so few samples decide nothing."""
    recipe(calib, text="raise SystemError('not yet')\n", extra="count = 7\n")
    recipe(calib, "silent")
    settings = RunSettings(models=tmp_path, calib=calib)
    data = ModelData(None, settings, Store())
    assert data.size("drawn") == (7, "images")
    assert data.size("drawn", 5) == (5, "images")
    assert data.size("silent") == (2, "images")  # says nothing: made


def test_a_child_makes_it_meanwhile(calib: Path) -> None:
    spoken = "import sys; sys.stderr.write('x' * 1_000_000); print('y' * 1_000_000)\n"  # nobody reads that
    told = "    (folder / 'pid').write_text(str(__import__('os').getpid()))\n"
    for name in ("first", "second"):
        recipe(calib, name, spoken + RECIPE + told)
    recipe(calib, "wrong", "def make(folder):\n    raise ValueError('no ink')\n")
    found = [drawn(name, calib) for name in ("wrong", "first", "second")]
    store = Store()
    with made_ahead([each for each in found if each is not None], store):
        until(lambda: len(list(store.root.glob("dataset/*"))) == 2)
    pids = {(open_dataset(name, calib_root=calib).folder / "pid").read_text() for name in ("first", "second")}
    assert len(pids) == 1
    assert pids != {str(os.getpid())}
    with pytest.raises(DataError, match="no ink"):
        open_dataset("wrong", calib_root=calib)


def test_who_needs_it_first_waits_for_the_child(calib: Path) -> None:
    """Both at once would draw everything twice."""
    slow = "import time\n" + RECIPE + "    (folder.parent / 'begun').touch(); time.sleep(1)\n"
    told = "    (folder / 'pid').write_text(str(__import__('os').getpid()))\n"
    recipe(calib, text=slow + told)
    with made_ahead([load_manifest(calib / "drawn")], store := Store()):
        until(lambda: list(store.root.glob("**/begun")))
        made = open_dataset("drawn", calib_root=calib)
    assert (made.folder / "pid").read_text() != str(os.getpid())


def test_what_the_child_began_ends_with_the_run(calib: Path) -> None:
    pid = calib.parent / "pid"
    recipe(calib, text=f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    begun = time.monotonic()
    with made_ahead([load_manifest(calib / "drawn")], Store()):
        until(lambda: pid.exists() and pid.read_text())
    assert time.monotonic() - begun < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_child_ends_where_its_parent_is_killed(calib: Path) -> None:
    pid = calib.parent / "pid"
    recipe(calib, text=f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    code = (
        "import sys, time; from pathlib import Path; from pth2om.data import load_manifest, made_ahead\n"
        "from pth2om.data import recipes; recipes.cores = lambda: 2\n"
        "from pth2om.store import Store\n"
        "with made_ahead([load_manifest(Path(sys.argv[1]))], Store()):\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(calib / "drawn")]) as parent:
        until(lambda: pid.exists() and pid.read_text())
        parent.send_signal(signal.SIGKILL)
    until(lambda: not _alive(int(pid.read_text())))


def _alive(number: int) -> bool:
    try:  # a zombie has ended: where nobody takes orphans' statuses it stays
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_is_there_or_wrong_starts_no_child(calib: Path, monkeypatch) -> None:
    recipe(calib)
    open_dataset("drawn", calib_root=calib)
    recipe(calib, "gone").joinpath("make.py").unlink()
    monkeypatch.setattr("pth2om.data.recipes.started_alike", lambda *_: pytest.fail("started"))
    with made_ahead([load_manifest(calib / name) for name in ("drawn", "gone")], Store()):
        pass
    assert drawn("drawn", calib, {"drawn": calib}) is None
    assert drawn("nowhere", calib) is None
