"""A foreign operator passes from a spec alone: the page about custom operators, run as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

import pth2om.harness.accepting as accepting
from pth2om.cli import main


def test_the_page_runs_as_it_is_written(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTH2OM_STORE", str(tmp_path / "store"))
    page = (repository / "docs" / "custom-operators.md").read_text(encoding="utf-8")
    python, body, toml = re.findall(r"```(?:python|toml)\n(.*?)```", page, re.DOTALL)
    folder = tmp_path / "models" / "gate"
    folder.mkdir(parents=True)
    for name, text in (("net.py", python), ("body.py", body), ("model.toml", toml)):
        assert f"models/gate/{name}" in page
        (folder / name).write_text(text, encoding="utf-8")
    asked = re.search(r"pth2om init\npytest -k (\w+) --soc (\w+)", page.partition("## 3.")[2])
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    assert asked is not None
    done = accepting.accept_models(tmp_path, match=asked[1], soc=asked[2], quiet=True)
    verdicts = {gate.check: gate.verdict for gate in done.gates}
    assert done.exit_status == 0, verdicts
    assert set(verdicts.values()) <= {"passed", "shown", "not_measured"}
    assert any(gate.check.startswith("torch~om/") and gate.ground == "emulated" for gate in done.gates)
    (model,) = (tmp_path / "store").rglob("model.onnx")
    made = onnx.load(model)
    (node,) = (node for node in made.graph.node if node.domain == "acme")
    assert (node.op_type, [(item.name, item.f) for item in node.attribute]) == ("HardSwishGate", [("slope", 2.0)])
    assert [(item.domain, item.name) for item in made.functions] == [("acme", "HardSwishGate")]
