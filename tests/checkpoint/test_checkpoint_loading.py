"""A module comes out with every weight from the file, or nothing does and the report says why."""

from __future__ import annotations

import importlib.util
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pth2om.checkpoint import find_weights, fit, load_module, load_net, net_files, read
from pth2om.errors import CheckpointError
from pth2om.spec import Input, Source, Spec
from pth2om.store import file_digest

NET = """
from torch import nn
TEMPLATE_NAME = "tiny"
def build(num_classes=1000, pretrained=False, in_channels=3):
    assert not pretrained
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, num_classes),
    )
"""


def tiny(classes: int = 10, channels: int = 3) -> nn.Module:
    torch.manual_seed(classes)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    )


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "outside" / "net.py"
    path.parent.mkdir()
    path.write_text(NET)
    return path


def spec(folder: Path, **source: Any) -> Spec:
    source.setdefault("checkpoint", "w.pth")
    return Spec(
        name="tiny",
        folder=folder,
        task="classification",
        source=Source(**source),
        inputs=(Input(name="image", shape=(3, 8, 8)),),
    )


def saved(folder: Path, value: Any, name: str = "w.pth") -> Path:
    torch.save(value, folder / name)
    return folder / name


def rules(loaded: Any) -> set[str]:
    return {finding.rule.removeprefix("checkpoint.") for finding in loaded.findings}


# --- fit --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "renamed"),
    [
        (lambda key: key, ""),
        (lambda key: f"module.{key}", "-module."),
        (lambda key: f"_orig_mod.module.{key}", "-_orig_mod.module."),
        (lambda key: f"model.{key}", "-model."),
        (lambda key: f"student.backbone.{key}", "-student.backbone."),
        (lambda key: key.replace("0.", "0.module.", 1) if key.startswith("0.") else key, "~module"),
        (lambda key: f"net.{key}".replace("net.0.", "net.0.module."), "~module -net."),
    ],
)
def test_prefixes_are_stripped_when_every_key_then_fits(change: Any, renamed: str) -> None:
    state = tiny().state_dict()
    found = fit(tiny(), {change(key): value for key, value in state.items()})
    assert found.fits
    assert found.renamed == renamed
    assert all(torch.equal(found.tensors[key], state[key]) for key in state)


def test_a_prefix_the_net_has_is_added() -> None:
    wrapped = nn.Module()
    wrapped.model = tiny()
    found = fit(wrapped, tiny().state_dict())
    assert found.fits
    assert found.renamed == "+model."


def test_one_key_without_the_prefix_stops_the_stripping() -> None:
    state = {f"module.{key}": value for key, value in tiny().state_dict().items()}
    state["extra"] = torch.ones(1, 2)
    found = fit(tiny(), state)
    assert not found.fits
    assert not found.tensors
    assert found.part == "module."


def test_mismatches_are_reported_and_nothing_is_loaded() -> None:
    module = tiny(10)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    found = fit(module, tiny(7).state_dict())
    assert [(entry.key, entry.file, entry.net) for entry in found.mismatched] == [
        ("4.weight", (7, 4), (10, 4)),
        ("4.bias", (7,), (10,)),
    ]
    assert not found.tensors
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_counters_may_be_absent_and_profilers_are_dropped() -> None:
    state = {key: value for key, value in tiny().state_dict().items() if "num_batches" not in key}
    state["total_ops"] = torch.zeros(1, dtype=torch.float64)
    state["0.total_params"] = torch.zeros(1, dtype=torch.float64)
    found = fit(tiny(), state)
    assert found.fits
    assert found.defaulted == ("1.num_batches_tracked",)
    assert set(found.dropped) == {"total_ops", "0.total_params"}


def test_tied_parameters_need_one_tensor() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
            self.b.weight = self.a.weight

    state = dict(Tied().state_dict())
    del state["b.weight"]
    found = fit(Tied(), state)
    assert found.fits
    assert found.tensors["b.weight"] is state["a.weight"]


def test_the_nets_own_loading_code_may_translate() -> None:
    class Old(nn.Linear):
        def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
            if prefix + "kernel" in state:
                state[prefix + "weight"] = state.pop(prefix + "kernel")
            super()._load_from_state_dict(state, prefix, *rest)

    found = fit(nn.Sequential(Old(2, 2)), {"0.kernel": torch.ones(2, 2), "0.bias": torch.ones(2)})
    assert found.fits
    assert found.renamed == "hooks"
    assert found.tensors["0.weight"].sum() == 4


