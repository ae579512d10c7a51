"""What the main verbs print in Chinese has Chinese marks, also where Python joins the parts of a line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pth2om.cli import main
from pth2om.evidence import Limit
from pth2om.language import speaking
from pth2om.session import Provenance
from tests.release.nights import gate, stages, write
from tests.signoff import released
from tests.signoff.released import Run

_HAN = r"[\u4e00-\u9fff）”]"
HALF = re.compile(rf"{_HAN}\s?[:;,] |{_HAN} \(|\) ?[\u4e00-\u9fff]|[\w)\]](?:: |; )(?=[\u4e00-\u9fff])")
"""A mark of half width beside a Chinese character."""


LIMIT = Limit("<=", 0.5)
EMULATED = Provenance("emulator", "1", "emulated", "Ascend310B1")


def night(folder: Path, *, name: str = "a", value: float = 1.0, good: bool = False) -> Path:
    waived = {"waived": {"owner": "王伟", "reason": "已知", "link": "x", "expires": "2030-01-01"}}
    details = {"dataset": "d", "images": 500}
    records = [
        gate(value=value),
        gate("latency", "om/p50", 2 * value, unit="ms", ground="emulated", provenance=EMULATED),
    ]
    if not good:
        records.append(gate(check="om/top5/drop", value=value, verdict="failed", limit=LIMIT, details=details | waived))
    return write(folder / name, [*stages({"onnx": name * 64}), *records])


def model(folder: Path) -> Path:
    """A network with findings: a convolution of INT64 shapes behind it and an operator that nothing knows."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("NonZero", ["c"], ["n"], name="where"),
        helper.make_node("Strange", ["c"], ["y"], name="strange", domain="own"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("n", "y")]
    outputs[0].type.tensor_type.elem_type = TensorProto.INT64
    weights = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(nodes, "g", [x], outputs, [weights])
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def compared(folder: Path) -> list[str]:
    return ["compare", str(night(folder)), str(night(folder, name="b", value=2.0))]


def baseline(folder: Path) -> list[str]:
    return ["baseline", "update", str(night(folder, good=True)), "-o", str(folder / "b.json")]


def drafted(folder: Path) -> list[str]:
    run = Run()
    run.gates[1] = released.gate("accuracy", "om/top1/drop", 0.2, Limit("<=", 1.0), ground="emulated")
    words = [str(run.write(folder)), "--policy", str(folder / "release.toml"), "--draft", "-o", str(folder / "d.json")]
    return ["signoff", *words]


def waivers(folder: Path) -> list[str]:
    file = folder / "waivers.toml"
    keys = 'stage = "accuracy"\nowner = "王伟"\nreason = "r"\nlink = "l"\n'
    file.write_text(f'[[waiver]]\ngate = "net/*"\n{keys}expires = 2020-01-01\n[[waiver]]\n{keys}', encoding="utf-8")
    return ["waivers", str(file)]


def log(folder: Path) -> list[str]:
    file = folder / "atc.log"
    file.write_text("E10016: Opname [x] is not found\nEZ3003: No supported Ops kernel and engine\n", encoding="utf-8")
    return ["explain", str(file)]


def aipp(folder: Path) -> list[str]:
    file = folder / "aipp.cfg"
    file.write_text("aipp_op {\n  aipp_mode: static\n  input_format: RGB888_U8\n  crop: true\n}\n", encoding="utf-8")
    return ["aipp", "check", str(file)]


LINES: dict[str, Callable[[Path], list[str]]] = {
    "aipp": aipp,
    "baseline": baseline,
    "check": lambda folder: ["check", str(model(folder)), "--soc", "Ascend310B1"],
    "compare": compared,
    "explain": log,
    "fix": lambda folder: ["fix", str(model(folder)), "-o", str(folder / "fixed.onnx")],
    "merge": lambda folder: ["report", "merge", str(night(folder)), "-o", str(folder / "m")],
    "signoff": drafted,
    "verify": lambda folder: ["verify", str(folder / "absent.json")],
    "waivers": waivers,
}


STATUS = {"check": 1, "compare": 1, "fix": 1, "verify": 1, "waivers": 1}


@pytest.mark.parametrize("verb", LINES)
def test_a_verb_prints_chinese_marks(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = LINES[verb](tmp_path)
    with speaking("zh"):
        assert main(words) == STATUS.get(verb, 0)
    told = capsys.readouterr()
    text = told.out + told.err
    assert re.search(r"[\u4e00-\u9fff]", text), text
    wrong = [line for line in text.splitlines() if HALF.search(line)]
    assert not wrong


def test_the_tables_of_a_report_have_chinese_marks(tmp_path: Path) -> None:
    assert main(["report", str(night(tmp_path)), "--lang", "zh"]) == 0
    text = (tmp_path / "a" / "results.zh.md").read_text(encoding="utf-8")
    assert "王伟" in text
    assert not [line for line in text.splitlines() if HALF.search(line)]
