"""The ways of running beside acl: to the bit the emulator's results, or a failure that says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pth2om.ascend.atc_options import AtcOptions
from pth2om.ascend.target import Target
from pth2om.conversion.om_stage import compiles
from pth2om.errors import CrashError, ToolchainError
from pth2om.session import Session
from pth2om.store import file_digest
from pth2om.toolchain import WAYS, Access, CompiledModel
from pth2om.toolchain.cann import CannToolchain
from pth2om.toolchain.cann.board import Limits
from pth2om.toolchain.emulator import EmulatorToolchain
from tests.toolchain.cann.conftest import OPTIONS, SOC, Installed, feeds, install, this_machine, write_model
from tests.toolchain.cann.test_shapes import CASES, RANGE, Sizes, normal, sums

PROVIDER = "onnxruntime-cann"
GEARS = replace(OPTIONS, input_shape="x:-1,3,8,8", dynamic_batch_size="1,2,4")
TWO = replace(OPTIONS, input_shape="x:2,3,8,8;mask:2,5", input_format="ND")
DIMS = CASES["dims of two inputs"]
FED = {"x": (2, 3, 8, 8), "mask": (2, 5)}
ASSIGNED = "nodes that are assigned to the default CPU EP, but fallback to CPU EP has been explicitly disabled"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """One with every way, and a CANN that takes ranges."""
    packages = ("ais_bench", "onnxruntime")
    installed = install(tmp_path_factory.mktemp("machine") / "home", packages=packages, cann="9.2.0")
    with this_machine(installed, tmp_path_factory.mktemp("board")):
        yield installed


@pytest.fixture(autouse=True)
def _whole_again(machine: Installed) -> Iterator[None]:
    yield
    machine.rules()


def nightly(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.nightly)


def toolchain(by: str) -> CannToolchain:
    return CannToolchain(Target.of(SOC, "9.2.0"), Access(run_by=by), Limits(compile=120, run=20, wait=5))


@dataclass(frozen=True)
class Made:
    """A model, and what the emulator and atc made of it."""

    model: Path
    options: AtcOptions
    emulated: Session
    om: CompiledModel


@pytest.fixture(scope="module")
def made(machine: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Made]]:
    """Each kind of model, compiled once."""
    kinds = {
        "two inputs": (lambda path: sums(path, FED), TWO),
        "batch": (lambda path: write_model(path, "n"), GEARS),
        "images": (lambda path: sums(path, CASES["images"].shapes), replace(OPTIONS, **CASES["images"].flags)),
        "dims": (lambda path: sums(path, DIMS.shapes), replace(OPTIONS, **DIMS.flags)),
        "range": (lambda path: sums(path, RANGE.shapes), replace(OPTIONS, **RANGE.flags)),
    }
    done: dict[str, Made] = {}

    def make(kind: str) -> Made:
        if kind not in done:
            folder = tmp_path_factory.mktemp("made")
            write, options = kinds[kind]
            model = write(folder / "m.onnx")
            emulator = EmulatorToolchain(Target.of(SOC, "9.2.0"), threads=1)
            (folder / "emulated").mkdir()
            emulated = emulator.open(emulator.compile(model, options, folder / "emulated"), "fused")
            done[kind] = Made(model, options, emulated, toolchain("acl").compile(model, options, folder))
        return done[kind]

    yield make
    for one in done.values():
        one.emulated.close()


def equal(session: Session, emulated: Session, given: dict[str, np.ndarray]) -> None:
    found, wanted = session.run(given), emulated.run(given)
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array), name


# --- ais_bench --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fed", "release"),
    [
        ("two inputs", (FED, FED), "new"),
        ("batch", ({"x": (2, 3, 8, 8)}, {"x": (4, 3, 8, 8)}), "old"),
        ("images", CASES["images"].fed, "new"),
        ("dims", DIMS.fed, "old"),
        pytest.param("range", RANGE.fed[:2], "new", marks=pytest.mark.nightly),
    ],
)
def test_ais_bench_computes_what_the_emulator_computes(
    made, machine: Installed, kind: str, fed: tuple[dict[str, tuple[int, ...]], ...], release: str
) -> None:
    one = made(kind)
    machine.machine(ais_bench=release)
    with toolchain("ais_bench").open(one.om, "device") as session:
        assert session.provenance.name == "cann/ais_bench"
        for seed, shapes in enumerate(fed):
            equal(session, one.emulated, normal(seed, **shapes))
        assert len(session.device_times()) == len(fed)
        wrong = {"batch": {"x": (3, 3, 8, 8)}, "images": CASES["images"].wrong, "dims": DIMS.wrong}.get(kind)
        if wrong is not None:
            with pytest.raises(ToolchainError, match="gear"):
                session.run(normal(**wrong))
            equal(session, one.emulated, normal(5, **fed[0]))  # the worker lives
        if kind == "batch":
            machine.rules({"where": "ais_bench-infer", "do": "whole"})
            with pytest.raises(ToolchainError, match="4x4x6x6; the model has float32 2x4x6x6"):
                session.run(feeds())  # two samples in a buffer for four
            machine.rules()
            with pytest.raises(ToolchainError, match="inputs"):
                session.run({"other": feeds()["x"]})


@pytest.mark.parametrize(
    ("rule", "error", "text"),
    [
        ({"where": "ais_bench-infer", "do": "return", "value": 507011}, CrashError, r"InferSession.infer.*507011"),
        ({"where": "ais_bench-infer", "do": "size"}, ToolchainError, "float32 1x4x8x8; the model has float32 2x4x8x8"),
        ({"where": "ais_bench-infer", "do": "segfault"}, CrashError, "SIGSEGV"),
        nightly({"where": "ais_bench-infer", "do": "dtype"}, ToolchainError, "float16"),
        nightly({"where": "ais_bench", "do": "return", "value": 145002}, CrashError, "InferSession failed, ret=145002"),
    ],
    ids=["code", "size", "segfault", "dtype", "load"],
)
def test_ais_bench_that_fails_says_how(made, machine: Installed, rule: dict, error: type, text: str) -> None:
    with toolchain("ais_bench").open(made("two inputs").om, "device") as session:
        machine.rules(rule)
        with pytest.raises(error, match=text):
            session.run(normal(**FED))
        machine.rules()
        if rule["do"] == "segfault":
            session.run(normal(**FED))  # in a new worker


# --- onnxruntime-cann -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(made, tmp_path_factory: pytest.TempPathFactory) -> CompiledModel:
    """What is kept for the provider: no OM."""
    return toolchain(PROVIDER).compile(made("two inputs").model, TWO, tmp_path_factory.mktemp("asked"))


def test_the_provider_computes_what_the_emulator_computes(made, asked: CompiledModel) -> None:
    by, one = toolchain(PROVIDER), made("two inputs")
    assert asked.path.suffix == ".onnx"
    # The session on this CPU has the file's own digest: with the same one, its answers would be taken for the NPU's.
    assert asked.digest != file_digest(asked.path)
    assert dict(by.compiler)["name"] == PROVIDER != dict(toolchain("acl").compiler)["name"]
    with by.open(asked, "device") as session:
        assert session.provenance.name == f"cann/{PROVIDER}"
        for seed in range(2):
            equal(session, one.emulated, normal(seed, **FED))
        assert session.device_times() == []  # how long the NPU computed is not known
        with pytest.raises(ToolchainError, match="size"):
            session.run(normal(x=(1, 3, 8, 8), mask=(2, 5)))


def test_no_atc_is_asked_for_where_nothing_is_compiled(
    made, machine: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither before a compile nor for it, on a machine that has none; what the provider cannot do is a finding."""
    by, model = toolchain(PROVIDER), made("two inputs").model
    assert compiles(toolchain("acl"))
    monkeypatch.setattr(by._boards.all[0], "known", replace(by.facts, has_atc=False))
    machine.rules({"where": "atc", "do": "exit", "value": 255})
    assert by.refuses(model, TWO) == []
    (finding,) = by.refuses(tmp_path / "not read.onnx", replace(OPTIONS, dynamic_image_size="8,8;8,12"))
    assert (finding.rule, finding.severity) == ("cann.provider-shapes", "error")
    assert not compiles(by)
    assert by.compile(model, TWO, tmp_path).path.suffix == ".onnx"
    with pytest.raises(ToolchainError, match="atc"):
        toolchain("acl").refuses(model, TWO)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"where": "cann-provider", "do": "fallback"}, "not run everything on the NPU.*CPUExecutionProvider"),
        ({"where": "cann-provider", "do": "nodes"}, r"conv \(CPUExecutionProvider\).*1 of 2 nodes"),
        ({"where": "cann-provider", "do": "no-profile"}, "0 of 0 nodes"),
        (
            {
                "where": "cann-provider",
                "do": "error",
                "value": "nodes that are assigned to the default CPU EP, fallback",
            },
            "not run everything on the NPU",
        ),
        ({"where": "cann-provider-run", "do": "return", "value": 507011}, "507011"),
        nightly({"where": "cann-provider-run", "do": "segfault"}, "SIGSEGV"),
    ],
    ids=["provider", "node", "silence", "assignment", "code", "segfault"],
)
def test_a_fallback_to_the_cpu_is_a_failure(asked: CompiledModel, machine: Installed, rule: dict, text: str) -> None:
    with toolchain(PROVIDER).open(asked, "device") as session:
        machine.rules(rule)
        with pytest.raises(CrashError, match=text):
            session.run(normal(**FED))


