"""How far a model is from itself, measured on the model."""

from __future__ import annotations

import contextlib
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pth2om.data.samples import samples
from pth2om.questions.rounding import own_rounding
from pth2om.questions.subject import Subject
from pth2om.sessions.torch import TorchSession
from pth2om.spec import Export, Input, Shape
from pth2om.store import Store


class Single(nn.Module):
    """A net that makes a float32 tensor of its own, so that it has no float64 twin."""

    def forward(self, x):
        return (x.flatten(1)[:, :8] @ torch.ones(8, 3)).float()


def blocks(count: int) -> nn.Module:
    torch.manual_seed(0)
    wide = [1, *[8] * count]
    parts = [
        (nn.Conv2d(before, after, 3, padding=1), nn.InstanceNorm2d(after, affine=True), nn.LeakyReLU(0.01))
        for before, after in itertools.pairwise(wide)
    ]
    return nn.Sequential(*[layer for part in parts for layer in part], nn.Conv2d(8, 3, 1)).eval()


def measured(tmp_path, module: nn.Module, *, has_torch: bool = True) -> dict[str, float]:
    """Sample -> the relative L2 of the model's own rounding."""
    inputs = (Input(name="x", shape=(1, 16, 16)),)
    session = TorchSession(lambda: module, inputs, (), digest="net")
    spec = SimpleNamespace(name="net", inputs=inputs, export=Export(), slices=(), preprocess=None, volume=None)
    pipeline = SimpleNamespace(
        spec=spec,
        source=SimpleNamespace(watching=contextlib.nullcontext),
        has_torch=has_torch,
        store=Store(tmp_path / "store"),
        torch_session=lambda: session,
        onnx_session=lambda _: session,
        module=lambda: module,
        remembering=lambda one: one,
    )
    fed = samples(SimpleNamespace(**vars(spec)), None, batch=1, seed=0)
    own = own_rounding(Subject(pipeline, shape=Shape(1)), fed)
    assert own is not None
    return {sample: row["relative_l2"] for sample, row in own["output"].items()}


@pytest.mark.parametrize("has_torch", [True, False])
def test_instance_norm_on_zeros_is_noise_and_on_random_numbers_it_is_not(tmp_path, has_torch):
    own = measured(tmp_path, blocks(3), has_torch=has_torch)
    assert own.pop("zeros") > 1e-3
    assert max(own.values()) < 1e-5


def test_a_net_without_a_float64_twin_is_measured_by_moving_its_input(tmp_path):
    own = measured(tmp_path, Single())
    assert all(np.isfinite(value) or sample == "zeros" for sample, value in own.items())
    assert max(value for sample, value in own.items() if sample != "zeros") < 1e-5
