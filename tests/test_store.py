"""The artifact store: right keys, whole artifacts, one build however many ask."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pth2om.errors import StoreError
from pth2om.store import Key, Store, file_digest

KEY = Key(
    "onnx",
    1,
    {"checkpoint": "aa", "net": "bb"},
    {"opset": 17, "inputs": [{"name": "x", "shape": [1, 3]}]},
    {"torch": "2.13.0"},
    "net-bs1",
)


def _writer(text: str):
    def build(folder: Path) -> None:
        (folder / "model.onnx").write_text(text)

    return build


def test_an_artifact_is_built_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.artifact(KEY, _writer("one"))
    second = store.artifact(KEY, _writer("two"))
    assert (first.cached, second.cached) == (False, True)
    assert second.file("model.onnx").read_text() == "one"
    assert first.path == second.path == store.place(KEY)


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, stage="om"),
        replace(KEY, version=2),
        replace(KEY, inputs={"checkpoint": "ab", "net": "bb"}),
        replace(KEY, inputs={"checkpoint": "aa"}),
        replace(KEY, inputs={"checkpoint": "bb", "net": "aa"}),
        replace(KEY, options={"opset": 16, "inputs": [{"name": "x", "shape": [1, 3]}]}),
        replace(KEY, options={"opset": 17, "inputs": [{"name": "x", "shape": [3, 1]}]}),
        replace(KEY, options={"opset": "17", "inputs": [{"name": "x", "shape": [1, 3]}]}),
        replace(KEY, libraries={"torch": "2.13.1"}),
        replace(KEY, libraries={}),
    ],
)
def test_each_part_of_the_key_counts(tmp_path: Path, other: Key) -> None:
    assert other.digest != KEY.digest
    store = Store(tmp_path)
    store.artifact(KEY, _writer("one"))
    assert store.artifact(other, _writer("two")).file("model.onnx").read_text() == "two"
    assert store.artifact(KEY, _writer("three")).file("model.onnx").read_text() == "one"


def test_the_label_and_the_order_of_parts_do_not_count() -> None:
    assert replace(KEY, label="other").digest == KEY.digest
    assert replace(KEY, inputs={"net": "bb", "checkpoint": "aa"}).digest == KEY.digest


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_a_failed_build_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    store = Store(tmp_path)

    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise error

    with pytest.raises(type(error)):
        store.artifact(KEY, build)
    assert list(store.entries()) == []
    assert list((tmp_path / "building").iterdir()) == []
    assert store.artifact(KEY, _writer("whole")).file("model.onnx").read_text() == "whole"


@pytest.mark.parametrize(("number", "key"), [(errno.ENOSPC, "store.no-space"), (errno.EACCES, "store.not-writable")])
def test_a_full_disk_is_said_in_words(tmp_path: Path, number: int, key: str) -> None:
    store = Store(tmp_path)

    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(StoreError) as caught:
        store.artifact(KEY, build)
    assert caught.value.message.key == key
    assert list((tmp_path / "building").iterdir()) == []


def _build_slowly(root: str, log: str) -> None:
    def build(folder: Path) -> None:
        with Path(log).open("a") as file:
            file.write("built\n")
        time.sleep(0.2)
        (folder / "result.json").write_text("1")

    Store(Path(root)).artifact(KEY, build)


def test_workers_wait_for_one_another(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_build_slowly, args=(str(tmp_path / "store"), str(log))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert log.read_text() == "built\n"


def _change_keeping_times(file: Path, content: bytes) -> None:
    """What a careless copy, a bad disk or a forger does: other bytes of the same number, with the same times."""
    before = file.stat()
    with file.open("rb+") as opened:
        opened.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_change_that_keeps_size_and_time_is_noticed(tmp_path: Path) -> None:
    store, file = Store(tmp_path / "store"), tmp_path / "weights"
    file.write_bytes(b"+1.0")
    first = store.digest(file)
    _change_keeping_times(file, b"-1.0")
    assert store.digest(file) == file_digest(file) != first
    assert Store(tmp_path / "store").digest(file) == file_digest(file)


@pytest.mark.parametrize("kind", ["building", "resume", "onnx", "artifact"])
def test_nothing_is_removed_through_a_link(tmp_path: Path, kind: str) -> None:
    root, precious = tmp_path / "store", tmp_path / "precious"
    store = Store(root)
    if kind in ("building", "resume"):
        (precious / "thesis").mkdir(parents=True)
        os.utime(precious / "thesis", (1, 1))
        root.mkdir()
        (root / kind).symlink_to(precious)
    else:
        elsewhere = Store(tmp_path / "elsewhere").artifact(KEY, _writer("thesis")).path
        elsewhere.parent.rename(precious)
        if kind == "onnx":
            root.mkdir()
            (root / "onnx").symlink_to(precious)
        else:
            (root / "onnx").mkdir(parents=True)
            (root / "onnx" / elsewhere.name).symlink_to(precious / elsewhere.name)
    store.collect_garbage(0)
    assert list(precious.iterdir())
    if kind == "building":
        with pytest.raises(StoreError) as caught:
            store.artifact(KEY, _writer("x"))
        assert caught.value.message.key == "store.linked"


def _build_and_die(root: str) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        os._exit(9)

    Store(Path(root)).artifact(KEY, build)


@pytest.mark.parametrize("remover", ["gc", "build"])
def test_what_a_killed_build_left_is_removed_and_a_running_build_is_not(tmp_path: Path, remover: str) -> None:
    killed = multiprocessing.get_context("spawn").Process(target=_build_and_die, args=(str(tmp_path),))
    killed.start()
    killed.join(60)
    assert killed.exitcode == 9
    left = {path.name for path in (tmp_path / "building").iterdir()}
    assert len([name for name in left if not name.endswith(".lock")]) == 1
    seen: list[bool] = []

    def build(folder: Path) -> None:
        if remover == "gc":
            Store(tmp_path).collect_garbage(1 << 40)
        else:
            Store(tmp_path).artifact(replace(KEY, version=3), _writer("inner"))
        seen.append(folder.is_dir())
        (folder / "model.onnx").write_text("whole")

    Store(tmp_path).artifact(replace(KEY, version=2), build)
    assert seen == [True]
    assert list((tmp_path / "building").iterdir()) == []


def test_digest_follows_the_file(tmp_path: Path) -> None:
    store, file = Store(tmp_path / "store"), tmp_path / "weights"
    file.write_bytes(b"a" * 100)
    first = store.digest(file)
    assert first == file_digest(file) == store.digest(file)
    file.write_bytes(b"b" * 100)
    os.utime(file, ns=(1, 1))
    assert store.digest(file) != first
    with pytest.raises(StoreError, match="nowhere"):
        store.digest(tmp_path / "nowhere")


def test_why_names_the_part_that_differs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.why(KEY) == ["nothing of this stage and label is in the store"]
    store.artifact(KEY, _writer("one"))
    assert store.why(KEY) == []
    assert store.why(replace(KEY, libraries={"torch": "2.14.0"})) == ['libraries.torch: "2.13.0" -> "2.14.0"']


def test_garbage_collection_keeps_what_was_used_last(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(3):
        artifact = store.artifact(replace(KEY, version=number), _writer("x" * 1000))
        os.utime(artifact.file("artifact.json"), (number, number))
    removed = store.collect_garbage(keep_bytes=4000)
    kept = [entry.parts["version"] for entry in store.entries()]
    assert 2 in kept
    assert 0 in [entry.parts["version"] for entry in removed]
    assert store.collect_garbage(keep_bytes=10**9) == []


def test_entries_say_what_they_are(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.artifact(KEY, _writer("12345"))
    (entry,) = store.entries()
    assert (entry.stage, entry.label) == ("onnx", "net-bs1")
    assert entry.bytes > 5
    assert json.dumps(dict(entry.parts))


@pytest.mark.parametrize("damage", ["gone", "cut", "changed", "record cut", "record of nothing", "record nested"])
def test_a_damaged_artifact_is_built_anew(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    place = store.artifact(KEY, _writer("whole")).path
    assert store.artifact(KEY, _writer("another")).cached  # also what this process found whole before is looked at
    if damage == "gone":
        (place / "model.onnx").unlink()
    elif damage == "cut":
        (place / "model.onnx").write_text("who")
    elif damage == "changed":
        _change_keeping_times(place / "model.onnx", b"whale")
    else:
        (place / "artifact.json").write_text({"record cut": "", "record nested": "[" * 100_000}.get(damage, "{}"))
    again = store.artifact(KEY, _writer("whole"))
    assert not again.cached
    assert again.file("model.onnx").read_text() == "whole"
    assert store.artifact(KEY, _writer("another")).cached
    assert not list((tmp_path / "building").iterdir())


@pytest.mark.parametrize(
    "record", [None, "", "{}", "[]", "[" * 100_000, "\xff", '{"parts": {}, "files": [1]}', "file cut"]
)
def test_damaged_artifacts_are_listed_and_removed(tmp_path: Path, record: str | None) -> None:
    store = Store(tmp_path)
    good = store.artifact(KEY, _writer("whole"))
    bad = store.artifact(replace(KEY, version=2), _writer("whole"))
    if record == "file cut":
        (bad.path / "model.onnx").write_text("who")
    elif record is None:
        (bad.path / "artifact.json").unlink()
    else:
        (bad.path / "artifact.json").write_text(record, encoding="latin-1")
    assert {entry.key: entry.damaged for entry in store.entries()} == {good.key: False, bad.key: True}
    assert store.why(replace(KEY, version=3)) == ["version: 1 -> 3"]
    assert [entry.key for entry in store.collect_garbage(1 << 40)] == [bad.key]
    assert not bad.path.exists()
    assert [entry.key for entry in store.entries()] == [good.key]
    assert store.collect_garbage(1 << 40) == []


def test_a_store_that_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(StoreError) as met:
        Store(place).artifact(KEY, _writer("x"))
    assert "PTH2OM_STORE" in str(met.value)


def test_garbage_of_interrupted_calibrations_goes_after_a_week(tmp_path):
    folder = tmp_path / "resume"
    folder.mkdir()
    for name, days in (("old", 8), ("new", 1)):
        (folder / name).mkdir()
        then = time.time() - days * 86_400
        os.utime(folder / name, (then, then))
    Store(tmp_path).collect_garbage(1 << 40)
    assert [path.name for path in folder.iterdir()] == ["new"]


@pytest.mark.parametrize("kind", ["root", "locks", "building", "onnx"])
def test_a_store_with_links_in_it_works_and_stays_within_itself(tmp_path: Path, kind: str) -> None:
    root, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis").write_text("precious")
    if kind == "root":
        root.symlink_to(elsewhere)
    store = Store(root)
    if kind != "building":
        store.artifact(KEY, _writer("whole"))
    if kind in ("locks", "building"):
        artifact = Store(root).artifact(KEY, _writer("whole"))
        (root / kind).rename(tmp_path / "real")
        (root / kind).symlink_to(elsewhere)
        assert Store(root).artifact(KEY, _writer("whole")).path == artifact.path
    Store(root).collect_garbage(0)
    assert (elsewhere / "thesis").read_text() == "precious"
    assert list(Store(root).entries()) == []
    if kind != "building":
        assert not Store(root).artifact(KEY, _writer("whole")).cached


def test_two_collections_at_once_remove_everything_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(30):
        store.artifact(replace(KEY, version=number), _writer("x" * 100))
    for number in range(30):
        state = tmp_path / "resume" / f"{number}"
        state.mkdir(parents=True)
        os.utime(state, (1, 1))
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(Store(tmp_path).collect_garbage, 0) for _ in range(4)]
    assert all(future.exception() is None for future in done)
    assert list(store.entries()) == []
    assert list((tmp_path / "resume").iterdir()) == []
    assert list((tmp_path / "building").iterdir()) == []


def test_what_read_something_that_no_key_names_is_not_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def build(folder: Path) -> None:
        (folder / "model.onnx").write_text("one")
        store.undeclared += 1

    assert store.artifact(KEY, build).file("model.onnx").read_text() == "one"
    assert not store.place(KEY).exists()
    assert store.artifact(KEY, _writer("two")).file("model.onnx").read_text() == "two"
    assert store.artifact(KEY, _writer("three")).cached
