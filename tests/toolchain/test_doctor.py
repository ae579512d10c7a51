"""``pth2om doctor`` on pretended machines, of each layout and with each fault."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles/cann"))

from cann_double.install import HERE, Installed, install

import pth2om
from pth2om.language import catalogue
from pth2om.toolchain.cann import diagnosis
from pth2om.toolchain.cann.agent import dcmi, doctor, installed, smi
from pth2om.toolchain.cann.place import Place
from pth2om.toolchain.cann.shipping import agent


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Installed]:
    """Makes a machine and enters its environment."""

    def make(**properties: Any) -> Installed:
        machine = install(tmp_path / "board", **properties)
        for name, value in machine.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PTH2OM_BOARD_PYTHON", sys.executable)
        return machine

    return make


def examine(machine: Installed) -> diagnosis.Diagnosis:
    return diagnosis.here(str(machine.root))


def rules(found: diagnosis.Diagnosis, *severities: str) -> set[str]:
    wanted = severities or ("error", "warning", "info")
    return {finding.rule.removeprefix("doctor.") for finding in found.findings if finding.severity in wanted}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler for the double of libdcmi.so")
    path = tmp_path_factory.mktemp("driver") / "libdcmi.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(path), str(HERE / "dcmi_double.c")], check=True)
    return path


def test_a_healthy_double_is_described_and_is_no_device(board: Callable[..., Installed]) -> None:
    machine = board(npu_smi="310b4-200i-dk-a2", npu_smi_board="board-310b1")
    found = examine(machine)
    text = "\n".join(found.lines("en"))
    assert "Ascend310B4, driver 24.1.rc3" in text
    assert "310B4: health OK, 54 °C, 7.7 W, -/- MHz, 2166/3513 MB" in text
    assert f"8.0.0 ({machine.toolkit}, ascend310b)" in text
    assert "double" in text
    assert found.status == 1
    assert not found.proven
    # What the double lacks for being a device is said, and nothing else is wrong with it.
    assert rules(found, "error") - {"tbe-modules", "numpy"} == {"double"}
    assert "soc-differs" in rules(found)  # the board's record of this double is of another chip
    assert len(found.lines("en")) <= 40
    assert "设备" in "\n".join(found.lines("zh"))


def test_without_a_device_the_status_is_never_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    found = diagnosis.here(str(tmp_path))
    assert "no-device" in rules(found, "error")
    assert found.status == 1


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Installed, dict[str, Any]]:
    """A machine and what is asked of it, for tests that change one answer."""
    machine = install(tmp_path_factory.mktemp("sound") / "board", npu_smi="310b4-200i-dk-a2")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in machine.environment.items():
            patch.setenv(name, value)
        patch.setenv("PTH2OM_BOARD_PYTHON", sys.executable)
        patch.setenv("PTH2OM_LEASE_DIR", str(machine.home))
        return machine, doctor.collect(str(machine.root))


@pytest.fixture
def facts(sound: tuple[Installed, dict[str, Any]]) -> dict[str, Any]:
    return json.loads(json.dumps(sound[1]))


def found_in(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["id"]: finding["values"] for finding in doctor.findings(facts)}


@pytest.mark.parametrize(
    ("form", "rule"),
    [
        ("no-device", "smi-empty"),
        ("unusable-npu", "unusable"),
        ("driver-not-loaded", "smi-failed"),
        ("no-library", "smi-failed"),
        ("310b4-critical", "health-critical"),
        ("310b4-unknown-health", "health-critical"),
        ("310b4-orangepi-8g", "health-alarm"),
        ("310b1-busy", "busy"),
    ],
)
def test_each_state_of_the_chip_has_its_finding(
    form: str, rule: str, sound: tuple[Installed, dict[str, Any]], facts: dict[str, Any]
) -> None:
    machine = sound[0]
    machine.machine(npu_smi=form)
    facts["smi"] = smi.readings(machine.environment)
    assert rule in found_in(facts)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda facts: facts.update(kernels=["ascend310p"]), "no-kernels"),
        (lambda facts: facts["programs"].update(atc=None), "no-atc"),
        (lambda facts: facts["machine"].update(nodes=[]), "no-device"),
        (lambda facts: facts["machine"].update(driver=""), "no-driver"),
        (lambda facts: facts.update(openable=[]), "device-closed"),
        (lambda facts: facts.update(set_env=""), "no-set-env"),
        (lambda facts: facts.update(toolkits=[]), "no-cann"),
        (lambda facts: (facts["runner"].update(double=False), facts["machine"].update(soc="")), "no-soc"),
        (lambda facts: facts.update(runner={"path": "/usr/bin/python3", "error": "No module named 'acl'"}), "no-acl"),
    ],
)
def test_what_is_absent_has_its_finding(
    change: Callable[[dict[str, Any]], object], rule: str, facts: dict[str, Any]
) -> None:
    assert rule not in found_in(facts)
    change(facts)
    assert rule in found_in(facts)


@pytest.mark.parametrize(("do", "rule", "value"), [("segfault", "acl-crash", "SIGSEGV"), ("hang", "acl-hang", None)])
def test_a_module_acl_that_dies_is_named(
    board: Callable[..., Installed], do: str, rule: str, value: str | None
) -> None:
    machine = board()
    machine.rules({"where": "import", "do": do})
    facts = doctor.collect(str(machine.root), 4.0 if do == "segfault" else 2.5)
    found = {finding["id"]: finding["values"] for finding in doctor.findings(facts)}
    assert rule in found
    assert value is None or found[rule]["signal"] == value


@pytest.mark.parametrize(
    ("files", "version", "kind"),
    [
        (
            {"ascend-toolkit/latest/aarch64-linux/ascend_toolkit_install.info": "version=7.0.RC1\n"},
            "7.0.RC1",
            "toolkit",
        ),
        ({"nnrt/latest/aarch64-linux/ascend_nnrt_install.info": "version=6.3.RC2\n"}, "6.3.RC2", "nnrt"),
        (
            {"ascend-toolkit/latest/version.cfg": "toolkit_running_version=[7.6.0.1.220:8.0.0]\n"},
            "8.0.0",
            "toolkit",
        ),
        ({"cann/x86_64-linux/ascend_toolkit_install.info": "package_name=x\nversion=8.5.0\n"}, "8.5.0", "toolkit"),
        ({"cann-9.1.0/version.cfg": "runtime_running_version=[9.1.0.1.1:9.1.0]\n"}, "9.1.0", "nnrt"),
    ],
)
def test_every_layout_of_cann_is_read(tmp_path: Path, files: dict[str, str], version: str, kind: str) -> None:
    for name, text in files.items():
        path = tmp_path / "usr/local/Ascend" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (found,) = installed.toolkits(str(tmp_path), {})
    assert (found["version"], found["kind"]) == (version, kind)


def test_parts_of_different_releases_are_named(
    sound: tuple[Installed, dict[str, Any]], facts: dict[str, Any], tmp_path: Path
) -> None:
    text = (sound[0].toolkit / "version.cfg").read_text()
    old = text.replace("opp_running_version=[7.6.0.1.220:8.0.0]", "opp_running_version=[7.5.0:7.0.0]")
    (tmp_path / "version.cfg").write_text(old)
    facts["toolkits"] = installed.toolkits("/nowhere", {"ASCEND_HOME_PATH": str(tmp_path)})
    assert found_in(facts)["parts-differ"]["parts"].startswith("compiler 8.0.0, opp 7.0.0")


def test_stub_libraries_before_the_driver_are_named() -> None:
    folders = "/u/Ascend/ascend-toolkit/latest/x86_64-linux/devlib:/usr/local/Ascend/driver/lib64"
    assert len(installed.stubs_before({"LD_LIBRARY_PATH": folders})) == 1
    assert installed.stubs_before({"LD_LIBRARY_PATH": ":".join(reversed(folders.split(":")))}) == []


@pytest.mark.parametrize(
    ("fail", "wanted"),
    [
        ("", {"name": "310B4", "power_w": 7.7, "memory_mb": 7545, "memory_used_mb": 2500, "aicore_max_mhz": 1000}),
        ("old", {"name": "310B4"}),
        ("kb", {"memory_mb": 7545, "memory_used_mb": 2500}),
        ("board", {"temperature_c": 54}),
    ],
)
def test_the_drivers_library_is_read(library: Path, fail: str, wanted: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setenv(dcmi.LIBRARY, str(library))
    monkeypatch.setenv("DCMI_DOUBLE_FAIL", fail)
    answer = dcmi.readings()
    (chip,) = answer["chips"]
    assert answer["driver"] == "24.1.rc3"
    assert wanted.items() <= chip.items()
    assert ("power_w" in chip) is (fail != "board")  # 0x7FFD: the sensor answers nothing


@pytest.mark.parametrize(("fail", "error"), [("init", "init"), ("list", "list"), ("crash", "crash"), ("hang", "hang")])
def test_a_library_that_fails_is_named(library: Path, fail: str, error: str, monkeypatch: Any) -> None:
    monkeypatch.setenv(dcmi.LIBRARY, str(library))
    monkeypatch.setenv("DCMI_DOUBLE_FAIL", fail)
    answer = dcmi.readings(limit=0.7)
    assert (answer["error"], answer["chips"]) == (error, [])


def test_a_throttled_and_a_shared_chip(facts: dict[str, Any], library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts["smi"] = smi.table((HERE / "npu_smi/310b1-busy.txt").read_text())
    monkeypatch.setenv(dcmi.LIBRARY, str(library))
    monkeypatch.setenv("DCMI_DOUBLE_CLOCK", "600")
    monkeypatch.setenv("DCMI_DOUBLE_PROCESS", "4711")
    facts["dcmi"] = dcmi.readings()
    facts["dcmi"]["chips"][0]["aicore_percent"] = 97
    found = found_in(facts)
    assert (found["throttled"]["now"], found["throttled"]["most"]) == (600, 1000)
    assert found["busy"] == {"processes": "python3 (1893), 4711", "count": 2}


def test_the_operator_compilers_python(facts: dict[str, Any]) -> None:
    facts["tbe"] = {"path": "/usr/bin/python3", "python": "3.13.1", "numpy": "2.1.0", "modules": {}}
    facts["tbe"]["missing"] = ["decorator", "sympy"]
    found = found_in(facts)
    assert found["tbe-modules"]["modules"] == "decorator, sympy"
    assert {"new-python", "numpy", "no-tbe"} <= found.keys()


@pytest.mark.parametrize(
    ("versions", "rule"),
    [
        ({"torch": "2.1.0", "numpy": "2.0.1"}, "pair-numpy"),
        ({"torch": "2.10.0", "numpy": "2.0.1"}, "pair-exporter"),
        ({"torch": "2.13.0", "python": "3.14.0"}, "pair-jit"),
        ({"onnxruntime": "1.22.0", "onnxruntime-cann": "1.22.0"}, "pair-runtimes"),
        ({}, "no-module"),
        ({"onnx": "1.3.0", "torch": "2.13.0"}, "old-module"),
    ],
)
def test_packages_that_do_not_fit(versions: dict[str, str], rule: str) -> None:
    found = diagnosis.own_findings({"python": "3.11.7", **versions})
    assert f"doctor.{rule}" in {finding.rule for finding in found}


def test_this_environment_has_no_known_bad_pair() -> None:
    assert diagnosis.own_findings(diagnosis.installed()) == []


def test_a_wrong_clock_and_little_room(facts: dict[str, Any]) -> None:
    facts["memory"].update(MemAvailable=1 << 30, SwapFree=0)
    facts["disk"] = {"/tmp": 1 << 20, "/dev/shm": None}
    found = diagnosis.remote("ssh://root@192.0.2.7", facts, now=facts["clock"] + 4000)
    assert {"little-memory", "little-disk", "no-shm", "clock-differs"} <= rules(found)
    facts["clock"] = 1000.0
    found = diagnosis.remote("ssh://root@192.0.2.7", facts, now=2e9)
    assert "clock" in rules(found)
    assert "clock-differs" not in rules(found)


@pytest.mark.parametrize(
    ("lease", "text"),
    [
        ({"held": False}, "free"),
        ({"held": True, "who": "ada", "host": "pc7", "seconds": 90.0}, "held by ada@pc7 since {since}"),
        ({"held": True, "who": "ada", "host": "pc7"}, "held by ada@pc7, it is not known since when"),
        ({"held": True}, "held, and its lock does not say by whom"),
        ({"held": None, "reason": "Permission denied"}, "unknown: Permission denied"),
    ],
)
def test_the_lease_has_a_row(facts: dict[str, Any], lease: dict[str, Any], text: str) -> None:
    assert facts["lease"] == {"held": False}  # as it was read
    facts["lease"] = lease
    facts["clock"] = 0.0  # whatever the board's clock says, the time is this machine's
    now = time.time()
    times = {time.strftime("%H:%M:%S", time.localtime(now - 90 + late)) for late in (0, 1, 2)}
    (row,) = [line for line in diagnosis.remote("ssh://b", facts, now=now).lines("en") if line.startswith("  lease")]
    assert row.partition("lease")[2].strip() in {text.format(since=since) for since in times}


def test_a_machine_without_an_npu_has_no_row_of_a_lease(facts: dict[str, Any]) -> None:
    facts["machine"]["nodes"] = []
    assert not any(line.startswith("  lease") for line in diagnosis.remote("ssh://b", facts, now=0.0).lines("en"))


def test_a_bundle_has_no_secrets(
    sound: tuple[Installed, dict[str, Any]], facts: dict[str, Any], tmp_path: Path
) -> None:
    sound[0].machine(npu_smi="310b4-200i-dk-a2", npu_smi_board="board-310b1")
    facts["smi"] = smi.readings(sound[0].environment)
    assert "033EYU10N4000123" in json.dumps(facts)
    facts["environment"]["ASCEND_API_TOKEN"] = "hunter2"
    facts["environment"]["ASCEND_ACCESS_KEY"] = "swordfish"
    facts["environment"]["ASCEND_GATEWAY"] = "10.1.2.3"
    facts["machine"]["host"] = "labboard7"
    facts["lease"] = {"held": True, "who": "adalovelace", "host": "herdesk", "seconds": 1.0}
    facts["toolkits"][0]["path"] = "/home/wangwei/Ascend/latest"
    found = diagnosis.remote("ssh://wangwei@labboard7.example:2222", facts, now=facts["clock"])
    path = tmp_path / "bundle.zip"
    diagnosis.bundle(path, [found])
    with zipfile.ZipFile(path) as archive:
        whole = "".join(archive.read(name).decode() for name in archive.namelist())
    for secret in (
        "hunter2",
        "swordfish",
        "10.1.2.3",
        "labboard7",
        "wangwei",
        "adalovelace",
        "herdesk",
        "033EYU10N4000123",
        "0B4B0F20",
    ):
        assert secret not in whole
    assert "24.1.rc3" in whole
    assert '"key": "doctor.double"' in whole
    assert "7.1.0.3.220" in whole  # a firmware's version is no address


def test_every_finding_has_its_sentence_in_both_languages() -> None:
    sources = [Path(doctor.__file__).read_text(), Path(diagnosis.__file__).read_text()]
    called = r"""(?:_say|_finding)\(\s*"(?:error|warning|info)"[^,]*,\s*"([a-z-]+)\""""
    named = {name for text in sources for name in re.findall(called, text)}
    entries = catalogue("doctor")
    assert len(named) > 30
    assert {name for name in named if not {"en", "zh"} <= entries.get(name, {}).keys()} == set()


def test_the_verb_is_quick_and_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pth2om.cli import main\nstatus = main(sys.argv[1:])\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy'} & sys.modules.keys()), file=sys.stderr)\n"
        "sys.exit(status)"
    )
    line = [sys.executable, "-c", code, "doctor", "--json", "--bundle", str(tmp_path / "b.zip")]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(pth2om.__file__).parents[1])
    assert done.returncode == 1
    (entry,) = json.loads(done.stdout)
    assert entry["status"] == 1
    assert "doctor.no-device" in {finding["rule"] for finding in entry["findings"]}
    assert done.stderr.splitlines()[-1] in ("[]", "['numpy']")
    assert (tmp_path / "b.zip").is_file()


def test_the_packed_agent_prints_sentences_without_pth2om(tmp_path: Path) -> None:
    path = tmp_path / "board_agent.pyz"
    path.write_bytes(agent().data)
    line = [sys.executable, "-I", str(path), "doctor", "--zh"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "✗ 此机器上未找到 NPU" in done.stdout
    assert "  → " in done.stdout


def test_a_board_is_asked_through_its_agent(
    board: Callable[..., Installed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board()
    monkeypatch.setenv("PTH2OM_BOARD_CACHE", str(tmp_path / "cache"))
    found = diagnosis.asked(Place())  # the same connection as to a board, over a pipe
    assert found.own == {}
    assert found.facts["machine"]["soc"] == "Ascend310B4"
    assert "double" in rules(found, "error")


def test_a_board_that_does_not_answer_is_a_finding() -> None:
    (found,) = diagnosis.examine(["ssh://nobody@127.0.0.1:1"])
    assert rules(found) == {"unreachable"}
    assert found.status == 1
    assert "ssh://nobody@127.0.0.1:1" in found.lines("en")[0]
    printed = "\n".join(found.lines("en"))
    assert printed.count("127.0.0.1 port 1") == 1  # the reason once, with what to do about it
    assert "\n  → " in printed
