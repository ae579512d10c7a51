"""When atc has no parser for an operator at the opset of an export, the OM is compiled from a lower one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import torch

from pth2om import spec as specs
from pth2om.conversion.pipeline import Pipeline
from pth2om.conversion.settings import RunSettings
from pth2om.errors import AtcError
from pth2om.store import Store
from tests.toolchain.cann.conftest import SOC

SPEC = """\
task = "tensor"
variants = ["fp16-bs1"]

[source]
checkpoint = "net.pth"

[[inputs]]
name = "x"
shape = [4]

[export]
opsets = [{opsets}]
"""
NET = """\
import torch
TEMPLATE_NAME = "{name}"

def build(num_classes, pretrained=False):
    return torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
"""


@pytest.fixture
def opened(machine, tmp_path: Path) -> Iterator[Callable[[str], Pipeline]]:
    """A pipeline of a small net whose spec tries the given opsets, as a new process would open it."""

    def pipeline(opsets: str) -> Pipeline:
        folder = tmp_path / "models" / f"net-{opsets.replace(', ', '-')}"
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        torch.save(torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()).state_dict(), folder / "net.pth")
        (folder / "model.toml").write_text(SPEC.format(opsets=opsets))
        (folder / "net.py").write_text(NET.format(name=folder.name))
        settings = RunSettings(folder.parent, tmp_path, soc=SOC, cann="8.0.0", toolchain="cann")
        return Pipeline(specs.load(folder), settings, Store(tmp_path / "store"))

    yield pipeline
    machine.rules()


@pytest.mark.parametrize("code", ["E19010", pytest.param("E13010", marks=pytest.mark.nightly)])
def test_an_opset_that_atc_refuses_is_exported_lower(opened, machine, code: str) -> None:
    text = "No parser is registered for Op [r, optype [ai.onnx::13::Relu]]."
    machine.rules({"where": "atc", "do": "error", "value": f"{code}: {text}", "times": 1})
    pipeline = opened("13, 11")
    (variant,) = pipeline.spec.variants
    record = pipeline.om(variant).record
    (finding,) = [finding for finding in record.findings if finding.rule == "atc.opset-lowered"]
    assert finding.details | {"onnx": ""} == {"type": "Relu", "refused": 13, "opset": 11, "onnx": ""}
    assert finding.details["onnx"] == record.inputs["onnx"]
    exported = pipeline.onnx(1)  # what is said of the ONNX file is said of the spec's own opset
    assert onnx.load(exported.file).opset_import[0].version == 13
    assert exported.record.digest != record.inputs["onnx"]

    machine.rules({"where": "atc", "do": "error", "value": f"{code}: {text}"})
    again = opened("13, 11").om(variant)  # atc is asked once more at 13; the OM of 11 is in the store
    assert again.record.cached
    assert [found.rule for found in again.record.findings] == [found.rule for found in record.findings]


def test_without_a_lower_opset_the_refusal_stays(opened, machine) -> None:
    text = "E13010: No operator plugin is registered for Op: r, optype: ai.onnx::11::Relu."
    machine.rules({"where": "atc", "do": "error", "value": text})
    pipeline = opened("11, 13")
    with pytest.raises(AtcError, match="no parser for Relu at opset 11"):
        pipeline.om(pipeline.spec.variants[0])
