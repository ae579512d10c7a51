"""The U-Net against what nnU-Net v1 and v2 themselves computed from the same state dicts (``data/README.md``)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pth2om import torchscript
from pth2om.accuracy import volumes
from pth2om.checkpoint import load_module, load_net
from pth2om.data import open_dataset
from pth2om.data.normalizing import preparation, prepare, window_of
from pth2om.errors import CheckpointError
from pth2om.segmentation import window
from pth2om.sessions.torch import TorchSession
from pth2om.sessions.torchscript import torchscript_session
from pth2om.spec import Input, Source, Spec, load
from pth2om.spec.torchscript import TorchScript

ROOT = Path(__file__).parents[2]
NET = ROOT / "models" / "nnunet3d" / "net.py"


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.parent.name.replace("-", "_") + path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_a_residual_encoder_is_named(tmp_path: Path) -> None:
    state = {"encoder.stem.convs.0.conv.weight": torch.zeros(4, 1, 3, 3, 3)}
    state["encoder.stages.0.blocks.0.conv1.conv.weight"] = torch.zeros(4, 4, 3, 3, 3)
    with pytest.raises(CheckpointError) as caught:
        loaded(state, np.zeros((1, 1, 8, 8, 8), np.float32), tmp_path)
    assert "ResidualEncoderUNet" in str(caught.value)
    assert "dynamic_network_architectures" in str(caught.value)


@pytest.mark.parametrize("front", ["encoder", "decoder.encoder"])
def test_copies_of_the_encoder_that_differ_are_refused(front: str, tmp_path: Path) -> None:
    state, own = reference("v2-3d")
    name = f"{front}.stages.1.0.convs.0.conv.weight"
    state[name] = state[name] + 1e-3
    with pytest.raises(CheckpointError) as caught:
        loaded(state, own["x"], tmp_path)
    assert caught.value.message.key == "checkpoint.copies-differ"
    assert "encoder.stages.1.0.convs.0" in caught.value.render()


@pytest.fixture(scope="module")
def bundled() -> tuple[Spec, torch.nn.Module]:
    """The spec that comes with pth2om, and its net with the trained weights."""
    spec = load(NET.parent)
    return spec, load_module(spec, NET.parent / "weights" / str(spec.source.checkpoint), net=NET).module


@pytest.mark.parametrize("deep", [False, True])
def test_the_bundled_net_becomes_torchscript(bundled: tuple[Spec, torch.nn.Module], deep: bool, tmp_path: Path) -> None:
    spec, module = bundled
    module.decoder.deep_supervision = deep
    made = torchscript.make(module, spec.inputs, spec.torchscript, 1, tmp_path / "m.pt")
    module.decoder.deep_supervision = False
    assert made.method == "trace"
    assert max(made.mean_error, made.twin_error) <= spec.torchscript.mean_error
    assert made.outputs == (2 if deep else 1)
    told = [each.message.render() for each in made.findings if each.rule == "torchscript.deep-supervision"]
    assert len(told) == deep
    assert all("decoder.deep_supervision" in each for each in told)
    rules = {each.rule: each.severity for each in made.findings}
    assert rules.get("torchscript.library-check") == "info"  # instance norm's check of sizes is nobody's to mend
    assert "torchscript.data-dependent" not in rules


def test_a_volume_through_the_bundled_program(bundled: tuple[Spec, torch.nn.Module], tmp_path: Path) -> None:
    """Windows through TorchScript: one window is the net's own output; where two meet, their weighted mean."""
    spec, module = bundled
    torchscript.make(module, spec.inputs, TorchScript(twin=False), 1, tmp_path / "m.pt")
    session = torchscript_session(tmp_path / "m.pt", spec.inputs, ["OUTPUT__0"], digest="m")
    tile = spec.inputs[0].shape[1:]
    volume = np.random.default_rng(0).standard_normal((1, tile[0] + 6, *tile[1:])).astype(np.float32)

    def whole(part: np.ndarray) -> np.ndarray:
        pieces = window.slabs(part, tile, lambda tiles: session.run({"INPUT__0": tiles})["OUTPUT__0"])
        return np.concatenate([piece.scores for piece in pieces], axis=1)

    with torch.inference_mode():
        first, last = (module(torch.from_numpy(volume[None, :, at : at + tile[0]]))[0].numpy() for at in (0, 6))
    assert np.abs(whole(volume[:, : tile[0]]) - first).max() <= 1e-4
    found = whole(volume)
    assert np.abs(found[:, :6] - first[:, :6]).max() <= 1e-4
    assert np.abs(found[:, tile[0] :] - last[:, -6:]).max() <= 1e-4
    low, high = np.minimum(first[:, 6:], last[:, :-6]), np.maximum(first[:, 6:], last[:, :-6])
    between = found[:, 6 : tile[0]]
    assert ((between >= low - 1e-4) & (between <= high + 1e-4)).all()


