"""What an accuracy-aware search may claim: bounds corrected for its looks, and the choice it did not take."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pth2om.accuracy.bounds import drop_bounds, least_images, zero_disagreement_bound
from pth2om.errors import QuantizeError
from pth2om.quantize import accuracy_aware
from pth2om.quantize.accuracy_aware import images_to_show, keep_fewest, leave_floating
from pth2om.quantize.command_line import search_lines
from pth2om.quantize.effects import Drop, Effect


class Network:
    """A plan of layers of which only names matter; a "model" is the set of its INT8 layers."""

    def __init__(self, layers: int) -> None:
        self.names = [f"layer {number}" for number in range(layers)]
        self.quantized = dict.fromkeys(self.names)
        self.settings = SimpleNamespace(equalize=False)
        self.network = self.selection = SimpleNamespace(chosen=())
        self.findings: list = []
        self.model = frozenset()

    def deploy(self, names):
        return frozenset(names)


@pytest.fixture(autouse=True)
def _no_arithmetic(monkeypatch):
    monkeypatch.setattr(accuracy_aware, "fake_quant", lambda names: names)
    monkeypatch.setattr(
        accuracy_aware, "own_effects", lambda plan, *_: [Effect(name, float(k)) for k, name in enumerate(plan.names)]
    )
    monkeypatch.setattr(accuracy_aware, "weight_spread", lambda *_: {"layer 0": 16.0, "layer 1": 2.0})


def evaluate_losses(losses: dict[int, int], images: int):
    """Images lost by how many layers are in FP16; fewer where none is given for that number."""

    def evaluate(model: frozenset, level: float, layers: int = 28) -> Drop:
        floating = layers - len(model)
        lost = 0 if not model else losses[max(count for count in losses if count <= floating)]
        low, high, _ = drop_bounds(lost, 0, images, level)
        return Drop(100 * lost / images, 100 * low, 100 * high, images, level)

    return evaluate


def test_the_level_is_that_at_which_all_looks_hold_together():
    found = keep_fewest(Network(28), [], evaluate_losses({0: 40, 12: 0}, 2000), 1.0)
    assert found.looks == 1 + math.ceil(math.log2(28))
    assert len(found.trials) <= found.looks
    assert found.drop.level == pytest.approx(1 - 0.05 / found.looks)
    assert found.drop.high == pytest.approx(100 * zero_disagreement_bound(2000, found.drop.level))


def test_few_images_take_the_measured_drop_and_name_how_many_would_settle_it():
    # 325 images show 1 point with one look (299 suffice), and not with six (476 are needed).
    plan = Network(28)
    found = keep_fewest(plan, [], evaluate_losses({0: 9, 11: 3, 26: 0}, 325), 1.0)
    assert not found.proven
    assert len(found.floating) == 11
    assert found.drop.drop == pytest.approx(300 / 325)
    assert found.images_needed > 325
    leave_floating(plan, found, 1.0)
    warned = next(finding for finding in plan.findings if finding.rule == "quantize.search-unproven")
    for language in ("en", "zh"):
        assert str(found.images_needed) in warned.message.render(language)
        assert "0.92" in warned.message.render(language)


def test_what_was_only_measured_stands_beside_what_was_shown():
    found = keep_fewest(Network(28), [], evaluate_losses({0: 60, 11: 6, 25: 0}, 700), 1.0)
    assert found.proven
    assert len(found.floating) > found.fewer.floating >= 11
    assert found.fewer.drop.drop <= 1.0 < found.fewer.drop.high
    assert found.images_needed > 700
    lines = "\n".join(search_lines(json.loads(json.dumps(asdict(found))), 1.0))
    assert all(text in lines for text in (str(found.images_needed), "0.86", "--skip 'layer 0'", "95 % over all"))
    assert "--equalize" in lines
    assert found.unequal == ("layer 0",)


def test_equalization_is_not_proposed_when_it_was_done():
    plan = Network(28)
    plan.settings.equalize = True
    assert keep_fewest(plan, [], evaluate_losses({0: 60, 11: 0}, 700), 1.0).unequal == ()


def test_nothing_found_is_refused():
    with pytest.raises(QuantizeError):
        keep_fewest(Network(28), [], evaluate_losses({0: 60}, 700), 1.0)


@given(st.integers(0, 20), st.integers(100, 3000), st.floats(0.5, 5))
@settings(max_examples=25, deadline=None)
def test_the_images_named_would_show_it(lost: int, images: int, gate: float) -> None:
    level = 0.99
    low, high, _ = drop_bounds(lost, 0, images, level)
    drop = Drop(100 * lost / images, 100 * low, 100 * high, images, level)
    needed = images_to_show(drop, gate)
    if drop.drop >= gate:
        assert needed is None
        return
    if needed is None or needed > 50_000:
        return
    assert needed >= least_images(gate / 100, level)
    more = np.ceil(1.3 * needed)
    again = drop_bounds(round(lost * more / images), 0, int(more), level)[1]
    assert 100 * again <= gate * 1.02
