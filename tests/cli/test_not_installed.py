"""A package that is not installed is named, and gives no traceback."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from pth2om.cli import draw, main


@pytest.mark.parametrize("error", [PackageNotFoundError("torch"), ModuleNotFoundError("no", name="torch")])
def test_it_is_named(error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(_: object) -> int:
        raise error

    monkeypatch.setattr(draw, "run", fails)
    assert main(["draw", "m.onnx"]) == 1
    assert "torch is not installed" in capsys.readouterr().err


def test_a_module_of_ours_is_a_mistake_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> int:
        raise ModuleNotFoundError("no", name="pth2om.nothing")

    monkeypatch.setattr(draw, "run", fails)
    with pytest.raises(ModuleNotFoundError):
        main(["draw", "m.onnx"])
