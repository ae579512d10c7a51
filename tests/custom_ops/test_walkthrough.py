"""A foreign operator passes from a spec alone: the page about custom operators, run as it is written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import onnx
import pytest

import pth2om.harness.accepting as accepting


def test_the_page_runs_as_it_is_written(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTH2OM_STORE", str(tmp_path / "store"))
    page = (repository / "docs" / "custom-operators.md").read_text(encoding="utf-8")
    python, body, toml = re.findall(r"```(?:python|toml)\n(.*?)```", page, re.DOTALL)
    folder = tmp_path / "models" / "gate"
    folder.mkdir(parents=True)
    for name, text in (("net.py", python), ("body.py", body), ("model.toml", toml)):
        assert f"models/gate/{name}" in page
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copytree(repository / "test_cases", tmp_path / "test_cases", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = test_cases\naddopts = -p no:cacheprovider\n")
    asked = re.search(r"pytest -k (\w+) --soc (\w+)", page.partition("## 3.")[2])
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