# --- into a net -------------------------------------------------------------------------------------------------------


def test_into_a_net_outside_the_repository(tmp_path: Path, net: Path) -> None:
    module = tiny(10).half()
    weights = saved(tmp_path, {"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}, "epoch": 1})
    loaded = load_module(spec(tmp_path, num_classes=10), weights, net=net)
    assert not loaded.module.training
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.float32}
    image = torch.rand(1, 3, 8, 8)
    assert torch.allclose(loaded.module(image), module.float().eval()(image), atol=1e-6)
    assert {"branch-only", "renamed", "converted"} <= rules(loaded)
    assert loaded.details["template"] == "tiny"
    assert loaded.details["branch"] == "state_dict"


def test_the_number_of_classes_is_read_off(tmp_path: Path, net: Path) -> None:
    loaded = load_module(spec(tmp_path), saved(tmp_path, tiny(7).state_dict()), net=net)
    assert loaded.module[4].out_features == 7
    assert "classes-read" in rules(loaded)


def test_wrong_number_of_classes(tmp_path: Path, net: Path) -> None:
    with pytest.raises(CheckpointError, match="num_classes = 7") as caught:
        load_module(spec(tmp_path, num_classes=10), saved(tmp_path, tiny(7).state_dict()), net=net)
    assert caught.value.message.key == "checkpoint.misfit-classes"


def test_wrong_channels(tmp_path: Path, net: Path) -> None:
    with pytest.raises(CheckpointError, match="has 1 input channels"):
        load_module(spec(tmp_path, num_classes=10), saved(tmp_path, tiny(10, 1).state_dict()), net=net)
    loaded = load_module(spec(tmp_path, num_classes=10, arguments={"in_channels": 1}), tmp_path / "w.pth", net=net)
    assert loaded.module[0].in_channels == 1


def test_wrong_template(tmp_path: Path, net: Path) -> None:
    other = nn.Sequential(OrderedDict((f"layer{index}", nn.Linear(3, 3)) for index in range(20)))
    with pytest.raises(CheckpointError, match=r"another net than 'tiny'.*layer0\.weight"):
        load_module(spec(tmp_path), saved(tmp_path, other.state_dict()), net=net)


def test_a_moving_average_that_lacks_keys_is_passed_over_and_said(tmp_path: Path, net: Path) -> None:
    state = tiny().state_dict()
    average = {key: value + 1 for key, value in state.items() if "running" not in key}
    loaded = load_module(spec(tmp_path, num_classes=10), saved(tmp_path, {"model": state, "ema": average}), net=net)
    assert "not-preferred" in rules(loaded)
    assert torch.equal(loaded.module.state_dict()["0.bias"], state["0.bias"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(tmp_path: Path, net: Path, bad: float) -> None:
    state = tiny().state_dict()
    state["1.running_var"][2] = bad
    with pytest.raises(CheckpointError, match=r"1\.running_var"):
        load_module(spec(tmp_path, num_classes=10), saved(tmp_path, state), net=net)


def test_weights_beyond_half_precision_are_a_finding(tmp_path: Path, net: Path) -> None:
    state = tiny().state_dict()
    state["4.weight"][0, 0] = 1e6
    loaded = load_module(spec(tmp_path, num_classes=10), saved(tmp_path, state), net=net)
    assert "beyond-fp16" in rules(loaded)


def test_weights_without_architecture(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"models/tiny/net\.py"):
        load_module(spec(tmp_path), saved(tmp_path, tiny().state_dict()))


# --- the file's own architecture --------------------------------------------------------------------------------------


def test_a_pickle_of_pytorchs_own_layers_needs_no_trust(tmp_path: Path) -> None:
    module = tiny().eval()
    loaded = load_module(spec(tmp_path), saved(tmp_path, {"model": module.half(), "epoch": 1}))
    image = torch.rand(2, 3, 8, 8)
    assert torch.allclose(loaded.module(image), module.float()(image))
    assert "torch-layers" in rules(loaded)


CUSTOM = """
from torch import nn
class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
    def forward(self, x):
        return self.fc(x)
"""


def test_foreign_classes_need_trust_and_their_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "custom_training_repo.py").write_text(CUSTOM)
    monkeypatch.syspath_prepend(str(code))
    import custom_training_repo

    weights = saved(tmp_path, custom_training_repo.Custom())
    expected = dict(torch.load(weights, weights_only=False).state_dict())
    del sys.modules["custom_training_repo"]
    with pytest.raises(CheckpointError, match=r"custom_training_repo\.Custom.*none of its code") as caught:
        load_module(spec(tmp_path), weights)
    assert "--om-trust tiny" in str(caught.value)
    assert "net.py" in str(caught.value)
    assert "custom_training_repo" not in sys.modules
    loaded = load_module(spec(tmp_path), weights, trust=True)
    assert type(loaded.module).__name__ == "Custom"
    assert "custom_training_repo.Custom" in str(
        next(f for f in loaded.findings if f.rule == "checkpoint.trusted").message
    )
    assert all(torch.equal(loaded.module.state_dict()[key], expected[key]) for key in expected)
    del sys.modules["custom_training_repo"]
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="PYTHONPATH"):
        load_module(spec(tmp_path), weights, trust=True)


def test_torchscript_runs_as_it_is(tmp_path: Path) -> None:
    module = tiny().eval()
    torch.jit.trace(module, torch.rand(1, 3, 8, 8)).save(str(tmp_path / "s.pt"))
    loaded = load_module(spec(tmp_path, checkpoint="s.pt"), tmp_path / "s.pt")
    image = torch.rand(2, 3, 8, 8)
    assert torch.allclose(loaded.module(image), module(image))
    assert isinstance(loaded.module, torch.jit.ScriptModule)


def test_torchscript_into_a_net(tmp_path: Path, net: Path) -> None:
    module = tiny().eval()
    torch.jit.script(module).save(str(tmp_path / "s.pt"))
    loaded = load_module(spec(tmp_path, checkpoint="s.pt", num_classes=10), tmp_path / "s.pt", net=net)
    assert torch.equal(loaded.module.state_dict()["4.weight"], module.state_dict()["4.weight"])


def test_torchscript_that_writes_files_is_not_run(tmp_path: Path) -> None:
    source = tmp_path / "writes.py"
    source.write_text(
        "import torch\nclass W(torch.nn.Module):\n    def forward(self, x: torch.Tensor):\n"
        f"        torch.save(x, {str(tmp_path / 'out')!r})\n        return x\n"
    )
    module_spec = importlib.util.spec_from_file_location("writes", source)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    torch.jit.script(module.W()).save(str(tmp_path / "s.pt"))
    with pytest.raises(CheckpointError, match=r"reads or writes files \(.*save"):
        load_module(spec(tmp_path), tmp_path / "s.pt")
    assert load_module(spec(tmp_path), tmp_path / "s.pt", trust=True).module is not None


# --- nets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("TEMPLATE_NAME = 'x'", "no build"),
        ("def build(num_classes, pretrained=False): ...", "no TEMPLATE_NAME"),
        ("TEMPLATE_NAME = 'x'\nimport not_installed_here\n", r"net\.py:2: .*not_installed_here"),
        ("TEMPLATE_NAME = (", r"net\.py:1"),
        ("TEMPLATE_NAME = 'x'\ndef build(num_classes, pretrained=False):\n    return 3\n", "returns a int"),
        ("TEMPLATE_NAME = 'x'\ndef build(num_classes, pretrained=False):\n    1/0\n", r"net\.py:3: .*ZeroDivision"),
        (
            "TEMPLATE_NAME = 'x'\ndef build(num_classes, pretrained=False):\n    raise NotImplementedError\n",
            "not written",
        ),
    ],
)
def test_broken_nets_are_explained(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "net.py"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=match):
        load_net(path).build(3)


