"""Whatever a device, a compiler or a tool does wrong, the verdict about the OM is not green.

Each failure that the doubles can be asked for is answered here by the question itself, with the gates that a run keeps:
at least one is not passed, and where a figure came, its gate is the one that says so.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pth2om import spec as specs
from pth2om.conversion.pipeline import Pipeline
from pth2om.conversion.settings import RunSettings
from pth2om.errors import Pth2omError
from pth2om.evidence import GateRecord
from pth2om.questions.candidate import Candidate
from pth2om.questions.closeness import closeness
from pth2om.questions.subject import Subject
from pth2om.store import Store
from pth2om.toolchain.cann import machine as board
from tests.toolchain.cann.conftest import SOC, Installed, write_model

SPEC = """\
task = "tensor"
variants = ["fp16-bs1", { precision = "fp16", gears = { batch = [1, 2] } }]

[source]
onnx = "net.onnx"

[[inputs]]
name = "x"
shape = [3, 8, 8]
"""
EVERY = ("zeros", "nan", "shift", "untouched", "return", "lost")
"""What `acl.mdl.execute` of the double can be asked to do wrong; a death of the process has tests of its own."""

FAILURES: dict[str, dict[str, Any]] = {
    **{name: {"where": "execute", "do": name} for name in EVERY},
    "cur-dims": {"where": "cur-dims", "do": "dims", "value": [2, 4, 3, 3]},
    "output-size": {"where": "output-size", "do": "bytes", "value": 4},
    "newer": {"where": "atc", "do": "cann", "value": "9.9.0"},
    "late error": {"where": "execute", "do": "return", "value": 507018, "at": 3},
}
FAILURES["shift"]["value"] = 0.5
FAILURES["return"]["value"] = 507015
AT_ONCE = ("untouched", "cur-dims")


@dataclass
class Bench:
    """A model, exported and compiled once; each failure measures with a store of its own from there on."""

    folder: Path
    machine: Installed

    def pipeline(self, store: str) -> Pipeline:
        settings = RunSettings(self.folder / "models", self.folder, soc=SOC, cann="8.0.0", toolchain="cann")
        return Pipeline(specs.load(self.folder / "models/small"), settings, Store(self.folder / store))

    def gates(self, name: str, variant: str, *rules: dict[str, Any], base: str = "compiled") -> list[GateRecord]:
        """What a run keeps about the OM, with rules of the doubles."""
        shutil.copytree(self.folder / base, self.folder / name)
        pipeline = self.pipeline(name)
        chosen = next(entry for entry in pipeline.spec.variants if entry.name == variant)
        subject = Subject(pipeline, chosen)
        self.machine.rules(*rules)
        try:
            candidate = Candidate.of(pipeline.om_sessions(chosen))
            reference = Candidate.of(pipeline.onnx_session(chosen.shape))
            return closeness(subject, reference, candidate, pipeline.data.samples(chosen.shape))
        except Pth2omError as error:
            return [subject.failed("closeness", "om", error)]
        finally:
            self.machine.rules()
            pipeline.close()
            with contextlib.suppress(Pth2omError):  # a device that is lost, once more
                board().rest()


@pytest.fixture(scope="module")
def bench(machine: Installed, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(tmp_path_factory.mktemp("bench"), machine)
    place = made.folder / "models/small"
    place.mkdir(parents=True)
    write_model(place / "net.onnx", "n")
    (place / "model.toml").write_text(SPEC)
    pipeline = made.pipeline("exported")
    for variant in pipeline.spec.variants:
        pipeline.onnx(variant.shape)
    shutil.copytree(made.folder / "exported", made.folder / "compiled")
    pipeline = made.pipeline("compiled")
    for variant in pipeline.spec.variants:
        pipeline.om(variant)
    return made


@pytest.mark.parametrize("variant", ["fp16-bs1", "fp16-gears1_2-bs2"])
def test_a_device_that_works_is_green(bench: Bench, variant: str) -> None:
    gates = bench.gates(f"green-{variant}", variant)
    assert gates
    assert {gate.verdict for gate in gates} <= {"passed", "shown"}, [(gate.check, gate.verdict) for gate in gates]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in AT_ONCE else pytest.mark.nightly) for name in FAILURES]
)
def test_what_goes_wrong_is_not_green(bench: Bench, name: str) -> None:
    variant = "fp16-gears1_2-bs2" if name == "cur-dims" else "fp16-bs1"
    base = "exported" if FAILURES[name]["where"] == "atc" else "compiled"
    gates = bench.gates(name, variant, FAILURES[name], base=base)
    wrong = [gate for gate in gates if gate.verdict not in ("passed", "shown")]
    assert wrong, [(gate.check, gate.verdict, gate.measured) for gate in gates]
    assert {gate.verdict for gate in wrong} & {"failed", "inconclusive"}
    assert all(gate.message is not None or gate.measured is not None for gate in wrong)


@pytest.mark.nightly
def test_a_device_that_computes_other_bits_each_time_says_by_how_much(bench: Bench) -> None:
    gates = bench.gates("flip", "fp16-bs1", {"where": "execute", "do": "flip"})
    (repeats,) = (gate for gate in gates if gate.check == "om/repeats")
    assert repeats.measured is not None
    assert repeats.measured > 0


def test_every_switch_of_execute_is_in_the_list() -> None:
    source = (Path(__file__).parents[2] / "doubles/cann/acl/mdl.py").read_text()
    body = source[source.index("def execute(") :]
    asked = set(re.findall(r'"(\w+)" (?:not )?in asked', body))
    ready = {"return", "lost"}  # of every call: `Device.ready`
    assert asked | ready == {*EVERY, "flip"}, json.dumps(sorted(asked))
