"""``pth2om init`` writes a spec that loads, with what the file says and nothing that it does not."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pth2om import spec as specs
from pth2om.checkpoint import find_weights, load_module
from pth2om.cli import main
from pth2om.drafting.start import acceptance_tests, start
from pth2om.errors import CheckpointError


def classifier(channels: int = 3, classes: int = 7) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))


def saved(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


def test_state_dict(tmp_path: Path) -> None:
    weights = saved(tmp_path / "downloads" / "w.pth", {"state_dict": classifier(4).state_dict()})
    started = start("mine", weights, models=tmp_path / "models")
    spec = specs.load(tmp_path / "models" / "mine")
    assert spec.task == "classification"
    assert spec.source.num_classes == 7
    assert spec.inputs[0].shape[0] == 4
    assert spec.source.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert find_weights(spec, overrides={}, data_roots=[]) is not None
    text = (started.folder / "model.toml").read_text(encoding="utf-8")
    assert "PLACEHOLDER: 224 x 224" in text
    assert "0.weight [4, 4, 3, 3]" in text
    stub = (started.folder / "net.py").read_text(encoding="utf-8")
    assert "3.weight [7, 4]" in stub
    with pytest.raises(CheckpointError, match="not written yet"):
        load_module(spec, weights, net=started.folder / "net.py")


def test_the_written_spec_finds_its_file_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "repo"
    weights = saved(root / "downloads" / "w.pth", classifier().state_dict())
    monkeypatch.chdir(root)
    start("mine", Path("downloads/w.pth"), models=Path("models"))
    assert specs.load(root / "models" / "mine").source.checkpoint == "../../downloads/w.pth"
    monkeypatch.chdir("/")
    found = find_weights(specs.load(root / "models" / "mine"), overrides={}, data_roots=[])
    assert found is not None
    assert found.samefile(weights)


def test_a_bare_name_where_the_search_finds_it(tmp_path: Path) -> None:
    weights = saved(tmp_path / "data" / "weights" / "w.pth", classifier().state_dict())
    start("mine", weights, models=tmp_path / "repo" / "models", data_roots=[tmp_path / "data"])
    assert specs.load(tmp_path / "repo" / "models" / "mine").source.checkpoint == "w.pth"
    start("far", weights, models=tmp_path / "repo" / "models")
    assert Path(str(specs.load(tmp_path / "repo" / "models" / "far").source.checkpoint)) == weights


def test_a_given_net_and_shape(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\nTEMPLATE_NAME = 'x'\ndef build(num_classes, pretrained=False):\n"
        "    head = nn.Linear(4, num_classes)\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)\n"
    )
    weights = saved(tmp_path / "w.pth", classifier().state_dict())
    started = start(
        "mine", weights, models=tmp_path / "models", net=tmp_path / "net.py", shape=(3, 32, 32), task="tensor"
    )
    spec = specs.load(started.folder)
    assert spec.inputs[0].shape == (3, 32, 32)
    assert spec.task == "tensor"
    assert spec.source.net is not None
    module = load_module(spec, weights, net=(started.folder / spec.source.net).resolve()).module
    assert module(torch.rand(1, 3, 32, 32)).shape == (1, 7)
    assert not (started.folder / "net.py").exists()


def test_torchscript_needs_no_net(tmp_path: Path) -> None:
    torch.jit.script(classifier(1)).save(str(tmp_path / "s.pt"))
    started = start("mine", tmp_path / "s.pt", models=tmp_path / "models")
    assert specs.load(started.folder).inputs[0].shape[0] == 1
    assert not (started.folder / "net.py").exists()


def test_onnx(tmp_path: Path) -> None:
    torch.onnx.export(
        classifier(),
        (torch.rand(1, 3, 20, 24),),
        str(tmp_path / "m.onnx"),
        dynamo=False,
        input_names=["picture"],
        output_names=["logits"],
        dynamic_axes={"picture": {0: "n", 3: "w"}},
        opset_version=13,
    )
    started = start("mine", tmp_path / "m.onnx", models=tmp_path / "models")
    spec = specs.load(started.folder)
    assert spec.source.onnx is not None
    assert spec.inputs[0].name == "picture"
    assert spec.inputs[0].shape == (3, 20, 224)
    assert "PLACEHOLDER" in (started.folder / "model.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], language: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PTH2OM_LANG", language)
    saved(tmp_path / "w.pth", classifier().state_dict())
    assert main(["init", "mine", "--checkpoint", "w.pth", "--input-shape", "3,32,32"]) == 0
    assert "models/mine" in capsys.readouterr().out.replace("\\", "/")
    text = Path("models/mine/model.toml").read_text(encoding="utf-8")
    assert ("规格" in text) == (language == "zh")
    assert main(["init", "mine", "--checkpoint", "w.pth"]) == 1
    assert "model.toml" in capsys.readouterr().err
    assert Path("models/mine/model.toml").read_text(encoding="utf-8") == text


def test_bad_input_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_bytes(b"<!doctype html>")
    weights = saved(tmp_path / "w.pth", classifier().state_dict())
    for name, file in (("ok", tmp_path / "page.pth"), ("../evil", weights), ("ok", tmp_path / "absent")):
        with pytest.raises(CheckpointError):
            start(name, file, models=tmp_path / "models")
    with pytest.raises(CheckpointError):
        start("ok", weights, models=tmp_path / "models", net=tmp_path / "no-net.py")
    with pytest.raises(CheckpointError):
        start("ok", weights, models=weights / "models")  # a file where the folder should be
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["page.pth", "w.pth"]


def test_the_acceptance_tests_are_written_into_a_fresh_folder(tmp_path: Path, repository: Path) -> None:
    ours = {file.name: file.read_text(encoding="utf-8") for file in (repository / "test_cases").glob("test_*.py")}
    if not ours:
        pytest.skip("this repository has no test_cases yet")
    assert acceptance_tests() == ours
    weights = saved(tmp_path / "w.pth", classifier().state_dict())
    start("one", weights, models=tmp_path / "models")
    written = {file.name: file.read_text(encoding="utf-8") for file in (tmp_path / "test_cases").glob("test_*.py")}
    assert written == ours
    changed = next((tmp_path / "test_cases").glob("test_*.py"))
    changed.write_text("# mine\n")
    start("two", weights, models=tmp_path / "models")
    assert changed.read_text() == "# mine\n"


def test_the_wheel_carries_the_acceptance_tests(tmp_path: Path, repository: Path) -> None:
    pytest.importorskip("setuptools")
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build",
        "--build-base",
        str(tmp_path / "b"),
        "--build-lib",
        str(tmp_path / "lib"),
    ]
    info = ["egg_info", "--egg-base", str(tmp_path)]
    subprocess.run([*command[:3], *info, *command[3:]], cwd=repository, check=True, capture_output=True)
    built = {file.name: file.read_bytes() for file in (tmp_path / "lib" / "pth2om" / "test_cases").glob("test_*.py")}
    assert built == {file.name: file.read_bytes() for file in (repository / "test_cases").glob("test_*.py")}
    assert (tmp_path / "lib" / "pth2om" / "messages" / "starter.toml").is_file()


def test_real_files_give_specs_that_load(tmp_path: Path, data_root: Path) -> None:
    files = [*(data_root / "weights").glob("*.*[pt]*"), *(data_root / "torchscript").iterdir()]
    for index, file in enumerate(sorted(files)):
        if file.is_dir() or file.suffix == ".param":
            continue
        started = start(f"model{index}", file, models=tmp_path / "models")
        spec = specs.load(started.folder)
        assert find_weights(spec, overrides={}, data_roots=[]) == file
    for index, file in enumerate(sorted((data_root / "onnx_hard").glob("*.onnx"))):
        try:
            started = start(f"onnx{index}", file, models=tmp_path / "models")
        except CheckpointError as error:
            assert error.message.key.startswith("starter.onnx-")  # noqa: PT017 - either outcome is right
        else:
            assert specs.load(started.folder).source.onnx == str(file)


LISTED = """
from torch import nn
TEMPLATE_NAME = "x"
class Net(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.classifier = nn.Linear(6, n)
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(6, 6))
    def forward(self, {arguments}):
        return self.classifier(self.encoder(image))