def test_plain_onnxruntime_runs_nothing(asked: CompiledModel, machine: Installed) -> None:
    link = machine.toolkit / "python/site-packages/onnxruntime"
    target = link.readlink()
    link.unlink()
    try:
        with (
            toolchain(PROVIDER).open(asked, "device") as session,
            pytest.raises(ToolchainError, match=r"lacks onnxruntime-cann: providers: .*CPUExecutionProvider"),
        ):
            session.run(normal(**FED))
    finally:
        link.symlink_to(target)


# --- msame and what a way cannot do -----------------------------------------------------------------------------------


def test_msame_takes_gears_of_the_batch(made, machine: Installed) -> None:
    one = made("batch")
    with toolchain("msame").open(one.om, "device") as session:
        for batch in (1, 4, 2):
            machine.machine(msame_whole_buffer=batch == 2)  # whether it writes the gear's share, or its whole buffer
            equal(session, one.emulated, feeds(batch=batch, seed=batch))
        with pytest.raises(ToolchainError, match="gear"):
            session.run(feeds(batch=3))
    machine.machine(msame_whole_buffer=False)


def pooled(path: Path, shapes: dict[str, Sizes]) -> Path:
    """As `sums`, but the output of ``x`` has the same sizes whatever the picture's."""
    model = onnx.load(sums(path, {"x": shapes["x"]}))
    model.graph.node[0].output[0] = "c"
    model.graph.node.append(helper.make_node("GlobalAveragePool", ["c"], ["y"], name="pool"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4, 1, 1]))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("flags", "wrong"),
    [
        ({"input_shape": "x:2,3,-1,-1", "dynamic_image_size": "8,8;8,12"}, "gear"),
        ({"input_shape": "x:2,3,8,-1", "input_format": "ND", "dynamic_dims": "8;12"}, "gear"),
        nightly({"input_shape": "x:2,3,8,8~12", "input_format": "ND"}, ""),
    ],
    ids=["images", "dims", "range"],
)
def test_msame_takes_other_gears_where_the_outputs_sizes_are_fixed(
    machine: Installed, tmp_path: Path, flags: dict[str, str], wrong: str
) -> None:
    sides: Sizes = ("h", "w") if "dynamic_image_size" in flags else (8, "w")
    model, options = pooled(tmp_path / "m.onnx", {"x": (2, 3, *sides)}), replace(OPTIONS, **flags)
    by, acl = toolchain("msame"), toolchain("acl")
    om = by.compile(model, options, tmp_path)
    with by.open(om, "device") as session, acl.open(om, "device") as other:
        for seed, width in enumerate((12, 8)):
            given = normal(seed, x=(2, 3, 8, width))
            equal(session, other, given)
        if wrong:
            with pytest.raises(ToolchainError, match=wrong):
                session.run(normal(x=(2, 3, 8, 10)))


