"""The double of ``acl`` behaves as the vendor's pages and samples record, and computes as the emulator does."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent / "cann"))

from cann_double.install import Installed, install

from pth2om.ascend.atc_options import AtcOptions
from pth2om.ascend.target import Target
from pth2om.omfile import check, check_against, read_om
from pth2om.toolchain.emulator import EmulatorToolchain

SOC = "Ascend310P3"
GEARS = {
    "static": ((1, 8, 8), {}),
    "batch": (("n", 8, 8), {"input_shape": "x:-1,3,8,8", "dynamic_batch_size": "1,2,4"}),
    "hw": ((1, "h", "w"), {"input_shape": "x:1,3,-1,-1", "dynamic_image_size": "8,8;8,12"}),
    "dims": (("n", 8, 8), {"input_shape": "x:-1,3,8,8", "input_format": "ND", "dynamic_dims": "1;2"}),
    "range": (("n", 8, 8), {"input_shape": "x:1~4,3,8,8"}),
}


def network(path: Path, sizes: tuple[Any, ...], channels: int = 3) -> Path:
    """Convolution and Relu; a sum of many products, so that another order of additions would show."""
    batch, height, width = sizes
    weights = np.random.default_rng(7).normal(size=(4, channels, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="/stem/Conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"], name="/stem/Relu"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, channels, height, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4, height, width])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), path)
    return path


def options_for(name: str, folder: Path, soc: str = SOC) -> AtcOptions:
    model = network(folder / f"{name}.onnx", GEARS[name][0])
    return AtcOptions(model=str(model), output=str(folder / name), soc_version=soc, **GEARS[name][1])


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(tmp_path_factory.mktemp("machine") / "m", soc=SOC, kernels=["ascend310p"], cann="9.2.0")


@pytest.fixture(scope="module")
def models(machine: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled by the double of atc, as its users call it."""
    folder = tmp_path_factory.mktemp("models")

    def line(name: str, output: str) -> list[str]:
        options = replace(options_for(name, folder), output=str(folder / output))
        return options.command_line(str(machine.toolkit / "bin/atc"))

    done = subprocess.run(line("static", "static"), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # The others in one process: its start costs more than a compilation.
    more = [(line(name, name)[1:], []) for name in GEARS if name != "static"]
    foreign = [{"where": "atc", "do": "soc", "value": "Ascend310P1"}]
    more.append((line("static", "foreign-soc")[1:], foreign))
    more.append((line("static", "newer")[1:], [{"where": "atc", "do": "cann", "value": "9.9.0"}]))
    script = (
        "import json, os, sys\n"
        "from cann_double.atc import main\n"
        "for words, rules in json.loads(sys.argv[1]):\n"
        "    os.environ['PTH2OM_DOUBLE_RULES'] = json.dumps(rules)\n"
        "    assert main(words) == 0\n"
    )
    command = [sys.executable, "-c", script, json.dumps(more)]
    done = subprocess.run(command, cwd=folder, env=machine.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("range_linux_*.om")
    found.rename(folder / "range.om")
    whole = (folder / "static.om").read_bytes()
    (folder / "truncated.om").write_bytes(whole[: len(whole) // 2])
    return folder


def ask(machine: Installed, models: Path, *names: str) -> dict[str, Any]:
    script = Path(__file__).parent / "acl_scenarios.py"
    line = [sys.executable, str(script), str(models), *names]
    (scratch := machine.home / "scratch").mkdir(exist_ok=True)
    environment = {**machine.environment, "TMPDIR": str(scratch)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


ALL = (
    "whole second_init soc_before_model no_context_in_thread other_context batch write_gear_input pictures dims ranges "
    "range_unset leak no_finalize host_pointer_as_device small_buffer utilities broken_files memory"
)


@pytest.fixture(scope="module")
def ended(machine: Installed, models: Path) -> dict[str, Any]:
    return ask(machine, models, *ALL.split())


@pytest.fixture(scope="module")
def values(ended: dict[str, Any]) -> dict[str, Any]:
    return {name: entry.get("value") for name, entry in ended.items()}


def in_process(name: str, folder: Path, feeds: np.ndarray) -> np.ndarray:
    toolchain = EmulatorToolchain(Target.of(SOC, "9.x"), threads=1)
    options = options_for(name, folder)
    compiled = toolchain.compile(Path(str(options.model)), options, folder)
    with toolchain.open(compiled, "fused") as session:
        return session.run({"x": feeds})["y"]


@pytest.mark.parametrize(("name", "batch"), [("static", 1), ("batch", 2), ("range", 3)])
def test_it_computes_what_the_emulator_computes(
    name: str, batch: int, values: dict[str, Any], models: Path, tmp_path: Path
) -> None:
    feeds = np.random.default_rng(0).normal(size=(batch, 3, 8, 8)).astype(np.float32)
    assert values is not None
    there, here = np.load(models / f"{name}.npy"), in_process(name, tmp_path, feeds)
    assert there.shape == here.shape == (batch, 4, 8, 8)
    assert there.tobytes() == here.tobytes()


def test_a_run_in_the_samples_order_succeeds(values: dict[str, Any]) -> None:
    assert values["whole"] == {
        "codes": [0, 0],
        "same": True,
        "kinds": [0, 0],
        "names": ["x", "/stem/Relu:0:y"],
        "end": 0,
    }


def test_init_works_once_a_process(values: dict[str, Any]) -> None:
    assert values["second_init"] == [0, 100002, 0, 100037, 100002]


def test_the_name_of_the_soc_needs_no_model(values: dict[str, Any]) -> None:
    assert values["soc_before_model"] == [SOC, 0, SOC, 0]


def test_a_thread_needs_the_context(values: dict[str, Any]) -> None:
    code, text, again, *rest = values["no_context_in_thread"]
    assert code == 107002
    assert text.endswith("EE1001: The argument is invalid.Reason: context pointer null.")
    assert again is None  # reading clears
    assert rest == [0, 0, 0]


def test_gears_behave_as_in_the_vendors_sample(values: dict[str, Any]) -> None:
    # "inputSize[16613376]" of [-1][3][416][416] in float32 with gears 1, 2, 4, 8: the largest gear's bytes;
    # "ascend_mbatch_shape_data], inputSize[8]"; "dims:[8][255][13][13]" of the output.
    found = values["batch"]
    assert found["dims"] == {"name": "x", "dimCount": 4, "dims": [-1, 3, 8, 8]}
    assert found["sizes"] == [4 * 3 * 8 * 8 * 4, 8]
    assert found["largest"] == [4, 4, 8, 8]
    assert found["gears"] == [1, 2, 4]
    assert found["codes"] == [145013, 0, 0, 0]
    assert found["shape"] == [2, 4, 8, 8]
    assert found["untouched"]
    assert found["wrong setter"] == 100019
    assert found["unset"] == 145011


def test_height_comes_first(values: dict[str, Any]) -> None:
    assert values["pictures"] == {
        "codes": [145013, 0, 0],
        "shape": [1, 4, 8, 12],
        "gear input": [2],
        "gears": [[8, 8], [8, 12]],
        "end": 0,
    }


def test_dims_are_those_of_all_inputs(values: dict[str, Any]) -> None:
    assert values["dims"] == {
        "gears": [[1, 3, 8, 8], [2, 3, 8, 8]],
        "partial": 145012,
        "full": 0,
        "execute": 0,
        "shape": [2, 4, 8, 8],
        "end": 0,
    }


def test_a_range_reports_no_size_before_it_runs(values: dict[str, Any]) -> None:
    assert values["ranges"] == {"sizes": [0, 0], "codes": [0, 0], "bytes": 3 * 4 * 8 * 8 * 4, "end": 0}


@pytest.mark.parametrize("name", ["other_context", "write_gear_input", "range_unset", "no_finalize"])
def test_what_the_vendor_forbids_ends_the_process(name: str, ended: dict[str, Any]) -> None:
    assert ended[name]["status"] == -11


def test_what_was_broken_is_noted(machine: Installed, values: dict[str, Any]) -> None:
    assert values
    noted = "\n".join(machine.broken)
    for text in (
        "a second time in one process",
        "ascend_mbatch_shape_data was written",
        "in another context than the one of load",
        "for some inputs only",
        "set_input_dynamic_dims with 1 sizes",
        "leaked at reset_device: 1 buffers",
        "without acl.finalize",
        "without a setter of the gear",
    ):
        assert text in noted


def test_memory_is_checked_on_its_side(values: dict[str, Any]) -> None:
    assert values["host_pointer_as_device"] == [107000, 107000, 0]
    assert values["small_buffer"] == [145006, 0]
    assert values["utilities"] == ["abcdef", [[0, 1, 2], [3, 4, 5]], ["ptr_to_bytes"]]


def test_memory_runs_out(values: dict[str, Any]) -> None:
    total, free, taken, code, ok, huge, text, end = values["memory"]
    assert (total, free, taken, code, ok, huge, end) == (7545, 5045, 1 << 20, 0, 0, 207001, 0)
    assert "EL0004" in text


def test_files_that_do_not_load(values: dict[str, Any]) -> None:
    found = values["broken_files"]
    assert (found["truncated"], found["foreign-soc"], found["newer"], found["absent"]) == (
        100012,
        145000,
        500002,
        145002,
    )
    assert "Model soc version is not support in this device." in found["foreign-soc text"]
    assert "expect 3 actual 4" in found["newer text"]


FAILURES: dict[str, dict[str, Any] | None] = {
    "clean": None,
    "code": {"where": "execute", "do": "return", "value": [507015, "EZ9999: out of range"], "at": 1},
    "second": {"where": "execute", "do": "segfault", "at": 2},
    "killed": {"where": "execute", "do": "oom"},
    "abort": {"where": "execute", "do": "abort"},
    "exit": {"where": "exit", "do": "segfault"},
    "zeros": {"where": "execute", "do": "zeros"},
    "size": {"where": "output-size", "do": "bytes", "value": 77},
    "load": {"where": "load_from_file", "do": "return", "value": 500002},
    "once": {"where": "execute", "do": "return", "value": 507018, "times": 1},
    "again": {"where": "execute", "do": "return", "value": 507018, "times": 1},
    "garbage": {"where": "execute", "do": "print", "value": "noise"},
    "lost": {"where": "execute", "do": "lost", "at": 2},
}


def test_every_failure_can_be_asked_for(machine: Installed, models: Path) -> None:
    rows = {name: [rule] if rule else [] for name, rule in FAILURES.items()}
    try:
        found = ask(machine, models, *(f"failing {name} {json.dumps(rule)}" for name, rule in rows.items()))
    finally:
        machine.rules()
    status = {name: entry["status"] for name, entry in found.items()}
    value = {name: entry.get("value") for name, entry in found.items()}
    assert value["clean"]["codes"] == [0, 0]
    # After a failed execution the process is not to be trusted.
    assert value["code"]["codes"] == [507015, 507015]
    assert value["code"]["text"].endswith("EZ9999: out of range")
    assert (status["second"], status["killed"], status["abort"]) == (-11, -9, -6)
    assert (status["exit"], value["exit"]) == (-11, value["clean"])
    assert value["zeros"]["result"] == [0] * 4
    assert value["size"]["size"] == 77
    assert value["load"]["load"] == 500002
    assert value["once"]["codes"][0] == 507018
    assert value["again"] == value["clean"]  # a rule that holds once holds once over all processes
    assert value["garbage"] == value["clean"]
    assert value["lost"]["codes"] == [0, 507899]
    # What dies removes nothing: it has to lie in the machine's folder, which the test removes.
    assert list(machine.home.glob("acl-double-*"))
    assert list((machine.home / "scratch").glob("[!.]*")) == []


def test_the_file_is_read_as_an_om_and_says_whose_it_is(models: Path) -> None:
    om = read_om(models / "static.om")
    assert om.path.read_bytes()[120:].startswith(b"pth2om double")
    assert (om.soc_version, om.framework, om.flags["framework"]) == (SOC, "Onnx", "5")
    assert check(om) == []
    assert [finding.rule for finding in check_against(om, soc=SOC, precision="fp16")] == []
    batch = read_om(models / "batch.om")
    assert batch.inout.batches == (1, 2, 4)
    assert [(tensor.name, tensor.shape) for tensor in batch.inputs] == [
        ("x", (-1, 3, 8, 8)),
        ("ascend_mbatch_shape_data", (1,)),
    ]
    assert read_om(models / "hw.om").inout.image_sizes == ((8, 8), (8, 12))
    assert read_om(models / "dims.om").inout.dims == ((1, 3, 8, 8), (2, 3, 8, 8))
    assert read_om(models / "range.om").header.host_code
