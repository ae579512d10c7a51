"""Stages: run once, failures remembered only when they are the model's."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pth2om.conversion import source as sources
from pth2om.conversion.stage import Measurement, Work, forget, run
from pth2om.errors import Absent, GraphError, LostError, Pth2omError, StoreError
from pth2om.progress import Progress, Step
from pth2om.store import Store
from pth2om.toolchain.choosing import names, register
from pth2om.toolchain.fake import Call, FakeToolchain, plain
from tests.conversion.conftest import Make


def stage(measure: Callable[[Work], Any]) -> Measurement:
    return Measurement("figure", 1, ("numpy",), "net", {"session": "aa"}, {"batch": 1}, measure)


def test_a_measurement_is_kept(tmp_path: Path) -> None:
    store, calls = Store(tmp_path), []
    measured = stage(lambda work: calls.append(work) or {"cosine": 0.5})
    first, second = run(measured, store), run(measured, Store(tmp_path))
    assert first.result.value == second.result.value == {"cosine": 0.5}
    assert (first.artifact.cached, second.artifact.cached, len(calls)) == (False, True, 1)
    forget(measured, store)
    assert not run(measured, store).artifact.cached


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (GraphError("graph.unreadable", reason="x"), 1),
        (LostError("toolchain.lost", reason="x"), 2),
        (StoreError("store.no-space", stage="figure"), 2),
        (Absent("pipeline.no-soc"), 2),
    ],
)
def test_only_the_models_own_failure_is_remembered(tmp_path: Path, error: Pth2omError, tries: int) -> None:
    store, calls = Store(tmp_path), []

    def measure(work: Work) -> None:
        calls.append(work)
        raise error

    for _ in range(2):
        with pytest.raises(type(error)):
            run(stage(measure), store)
    assert len(calls) == tries


@pytest.mark.parametrize(
    "cause",
    [OSError(errno.ENOSPC, "full"), MemoryError(), subprocess.TimeoutExpired("amct", 1), ConnectionResetError()],
)
def test_a_failure_of_the_machine_is_not_the_models_whoever_reports_it(tmp_path: Path, cause: Exception) -> None:
    store, calls = Store(tmp_path), []

    def measure(work: Work) -> str:
        calls.append(work)
        if len(calls) > 1:
            return "done"
        try:
            raise cause
        except type(cause):
            raise GraphError("graph.unwritable", reason="x") from None

    with pytest.raises(GraphError):
        run(stage(measure), store)
    assert run(stage(measure), store).result.value == "done"


def test_interrupted_work_finds_what_it_left(tmp_path: Path) -> None:
    seen: list[Step] = []

    def measure(work: Work) -> int:
        kept = work.resume / "state"
        if not kept.exists():
            work.resume.mkdir(parents=True)
            kept.write_text("7")
            raise KeyboardInterrupt
        with work.progress.counted("figure", 1) as told:
            told(1)
        return int(kept.read_text())

    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(stage(measure), store)
    assert run(stage(measure), store, Progress(seen.append)).result.value == 7
    assert [step.done for step in seen] == [0, 1, 1]
    assert not list((tmp_path / "resume").iterdir())


@pytest.fixture
def double(request: pytest.FixtureRequest) -> Callable[..., FakeToolchain]:
    """Register a scripted toolchain as ``double``."""

    def registered(**script: Any) -> FakeToolchain:
        made: list[FakeToolchain] = []

        def maker(target: Any, **_: Any) -> FakeToolchain:
            if not made:
                made.append(FakeToolchain(target, **script))
            return made[0]

        request.addfinalizer(register("double", maker))
        from pth2om.ascend.target import Target

        return maker(Target.of("Ascend310B1"), threads=None, join=None)

    return registered


FEEDS = {"x": np.ones((1, 4), np.float32)}


def test_a_double_compiles_and_runs_and_says_what_it_is(make: Make, double: Callable[..., FakeToolchain]) -> None:
    fake = double()
    assert "double" in names()
    pipeline = make("plain", toolchain="double")
    (variant,) = pipeline.spec.variants
    built = pipeline.om(variant)
    assert built.record.provenance.ground == "double"
    sessions = pipeline.om_sessions(variant)
    assert list(sessions) == ["device"]
    np.testing.assert_array_equal(sessions["device"].run(FEEDS)["y"], [[12.0, 16.0]])
    assert sessions["device"].provenance.ground == "double"
    again = make("plain", toolchain="double")
    assert again.om(variant).record.cached
    assert again.om_sessions(variant)["device"].digest == sessions["device"].digest
    assert fake.compiled_models == 1
    with pytest.raises(Pth2omError, match="wrong"):
        make("plain", toolchain="wrong").toolchain()


def test_a_session_opens_again_after_its_link_was_lost(make: Make, double: Callable[..., FakeToolchain]) -> None:
    def answer(call: Call) -> Any:
        if call.number in (1, 4, 5):
            raise LostError("toolchain.lost", reason="the cable")
        return plain(call)

    fake = double(answer=answer)
    pipeline = make("plain", toolchain="double")
    (variant,) = pipeline.spec.variants
    session = pipeline.om_sessions(variant)["device"]
    for _ in range(3):  # the second is lost once
        np.testing.assert_array_equal(session.run(FEEDS)["y"], [[12.0, 16.0]])
    assert fake.opened == 2
    with pytest.raises(LostError):
        session.run(FEEDS)
    np.testing.assert_array_equal(session.run(FEEDS)["y"], [[12.0, 16.0]])


def test_a_compiler_that_refuses_is_not_asked_twice(make: Make, double: Callable[..., FakeToolchain]) -> None:
    from pth2om.errors import AtcError

    fake = double(failure=AtcError("emulator.atc-refuses", more=0))
    pipeline = make("plain", toolchain="double")
    (variant,) = pipeline.spec.variants
    for _ in range(2):
        with pytest.raises(AtcError):
            pipeline.om(variant)
    fake.failure = None
    assert make("plain", toolchain="double").om(variant).record.provenance.ground == "double"


@pytest.mark.parametrize("simplify", ["true", "false"])
def test_a_net_that_fails_beside_its_export_fails_it(make: Make, models: Path, simplify: str) -> None:
    spec = models / "linear" / "model.toml"
    spec.write_text(f"{spec.read_text()}\n[export]\nsimplify = {simplify}\n")
    (models / "linear" / "net.py").write_text(
        "import torch\nTEMPLATE_NAME = 'linear'\n\n"
        "class Net(torch.nn.Linear):\n    first = None\n"
        "    def forward(self, x):\n"
        "        Net.first = x.clone() if Net.first is None else Net.first\n"
        "        if not torch.jit.is_tracing() and not torch.equal(x, Net.first):\n"
        "            raise RuntimeError('only ever the first input')\n"
        "        return super().forward(x)\n\n"
        "def build(num_classes, pretrained=False):\n    return Net(4, 2)\n"
    )
    pipeline = make("linear")
    with pytest.raises(RuntimeError, match="only ever the first input"):
        pipeline.onnx(1)
    assert not [entry for entry in pipeline.store.entries() if entry.stage == "onnx"]


KEEPING = """
import torch
from pathlib import Path
TEMPLATE_NAME = 'linear'

