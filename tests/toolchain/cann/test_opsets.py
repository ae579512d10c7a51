"""When atc has no parser for an operator at the opset of an export, the OM is compiled from a lower one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pth2om import spec as specs
from pth2om.conversion.pipeline import Pipeline
from pth2om.conversion.settings import RunSettings
from pth2om.errors import AtcError
from pth2om.evidence import StageRecord
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

    def pipeline(opsets: str, more: str = "") -> Pipeline:
        folder = tmp_path / "models" / f"net-{opsets.replace(', ', '-')}{'-more' if more else ''}"
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        torch.save(torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()).state_dict(), folder / "net.pth")
        (folder / "model.toml").write_text(SPEC.format(opsets=opsets) + more)
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


# --- INT8, and the static twin of a gear ------------------------------------------------------------------------------

WIDE = """\
task = "tensor"
variants = [{variants}]

[source]
checkpoint = "net.pth"

[[inputs]]
name = "x"
shape = [32, 8, 8]

[export]
opsets = [13, 11]

[quantize]
random = true
"""
CONVOLUTION = """\
import torch
TEMPLATE_NAME = "wide"

def build(num_classes, pretrained=False):
    return torch.nn.Sequential(torch.nn.Conv2d(32, 32, 3), torch.nn.ReLU())
"""
REFUSED = {"where": "atc", "do": "opset", "value": 13}


def wide(tmp_path: Path, variants: str) -> Pipeline:
    folder = tmp_path / "models" / "wide"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(32, 32, 3), torch.nn.ReLU()).state_dict(), folder / "net.pth")
    (folder / "model.toml").write_text(WIDE.format(variants=variants))
    (folder / "net.py").write_text(CONVOLUTION)
    settings = RunSettings(folder.parent, tmp_path, soc=SOC, cann="8.0.0", toolchain="cann")
    return Pipeline(specs.load(folder), settings, Store(tmp_path / "store"))


def said(record: StageRecord) -> list[tuple[str, int, int]]:
    """Type, refused opset and compiled opset of each finding about the ladder."""
    found = [finding.details for finding in record.findings if finding.rule == "atc.opset-lowered"]
    return [(entry["type"], entry["refused"], entry["opset"]) for entry in found]


@pytest.mark.nightly
def test_an_int8_model_is_quantized_again_at_the_lower_opset(machine, tmp_path: Path) -> None:
    machine.rules(REFUSED)
    try:
        pipeline = wide(tmp_path, '"int8-bs1"')
        (variant,) = pipeline.spec.variants
        record = pipeline.om(variant).record
    finally:
        machine.rules()
    assert said(record) == [("Relu", 13, 11)]
    own = pipeline.quantized(variant.shape)  # of the spec's own opset: what the questions about INT8 judge
    opsets = {entry.domain: entry.version for entry in onnx.load(own.file).opset_import}
    assert opsets[""] == 13
    assert record.inputs["onnx"] != own.record.digest  # the OM's is another deploy model, of opset 11
    assert pipeline.records[("int8-bs1", "quantized")].digest == own.record.digest
    with pipeline.om_sessions(variant)["device"] as session:
        assert session.run({"x": np.ones((1, 32, 8, 8), np.float32)})
    pipeline.close()
    machine.rules({"where": "atc", "do": "float"})
    again = Pipeline(pipeline.spec, pipeline.settings, Store(tmp_path / "other"))
    with pytest.raises(AtcError, match="none of the 1 matrix operators takes INT8"):
        again.om(variant)
    machine.rules()
    again.close()


@pytest.mark.nightly
def test_the_static_twin_of_a_gear_is_lowered_with_it(machine, tmp_path: Path) -> None:
    machine.rules(REFUSED)
    try:
        pipeline = wide(tmp_path, '{ precision = "fp16", gears = { batch = [1, 2] } }')
        variant = pipeline.spec.variants[1]
        given = {"x": np.random.default_rng(0).normal(size=(2, 32, 8, 8)).astype(np.float32)}
        found = pipeline.om_sessions(variant)["device"].run(given)
        twin = pipeline.twin_sessions(variant)["device"].run(given)
    finally:
        machine.rules()
    assert said(pipeline.om(variant).record) == [("Relu", 13, 11)]
    assert all(np.array_equal(found[name], twin[name]) for name in found)
    pipeline.close()


# --- atc --mode=3 first, where the spec asks for it -------------------------------------------------------------------

FIRST = "\n[compile]\nprecheck = true\n"
COUNTED = {"where": "atc", "do": "print", "value": "counted", "times": 9}


def runs(machine) -> int:
    """How often atc ran since the rules were set."""
    return len(list((machine.home / "taken").glob("0-*")))


@pytest.mark.parametrize(
    ("more", "count"), [pytest.param("", 1, marks=pytest.mark.nightly), (FIRST, 2)], ids=["off", "on"]
)
def test_a_spec_asks_atc_before_the_compile(opened, machine, more: str, count: int) -> None:
    machine.rules(COUNTED)
    pipeline = opened("13", more)
    record = pipeline.om(pipeline.spec.variants[0]).record
    assert runs(machine) == count
    assert record.details.get("precheck", False) is bool(more)


def test_what_the_pre_check_refuses_is_not_compiled(opened, machine) -> None:
    text = "E13010: No operator plugin is registered for Op: r, optype: ai.onnx::13::Relu."
    machine.rules(COUNTED, {"where": "atc", "do": "error", "value": text})
    pipeline = opened("13", FIRST)
    with pytest.raises(AtcError, match="no parser for Relu at opset 13"):
        pipeline.om(pipeline.spec.variants[0])
    assert runs(machine) == 1

    machine.rules(COUNTED, {"where": "atc", "do": "error", "value": text, "times": 1})
    lower = opened("13, 11", FIRST)  # the ladder starts from the pre-check too
    record = lower.om(lower.spec.variants[0]).record
    assert [finding.rule for finding in record.findings if "lowered" in finding.rule] == ["atc.opset-lowered"]
    assert runs(machine) == 3

    machine.rules(COUNTED, {"where": "atc", "do": "error", "value": "E10016: Opname [z] is invalid.", "times": 1})
    other = opened("11", FIRST)
    with pytest.raises(AtcError, match=r"mode=3") as caught:
        other.om(other.spec.variants[0])
    assert "E10016" in caught.value.message.render("en") + str(caught.value)
