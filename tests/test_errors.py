"""Errors read in either language and cross process borders."""

from __future__ import annotations

import pickle

from pth2om.errors import Absent, Pth2omError, StoreError


def test_an_error_says_where_what_and_what_to_do() -> None:
    error = StoreError("store.no-space", where="/store", stage="onnx")
    assert str(error).startswith("/store: There is no space")
    assert "\n  → Free some space" in str(error)
    assert "磁盘" in error.render("zh")


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(
        pickle.dumps(Absent("pipeline.weights-absent", where="net", file="a.pth", model="net", fetch=""))
    )
    assert isinstance(error, Absent)
    assert isinstance(error, Pth2omError)
    assert "a.pth" in str(error)