def build(num_classes=1000, pretrained=False):
    return Net(num_classes)
"""


@pytest.fixture
def sorted_file(tmp_path: Path) -> Path:
    from safetensors.torch import save_file

    (tmp_path / "net.py").write_text(LISTED.format(arguments="image, mask=None"))
    state = {"classifier.weight": torch.rand(7, 6), "classifier.bias": torch.rand(7), "encoder.0.bias": torch.rand(6)}
    state |= {"encoder.0.weight": torch.rand(6, 3, 3, 3), "encoder.2.weight": torch.rand(6, 6)}
    save_file(state | {"encoder.2.bias": torch.rand(6)}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_the_classes_of_a_sorted_file_are_a_guess(tmp_path: Path, sorted_file: Path) -> None:
    started = start("mine", sorted_file, models=tmp_path / "models")
    text = (started.folder / "model.toml").read_text(encoding="utf-8")
    assert "# A GUESS from a name: the rows of classifier.weight [7, 6]" in text
    assert "\n# num_classes = 7\n" in text
    assert specs.load(started.folder).source.num_classes is None


def test_a_net_is_built_once_for_the_classes_and_the_names_of_inputs(tmp_path: Path, sorted_file: Path) -> None:
    started = start("mine", sorted_file, models=tmp_path / "models", net=tmp_path / "net.py", shape=(3, 3, 3))
    spec = specs.load(started.folder)
    assert spec.source.num_classes == 7
    assert [entry.name for entry in spec.inputs] == ["image"]
    assert spec.inputs[0].shape == (3, 3, 3)
    (tmp_path / "two.py").write_text(LISTED.format(arguments="image, mask"))
    started = start("two", sorted_file, models=tmp_path / "models", net=tmp_path / "two.py", shape=(3, 3, 3))
    assert [entry.name for entry in specs.load(started.folder).inputs] == ["image", "mask"]
    assert "PLACEHOLDER: forward() of two.py" in (started.folder / "model.toml").read_text(encoding="utf-8")


def test_a_net_that_does_not_fit_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(LISTED.format(arguments="image"))
    weights = saved(tmp_path / "w.pth", classifier().state_dict())
    started = start("mine", weights, models=tmp_path / "models", net=tmp_path / "net.py")
    assert any(step.key == "starter.next-misfit" for step in started.next_steps)
    assert specs.load(started.folder).inputs[0].name == "image"


def test_without_a_name_only_the_tests_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test_cases"]
    assert "test_cases/test_closeness.py" in capsys.readouterr().out.replace("\\", "/")
    assert main(["init"]) == 0
    assert "already" in capsys.readouterr().out
    assert main(["init", "alone"]) == 1
    assert "NAME --checkpoint FILE" in capsys.readouterr().err
