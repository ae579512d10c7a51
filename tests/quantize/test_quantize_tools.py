"""INT8 by another tool: amct_onnx, a command of the spec, a model that is quantized already."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from pth2om.errors import Absent, QuantizeError
from tests.quantize.quantize_nets import model, tensor
from tests.quantize.spec_models import layers, pipeline

AMCT = '''#!{python}
"""A stand-in for amct_onnx: takes the options of its calibration command, and reads the data as it does."""
import argparse, sys
from pathlib import Path
import numpy as np
from pth2om.quantize import quantize
from pth2om.quantize.amct_config import read_config

parser = argparse.ArgumentParser(allow_abbrev=True)
parser.add_argument("verb", choices=["calibration"])
for name in ("model", "save_path", "input_shape", "data_dir", "data_types", "calibration_config"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--batch_num", type=int, default=1)
a = parser.parse_args()
entries = [entry.rsplit(":", 1) for entry in a.input_shape.split(";")]
names, shapes = [name for name, _ in entries], [[int(size) for size in shape.split(",")] for _, shape in entries]
folders, dtypes = a.data_dir.split(";"), a.data_types.split(";")
assert len(names) == len(folders) == len(dtypes)
def batches():
    files = [sorted(Path(f).iterdir(), key=lambda p: p.name) for f in folders]
    assert all(len(f) >= a.batch_num for f in files), "fewer files than batch_num"
    for row in list(zip(*files))[: a.batch_num]:
        yield {{n: np.fromfile(p, d).reshape(s) for n, p, d, s in zip(names, row, dtypes, shapes)}}
settings, _ = read_config(Path(a.calibration_config)).settings()
out = Path(a.save_path)
quantize(Path(a.model), batches(), settings, out.parent, prefix=out.name)
print("amct_onnx was here")
'''


@pytest.fixture
def amct_onnx(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "amct_onnx").write_text(AMCT.format(python=sys.executable))
    (folder / "amct_onnx").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with a first line that names Python")
def test_amct_onnx_quantizes_where_a_spec_says_so(root, amct_onnx):
    built = pipeline(root, tool="amct_onnx", images=6, skip=("head",)).quantized(1)
    details = built.record.details
    assert details["quantized_by"] == "amct_onnx"
    assert "--batch_num 6" in details["command"]
    assert "settings" not in details, "none of ours made it"
    assert {name: layer["int8"] for name, layer in layers(built).items()} == {
        "stem": False,
        "body": True,
        "head": False,
    }
    assert [error["layer"] for error in details["errors"]] == ["body"], "errors are measured against the float model"
    assert [proof["layer"] for proof in details["proof"]] == ["body"]
    assert (details["images"], details["calibration_digest"] != "") == (6, True)
    assert sorted(path.name for path in built.artifact.path.iterdir() if path.suffix == ".onnx") == [
        "deploy.onnx",
        "fake_quant.onnx",
    ]
    run = pipeline(root, tool="amct_onnx", images=6, skip=("head",))
    assert run.om(run.spec.variants[0]).record.provenance.ground == "emulated"


def test_without_amct_onnx_its_row_is_not_measured(root, monkeypatch):
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(Absent, match="amct_onnx"):
        pipeline(root, tool="amct_onnx").quantized(1)


@pytest.mark.parametrize("role", ["deploy", "qdq"])
def test_a_model_that_is_quantized_already_goes_straight_on(root, role):
    from pth2om.quantize import QuantizeSettings, quantize

    folder = root / "models" / "tiny"
    g = np.random.default_rng(1)
    feeds = [{"x": g.random((1, 3, 16, 16), dtype=np.float32)} for _ in range(4)]
    source = pipeline(root).onnx(1).file
    made = quantize(source, feeds, QuantizeSettings(skip=("head",)), root / "made").files[role]
    made.rename(folder / "int8.onnx")
    run = pipeline(root, onnx="int8.onnx")
    built = run.quantized(1)
    assert [name for name, layer in layers(built).items() if layer["int8"]] == ["body"]
    assert built.record.details["dataset"] == "", "nothing is calibrated"
    assert run.om(run.spec.variants[0]).record.provenance.ground == "emulated"
    with pytest.raises(Absent, match=r"other\.onnx"):
        pipeline(root, onnx="other.onnx").quantized(1)


OWN = """\
import sys
from pathlib import Path
from pth2om.quantize import QuantizeSettings, quantize
source, target = Path(sys.argv[1]), Path(sys.argv[2])
made = quantize(source, None, QuantizeSettings(skip=("SKIPPED",)), target.parent, prefix="made", random=True)
made.files["deploy"].rename(target)
"""


def test_a_command_may_name_a_script_beside_the_spec_whose_content_counts(root, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    script, words = root / "models" / "tiny" / "own.py", (sys.executable, "own.py", "{onnx_in}", "{onnx_out}")
    for skipped, left in (("head", "body"), ("body", "head")):
        script.write_text(OWN.replace("SKIPPED", skipped))
        built = pipeline(root, command=words, weights="arq", images=2).quantized(1)
        assert [name for name, layer in layers(built).items() if layer["int8"]] == [left]
    (found,) = [finding for finding in built.record.findings if finding.rule == "quantize.keys-unread"]
    assert found.message.values["names"] == "weights", "images are read: they are what calibrates"
    assert pipeline(root, command=words, weights="arq", images=2).quantized(1).record.cached


TWO = """\
task = "tensor"
variants = ["int8-bs1"]
[source]
onnx = "net.onnx"
[[inputs]]
name = "x"
shape = [20, 8, 8]
[[inputs]]
name = "mask"
shape = [1, 8, 8]
[quantize]
bins = ["bins"]
"""


def test_a_model_of_two_inputs_hands_both_to_whoever_quantizes(tmp_path, amct_onnx):
    from pth2om.quantize.bins import write_bins

    g = np.random.default_rng(0)
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        onnx.helper.make_node("Mul", ["a", "mask"], ["y"], name="masked"),
    ]
    weight = tensor("w", g.standard_normal((4, 20, 1, 1)).astype(np.float32))
    shapes = {"x": [1, 20, 8, 8], "mask": [1, 1, 8, 8]}
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    onnx.save(model(nodes, [weight], list(shapes.items()), [("y", [1, 4, 8, 8])]), folder / "net.onnx")
    (folder / "model.toml").write_text(TWO)
    batches = [{name: g.random(shape, dtype=np.float32) for name, shape in shapes.items()} for _ in range(11)]
    write_bins(batches, folder / "bins")
    for place in ("x", "mask"):
        for number, path in enumerate(sorted((folder / "bins" / place).iterdir())):
            path.rename(path.with_name(f"b{number}.bin"))
    for change in ({}, {"tool": "amct_onnx"}, {"tool": "amct_onnx", "bins": ("bins/x", "bins/mask")}):
        built = pipeline(tmp_path, **change).quantized(1)
        assert layers(built)["conv"]["int8"], change
        assert "bins.text-order" in {finding.rule for finding in built.record.findings}
    words = (sys.executable, "{onnx_in}", "{onnx_out}", "{calib_dir}")
    with pytest.raises(QuantizeError, match="one folder"):
        pipeline(tmp_path, command=words, bins=("bins/x", "bins/mask")).quantized(1)


def test_weights_beside_a_large_model_are_copied_with_it(root, monkeypatch):
    from pth2om.conversion import int8_delivery
    from pth2om.onnxfile import writing
    from pth2om.quantize import network

    monkeypatch.setattr(writing, "INLINE_LIMIT", 100)
    run = pipeline(root)
    files = int8_delivery._copied(run.onnx(1), run.quantized(1), root / "out", "p", "s")
    monkeypatch.undo()
    assert [path.name for path in (root / "out").glob("*.external")]
    for role in ("deploy", "fake_quant", "qdq"):
        assert network.read_model(files[role]).graph.node


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with a first line that names Python")
def test_random_calibration_of_another_tool_is_said_too(root, amct_onnx):
    (root / "calib" / "dots" / "dots.npz").unlink()
    built = pipeline(root, tool="amct_onnx", random=True).quantized(1)
    assert "quantize.random-calibration" in {finding.rule for finding in built.record.findings}
    for path in built.artifact.path.glob("*.onnx"):
        assert "pth2om.calibration" in {entry.key for entry in onnx.load(path).metadata_props}, path.name


TOOL = """\
import shutil, sys
from pathlib import Path

