"""The doubles of ``atc``, ``msame``, ``amct_onnx`` and ``npu-smi`` against the recorded lines, files and statuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent / "cann"))

from cann_double.install import Installed, install

from pth2om.explain import explain
from pth2om.omfile import read_om
from tests.doubles.test_acl_double import network

SOC = "Ascend310B4"
LINE = re.compile(
    r"(?P<title>[A-Z][A-Za-z_]+)?\(?(?P<code>[EW][A-Z0-9]\d{4})\)?: ?(?:\[PID: ?\d+\] (?P<ts>[\d\-:.]+) )?(?P<msg>.*)"
)
"""The line of an error in its three forms, as recorded from users' logs."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(tmp_path_factory.mktemp("machine") / "m", soc=SOC)


@pytest.fixture(scope="module")
def folder(machine: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds m.onnx and m.om."""
    place = tmp_path_factory.mktemp("work")
    network(place / "m.onnx", (1, 8, 8))
    done = run(machine, place, "atc", *arguments(place))
    assert done.returncode == 0, done.stdout
    return place


def arguments(place: Path, **changes: str) -> list[str]:
    given = {"model": f"{place}/m.onnx", "framework": "5", "output": f"{place}/m", "soc_version": SOC, **changes}
    return [f"--{name}={value}" for name, value in given.items()]


def run(machine: Installed, place: Path, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    path = machine.root / "usr/local/bin" / program if program == "npu-smi" else machine.toolkit / "bin" / program
    return subprocess.run([str(path), *words], cwd=place, capture_output=True, text=True, timeout=60)


def test_atc_leaves_what_is_recorded(folder: Path) -> None:
    assert (folder / "m.om").stat().st_mode & 0o777 == 0o600
    fusion = json.loads((folder / "fusion_result.json").read_text())
    (passes,) = fusion.values()
    assert set(passes) == {"graph_fusion", "ub_fusion"}
    assert all(isinstance(count, str) for group in passes.values() for row in group.values() for count in row.values())
    om = read_om(folder / "m.om")
    assert om.atc_cmdline is not None
    assert om.atc_cmdline.split(" ")[0].endswith("/bin/atc.bin")
    assert om.header.name == "m"
    assert om.atc_version == "7.6.0.1.220"


@pytest.mark.parametrize(("cann", "wanted"), [("7.0.0", "bare"), ("8.0.0", "stamped"), ("9.1.0", "titled")])
def test_three_generations_of_the_error_line(machine: Installed, folder: Path, cann: str, wanted: str) -> None:
    machine.machine(cann=cann)
    done = run(machine, folder, "atc", *arguments(folder, soc_version="Ascend310B"))
    machine.machine(cann="8.0.0")
    first, *_ = lines = done.stdout.splitlines()
    assert done.returncode == 255
    assert first == "ATC start working now, please wait for a moment."
    verdict = next(line for line in lines if line.startswith("ATC run failed"))
    assert verdict.startswith("ATC run failed, Please check the detail log, Try 'atc --help'")
    found = LINE.search(lines[lines.index(verdict) + 1])
    assert found is not None
    form = "titled" if found["title"] else "stamped" if found["ts"] else "bare"
    assert (form, found["code"]) == (wanted, "EE1011" if cann == "9.1.0" else "EE1001")
    assert "pth2om" not in done.stdout  # nothing that a real atc would not print


def test_flags_are_refused_as_recorded(machine: Installed, folder: Path) -> None:
    done = run(machine, folder, "atc", *arguments(folder), "--nonsense=1")
    assert done.returncode == 255
    assert "ERROR: unknown command line flag 'nonsense'" in done.stderr
    assert "E19999: Inner Error!" in done.stdout
    assert run(machine, folder, "atc", "--help").returncode == 0


def test_beside_a_chip_only_its_name_compiles(machine: Installed, folder: Path) -> None:
    done = run(machine, folder, "atc", *arguments(folder, soc_version="Ascend310P3"))
    assert (done.returncode, "EE1001" in done.stdout) == (255, True)


def test_without_the_chips_kernels_nothing_compiles(machine: Installed, folder: Path) -> None:
    machine.machine(kernels=["ascend310p"])
    done = run(machine, folder, "atc", *arguments(folder, output=f"{folder}/k"))
    machine.machine(kernels=["ascend310b"])
    assert done.returncode == 255
    assert "C01" in {entry.id for entry in explain(done.stdout, "atc")}


def test_the_pre_check_writes_its_report(machine: Installed, folder: Path) -> None:
    words = arguments(folder, mode="3")
    done = run(machine, folder, "atc", *[word for word in words if not word.startswith("--output")])
    report = json.loads((folder / "check_result.json").read_text())
    assert (done.returncode, report["result"], report["fail"]) == (0, "success", 0)


@pytest.mark.parametrize(
    ("rule", "status", "exists"),
    [
        ({"do": "oom"}, -9, False),
        ({"do": "exit", "value": 255}, 255, False),
        ({"do": "no-file"}, 0, False),
        ({"do": "error", "value": "E20001: Failed to compile Op [c]. (optype: [Conv2D])"}, 255, False),
    ],
)
def test_failures_of_atc_on_request(
    machine: Installed, folder: Path, rule: dict[str, object], status: int, exists: bool
) -> None:
    machine.rules({"where": "atc", **rule})
    done = run(machine, folder, "atc", *arguments(folder, output=f"{folder}/x"))
    machine.rules()
    assert done.returncode == status
    assert (folder / "x.om").exists() is exists


def test_msame_prints_and_writes_as_recorded(machine: Installed, folder: Path) -> None:
    array = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    array.tofile(folder / "a.bin")
    (folder / "out").mkdir(exist_ok=True)
    words = ["--model", "m.om", "--input", "a.bin", "--output", "out", "--outfmt", "BIN", "--loop", "2"]
    done = run(machine, folder, "msame", *words)
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert lines[0] == "[INFO] acl init success"
    assert lines[-1] == "[INFO] Execute sample success"
    assert "[INFO] start to process file:a.bin" in lines
    assert sum(bool(re.fullmatch(r"Inference time: [\d.]+ms", line)) for line in lines) == 2
    assert any(re.fullmatch(r"Inference average time without first time: [\d.]+ ms", line) for line in lines)
    output = np.fromfile(folder / "out/a_output_0.bin", np.float32)
    assert output.shape == (1 * 4 * 8 * 8,)
    assert (output >= 0).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "m.om", "--nonsense", "1"], "unknown paramenter"),
        (["--model", "m.om", "--loop", "101"], "loop must in 1 to 100"),
        (["--model", "gone.om"], "load model from file failed"),
        (["--model", "m.om", "--dump", "true", "--profiler", "true"], "dump and profiler can not both be true"),
        (
            ["--model", "m.om", "--input", "short.bin"],
            "memcpy failed. device buffer size is 768, input host",
        ),
    ],
)
def test_msame_fails_in_the_vendors_words(machine: Installed, folder: Path, words: list[str], said: str) -> None:
    (folder / "short.bin").write_bytes(b"1234")
    done = run(machine, folder, "msame", *words)
    assert done.returncode == 1
    assert said in done.stdout
    assert "R31" in {entry.id for entry in explain(done.stdout, "om-run")}


def test_amct_onnx_writes_its_files(machine: Installed, folder: Path) -> None:
    data = folder / "calibration"
    data.mkdir()
    wide = network(folder / "wide.onnx", (1, 8, 8), channels=32)  # ATC takes INT8 back where there are few channels
    assert wide.is_file()
    for number in range(2):
        np.random.default_rng(number).normal(size=(1, 32, 8, 8)).astype(np.float32).tofile(data / f"{number}.bin")
    words = ["calibration", "--model", "wide.onnx", "--save_path", "int8/m", "--input_shape", "x:1,32,8,8"]
    words += ["--data_dir", "calibration", "--data_types", "float32", "--batch_num", "2"]
    done = run(machine, folder, "amct_onnx", *words)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (folder / "int8").iterdir()}
    assert {"m_deploy_model.onnx", "m_fake_quant_model.onnx"} <= written
    deploy = onnx.load(folder / "int8/m_deploy_model.onnx")
    assert {"AscendQuant", "AscendDequant"} <= {node.op_type for node in deploy.graph.node}
    assert "success" in (folder / "amct_log/amct_onnx.log").read_text()
    words[words.index("float32")] = "float16"
    done = run(machine, folder, "amct_onnx", *words)
    assert done.returncode == 1
    assert "Q02" in {entry.id for entry in explain(done.stderr, "amct")}


def test_npu_smi_prints_the_recorded_forms(machine: Installed, folder: Path) -> None:
    machine.machine(npu_smi="310p3-duo", npu_smi_map="map-duo")
    done = run(machine, folder, "npu-smi", "info")
    assert (done.returncode, "| 32      310P3" in done.stdout) == (0, True)
    assert "Mcu" in run(machine, folder, "npu-smi", "info", "-m").stdout
    machine.machine(npu_smi="driver-not-loaded")
    done = run(machine, folder, "npu-smi", "info")
    machine.machine(npu_smi="310b4-orangepi-8g", npu_smi_map=None)
    assert (done.returncode, "-8005" in done.stderr) == (1, True)


def test_set_env_exports_what_the_real_one_does(machine: Installed) -> None:
    script = 'set +e; . "$1"; command -v atc; python3 -c "import acl; print(acl.get_soc_name())"; echo $ASCEND_OPP_PATH'
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    line = ["bash", "-c", script, "x", str(machine.set_env)]
    done = subprocess.run(line, capture_output=True, text=True, env={"PATH": path})
    assert done.stdout.splitlines() == [str(machine.toolkit / "bin/atc"), SOC, str(machine.toolkit / "opp")]