def test_nets_may_import_their_neighbours(tmp_path: Path) -> None:
    """Two nets, each with its own ``blocks.py``."""
    for name, width in (("one", 3), ("two", 5)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "blocks.py").write_text(f"WIDTH = {width}\n")
        (folder / "net.py").write_text(
            f"from torch import nn\nTEMPLATE_NAME = {name!r}\n"
            "def build(num_classes, pretrained=False):\n    from blocks import WIDTH\n"
            "    return nn.Linear(WIDTH, num_classes)\n"
        )
        net = load_net(folder / "net.py")
        assert net.build(2).weight.shape == (2, width)
        assert set(net_files(folder / "net.py")) == {folder / "net.py", folder / "blocks.py"}
        assert not (folder / "__pycache__").exists()
    assert "blocks" not in sys.modules


def test_hooks_of_a_net(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        NET
        + "def infer(state):\n"
        + "    return {'num_classes': state['4.bias'].shape[0], 'in_channels': state['0.weight'].shape[1]}\n"
        + "def rename(state): return {key.removeprefix('odd-'): value for key, value in state.items()}\n"
        + "def deploy(module): module.deployed = True; return module\n"
    )
    state = {f"odd-{key}": value for key, value in tiny(6, 2).state_dict().items()}
    loaded = load_module(spec(tmp_path), saved(tmp_path, state), net=tmp_path / "net.py")
    assert loaded.details["arguments"] == {"num_classes": 6, "in_channels": 2}
    assert load_net(tmp_path / "net.py").deployed(loaded.module).deployed is True


