"""INT8 weights back in the checkpoint: whatever the net and the file, the unchanged script computes with them."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from pth2om.errors import CheckpointError, QuantizeError
from pth2om.quantize import QuantizeSettings
from pth2om.quantize.checkpoint_fp32 import name_for, write_checkpoint
from pth2om.quantize.checkpoint_trace import module_path
from pth2om.quantize.network import open_session, run_session
from pth2om.quantize.plan import make_plan

C = 20
pytestmark = pytest.mark.filterwarnings("ignore")


def conv(bias=False, group=1, size=3):
    return nn.Conv2d(C, C, size, padding=size // 2, bias=bias, groups=group)


def chain(*layers):
    return nn.Sequential(*layers)


class SharedConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.first, self.second = conv(), nn.BatchNorm2d(C), nn.BatchNorm2d(C)
        self.head = conv(bias=True)

    def forward(self, x):
        return self.head(torch.relu(self.second(self.body(torch.relu(self.first(self.body(x)))))))


class Transposed(nn.Module):
    """``x @ W + b`` with W of (in, out), as GPT-2 keeps it, and names that no layer of torch has."""

    def __init__(self):
        super().__init__()
        self.w1, self.shift1 = nn.Parameter(torch.randn(C, 24)), nn.Parameter(torch.randn(24))
        self.kernel, self.bias = nn.Parameter(torch.randn(24, 24)), nn.Parameter(torch.randn(24))

    def forward(self, x):
        return torch.relu(x.mean((2, 3)) @ self.w1 + self.shift1) @ self.kernel + self.bias


class Alias(nn.Module):
    """One module under two names, so one tensor under two keys."""

    def __init__(self):
        super().__init__()
        self.first, self.second = conv(bias=True), conv(bias=True)
        self.twin = self.second

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class LayerScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.gamma = conv(bias=True, size=1), nn.Parameter(torch.rand(C, 1, 1) + 0.1)
        self.head = conv(bias=True)

    def forward(self, x):
        return self.head(x + self.body(x) * self.gamma)


class Lists(nn.Module):
    """All convolutions before all BatchNorms, and untrained: nothing but the order tells which belongs to which."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(conv() for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(C) for _ in range(4))

    def forward(self, x):
        for body, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(body(x)))
        return x


NETS = {
    "norm_without_affine": lambda: chain(
        conv(), nn.BatchNorm2d(C, affine=False), nn.ReLU(), conv(bias=True), nn.BatchNorm2d(C, affine=False)
    ),
    "unusual_epsilon": lambda: chain(conv(bias=True), nn.BatchNorm2d(C, eps=3e-5), nn.ReLU(), conv(bias=True)),
    "depthwise_of_one_tap": lambda: chain(conv(group=C, size=1), nn.BatchNorm2d(C), nn.ReLU(), conv(bias=True)),
    "grouped_transposed": lambda: chain(
        nn.ConvTranspose2d(C, 24, 3, 2, groups=4, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.ConvTranspose2d(24, 18, 2),
    ),
    "gelu_between": lambda: chain(conv(bias=True), nn.GELU(), nn.BatchNorm2d(C), conv(bias=True, group=C), nn.GELU()),
    "transposed_linear": Transposed,
    "alias": Alias,
    "layer_scale": LayerScale,
    "untrained": Lists,
}


def seeded(net, trained=True):
    g = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and trained:
            module.running_mean.normal_(generator=g)
            module.running_var.uniform_(0.5, 20, generator=g)
            if module.affine:
                module.weight.data.uniform_(-1.5, 1.5, generator=g)
                module.weight.data[0] = 0
                module.bias.data.normal_(generator=g)
    return net.eval()


def planned(net, folder, settings=None):
    g = np.random.default_rng(0)
    feeds = [{"x": g.standard_normal((2, C, 6, 6)).astype(np.float32)} for _ in range(3)]
    names = {"input_names": ["x"], "output_names": ["y"]}
    torch.onnx.export(net, torch.randn(2, C, 6, 6), folder / "net.onnx", opset_version=13, dynamo=False, **names)
    return make_plan(onnx.load(folder / "net.onnx"), feeds, settings or QuantizeSettings()), feeds[0]


def weights_only(plan):
    """The float network with dequantized constants: INT8 weights, FP32 activations."""
    made = onnx.ModelProto()
    made.CopyFrom(plan.model)
    nodes = {node.name: node for node in made.graph.node}

    def replace(node, name, value):
        shape = next(tuple(entry.dims) for entry in made.graph.initializer if entry.name == name)
        own = f"{node.name} {name}"
        made.graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32).reshape(shape), own))
        node.input[list(node.input).index(name)] = own

    for name, quantized in plan.quantized.items():
        layer = quantized.layer
        replace(nodes[name], layer.weight, quantized.dequantized)
        if layer.bias is not None:
            node = nodes[name] if layer.add is None else nodes[layer.add.name]
            replace(node, layer.bias, quantized.bias.astype(np.float64) * quantized.deq_scale)
    return made


