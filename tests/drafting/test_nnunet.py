"""A checkpoint of nnU-Net with plans beside it becomes a whole spec; odd plans are a sentence, nothing is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pth2om.cli import main
from pth2om.data.normalizing import preparation
from pth2om.drafting.nnunet import plans_beside
from pth2om.drafting.start import start
from pth2om.errors import CheckpointError, DataError
from pth2om.spec import load

OWN = Path(__file__).parents[2] / "models" / "nnunet3d"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder of results as nnU-Net v2 leaves it."""
    folder = tmp_path / "Dataset900_Drawn" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    for name in ("plans.json", "dataset.json"):
        shutil.copyfile(OWN / name, folder / name)
    shutil.copyfile(OWN / "weights" / "nnunet3d.pth", folder / "fold_0" / "checkpoint_final.pth")
    return folder


@pytest.mark.parametrize("net", [None, OWN / "net.py"])
def test_plans_beside_the_checkpoint_fill_the_spec(
    results: Path, tmp_path: Path, net: Path | None, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["init", "drawn", "--checkpoint", str(results / "fold_0" / "checkpoint_final.pth")]
    line += ["--models", str(tmp_path / "models"), *(["--net", str(net)] if net else [])]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "configuration 3d_fullres" in printed
    assert "16x16x16" in printed
    spec = load(tmp_path / "models" / "drawn")
    assert spec.inputs[0].shape == (1, 16, 16, 16)
    assert (spec.task, spec.source.num_classes, spec.postprocess.decoder) == ("segmentation", 3, "argmax")
    assert spec.volume is not None
    assert (spec.volume.plans, spec.volume.configuration) == ("plans.json", "3d_fullres")
    assert preparation(spec).spacing == (1.0, 1.0, 1.0)
    assert (spec.folder / "dataset.json").read_bytes() == (OWN / "dataset.json").read_bytes()
    assert 'kind = "volumes"' in (spec.folder / "model.toml").read_text()


def test_plans_of_another_checkpoint_or_broken_ones_write_nothing(results: Path, tmp_path: Path) -> None:
    checkpoint, models = results / "fold_0" / "checkpoint_final.pth", tmp_path / "models"
    plans = json.loads((results / "plans.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    configuration["normalization_schemes"] = ["ZScoreNormalization"] * 2
    (results / "plans.json").write_text(json.dumps(plans))
    for content, key in ((json.dumps(plans), "data.plans-differ"), ("[]", "data.plans-unknown")):
        (results / "plans.json").write_text(content)
        with pytest.raises(DataError) as caught:
            start("drawn", checkpoint, models=models)
        assert caught.value.message.key == key
        assert not models.exists()


def test_a_shape_or_a_file_that_is_named_wins(results: Path, tmp_path: Path) -> None:
    checkpoint = results / "fold_0" / "checkpoint_final.pth"
    start("shaped", checkpoint, models=tmp_path / "models", shape=(1, 32, 32, 32))
    spec = load(tmp_path / "models" / "shaped")
    assert spec.volume is None
    assert spec.inputs[0].shape == (1, 32, 32, 32)
    alone = tmp_path / "alone" / "deep" / "down"
    alone.mkdir(parents=True)
    shutil.copyfile(checkpoint, alone / "net.pth")
    assert plans_beside(alone / "net.pth") is None
    with pytest.raises(CheckpointError) as caught:
        start("none", alone / "net.pth", models=tmp_path / "models", configuration="3d_fullres")
    assert "--plans" in str(caught.value)
    start("named", alone / "net.pth", models=tmp_path / "models", plans=results / "plans.json")
    assert load(tmp_path / "models" / "named").inputs[0].shape == (1, 16, 16, 16)


def test_convert_takes_the_window_of_the_plans(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["convert", str(results / "fold_0" / "checkpoint_final.pth"), "--soc", "Ascend310P3", "--preview"]
    assert main([*line, "--template", str(OWN / "net.py")]) == 0
    printed = capsys.readouterr().out
    assert "1,16,16,16" in printed.replace(" ", "")