# --- places -----------------------------------------------------------------------------------------------------------


def test_weights_are_found(tmp_path: Path) -> None:
    model, data = tmp_path / "models" / "tiny", tmp_path / "data"
    (model / "weights").mkdir(parents=True)
    (data / "weights").mkdir(parents=True)
    wanted = spec(model)
    assert find_weights(wanted, overrides={}, data_roots=[data]) is None
    for place in (data / "weights" / "w.pth", data / "w.pth", model / "weights" / "w.pth", model / "w.pth"):
        place.write_bytes(str(place).encode())
        assert find_weights(wanted, overrides={}, data_roots=[data]) == place
    other = tmp_path / "other.pth"
    other.write_bytes(b"other")
    assert find_weights(wanted, overrides={"tiny": other}, data_roots=[]) == other
    with pytest.raises(CheckpointError, match="does not exist"):
        find_weights(wanted, overrides={"tiny": tmp_path / "absent"}, data_roots=[])
    exact = spec(model, sha256=file_digest(data / "w.pth"))
    assert find_weights(exact, overrides={}, data_roots=[data]) == data / "w.pth"
    with pytest.raises(CheckpointError, match="sha256"):
        find_weights(spec(model, sha256="0" * 64), overrides={}, data_roots=[data])


# --- real files -------------------------------------------------------------------------------------------------------