def test_what_a_way_cannot_do_is_refused_with_one_that_can(made, asked: CompiledModel, tmp_path: Path) -> None:
    def refused(call: Callable[[], object]) -> str:
        with pytest.raises(ToolchainError) as caught:
            call()
        fix = caught.value.message.fix("en")
        return f"{caught.value} {fix}"

    om = made("images").om
    text = refused(lambda: toolchain("msame").open(om, "device"))
    assert "output y" in text
    assert "ais_bench" in text
    ort = toolchain(PROVIDER)
    text = refused(lambda: ort.compile(made("batch").model, GEARS, tmp_path))
    assert "gears" in text
    assert "--om-run-by acl or ais_bench" in text
    (tmp_path / "aipp.cfg").write_text("aipp_op { aipp_mode: static }")
    aipp = replace(OPTIONS, insert_op_conf=str(tmp_path / "aipp.cfg"))
    assert "AIPP" in refused(lambda: ort.compile(made("batch").model, aipp, tmp_path))
    node = helper.make_node("AscendQuant", ["x"], ["y"], name="q")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]))
    (tmp_path / "int8.onnx").write_bytes(model.SerializeToString())
    assert "AMCT" in refused(lambda: ort.compile(tmp_path / "int8.onnx", OPTIONS, tmp_path))
    assert "another way" in refused(lambda: ort.open(made("batch").om, "device"))
    assert "another way" in refused(lambda: toolchain("msame").open(asked, "device"))
    assert onnx.load(asked.path).graph.node
    assert set(WAYS) == {"acl", "msame", "ais_bench", PROVIDER}
