"""Whatever a model is made of is noticed when it changes: in the checkpoint, in the store, beside the net."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conversion.conftest import Make

FEEDS = {"x": np.ones((1, 4), np.float32)}


def keep_times(file: Path, content: bytes) -> None:
    before = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def negated(file: Path) -> bytes:
    model = onnx.load(file)
    (weight,) = model.graph.initializer
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
    data: bytes = model.SerializeToString()
    assert len(data) == file.stat().st_size
    return data


def test_a_negated_weight_in_the_stored_onnx_is_built_anew(make: Make) -> None:
    first = make("plain")
    built = first.onnx(1)
    expected = first.onnx_session(1).run(FEEDS)
    first.close()
    keep_times(built.file, negated(built.file))
    again = make("plain")
    assert not again.onnx(1).record.cached
    np.testing.assert_array_equal(again.onnx_session(1).run(FEEDS)["y"], expected["y"])


def test_a_negated_weight_in_the_source_is_another_model(make: Make, models: Path) -> None:
    before = make("plain").onnx(1)
    source = models / "plain" / "net.onnx"
    keep_times(source, negated(source))
    after = make("plain").onnx(1)
    assert before.record.key != after.record.key
    assert before.record.digest != after.record.digest


def reading(path: str) -> str:
    """A net whose width comes from a file."""
    return (
        "import json\nimport pathlib\nimport torch\nTEMPLATE_NAME = 'linear'\n\n"
        "def build(num_classes, pretrained=False):\n"
        f"    text = (pathlib.Path(__file__).parent / {path!r}).read_text()\n"
        "    return Scaled(json.loads(text))\n\n"
        "class Scaled(torch.nn.Linear):\n"
        "    def __init__(self, factor):\n        super().__init__(4, 2)\n        self.factor = factor\n\n"
        "    def forward(self, x):\n        return super().forward(x) * self.factor\n"
    )


@pytest.mark.parametrize("place", ["cfg/deep.json", "../../shared.json", "weights/cfg.pt"])
def test_a_file_that_the_net_reads_is_part_of_the_model(make: Make, models: Path, place: str) -> None:
    file = models / "linear" / place
    file.parent.mkdir(exist_ok=True)
    (models / "linear" / "net.py").write_text(reading(place))
    file.write_text("-100.0")
    before = make("linear")
    built = before.onnx(1)
    passed = before.onnx_session(1).run(FEEDS)["output"]
    assert make("linear").onnx(1).record.key == built.record.key
    keep_times(file, b"-200.0")
    after = make("linear")
    assert after.onnx(1).record.key != built.record.key
    assert not np.array_equal(after.onnx_session(1).run(FEEDS)["output"], passed)
    assert after.torch_session().digest != before.torch_session().digest


@pytest.mark.parametrize("place", ["README.md", "reports/run.json", "weights/other.pth", ".git/index"])
def test_what_the_net_does_not_read_is_no_part_of_it(make: Make, models: Path, place: str) -> None:
    before = make("linear").source.digests
    file = models / "linear" / place
    file.parent.mkdir(exist_ok=True)
    file.write_text("new")
    assert make("linear").source.digests == before


def test_a_dry_run_does_not_load_the_model(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make("linear")
    monkeypatch.setattr(pipeline.source, "load", lambda: pytest.fail("a dry run loaded the model"))
    (variant,) = pipeline.spec.variants
    assert any("atc" in line for line in pipeline.plan(variant))


def test_a_bit_flipped_in_any_file_of_the_store_is_noticed(make: Make, tmp_path: Path) -> None:
    def outcome() -> tuple[list[bool], dict[str, np.ndarray]]:
        pipeline = make("plain")
        (variant,) = pipeline.spec.variants
        built = [pipeline.checkpoint(), pipeline.onnx(1), pipeline.om(variant)]
        fused = pipeline.om_sessions(variant)["fused"].run(FEEDS)
        pipeline.close()
        return [each.record.cached for each in built], fused

    _, first = outcome()
    assert outcome()[0] == [True] * 3
    files = [file for file in (tmp_path / "store").glob("*/*/*") if file.is_file() and file.name != "artifact.json"]
    stages = {file.parent.parent.name for file in files}
    assert {"checkpoint", "onnx", "om"} <= stages
    for file in files:
        if file.parent.parent.name in ("checkpoint", "onnx", "om"):
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            keep_times(file, bytes(content))
    cached, again = outcome()
    assert cached == [False] * 3
    np.testing.assert_array_equal(again["y"], first["y"])


def test_a_script_that_the_quantize_command_names_counts_with_what_lies_beside_it(make: Make, models: Path) -> None:
    folder = models / "plain"
    spec = folder / "model.toml"
    spec.write_text(
        spec.read_text() + '\n[quantize]\ncommand = ["python3", "run/tool.py", "{onnx_in}", "{onnx_out}"]\n'
    )
    (folder / "run").mkdir()
    (folder / "run" / "tool.py").write_text("import inner\n")
    (folder / "run" / "inner.py").write_text("A = 1\n")
    (folder / "table.json").write_text("1")
    from pth2om.conversion.int8_stage import Int8Stage

    def inputs() -> dict[str, str]:
        pipeline = make("plain")
        return dict(Int8Stage(pipeline.source, pipeline.data, pipeline.onnx(1), 1, None).inputs())

    seen = [inputs()]
    for name in ("run/tool.py", "run/inner.py", "table.json"):
        (folder / name).write_text("# changed\n")
        seen.append(inputs())
    assert len({repr(sorted(each.items())) for each in seen}) == 4