def differ(net, plan, batch):
    """Relative distance of a net's output from the weights-only reference."""
    (wanted,) = run_session(open_session(weights_only(plan)), batch).values()
    with torch.no_grad():
        got = net(torch.from_numpy(batch["x"])).numpy()
    return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


def rules(findings):
    return {finding.rule.removeprefix("quantize.") for finding in findings} - {"weights-only"}


@pytest.mark.parametrize("name", NETS)
def test_the_unchanged_script_computes_with_the_int8_weights(tmp_path, name):
    torch.manual_seed(0)
    net = seeded(NETS[name](), trained=name != "untrained")
    plan, batch = planned(net, tmp_path)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    written, findings = write_checkpoint(plan, tmp_path / "net.pth", tmp_path / "out.pth")
    assert not rules(findings)
    assert "none" not in {entry.kind for entry in written}
    before, after = (torch.load(tmp_path / file, weights_only=True) for file in ("net.pth", "out.pth"))
    assert list(before) == list(after)
    changed = {key for entry in written for key in entry.keys}
    for key, value in before.items():
        assert (value.shape, value.dtype) == (after[key].shape, after[key].dtype)
        assert key in changed or torch.equal(value, after[key]), f"{key} is no INT8 layer's"
    assert differ(net, plan, batch) > 1e-4
    fresh = NETS[name]().eval()
    fresh.load_state_dict(after, strict=True)
    assert differ(fresh, plan, batch) <= 2e-6


def test_layers_left_in_floating_point_stay_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    net = seeded(chain(conv(), nn.BatchNorm2d(C), nn.ReLU(), conv(group=C), nn.BatchNorm2d(C), nn.ReLU(), conv(True)))
    with torch.no_grad():
        net[1].weight[:8] *= 30  # the depth-wise one is balanced, and the factor folds into the layer left alone
    plan, batch = planned(net, tmp_path, QuantizeSettings(skip=("/0/*",)))
    assert any(entry.folded_into == "/0/Conv" for entries in plan.balances.values() for entry in entries)
    state = net.state_dict()
    torch.save(state, tmp_path / "net.pth")
    write_checkpoint(plan, tmp_path / "net.pth", tmp_path / "out.pth")
    after = torch.load(tmp_path / "out.pth", weights_only=True)
    assert all(torch.equal(state[key], after[key]) for key in state if key.startswith(("0.", "1.")))
    fresh = copy.deepcopy(net)
    fresh.load_state_dict(after, strict=True)
    assert differ(fresh, plan, batch) <= 2e-6