REAL = {
    "weights/full_module_yolov5n_custom.pt": ("torch-zip", 349, "model", 7),
    "weights/misnamed_safetensors.pth": ("safetensors", 20, "", 0),
    "weights/mobilenet_v2-b0353104.pth": ("torch-legacy", 314, "", 0),
    "weights/mtcnn_onet.pt": ("torch-legacy", 21, "", 0),
    "weights/mtcnn_pnet.pt": ("torch-legacy", 13, "", 0),
    "weights/mtcnn_rnet.pt": ("torch-legacy", 16, "", 0),
    "weights/resnet20-12fca82f.th": ("torch-legacy", 97, "state_dict", 0),
    "weights/resnet56-4bfd9763.th": ("torch-legacy", 277, "state_dict", 0),
    "weights/yolov6lite_s.pth": ("torch-zip", 308, "", 0),
    "torchscript/deepbet_3d.pt": ("torchscript", 38, "", 0),
    "torchscript/silero_vad.jit": ("torchscript", 32, "", 0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_checkpoints(data_root: Path, name: str) -> None:
    kind, count, branch, foreign = REAL[name]
    checkpoint = read(data_root / name)
    assert checkpoint.kind == kind
    assert len(checkpoint.tensors) == count
    assert checkpoint.branch == branch
    assert len([entry for entry in checkpoint.classes if not entry.startswith("torch.")]) == foreign
    assert not {"models", "models.yolo"} & set(sys.modules)


def test_real_other_files(data_root: Path) -> None:
    from pth2om.checkpoint import kind_of

    assert {kind_of(path) for path in (data_root / "om").glob("*.om")} == {"om"}
    assert {kind_of(path) for path in (data_root / "onnx_hard").glob("*.onnx")} == {"onnx"}
    assert kind_of(data_root / "weights" / "yolov6lite_s.param") == "ncnn"


@pytest.mark.parametrize("name", ["torchscript/deepbet_3d.pt", "torchscript/silero_vad.jit"])
def test_real_torchscript_tensors_agree_with_the_interpreter(data_root: Path, tmp_path: Path, name: str) -> None:
    loaded = load_module(spec(tmp_path), data_root / name)
    tensors = read(data_root / name).tensors
    state = loaded.module.state_dict()
    assert state
    assert all(torch.equal(tensors[key], state[key]) for key in state)


# --- layouts that training frameworks leave --------------------------------------------------------------------------

INFER = NET + 'def infer(state):\n    return {"num_classes": len(state["4.bias"])}\n'


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model.", "module.model.", "net.module."])
def test_infer_sees_the_names_of_the_net(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "net.py").write_text(INFER)
    path = saved(tmp_path, {prefix + name: value for name, value in tiny(7).state_dict().items()})
    loaded = load_module(spec(tmp_path), path, net=tmp_path / "net.py")
    assert loaded.details["arguments"]["num_classes"] == 7
    assert loaded.details["num_classes_from"] == "net"


def test_infer_that_reads_raw_names_is_still_understood(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET + 'def infer(s):\n    return {"num_classes": len(s["module.4.bias"])}\n')
    path = saved(tmp_path, {f"module.{name}": value for name, value in tiny(7).state_dict().items()})
    assert load_module(spec(tmp_path), path, net=tmp_path / "net.py").details["num_classes_from"] == "net"


def test_infer_that_fails_under_every_naming_is_said(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET + 'def infer(s):\n    return {"num_classes": len(s["head.bias"])}\n')
    path = saved(tmp_path, tiny().state_dict())
    with pytest.raises(CheckpointError, match=r"infer: KeyError: 'head\.bias'"):
        load_module(spec(tmp_path), path, net=tmp_path / "net.py")


@pytest.mark.parametrize("text", [NET, INFER], ids=["plain", "infer"])
def test_the_keys_that_belong_elsewhere_are_those_that_do_not_fit(tmp_path: Path, text: str) -> None:
    (tmp_path / "net.py").write_text(text)
    state = {f"model.{name}": value for name, value in tiny(5).state_dict().items()}
    path = saved(tmp_path, {"state_dict": {**state, "criterion.weight": torch.ones(5)}})
    with pytest.raises(CheckpointError) as refused:
        load_module(spec(tmp_path), path, net=tmp_path / "net.py")
    values = refused.value.message.values
    assert (refused.value.message.key, values["unexpected"]) == ("checkpoint.misfit-part", 1)
    assert values["unexpected_keys"] == "criterion.weight"


def test_the_counter_of_weight_averaging_is_no_weight(tmp_path: Path, net: Path) -> None:
    path = saved(tmp_path, torch.optim.swa_utils.AveragedModel(tiny(5)).state_dict())
    loaded = load_module(spec(tmp_path), path, net=net)
    assert loaded.details["dropped"] == ["n_averaged"]
    assert loaded.details["arguments"]["num_classes"] == 5


def _normed(kind: str, new: bool) -> nn.Module:
    owner = nn.utils.parametrizations if new else nn.utils
    torch.manual_seed(0)
    return nn.Sequential(getattr(owner, kind)(nn.Conv2d(3, 4, 3)), nn.Conv2d(4, 5, 1)).eval()


@pytest.mark.filterwarnings("ignore:`?torch.nn.utils.weight_norm:FutureWarning")
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("to_new", [False, True], ids=["into-old", "into-new"])
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_weight_norm_is_known_by_both_of_its_namings(kind: str, to_new: bool, prefix: str) -> None:
    source, target = _normed(kind, not to_new), _normed(kind, to_new)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.mul_(1.5).add_(0.1)
    found = fit(target, {prefix + name: value for name, value in source.state_dict().items()})
    assert found.fits
    target.load_state_dict(dict(found.tensors), strict=True)
    x = torch.rand(1, 3, 8, 8)
    assert torch.allclose(source(x), target(x), atol=1e-6)


@pytest.mark.filterwarnings("ignore:`?torch.nn.utils.weight_norm:FutureWarning")
@pytest.mark.parametrize("new", [False, True])
def test_weight_norm_on_one_side_only_is_named(new: bool) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1))
    assert fit(_normed("weight_norm", new), plain.state_dict()).normed == "folded"
    assert fit(plain, _normed("weight_norm", new).state_dict()).normed == "unfolded"


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody-of-that-name/w.pth", "b/" * 3000])
def test_a_name_that_no_file_system_takes_is_absent(tmp_path: Path, name: str) -> None:
    assert find_weights(spec(tmp_path, checkpoint=name), overrides={}, data_roots=[tmp_path]) is None