def test_the_bundled_weights_hold_the_encoder_twice_and_are_small(bundled: tuple[Spec, torch.nn.Module]) -> None:
    path = NET.parent / "weights" / "nnunet3d.pth"
    assert path.stat().st_size < 200_000
    state = torch.load(path, weights_only=True)["network_weights"]
    twice = [name for name in state if name.startswith("encoder.")]
    assert twice
    for name in twice:
        assert torch.equal(state[name], state[f"decoder.{name}"])
    own = bundled[1].state_dict()
    assert all(torch.equal(own[name], state[name].float()) for name in own)


def test_nnunetv2_computes_the_same_with_the_bundled_weights_and_plans(bundled: tuple[Spec, torch.nn.Module]) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16)).astype(np.float32))
    with np.load(Path(__file__).parent / "data" / "nnunet_bundled.npz") as data, torch.inference_mode():
        assert np.abs(bundled[1](x).numpy()[:, :, 8] - data["y"]).max() <= 1e-4


def test_the_drawn_volumes_are_as_recorded() -> None:
    """What the recipe wrote, read back as an acceptance run reads it."""
    drawn = module_at(ROOT / "calib" / "drawn-volumes" / "make.py")
    data = open_dataset("drawn-volumes", calib_root=ROOT / "calib")
    assert data.names == drawn.CLASSES
    assert len(data) == drawn.COUNTS["held-out"]
    read = ((data.volume(index).values[0].astype(np.int16), data.truth(index).astype(np.uint8)) for index in range(100))
    assert drawn.digest(read) == drawn.SHA256
    assert len(open_dataset("drawn-calibration", calib_root=ROOT / "calib")) == 32
    assert all((data.truth(index) == number).any() for index in range(0, 100, 10) for number in range(3))


def test_twenty_steps_of_training() -> None:
    training = module_at(NET.parent / "train.py")
    torch.manual_seed(training.SEED)
    module = training.net.build(3, features=(4, 8))
    losses = training.train(module, training.cases(8), (16, 16, 16), 20)
    assert np.mean(losses[-4:]) < 0.95 * np.mean(losses[:4])
    assert not module.training
    assert not module.decoder.deep_supervision


def test_the_bundled_net_finds_balls_and_boxes(bundled: tuple[Spec, torch.nn.Module]) -> None:
    spec, module = bundled
    data = open_dataset("drawn-volumes", calib_root=ROOT / "calib", subset=10)
    session = TorchSession(lambda: module, spec.inputs, ["OUTPUT__0"], digest="trained")
    assert spec.volume is not None
    found = volumes.measure(session, data, preparation(spec), spec.volume)
    assert min(found["metrics"]["dice:ball"], found["metrics"]["dice:box"]) > 75


def test_the_real_net_finds_the_brain_in_the_middle_window(data_root: Path) -> None:
    """A real TorchScript net on a real T1 volume, as ``models/deepbet3d`` has them."""
    pytest.importorskip("nibabel")
    spec = load(ROOT / "models" / "deepbet3d")
    data = open_dataset("t1-brain", calib_root=ROOT / "calib", data_roots=[data_root])
    volume, truth = data.volume(0, reorient=True), data.truth(0, reorient=True)
    assert volume.values.shape == (1, 256, 256, 256)
    assert volume.spacing == (1.0, 1.0, 1.0)
    assert truth.mean() == pytest.approx(0.0933, abs=1e-3)
    prepared = prepare(volume, preparation(spec))
    session = torchscript_session(
        data_root / str(spec.source.checkpoint), spec.inputs, spec.export.outputs, digest="deepbet"
    )
    tile = spec.inputs[0].shape[1:]
    found = session.run({"INPUT__0": window_of(prepared, tile)[None]})["OUTPUT__0"][0].argmax(0)
    starts = [part.start + (part.stop - part.start - side) // 2 for part, side in zip(prepared.box, tile, strict=True)]
    middle = truth[tuple(slice(start, start + side) for start, side in zip(starts, tile, strict=True))]
    assert 2 * (found * middle).sum() / (found.sum() + middle.sum()) > 0.7