class Keeping(torch.nn.Linear):
    kept = None
    def forward(self, x):
        if self.kept is None or torch.jit.is_tracing():
            self.kept = torch.ones_like(x)  # as detectors keep their grid: made for one batch, even of a trace
        return super().forward(x * self.kept)

def build(num_classes, pretrained=False):
    return Keeping(4, 2)

def deploy(module):
    with Path(__file__).with_name('deployed.md').open('a') as file:
        file.write('.')
    made = Keeping(4, 2)
    made.load_state_dict(module.state_dict())
    return made
"""


@pytest.mark.parametrize(("most", "times"), [(1 << 20, 2), (0, 3)])
def test_each_batch_is_exported_from_a_net_that_no_trace_has_touched(
    make: Make, models: Path, monkeypatch: pytest.MonkeyPatch, most: int, times: int
) -> None:
    monkeypatch.setattr(sources, "_MOST_COPIED", most)
    spec = models / "linear" / "model.toml"
    spec.write_text(spec.read_text().replace('["fp16-bs1"]', '["fp16-bs1", "fp16-bs2", "fp16-bs3"]'))
    (models / "linear" / "net.py").write_text(KEEPING)
    pipeline = make("linear")
    for batch in (1, 2, 3):
        built = pipeline.onnx(batch)
        assert not [finding for finding in built.record.findings if finding.severity == "error"]
        assert max(built.record.details["probes"]) < 1e-6
    assert (models / "linear" / "deployed.md").read_text() == "." * times


def test_a_changed_net_is_deployed_anew(make: Make, models: Path) -> None:
    spec = models / "linear" / "model.toml"
    spec.write_text(spec.read_text().replace('["fp16-bs1"]', '["fp16-bs1", "fp16-bs2"]'))
    (models / "linear" / "net.py").write_text(KEEPING)
    source = make("linear").source
    first = source.deployed()
    (models / "linear" / "net.py").write_text(KEEPING.replace("made = Keeping(4, 2)", "made = torch.nn.Linear(4, 2)"))
    assert type(source.deployed()) is not type(first)