def test_a_batch_norm_without_shift_is_found_though_the_exporter_left_its_zeros_out(tmp_path):
    torch.manual_seed(0)
    net = chain(conv(), nn.BatchNorm2d(C), nn.ReLU(), conv(bias=True)).eval()
    planned(net, tmp_path)
    exported = onnx.load(tmp_path / "net.onnx")
    (first,) = [node for node in exported.graph.node if node.name == "/0/Conv"]
    del first.input[2]
    onnx.save(exported, tmp_path / "bare.onnx")
    batch = {"x": np.random.default_rng(0).standard_normal((2, C, 6, 6)).astype(np.float32)}
    plan = make_plan(onnx.load(tmp_path / "bare.onnx"), [batch], QuantizeSettings())
    torch.save(net.state_dict(), tmp_path / "net.pth")
    written, findings = write_checkpoint(plan, tmp_path / "net.pth", tmp_path / "out.pth")
    assert [entry.kind for entry in written] == ["batch_norm", "plain"]
    assert not rules(findings)
    # The same bytes again under another name: what is computed with it is known by its digest.
    write_checkpoint(plan, tmp_path / "net.pth", tmp_path / "again.pth")
    assert (tmp_path / "out.pth").read_bytes() == (tmp_path / "again.pth").read_bytes()


def test_a_weight_that_cannot_serve_two_layers_stays_and_is_named(tmp_path):
    torch.manual_seed(0)
    net = seeded(SharedConv())
    plan, _ = planned(net, tmp_path)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    written, findings = write_checkpoint(plan, tmp_path / "net.pth", tmp_path / "out.pth")
    assert [entry.kind for entry in written] == ["none", "none", "plain"]
    shared = [finding for finding in findings if finding.rule == "quantize.shared-in-checkpoint"]
    assert [finding.message.values["parameter"] for finding in shared] == ["body.weight"] * 2
    after = torch.load(tmp_path / "out.pth", weights_only=True)
    assert torch.equal(after["body.weight"], net.body.weight)


def test_a_factor_that_follows_from_the_weight_is_left_alone(tmp_path):
    """Weight norm would scale the INT8 weight anew; at its start its factor is one and looks like none."""
    torch.manual_seed(0)
    net = chain(nn.utils.parametrizations.weight_norm(conv(bias=True)), nn.ReLU(), conv(bias=True)).eval()
    plan, _ = planned(net, tmp_path)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    written, findings = write_checkpoint(plan, tmp_path / "net.pth", tmp_path / "out.pth")
    assert [entry.kind for entry in written] == ["none", "plain"]
    assert rules(findings) == {"scaled-in-checkpoint"}


