"""Numbers of classes that contradict each other are refused when the spec is read; nothing runs for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pth2om.data.columns import check_columns
from pth2om.errors import SpecError
from pth2om.harness.cases import read_cases
from pth2om.spec import load

SPEC = """task = "{task}"
[source]
checkpoint = "w.pth"
{classes}
[[inputs]]
name = "image"
shape = [3, 32, 32]
[preprocess]
size = [32, 32]
[postprocess]
decoder = "{decoder}"
[[slices]]
name = "scores"
kind = "scores"
index = "{index}"
[[datasets]]
name = "toy"
metric = "{metric}"
"""


def project(folder, *, decoder="yolov6", classes=80, index="..., 5:", metric="mAP50", manifest="classes = 80"):
    model = folder / "models/toy"
    model.mkdir(parents=True)
    counted = "" if classes is None else f"num_classes = {classes}"
    text = SPEC.format(task="detection", decoder=decoder, classes=counted, index=index, metric=metric)
    (model / "model.toml").write_text(text)
    (folder / "calib/toy").mkdir(parents=True)
    if manifest is not None:
        (folder / "calib/toy/dataset.toml").write_text(f'kind = "coco"\n{manifest}\n')
    return load(model)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"classes": 91}, 4),
        ({"classes": 3}, 4),
        ({"classes": 3, "manifest": 'names = ["cat", "dog"]'}, 4),
        ({"decoder": "softmax", "metric": "top1", "classes": 1001, "index": "..."}, 4),
        ({"index": "..., 4:84"}, 15),
        ({"index": "..., 5:96"}, 15),
        ({"index": "..., 4:84", "classes": None}, 15),
        ({"index": ":, :, 5:91", "classes": None, "manifest": "classes = 85"}, None),
        ({"index": "..., 5:86", "manifest": None}, 15),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(tmp_path, options, line):
    spec = project(tmp_path, **options)
    if line is None:
        check_columns(spec, tmp_path / "calib")  # without "..." it is not known which axis is the last
        return
    with pytest.raises(SpecError) as caught:
        check_columns(spec, tmp_path / "calib")
    assert f"model.toml:{line}" in str(caught.value.where)
    (case,) = read_cases(tmp_path / "models", tmp_path / "calib")
    assert case.spec is None
    assert case.error is not None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"classes": None},
        {"index": "..., 5:85"},
        {"index": "..., 5:6"},
        {"index": "..., 4:85"},
        {"index": "..., 4:"},
        {"index": "..., -80:"},
        {"manifest": None},
        {"manifest": "classes = []"},
        {"manifest": 'names = "names.txt"'},
        {"classes": 91, "metric": "agreement"},
        {"classes": 3, "decoder": "argmax", "metric": "dice"},
        {"decoder": "softmax", "metric": "top1", "index": "..."},
    ],
)
def test_what_may_be_right_is_taken(tmp_path, options):
    check_columns(project(tmp_path, **options), tmp_path / "calib")


def test_reading_specs_imports_nothing_heavy(tmp_path):
    project(tmp_path)
    code = (
        "import sys; from pathlib import Path; from pth2om.harness.cases import read_cases;"
        f"read_cases(Path({str(tmp_path / 'models')!r}), Path({str(tmp_path / 'calib')!r}));"
        "print([name for name in ('torch', 'onnx', 'onnxruntime', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
