"""Pre-flight asks the rules and the toolchain's front end, each on its own ground."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from onnx import TensorProto, helper

from pth2om.ascend.atc_options import AtcOptions
from pth2om.ascend.target import Target
from pth2om.errors import AtcError
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.questions.preflight import preflight
from pth2om.questions.subject import Subject
from pth2om.session import Provenance
from pth2om.spec import Gates, Variant
from pth2om.store import Store

REFUSED = Finding("atc.e10001", "error", say("emulator.atc-refuses", more=0), None, {"code": "E10001"})


class Device:
    """A toolchain on device ground."""

    provenance = Provenance("cann", "8.0", "device", "Ascend310P3")
    compiler = {"cann": "8.0"}  # noqa: RUF012 - never changed

    def __init__(self, answer) -> None:
        self.answer = answer
        self.asked = 0

    def refuses(self, model: Path, options: AtcOptions) -> list[Finding]:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def ask(tmp_path: Path):
    file = tmp_path / "model.onnx"
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    shaped = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    graph = helper.make_graph([node], "g", shaped[:1], shaped[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    built = SimpleNamespace(file=file, record=SimpleNamespace(digest="d"))
    variant = Variant(precision="fp16")

    def asked(toolchain, soc="Ascend310P3"):
        pipeline = SimpleNamespace(
            spec=SimpleNamespace(name="net", digest="", gates=Gates()),
            records={},
            device=dict,
            settings=SimpleNamespace(soc=soc, cann="9.x", target=Target.of("Ascend310P3")),
            source=SimpleNamespace(target=Target.of("Ascend310P3"), digest=""),
            store=Store(tmp_path / "store"),
            toolchain=lambda: toolchain,
            atc_options=lambda *_: AtcOptions(model=str(file), output="net", soc_version=soc, input_shape="x:1,3"),
        )
        return {gate.check: gate for gate in preflight(Subject(pipeline, variant), variant, built)}

    return asked


@pytest.mark.parametrize(("answer", "verdict"), [([], "passed"), ([REFUSED], "failed")])
def test_rules_are_the_hosts_word_and_refusals_the_toolchains(ask, answer, verdict):
    toolchain = Device(answer)
    gates = ask(toolchain)
    rules, front_end = gates["preflight/errors"], gates["preflight/refused"]
    assert (rules.ground, rules.provenance.name, rules.verdict) == ("host", "pth2om", "passed")
    assert (front_end.ground, front_end.provenance, front_end.verdict) == ("device", toolchain.provenance, verdict)
    assert ask(toolchain)["preflight/refused"].cached
    assert toolchain.asked == 1


def test_a_rule_that_fails_is_not_the_devices_word(ask):
    rules = ask(Device([]), soc="Ascend999")["preflight/errors"]
    assert (rules.verdict, rules.ground) == ("failed", "host")


def test_an_option_that_atc_does_not_have_is_a_refusal(ask):
    refused = ask(Device(AtcError("emulator.atc-refuses", more=0)))["preflight/refused"]
    assert (refused.verdict, refused.measured) == ("failed", 1)