def test_a_bias_correction_without_a_place_is_said_to_be_lost(tmp_path):
    torch.manual_seed(0)
    net = chain(conv(), nn.ReLU(), conv(bias=True)).eval()
    plan, _ = planned(net, tmp_path)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    written, findings = write_checkpoint(plan, tmp_path / "net.pth", tmp_path / "out.pth")
    assert [entry.lost_bias for entry in written] == [True, False]
    assert rules(findings) == {"bias-not-in-checkpoint"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(net, plan, batch, folder) of a small trained net."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    net = seeded(chain(conv(), nn.BatchNorm2d(C), nn.ReLU(), conv(bias=True)))
    return (net, *planned(net, folder))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_sixteen_bits_become_fp32_where_they_change_and_that_is_said(small, tmp_path, dtype):
    net = copy.deepcopy(small[0]).to(dtype)
    state = net.state_dict()
    plan, batch = planned(copy.deepcopy(net).float(), tmp_path, QuantizeSettings(skip=("/3/*",)))
    torch.save(state, tmp_path / "net.pth")
    written, findings = write_checkpoint(plan, tmp_path / "net.pth", tmp_path / "out.pth")
    after = torch.load(tmp_path / "out.pth", weights_only=True)
    changed = {key for entry in written for key in entry.keys}
    narrow = dtype != torch.float64
    assert "0.weight" in changed
    for key, value in state.items():
        assert after[key].dtype == (torch.float32 if narrow and key in changed else value.dtype)
    assert rules(findings) == ({"checkpoint-widened"} if narrow else set())
    fresh = copy.deepcopy(small[0])
    fresh.load_state_dict(after, strict=True)
    assert differ(fresh, plan, batch) <= 2e-6


@pytest.mark.parametrize("exported", ["model", "ema"])
def test_of_several_sets_of_weights_the_exported_one_is_changed(small, tmp_path, exported):
    net, plan, _ = small
    other = {key: value + 0.01 if value.is_floating_point() else value for key, value in net.state_dict().items()}
    content = {"model": other, "ema": dict(other), "epoch": 3, "optimizer": {"state": {0: {"m": torch.ones(3)}}}}
    content[exported] = net.state_dict()
    torch.save(content, tmp_path / "net.pth")
    _, findings = write_checkpoint(plan, tmp_path / "net.pth", tmp_path / "out.pth")
    after = torch.load(tmp_path / "out.pth", weights_only=True)
    left = {"model": "ema", "ema": "model"}[exported]
    assert not torch.equal(after[exported]["0.weight"], net[0].weight)
    assert all(torch.equal(after[left][key], other[key]) for key in other)
    assert torch.equal(after["optimizer"]["state"][0]["m"], torch.ones(3))
    (said,) = [finding for finding in findings if finding.rule == "quantize.checkpoint-branch"]
    assert (said.message.values["changed"], said.message.values["left"]) == (exported, left)


def test_safetensors_stay_safetensors(small, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    net, plan, batch = small
    source = tmp_path / "net.safetensors"
    save_file(net.state_dict(), source, {"format": "pt", "who": "me"})
    assert name_for(source) == "net_int8_as_fp32.safetensors"
    write_checkpoint(plan, source, tmp_path / "out.safetensors")
    fresh = copy.deepcopy(net)
    fresh.load_state_dict(load_file(tmp_path / "out.safetensors"), strict=True)
    assert differ(fresh, plan, batch) <= 2e-6
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "who": "me"}


def test_memory_layout_and_parameters_stay(small, tmp_path):
    net, plan, batch = small
    state = {
        key: value.to(memory_format=torch.channels_last) if value.ndim == 4 else value
        for key, value in net.state_dict().items()
    }
    state["3.weight"] = nn.Parameter(state["3.weight"])
    state |= {"count": torch.arange(3), "wide": torch.ones(C, C, 3, 3, dtype=torch.int8), "turn": torch.ones(2) * 1j}
    torch.save(state, tmp_path / "net.pth")
    write_checkpoint(plan, tmp_path / "net.pth", tmp_path / "out.pth")
    after = torch.load(tmp_path / "out.pth", weights_only=True)
    assert after["0.weight"].is_contiguous(memory_format=torch.channels_last)
    assert isinstance(after["3.weight"], nn.Parameter)
    assert all(torch.equal(after[key], state[key]) for key in ("count", "wide", "turn"))
    fresh = copy.deepcopy(net)
    fresh.load_state_dict(after, strict=False)
    assert differ(fresh, plan, batch) <= 2e-6


def test_what_weights_cannot_be_given_back_to_is_refused(small, tmp_path):
    net, plan, _ = small
    torch.jit.trace(net, torch.randn(1, C, 6, 6)).save(tmp_path / "script.pt")
    torch.save(net, tmp_path / "module.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save({key: torch.zeros_like(value) + 1 for key, value in net.state_dict().items()}, tmp_path / "foreign.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html></html>")
    torch.save(net.state_dict(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:-200])
    wanted = {
        "script.pt": "quantize.checkpoint-program",
        "module.pth": "quantize.checkpoint-module",
        "empty.pth": "quantize.checkpoint",
        "foreign.pth": "quantize.foreign-checkpoint",
        "page.pth": "checkpoint.is-html",
        "cut.pth": "checkpoint.is-truncated-zip",
        "absent.pth": "checkpoint.missing",
    }
    for name, key in wanted.items():
        with pytest.raises((QuantizeError, CheckpointError)) as caught:
            write_checkpoint(plan, tmp_path / name, tmp_path / "out" / "x.pth")
        assert caught.value.message.key == key, name
        assert name in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_module_paths():
    assert module_path("/body/body.1/conv/Conv") == "body.1.conv"
    assert module_path("/features/features.1/conv/conv.0/conv.0.0/Conv") == "features.1.conv.0.0"
    assert module_path("node_conv2d_3") == ""