here = Path(__file__).parent
with (here.parents[1] / "runs.txt").open("a") as runs:
    runs.write("x")
if not (here / "int8.onnx").exists():
    sys.exit("no licence")
shutil.copy(here / "int8.onnx", sys.argv[1])
"""


def command(root, role):
    """A user's script beside the spec that leaves an INT8 model of that form; the spec's ``command``."""
    from pth2om.quantize import QuantizeSettings, quantize

    folder = root / "models" / "tiny"
    feeds = [{"x": np.random.default_rng(1).random((1, 3, 16, 16), dtype=np.float32)}]
    files = quantize(pipeline(root).onnx(1).file, feeds, QuantizeSettings(skip=("head",)), root / "made").files
    files[role].rename(folder / "int8.onnx")
    (folder / "tool.py").write_text(TOOL)
    return (sys.executable, "tool.py", "{onnx_out}")


@pytest.mark.parametrize("role", ["deploy", "qdq"])
def test_a_command_may_name_a_script_beside_the_spec_and_leave_qdq(root, role):
    asked = command(root, role)
    built = pipeline(root, command=asked).quantized(1)
    assert [name for name, layer in layers(built).items() if layer["int8"]] == ["body"]
    assert pipeline(root, command=asked).quantized(1).record.cached
    script = root / "models" / "tiny" / "tool.py"
    script.write_text(TOOL + "# another")
    assert pipeline(root, command=asked).quantized(1).record.key != built.record.key, "what the script says counts"


def test_a_tool_that_failed_is_not_run_again_by_every_question(root):
    asked = command(root, "deploy")
    folder = root / "models" / "tiny"
    (folder / "int8.onnx").rename(folder / "kept.onnx")
    run, told = pipeline(root, command=asked), set()
    for _ in range(3):
        with pytest.raises(QuantizeError, match="no licence") as caught:
            run.quantized(1)
        told.add(str(caught.value))
    assert len(told) == 1
    assert (root / "runs.txt").read_text() == "x"
    (folder / "kept.onnx").rename(folder / "int8.onnx")
    assert not pipeline(root, command=asked).quantized(1).record.cached, "the next run tries again"


def test_a_command_that_is_not_there_is_not_taken_for_amct_onnx(root):
    with pytest.raises(Absent, match=r"program 'no-such-tool' was not found"):
        pipeline(root, command=("no-such-tool", "{onnx_out}")).quantized(1)


def test_the_deploy_model_of_another_model_is_refused(root):
    folder = root / "models" / "tiny"
    command(root, "deploy")
    net = onnx.load(folder / "int8.onnx")
    for node in net.graph.node:
        node.input[:] = ["other" if name == "x" else name for name in node.input]
    net.graph.input[0].name = "other"
    onnx.save(net, folder / "int8.onnx")
    with pytest.raises(QuantizeError, match=r"inputs are other, those of the float model are x"):
        pipeline(root, onnx="int8.onnx").quantized(1)
