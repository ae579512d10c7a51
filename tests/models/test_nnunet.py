"""The U-Net against what nnU-Net v1 and v2 themselves computed from the same state dicts (``data/README.md``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pth2om.checkpoint import load_module, load_net
from pth2om.errors import CheckpointError
from pth2om.spec import Input, Source, Spec

ROOT = Path(__file__).parents[2]
NET = ROOT / "models" / "nnunet3d" / "net.py"
TAGS = ("v2-3d", "v2-2d", "v1")


def reference(tag: str) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    with np.load(Path(__file__).parent / "data" / "nnunet_nets.npz") as data:
        own = {name.removeprefix(f"{tag}/"): data[name] for name in data.files if name.startswith(f"{tag}/")}
    state = {name.removeprefix("state/"): torch.from_numpy(own[name]) for name in own if name.startswith("state/")}
    return state, own


def loaded(state: dict[str, torch.Tensor], x: np.ndarray, folder: Path) -> torch.nn.Module:
    torch.save({"state_dict": state, "epoch": 3}, folder / "model.pth")
    inputs = (Input(name="INPUT__0", shape=x.shape[1:]),)
    spec = Spec(name="nnunet", folder=folder, task="segmentation", source=Source(checkpoint="model.pth"), inputs=inputs)
    return load_module(spec, folder / "model.pth", net=NET).module


@pytest.mark.parametrize("tag", TAGS)
def test_state_dicts_of_nnunet_compute_what_they_did(tag: str, tmp_path: Path) -> None:
    state, own = reference(tag)
    module = loaded(state, own["x"], tmp_path)
    x = torch.from_numpy(own["x"])
    with torch.inference_mode():
        assert np.abs(module(x).numpy() - own["y"]).max() <= 1e-5
        module.decoder.deep_supervision = True
        deep = module(x)
        assert len(deep) == 2
        for number, each in enumerate(deep):
            assert np.abs(each.numpy() - own[f"deep{number}"]).max() <= 1e-5
        assert isinstance(load_net(NET).deployed(module)(x), torch.Tensor)


@pytest.mark.parametrize("front", ["encoder", "decoder.encoder"])
def test_copies_of_the_encoder_that_differ_are_refused(front: str, tmp_path: Path) -> None:
    state, own = reference("v2-3d")
    name = f"{front}.stages.1.0.convs.0.conv.weight"
    state[name] = state[name] + 1e-3
    with pytest.raises(CheckpointError) as caught:
        loaded(state, own["x"], tmp_path)
    assert caught.value.message.key == "checkpoint.copies-differ"
    assert "encoder.stages.1.0.convs.0" in caught.value.render()
