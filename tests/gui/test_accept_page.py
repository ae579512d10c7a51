"""Accept: specs to choose, gates as they come, the report, and what is only read."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from datetime import UTC, datetime

import pytest

from pth2om.evidence import EvidenceFile, RunRecord
from pth2om.gui import journal
from pth2om.gui.pages import accept
from pth2om.gui.queue import Queue
from pth2om.harness.selection import keyword
from pth2om.release.comparing import update
from tests.gui.window import Window, text
from tests.release.nights import gate, write
from tests.report import evidence_factory as factory

ROOT = accept.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def window(project, tmp_path_factory):
    for name in ("convmixer", "convmixer-digits", "bert-tiny"):
        (project / "models" / name).mkdir(parents=True)
        shutil.copy(ROOT / "models" / name / "model.toml", project / "models" / name)
    (project / "models" / "broken").mkdir()
    (project / "models" / "broken" / "model.toml").write_text("title = <b>\x1b[31m")
    with Window(project, tmp_path_factory.mktemp("state"), at_once=0) as made:
        yield made.sign_in()


@pytest.mark.parametrize(
    ("chosen", "known", "expression"),
    [
        (["a"], ["a", "b"], "a"),
        (["a"], ["a", "a-b", "c"], "a and not a-b"),
        (["a", "c"], ["a", "a-b", "c"], "(a and not a-b) or c"),
        (["a", "a-b"], ["a", "a-b", "c"], "a or a-b"),
    ],
)
def test_the_expression_selects_the_chosen_models_alone(chosen, known, expression):
    assert keyword(chosen, known) == expression


def test_specs_are_listed_with_their_variants_and_a_broken_one_breaks_nothing(window):
    page = window.get("/accept").text
    for word in ("convmixer-digits", "fp16-bs4", "bert-tiny"):
        assert word in page
    assert "\x1b" not in page
    assert 'value="convmixer-digits" checked' in window.get("/accept", model="convmixer-digits").text


def test_a_board_is_part_of_the_line_and_has_one_job_at_a_time(window, tmp_path, monkeypatch):
    given = {"model": "bert-tiny", "soc": "Ascend310B1", "board": "ssh://root@192.0.2.7"}
    assert window.post("/preview/accept", given).json()["line"].endswith("--board=ssh://root@192.0.2.7")
    assert window.post("/preview/accept", {**given, "board": "--pdb"}).json()["problem"]
    settings = dataclasses.replace(window.settings, state=tmp_path, at_once=4)
    settings.prepare()
    queue, begun = Queue(settings), []
    for number, board in enumerate(("a", "a", "b", "")):
        queue.add(journal.Asked("pytest", (str(number),), "accept", board, board=board), "n")
        time.sleep(0.01)

    def begin(job):
        begun.append(job.asked.words[0])
        (job.folder / "spawned").touch()

    monkeypatch.setattr(queue, "_begin", begin)
    queue.look()
    queue.look()
    assert sorted(begun) == ["0", "2", "3"]  # the second of board a waits; two others need no board or another one


def test_a_form_is_the_line_of_the_harness(window):
    given = {"model": ["convmixer", "bert-tiny"], "soc": "Ascend310B1", "precision": ["fp16", "int8", "x"]}
    given |= {"batch": "1,4", "subset": "8", "baseline": "reports/baselines/x.json", "remeasure": "on"}
    line = window.post("/preview/accept", given).json()
    assert line["line"] == (
        "python -m pth2om.harness -k '(convmixer and not convmixer-digits) or bert-tiny' --soc Ascend310B1 "
        "--om-batch 1,4 --om-subset 8 --om-precision fp16,int8 --baseline=reports/baselines/x.json --om-remeasure"
    )


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"model": "../convmixer"},
        {"model": "convmixer", "subset": "x"},
        {"model": "convmixer", "soc": "--pdb"},
        {"model": "convmixer", "soc": "@words.txt"},
        {"model": "convmixer", "batch": "@words.txt"},
        {"model": "convmixer", "baseline": "/etc/passwd"},
    ],
)
def test_what_cannot_run_is_said_and_starts_nothing(window, given):
    assert window.post("/preview/accept", given).json()["problem"]
    assert window.post("/accept", {**given, "nonce": "1"}).status_code == 400


@pytest.fixture(scope="module")
def run(window, project):
    """A job of the page, and the evidence that its process would write."""
    place = window.ask("/accept", model="convmixer", soc="Ascend310B1")
    name = place.rsplit("/", 1)[1]
    folder = window.settings.jobs / name
    job = journal.read(window.settings.jobs, name)
    journal.remember(folder / "process.json", {"pid": 1, "started": time.time()})
    records = [one for one in factory.small_run() if not isinstance(one, RunRecord)]
    first = next(one for one in factory.small_run() if isinstance(one, RunRecord))
    started = datetime.now(UTC).isoformat()
    first = dataclasses.replace(first, command=("pytest", *job.asked.words), started=started)
    evidence = EvidenceFile(project / "reports" / "night" / "evidence.jsonl")
    evidence.append([first])
    return window, name, evidence, records


def test_gates_arrive_while_they_are_measured(run):
    window, name, evidence, records = run
    job = dataclasses.replace(journal.read(window.settings.jobs, name), state="running", ended=None)
    desk = window.desk
    assert accept.live(desk, job)["done"] == 0
    gates = [one for one in records if one.kind == "gate"]
    evidence.append(gates[:3])
    assert accept.live(desk, job)["done"] == 3
    with evidence.path.open("ab") as file:  # a line that is not finished yet is read when it is
        file.write(b'{"kind": "gate"')
    assert accept.live(desk, job)["done"] == 3
    with evidence.path.open("r+b") as file:
        file.truncate(evidence._size)
    evidence.append(gates[3:])
    seen = accept.live(desk, job)
    assert (seen["done"], seen["failed"]) == (
        len(gates),
        sum(gate.verdict in ("failed", "not_reached") for gate in gates),
    )
    assert seen["gates"][0]["line"]
    bad = next(gate for gate in gates if gate.verdict == "failed")
    waiver = {"owner": "Li Wei", "reason": "known", "link": "x", "expires": "2030-01-01"}
    evidence.append([dataclasses.replace(bad, check="waived/one", details={**bad.details, "waived": waiver})])
    after = accept.live(desk, job)
    assert (after["done"], after["failed"]) == (len(gates) + 1, seen["failed"])
    assert any(line["line"].startswith("WAIVED by Li Wei") for line in after["gates"])


def test_the_report_opens_inside_when_the_run_is_over(run):
    window, name, evidence, _ = run
    from pth2om.report import render

    render(evidence.path.parent, evidence.path.parent)
    journal.remember(window.settings.jobs / name / "end.json", {"status": 1, "ended": time.time()})
    page = window.get(f"/jobs/{name}").text
    assert 'sandbox="allow-scripts allow-popups"' in page
    assert "night%2Findex.html" in page
    inside = re.search(r'src="(/report[^"]*)"', page)[1].replace("&amp;", "&")
    window.post("/preferences", {"lang": "zh"})
    assert '<html lang="zh"' in window.client.get(inside).text  # in the reader's language, whatever the run's was
    window.post("/preferences", {"lang": "en"})


def test_runs_are_listed_and_lead_to_their_reports(run):
    window, _, evidence, _ = run
    (evidence.path.parents[1] / "damaged").mkdir(exist_ok=True)
    (evidence.path.parents[1] / "damaged" / "evidence.jsonl").write_bytes(b"\xff{")
    page = window.get("/reports").text
    assert "night" in page
    assert "damaged" in page
    opened = window.client.get("/reports", params={"open": str(evidence.path)}, follow_redirects=False)
    assert opened.headers["location"].endswith("index.html")
    shown = window.get("/compare", old="reports/night", new="reports/night").text
    assert "Traceback" not in shown
    assert "pth2om compare" in text(shown)


def test_baseline_and_waivers_are_only_read(window, project, tmp_path):
    update([write(tmp_path / "run", [gate()])], project / "reports" / "baselines" / "x.json")
    page = window.get("/baseline", path="reports/baselines/x.json").text
    assert "Read only" in page
    assert "net/int8-bs1/Ascend310B1/accuracy/om/top1/drop@d" in page
    assert "No waivers" in window.get("/waivers").text
    (project / "waivers.toml").write_text(
        '[[waiver]]\ngate = "m/*"\nstage = "closeness"\nowner = "<me>"\nreason = "known"\nlink = "https://x.example/1"\n'
        f"expires = {datetime.now(UTC).date().isoformat()}\n"
    )
    page = window.get("/waivers").text
    assert "&lt;me&gt;" in page
    assert window.post("/waivers").status_code == 405
    assert window.post("/baseline").status_code == 405


def test_history_is_a_job_and_a_page(window, project):
    assert window.get("/history", model="../../secret").status_code == 400
    answer = window.post("/history/add", {"run": "reports/night", "nonce": "h"})
    name = answer.headers["location"].rsplit("/", 1)[1]
    assert journal.read(window.settings.jobs, name).asked.words == ("history", "reports/night")
    assert json.loads((window.settings.jobs / name / "job.json").read_text())["program"] == "pth2om"
