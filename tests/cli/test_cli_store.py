"""``pth2om store`` as typed."""

from __future__ import annotations

import pytest

from pth2om.cli import main
from pth2om.store import Key, Store


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setenv("PTH2OM_STORE", str(tmp_path))
    return Store()


def build(folder) -> None:
    (folder / "model.onnx").write_text("x" * 100)


def test_ls_gc_and_why(store: Store, capsys) -> None:
    store.artifact(Key("onnx", 1, options={"opset": 13}, label="net-bs1"), build)
    store.artifact(Key("onnx", 1, options={"opset": 17}, label="net-bs1"), build)
    assert main(["store", "ls"]) == 0
    assert "net-bs1" in capsys.readouterr().out
    assert main(["store", "why", "net-bs1"]) == 0
    assert "options.opset: 13 -> 17" in capsys.readouterr().out.replace("17 -> 13", "13 -> 17")
    assert main(["store", "gc", "--keep", "0"]) == 0
    assert list(store.entries()) == []


def test_a_damaged_artifact_is_listed_and_goes(store: Store, capsys) -> None:
    place = store.artifact(Key("onnx", 1, label="net-bs1"), build).path
    (place / "artifact.json").write_text("{")
    assert main(["store", "ls"]) == 0
    assert "damaged" in capsys.readouterr().out
    assert main(["store", "why", place.name]) == 1
    assert main(["store", "gc"]) == 0
    assert "1 artifact removed" in capsys.readouterr().out
    assert not place.exists()


def test_mistakes_are_sentences(store: Store, capsys) -> None:
    assert main(["store", "why", "nothing"]) == 1
    assert "pth2om store ls" in capsys.readouterr().err
    assert main(["store", "gc", "--keep", "much"]) == 1
    assert "500MB" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["stroe"])
