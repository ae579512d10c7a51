"""MultiScaleDeformableAttn: our reference against a loop over every sample, and the model through the acceptance."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pth2om.harness.accepting import accept_models

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models" / "msda"


def body() -> Any:
    specification = importlib.util.spec_from_file_location("msda_body", MODEL / "body.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.multi_scale_deformable_attn


def looped(
    value: npt.NDArray[Any],
    sizes: Sequence[tuple[int, int]],
    locations: npt.NDArray[Any],
    weights: npt.NDArray[Any],
) -> npt.NDArray[Any]:
    """The definition, written as loops in float64: one bilinear sample at a time."""
    batch, _, heads, embed = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    result = np.zeros((batch, queries, heads, embed))
    for b, q, h in np.ndindex(batch, queries, heads):
        start = 0
        for level in range(levels):
            height, width = sizes[level]
            picture = value[b, start : start + height * width, h].reshape(height, width, embed).astype(np.float64)
            start += height * width
            for p in range(points):
                x = float(locations[b, q, h, level, p, 0]) * width - 0.5
                y = float(locations[b, q, h, level, p, 1]) * height - 0.5
                for row in (int(np.floor(y)), int(np.floor(y)) + 1):
                    for column in (int(np.floor(x)), int(np.floor(x)) + 1):
                        if 0 <= row < height and 0 <= column < width:
                            share = (1 - abs(y - row)) * (1 - abs(x - column))
                            result[b, q, h] += share * float(weights[b, q, h, level, p]) * picture[row, column]
    return result.reshape(batch, queries, heads * embed)


@settings(max_examples=40)
@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 8]),
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_the_reference_is_the_definition(
    batch: int, queries: int, heads: int, embed: int, sizes: list[tuple[int, int]], points: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    keys = sum(height * width for height, width in sizes)
    starts = np.cumsum([0, *(height * width for height, width in sizes)])[:-1].astype(np.int32)
    value = random.uniform(-1, 1, (batch, keys, heads, embed)).astype(np.float32)
    locations = random.uniform(-0.1, 1.1, (batch, queries, heads, len(sizes), points, 2)).astype(np.float32)
    weights = random.uniform(0, 1, locations.shape[:-1]).astype(np.float32)
    tensors = (torch.from_numpy(each) for each in (value, np.array(sizes, np.int32), starts, locations, weights))
    got = body()(*tensors).numpy()
    assert got == pytest.approx(looped(value, sizes, locations, weights), abs=1e-6)


def test_the_border_is_zero_outside() -> None:
    """One pixel of 1: a quarter is left at its corner, nothing half a pixel beyond the border."""
    value, sizes = torch.ones(1, 1, 1, 8), torch.tensor([[1, 1]], dtype=torch.int32)
    places = torch.tensor([[0.5, 0.5], [0.0, 0.5], [0.0, 0.0], [-0.5, 0.5], [1.5, 0.5]]).reshape(1, 5, 1, 1, 1, 2)
    got = body()(value, sizes, torch.zeros(1, dtype=torch.int32), places, torch.ones(1, 5, 1, 1, 1))
    assert got[0, :, 0].tolist() == [1.0, 0.5, 0.25, 0.0, 0.0]


@pytest.mark.nightly
def test_the_published_size_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40,000 queries on 200 x 200 pixels, two items: minutes, so at night."""
    monkeypatch.setenv("PTH2OM_STORE", str(tmp_path / "store"))
    done = accept_models(ROOT, match="deformable-attn-40k", soc="Ascend910B2", reports=tmp_path / "out", quiet=True)
    assert done.exit_status == 0
    assert {gate.verdict for gate in done.gates} <= {"passed", "shown", "not_measured"}
    assert any(gate.check.startswith("torch~om/") and gate.ground == "emulated" for gate in done.gates)
