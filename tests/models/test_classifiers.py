"""ConvMixer's key layouts, the four-channel ResNet-50, and the figures of the classifiers with real weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pth2om.checkpoint import load_module, load_net
from pth2om.errors import CheckpointError
from pth2om.spec import load

MODELS = Path(__file__).parents[2] / "models"


def timm_layout(state: dict[str, torch.Tensor], depth: int) -> dict[str, torch.Tensor]:
    """The paper's names in timm's form, written out block by block."""
    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        number, rest = key.split(".", 1)
        place = int(number)
        if place < 3:
            renamed[f"stem.{place}.{rest}"] = tensor
        elif place < 3 + depth:
            renamed[f"blocks.{place - 3}.{rest}"] = tensor
        else:
            renamed[f"head.{rest}"] = tensor
    return renamed


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("layout", ["paper", "timm"])
def test_both_convmixer_layouts_give_the_same_net(tmp_path: Path, layout: str, prefix: str) -> None:
    net = load_net(MODELS / "convmixer" / "net.py")
    torch.manual_seed(0)
    module = net.build(7, dim=16, depth=3, kernel=5, patch=4).eval()
    state = dict(module.state_dict())
    given = state if layout == "paper" else timm_layout(state, 3)
    file = tmp_path / "weights.pth.tar"
    torch.save({"state_dict": {prefix + key: tensor for key, tensor in given.items()}}, file)
    (tmp_path / "model.toml").write_text(
        'task = "classification"\n[source]\ncheckpoint = "weights.pth.tar"\n'
        '[[inputs]]\nname = "image"\nshape = [3, 32, 32]\n'
    )
    loaded = load_module(load(tmp_path), file, net=net.path)
    image = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded.module(image), module(image))


def test_convmixer_1536_20_has_the_published_keys() -> None:
    net = load_net(MODELS / "convmixer" / "net.py")
    with torch.device("meta"):
        state = net.source._mixer(1536, 20, 9, 7, 1000, 3, "gelu").state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    assert shapes["0.weight"] == (1536, 3, 7, 7)
    assert shapes["3.0.fn.0.weight"] == (1536, 1, 9, 9)
    assert shapes["22.1.weight"] == (1536, 1536, 1, 1)
    assert shapes["22.3.running_var"] == shapes["2.weight"] == (1536,)
    assert shapes["25.weight"] == (1000, 1536)
    assert {key.split(".")[0] for key in shapes} == {"0", "2", *map(str, range(3, 23)), "25"}
    # 51.6 million parameters, as the paper counts them.
    assert sum(int(np.prod(shape)) for key, shape in shapes.items() if "running" not in key) == pytest.approx(
        51.6e6, rel=2e-3
    )
    assert set(net.rename(timm_layout(state, 20))) == set(state)


def test_convmixer_refuses_what_it_cannot_build() -> None:
    net = load_net(MODELS / "convmixer" / "net.py")
    with pytest.raises(CheckpointError, match="kernel 4 is even"):
        net.build(10, dim=8, depth=1, kernel=4, patch=2)
    with pytest.raises(CheckpointError, match="activation 'silu'"):
        net.build(10, dim=8, depth=1, kernel=3, patch=2, activation="silu")


def test_sobel_resnet_reads_channels_and_classes_off_the_weights(tmp_path: Path) -> None:
    net = load_net(MODELS / "sobel_resnet50_4ch" / "net.py")
    state = net.build(11, in_channels=5).state_dict()
    file = tmp_path / "mine.pth"
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, file)
    loaded = load_module(load(MODELS / "sobel_resnet50_4ch"), file, net=net.path)
    assert loaded.module.conv1.in_channels == 5
    assert loaded.module.fc.out_features == 11
    # torchvision's resnet50 has 161 parameters, 53 BatchNorms with three buffers each, and 25,557,032 values.
    assert len(state) == 161 + 3 * 53
    values = sum(tensor.numel() for key, tensor in state.items() if "running" not in key and "num_b" not in key)
    assert values == 25_557_032 - 989 * 2049 + 2 * 64 * 49


def test_sobel_spec_feeds_four_channels() -> None:
    spec = load(MODELS / "sobel_resnet50_4ch")
    assert spec.inputs[0].shape == (4, 384, 384)
    assert spec.preprocess is not None
    assert spec.preprocess.extra == "sobel"


def test_resnet20_reproduces_its_figure(data_root: Path) -> None:
    spec = load(MODELS / "resnet20")
    loaded = load_module(spec, data_root / "weights" / str(spec.source.checkpoint), net=MODELS / "resnet20" / "net.py")
    data = np.load(data_root / "cifar10_249.npz")
    assert spec.preprocess is not None
    pixels = data["x"].astype(np.float32) / 255
    normalized = (pixels - np.float32(spec.preprocess.mean)) / np.float32(spec.preprocess.std)
    with torch.inference_mode():
        best = loaded.module(torch.from_numpy(normalized.transpose(0, 3, 1, 2).copy())).argmax(1).numpy()
    assert int((best == data["y"]).sum()) == 225


@pytest.mark.parametrize(
    ("name", "parameters"), [("mobilenet_v2-b0353104.pth", 3_504_872), ("yolov6lite_s.pth", 546_790)]
)
def test_real_weights_fit_every_key(data_root: Path, name: str, parameters: int) -> None:
    folder = MODELS / {"mobilenet_v2-b0353104.pth": "mobilenet_v2", "yolov6lite_s.pth": "yolov6lite"}[name]
    spec = load(folder)
    loaded = load_module(spec, data_root / "weights" / name, net=folder / "net.py")
    assert sum(parameter.numel() for parameter in loaded.module.parameters()) == parameters
    with torch.inference_mode():
        output = loaded.module(torch.rand(2, *spec.inputs[0].shape))
    assert output.shape == ((2, 1000) if spec.task == "classification" else (2, 2125, 85))


def test_a_copy_of_yolov6lite_is_whole() -> None:
    """Its blocks share the layers of one dictionary; a copy must use its own."""
    import copy

    net = load_net(MODELS / "yolov6lite" / "net.py")
    module = net.build(4).eval()
    twin = copy.deepcopy(module)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        before = module(image)
        for parameter in twin.parameters():
            parameter.mul_(0.5)
        assert torch.equal(module(image), before)
        assert not torch.equal(twin(image), before)


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in MODELS.glob("*/net.py")))
def test_every_net_refuses_to_be_pretrained(folder: str) -> None:
    net = load_net(MODELS / folder / "net.py")
    with pytest.raises(ValueError, match="holds no weights"):
        net.source.build(10, pretrained=True)


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in MODELS.glob("*/model.toml")))
def test_every_spec_says_what_it_is(folder: str) -> None:
    spec = load(MODELS / folder)
    assert spec.title
    assert spec.description
    assert spec.licence
