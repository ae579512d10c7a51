"""Runs on machines with CANN, through the doubles: their options, and a test whose worker crashes when it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pth2om import evidence
from pth2om.evidence import GateRecord
from pth2om.harness.machines import access, agrees
from pth2om.toolchain.cann import close_all, known, remember
from pth2om.toolchain.cann import machine as board_at
from tests.evidence.canonical import canonical, read
from tests.harness.tiny import records
from tests.toolchain.cann.sshd import Sshd, free_port, know, make_keys, needs_sshd

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles" / "cann"))
from cann_double.install import install


@pytest.fixture
def machine(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("machine")
    installed = install(folder / "home")
    for name in [name for name in os.environ if name.startswith("ASCEND_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ASCEND_HOME_PATH", str(installed.toolkit))
    monkeypatch.setenv("PTH2OM_BOARD_PYTHON", sys.executable)
    monkeypatch.setenv("PTH2OM_BOARD_CACHE", str(folder / "cache"))
    monkeypatch.setenv("PTH2OM_LEASE_DIR", str(folder))
    return installed


@pytest.mark.parametrize(
    ("asked", "found", "same"),
    [
        ("8.0", "8.0.0", True), ("8.0", "8.0.RC2", True), ("8.x", "8.5.0", True), ("8", "8.5.0", True),
        ("8.0.RC2", "8.0.rc2", True), ("8.0", "8.1.RC1", False), ("7.0", "8.0.0", False), ("8.0.0.1", "8.0.0", False),
        ("8.0.0", "8.0.RC2", False), ("9.x", "8.0.0", False),
    ],
)  # fmt: skip
def test_a_release_agrees_with_its_beginning(asked: str, found: str, same: bool) -> None:
    assert agrees(asked, found) is same


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"om_run_by": "msame"}, "--om-run-by msame .* toolchain is emulator"),
        ({"om_compile": "here"}, "--om-compile here .* toolchain is emulator"),
        ({"om_toolchain": "cann", "om_run_by": "onnxruntime-cann", "om_compile": "here"}, "nothing is compiled"),
        ({"om_toolchain": "cann", "om_compile": "board"}, "no board is named"),
        ({"board": [""]}, "'' is no address of a board"),  # of a variable that is not set: not this machine
        ({"board": ["ssh://a", "b"]}, "b is no address of a board"),
        ({"om_toolchain": "cann", "om_run_by": "msame", "om_compile": "here"}, ""),
        ({"board": ["ssh://a"], "om_run_by": "onnxruntime-cann"}, ""),
    ],
)
def test_an_option_without_a_use_is_refused(pytestconfig, monkeypatch, options: dict, said: str) -> None:
    for name, value in {"board": [], "om_toolchain": None, "om_compile": None, "om_run_by": "acl", **options}.items():
        monkeypatch.setattr(pytestconfig.option, name, value, raising=False)
    with pytest.raises(pytest.UsageError, match=said) if said else contextlib.nullcontext():
        assert access(pytestconfig).run_by == options["om_run_by"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dist", "loadgroup", "-n", "1"), "worksteal"),
        (("--om-cann", "7.0"), "8.0.0"),
        pytest.param(("--soc", "Ascend310P3"), "Ascend310B4", marks=pytest.mark.nightly),
        (("--om-toolchain", "emulator", "--board", "ssh://a"), "--board"),
        pytest.param(("--board", "192.0.2.7"), "ssh://user@host", marks=pytest.mark.nightly),
        pytest.param(("--om-compile", "there"), "here, board", marks=pytest.mark.nightly),
        (("--om-run-by", "hand"), "acl, ais_bench, msame"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(repo, machine, words: tuple, said: str) -> None:
    result = repo.runpytest_subprocess(*(() if "--board" in words else ("--om-toolchain", "cann")), *words)
    assert result.ret == pytest.ExitCode.USAGE_ERROR, result.stdout.str()
    assert said in result.stderr.str()
    assert "Traceback" not in result.stderr.str()
    assert not (repo.path / "reports").exists()


def test_a_crash_at_exit_fails_its_test_and_keeps_its_figures(repo, machine) -> None:
    machine.rules({"where": "exit", "do": "segfault"})
    result = repo.runpytest_subprocess("--om-toolchain", "cann", "-k", "om_matches_onnx and fp16-bs1")
    text = result.stdout.str()
    assert result.ret == pytest.ExitCode.TESTS_FAILED, text
    assert "SIGSEGV" in text
    assert "while it left" in text
    every = [record for record in records(repo) if isinstance(record, GateRecord)]
    gates = [record for record in every if "~om/" in record.check]
    assert gates
    assert {(gate.verdict, gate.ground) for gate in gates} == {("passed", "double")}
    assert {gate.verdict for gate in every if gate.check == "om/exit"} == {"failed"}
    assert "test double" in text


@needs_sshd
def test_workers_on_boards_have_the_evidence_of_one_process(repo, machine, monkeypatch, tmp_path) -> None:
    """The SoC is read from the boards once, and each worker takes whichever board is free: nothing else changes."""
    names = ("ASCEND_HOME_PATH", "PTH2OM_BOARD_PYTHON", "PTH2OM_LEASE_DIR", "PTH2OM_BOARD_CACHE")
    keys, servers, urls = make_keys(tmp_path), [], []
    for number in range(2):
        server = Sshd(keys, free_port())
        server.start({**{name: os.environ[name] for name in names}, "PTH2OM_LEASE_DIR": str(tmp_path / f"{number}")})
        (tmp_path / f"{number}").mkdir()
        monkeypatch.setenv("PTH2OM_SSH_CONFIG", str(know(keys, server)))
        servers.append(server)
        urls.append(server.url)
    found = {}
    exported = Path(os.environ["PTH2OM_STORE"]) / "onnx"
    try:
        for name, words in (("one", urls[:1]), ("two", [*urls, "-n", "2"])):
            store = tmp_path / f"store-{name}"
            # What PyTorch exports is no matter of boards: another test's serves, or the first run's.
            if exported.is_dir():
                shutil.copytree(exported, store / "onnx")
            monkeypatch.setenv("PTH2OM_STORE", str(store))
            given = [part for word in words for part in (["--board", word] if word.startswith("ssh") else [word])]
            asked = ["--om-compile", "board", "--om-subset", "20", "-k", "om_matches_onnx and fp16"]
            result = repo.runpytest_subprocess(*given, *asked, "--om-reports-dir", str(tmp_path / name))
            assert result.ret == 0, result.stdout.str()
            rows = read(tmp_path / name)
            assert sum(row["kind"] == "gate" and row["ground"] == "double" for row in rows) > 8
            exported = store / "onnx"
            found[name] = canonical(rows, [str(store), str(tmp_path / name)])
    finally:
        for server in servers:
            server.stop()
    assert sorted(set(found["one"]) ^ set(found["two"])) == []
    assert len(found["one"]) == len(found["two"])


@needs_sshd
@pytest.mark.nightly
@pytest.mark.parametrize("where", ["here", "ssh"])
@pytest.mark.parametrize("model", ["convmixer-digits", "yolov6-shapes"])
def test_an_acceptance_run_passes_and_has_the_emulators_figures(
    repository: Path, machine, monkeypatch, tmp_path, model: str, where: str
) -> None:
    """Whatever the emulator's fused band decides, the doubles compute to the bit, here and behind a real sshd."""
    monkeypatch.setenv("PTH2OM_STORE", str(tmp_path / "store"))
    words = ["--om-toolchain", "cann"]
    if where == "ssh":
        server = Sshd(make_keys(tmp_path), free_port())
        names = ("ASCEND_HOME_PATH", "PTH2OM_BOARD_PYTHON", "PTH2OM_LEASE_DIR")
        server.start({**{name: os.environ[name] for name in names}, "PTH2OM_BOARD_CACHE": str(tmp_path / "there")})
        monkeypatch.setenv("PTH2OM_SSH_CONFIG", str(know(tmp_path, server)))
        words = ["--board", server.url, "--om-compile", "board"]
    found = {}
    try:
        for name, asked in (("cann", words), ("emulator", ["--soc", "Ascend310B4", "--om-cann", "8.0.0"])):
            command = [
                sys.executable,
                "-m",
                "pth2om.harness",
                "-k",
                f"{model} and (closeness or preflight or accuracy)",
            ]
            reports = tmp_path / name
            done = subprocess.run(
                [*command, "-q", "--om-reports-dir", str(reports), *asked],
                cwd=repository, capture_output=True, text=True, timeout=1500,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout[-3000:]
            (file,) = reports.glob("*/evidence.jsonl")
            found[name] = {gate.id: gate for gate in evidence.read(file) if isinstance(gate, GateRecord)}
    finally:
        if where == "ssh":
            server.stop()
    same = 0
    for name, gate in found["cann"].items():
        other = found["emulator"][name]
        assert gate.verdict == other.verdict
        if gate.ground == "host" or "[unfused]" in str(other.details.get("worst")) or "om" not in gate.check:
            continue
        assert gate.ground == "double"
        same += gate.measured == other.measured
        assert gate.measured == other.measured or gate.question == "accuracy", gate.check
    assert same > 8
    assert machine.broken == []


def test_each_worker_begins_at_another_board(pytestconfig, monkeypatch) -> None:
    """With as many workers as boards nobody waits, and nobody connects to a board that it does not use."""
    boards = ["ssh://a", "ssh://b", "ssh://c", "ssh://b"]
    found = []
    for number in range(4):
        monkeypatch.setattr(pytestconfig, "workerinput", {"workerid": f"gw{number}"}, raising=False)
        monkeypatch.setattr(pytestconfig.option, "board", boards, raising=False)
        found.append(access(pytestconfig).boards)
    assert [each[0] for each in found] == ["ssh://a", "ssh://b", "ssh://c", "ssh://a"]
    assert {frozenset(each) for each in found} == {frozenset(boards)}


def test_what_one_process_read_of_a_board_serves_another_one(machine) -> None:
    """As xdist hands it over: JSON's lists instead of tuples."""
    close_all()
    facts = board_at().facts
    told = json.loads(json.dumps(known()))
    close_all()
    remember(told)
    assert board_at().known == facts
    close_all()
