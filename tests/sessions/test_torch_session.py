"""PyTorch as a session."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pth2om.errors import ExportError
from pth2om.sessions.torch import TorchSession
from pth2om.spec import Input

IMAGE = (Input(name="x", shape=(2,)),)


class Doubling(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_it_opens_on_the_first_run_only() -> None:
    loads = []

    def load() -> torch.nn.Module:
        loads.append(1)
        return Doubling()

    session = TorchSession(load, IMAGE, ("y",), digest="d")
    assert session.digest == "d"
    assert not loads
    feeds = {"x": np.array([[1.0, 2.0]], np.float32)}
    with session:
        np.testing.assert_array_equal(session.run(feeds)["y"], [[2.0, 4.0]])
        session.run(feeds)
    assert len(loads) == 1
    assert [(spec.name, spec.shape) for spec in session.outputs] == [("y", (None, 2))]


def test_feeds_are_not_changed() -> None:
    class InPlace(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mul_(3)

    feeds = {"x": np.ones((1, 2), np.float32)}
    TorchSession(InPlace, IMAGE, (), digest="d").run(feeds)
    np.testing.assert_array_equal(feeds["x"], 1)


def test_a_net_that_fails_is_a_sentence() -> None:
    class Picky(torch.nn.Module):
        def forward(self, x: torch.Tensor, rate: int) -> torch.Tensor:
            return x * rate

    with pytest.raises(ExportError, match="rate"):
        TorchSession(lambda: torch.jit.script(Picky()), IMAGE, (), digest="d").run({"x": np.ones((1, 2), np.float32)})
