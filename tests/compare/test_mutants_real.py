"""Mutants of real nets on real images: each must fail a default gate of closeness or of accuracy."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pth2om.accuracy import drop, reproduces
from pth2om.accuracy import measure as score
from pth2om.compare import judge, measure
from pth2om.data import Preprocessor, open_dataset
from pth2om.data.samples import samples
from pth2om.session import Provenance, TensorSpec
from pth2om.spec import load


class Net:
    """A torch module as a session, fed through `feed` first."""

    def __init__(self, module: torch.nn.Module, output: str, feed=lambda x: x) -> None:
        self.module, self.output, self.feed = module.eval(), output, feed
        self.inputs = (TensorSpec("image", (None, None, None, None), np.dtype("float32")),)
        self.outputs = (TensorSpec(output, (None,), np.dtype("float32")),)
        self.digest, self.provenance = "0" * 64, Provenance("torch", torch.__version__, "host")

    def run(self, feeds):
        with torch.no_grad():
            return {self.output: self.module(torch.from_numpy(np.ascontiguousarray(self.feed(feeds["image"])))).numpy()}


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"net_of_{path.parent.name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    # On a busy machine two threads wait for each other most of the time.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def resnet(repository, data_root):
    folder = repository / "models" / "resnet20"
    if not (folder / "net.py").is_file():
        pytest.skip("models/resnet20 is absent")
    spec = load(folder)
    net = _module(folder / "net.py").build(10)
    state = torch.load(data_root / "weights" / "resnet20-12fca82f.th", map_location="cpu", weights_only=True)
    net.load_state_dict({key.removeprefix("module."): value for key, value in state["state_dict"].items()})
    dataset = open_dataset("cifar10_249", calib_root=repository / "calib", data_roots=[data_root])
    return spec, net, dataset


def _normalized_again(x):
    mean = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
    std = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
    return (x / 255 - mean) / std


def _without_channel(net):
    broken = copy.deepcopy(net)
    with torch.no_grad():
        # Channel 5 of this layer is dead in the trained net: dropping it changes nothing at all.
        broken.layer2[0].bn2.weight[0] = 0
        broken.layer2[0].bn2.bias[0] = 0
    return broken


def _half_loaded(net):
    broken = copy.deepcopy(net)
    torch.manual_seed(0)
    for module in broken.layer3.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return broken


def _classes_swapped(net):
    broken = copy.deepcopy(net)
    with torch.no_grad():
        for tensor in (broken.linear.weight, broken.linear.bias):
            tensor[[3, 5]] = tensor[[5, 3]]
    return broken


MUTANTS = {
    "preprocessing twice": (lambda net: net, _normalized_again),
    "BGR for RGB": (lambda net: net, lambda x: x[:, ::-1]),
    "a channel dropped": (_without_channel, lambda x: x),
    "half-loaded": (_half_loaded, lambda x: x),
    "classes swapped": (_classes_swapped, lambda x: x),
    "scores zeroed": (lambda net: torch.nn.Sequential(net, torch.nn.Threshold(1e9, 0.0)), lambda x: x),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_resnet20_fails_closeness(name: str, resnet) -> None:
    spec, net, dataset = resnet
    change, feed = MUTANTS[name]
    inputs = samples(spec, dataset, batch=4, seed=1)
    measured = measure(Net(net, "logits"), Net(change(net), "logits", feed), inputs, spec.slices)
    assert "failed" in {each.verdict for each in judge(measured, pair="torch~om", gates=spec.gates)}


@pytest.mark.parametrize("name", sorted(set(MUTANTS) - {"a channel dropped"}))
def test_a_mutant_of_resnet20_fails_accuracy_too(name: str, resnet) -> None:
    # When both sides carry the mistake, closeness sees nothing: only the known figure does.
    spec, net, dataset = resnet
    change, feed = MUTANTS[name]
    preprocessor = Preprocessor(spec.preprocess)
    measured = score(Net(change(net), "logits", feed), dataset, preprocessor, spec.postprocess, batch=64)
    entry = spec.datasets[0]
    judged = reproduces(measured, entry.expected, entry.tolerance, metric="top1", exact_files=dataset.exact)
    assert judged.verdict == "failed"


def test_resnet20_reproduces_its_figure_and_keeps_it_in_half(resnet) -> None:
    spec, net, dataset = resnet
    preprocessor = Preprocessor(spec.preprocess)
    reference = score(Net(net, "logits"), dataset, preprocessor, spec.postprocess, batch=64)
    assert reference["metrics"]["top1"] == pytest.approx(100 * 225 / 249)
    entry = spec.datasets[0]
    assert reproduces(reference, entry.expected, entry.tolerance, metric="top1").verdict == "passed"
    rounded = copy.deepcopy(net)
    for tensor in rounded.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half().float())
    candidate = score(Net(rounded, "logits"), dataset, preprocessor, spec.postprocess, batch=50)
    judged = drop(reference, candidate, 1.5)
    assert judged.verdict == "passed"
    assert judged.interval[1] >= 1.19  # 1 - 0.05^(1/249)
    measured = measure(Net(net, "logits"), Net(rounded, "logits"), samples(spec, dataset, batch=1, seed=0), spec.slices)
    assert {each.verdict for each in judge(measured, pair="torch~om", gates=spec.gates)} == {"passed"}
