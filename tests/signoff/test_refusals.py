"""Every reason not to sign names what it is about and what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

import pth2om
from pth2om import evidence
from pth2om.errors import DataError, SignoffError, SpecError
from pth2om.evidence import Limit, SpecText
from pth2om.session import Provenance
from pth2om.signoff import envelope, policy
from pth2om.signoff.judging import SEEDED
from pth2om.signoff.signing import signoff
from tests.signoff.conftest import Desk
from tests.signoff.released import OM, POLICY, SOC, SPEC, gate, planned, sha

COSINE = "net/fp16-bs1/Ascend310B1/closeness/torch~om/scores/cosine@dots"
DROP = "net/fp16-bs1/Ascend310B1/accuracy/om/top1/drop@dots"
MEDIAN = "net/fp16-bs1/Ascend310B1/latency/om/median_ms@dots"
WAIVED = {"owner": "Li Wei", "reason": "known", "link": "https://example.com/1", "expires": "2026-12-31"}
ACCEPTING = POLICY + "\n[waivers]\naccept = true\n"
DEVICE = {"dataset": "dots", "device": {"driver": "24.1", "soc": SOC}}
DAY = date(2026, 11, 27)


def test_a_good_run_is_signed(desk: Desk) -> None:
    signed = desk.sign()
    assert signed.path is not None, signed.lines
    assert not signed.refusals
    assert signed.lines[0].startswith(str(desk.root / "statement.json"))


def emulated(desk: Desk) -> None:
    desk.run.gates[1] = gate("accuracy", "om/top1/drop", 0.2, Limit("<=", 1.0), ground="emulated")


def double(desk: Desk) -> None:
    desk.run.gates[2] = gate("latency", "om/median_ms", 1.25, ground="double")


def failed(desk: Desk) -> None:
    desk.run.change(0, verdict="failed", measured=0.9)


def undecided(desk: Desk) -> None:
    desk.run.change(1, verdict="inconclusive")


def not_measured(desk: Desk) -> None:
    desk.run.change(1, verdict="not_measured", measured=None, interval=None)


def missing(desk: Desk) -> None:
    """A gate that the plan promised has no record, as in a run that was killed."""
    lost = "t.py::test_accuracy[net-fp16-bs1]"
    desk.run.gates.pop(1)
    desk.run.lines = lambda records: [each for each in records if getattr(each, "item", "") != lost]


def expired(desk: Desk) -> None:
    failed(desk)
    desk.run.change(0, details={**DEVICE, "waived": {**WAIVED, "expires": "2026-11-26"}})


def lapsed_already(desk: Desk) -> None:
    failed(desk)
    desk.run.change(0, details={**DEVICE, "waiver_lapsed": {"owner": "Li Wei", "expires": "2026-11-01"}})


def other_om(desk: Desk) -> None:
    for number, each in enumerate(desk.run.gates):
        desk.run.change(number, digests={**each.digests, "om": "e" * 64})


def two_oms(desk: Desk) -> None:
    desk.run.change(2, digests={**desk.run.gates[2].digests, "om": "e" * 64})


def no_om(desk: Desk) -> None:
    desk.run.change(2, digests={})


def mixed_spec(desk: Desk) -> None:
    desk.run.change(0, digests={**desk.run.gates[0].digests, "spec": "e" * 64})


def unlimited_pass(desk: Desk) -> None:
    desk.run.change(0, limit=None)


def outside_its_interval(desk: Desk) -> None:
    desk.run.change(1, interval=(0.3, 0.5))


def no_latency(desk: Desk) -> None:
    desk.run.gates.pop(2)


def not_compiled(desk: Desk) -> None:
    desk.run.stages.pop(2)


def emulated_om(desk: Desk) -> None:
    """Whatever a policy asks for: nothing that a device could run was compiled."""
    desk.run.stages[2] = replace(desk.run.stages[2], provenance=Provenance("emulator", "1", "emulated", SOC))


def seeded(desk: Desk) -> None:
    desk.run.stages[1] = replace(desk.run.stages[1], inputs={"checkpoint": f"{SEEDED}1-0"})


def no_driver(desk: Desk) -> None:
    desk.run.change(2, details={"dataset": "dots", "device": {"soc": SOC}})


def other_chip(desk: Desk) -> None:
    desk.run.change(2, details={"dataset": "dots", "device": {"driver": "24.1", "soc": "Ascend910B2"}})


def no_chain(desk: Desk) -> None:
    desk.run.stages[2] = replace(desk.run.stages[2], inputs={})


def by_the_provider(desk: Desk) -> None:
    stage = desk.run.stages[2]
    desk.run.stages[2] = replace(stage, provenance=replace(stage.provenance, name="cann/onnxruntime-cann"))


def no_spec(desk: Desk) -> None:
    desk.run.specs = ()


def two_specs(desk: Desk) -> None:
    desk.run.specs += (SpecText("net", sha(b"x"), "x"),)


@pytest.mark.parametrize(
    ("spoil", "key", "about", "fix"),
    [
        (emulated, "not-on-device", DROP, "--board"),
        (double, "not-on-device", MEDIAN, "--board"),
        (failed, "failed", COSINE, "waivers.toml"),
        (undecided, "inconclusive", DROP, "more images"),
        (not_measured, "not-measured", DROP, "board"),
        (missing, "not-reached", "net/fp16-bs1/Ascend310B1/accuracy/om/*", "Run again"),
        (missing, "not-whole", "t.py::test_accuracy[net-fp16-bs1]", "Run again"),
        (expired, "waiver-lapsed", COSINE, "renew"),
        (lapsed_already, "waiver-lapsed", COSINE, "renew"),
        (other_om, "other-om", COSINE, "that was compiled"),
        (two_oms, "two-oms", MEDIAN, "same OM"),
        (no_om, "no-om-digest", MEDIAN, "Run again"),
        (mixed_spec, "spec-mixed", COSINE, "leave the spec alone"),
        (unlimited_pass, "values", COSINE, "Run again"),
        (outside_its_interval, "values", DROP, "run again"),
        (no_latency, "no-answer-on-device", "net-fp16-bs1", "[proof] device"),
        (not_compiled, "not-compiled", "net-fp16-bs1", "[release] variants"),
        (emulated_om, "om-unproven", "net-fp16-bs1", "only a draft"),
        (seeded, "seeded", "net-fp16-bs1", "weights"),
        (no_driver, "no-device", MEDIAN, "driver"),
        (other_chip, "other-device", MEDIAN, "the policy"),
        (by_the_provider, "no-om", "net-fp16-bs1", "--om-run-by acl"),
        (no_chain, "no-chain", "net-fp16-bs1", "Run again"),
        (no_spec, "nothing-fits", None, "Correct the policy"),
        (two_specs, "specs-differ", "net", "same spec"),
    ],
)
def test_it_is_refused(desk: Desk, spoil, key: str, about: str | None, fix: str) -> None:
    spoil(desk)
    signed = desk.sign(today=DAY)
    found = {one.message.key: one for one in signed.refusals}
    assert f"signoff.{key}" in found, signed.lines
    refusal = found[f"signoff.{key}"]
    assert about is None or about in refusal.about
    assert fix.lower() in str(refusal.message.fix("en")).lower()
    assert refusal.message.fix("zh")
    assert signed.path is None
    assert not (desk.root / "statement.json").exists()
    assert about is None or any(about in line for line in signed.lines)


@pytest.mark.parametrize(
    ("after", "key"),
    [
        ({"models/net/model.toml": SPEC + "\n[gates]\ndrop = 99.0\n"}, "spec-changed"),
        ({"net.om": "another OM file"}, "file-unmeasured"),
        ({"release.toml": POLICY.replace('"net"', '"nets"')}, "nothing-fits"),
        ({"release.toml": POLICY.replace("310B1", "310P3")}, "not-compiled"),
        ({"release.toml": POLICY + 'variants = ["int8-*"]'}, "nothing-fits"),
        ({"release.toml": POLICY + '[proof]\nquestions = ["export"]'}, "no-answer"),
    ],
)
def test_files_that_changed_since_are_refused(desk: Desk, after: dict[str, str], key: str) -> None:
    signed = desk.sign(after=after)
    assert f"signoff.{key}" in {one.message.key for one in signed.refusals}, signed.lines
    assert signed.path is None


def test_a_spec_that_is_gone_is_refused(desk: Desk, tmp_path: Path) -> None:
    signed = desk.sign(models=tmp_path / "nowhere")
    assert {one.message.key for one in signed.refusals} == {"signoff.spec-absent"}


def test_an_om_is_given_or_in_the_store(desk: Desk) -> None:
    signed = desk.sign(om_files=[])
    assert {one.message.key for one in signed.refusals} == {"signoff.file-absent"}
    made = desk.root / "store" / "om" / ("k" * 64)
    made.mkdir(parents=True)
    told = {"path": "net.om", "digest": sha(OM), "provenance": {"name": "cann", "version": "8", "ground": "device"}}
    (made / "compiled.json").write_text(json.dumps({**told, "bands": ["device"], "details": {}}))
    (made / "net.om").write_bytes(OM)
    assert desk.sign(om_files=[]).path is not None
    (made / "net.om").write_bytes(OM + b"!")
    assert desk.sign(om_files=[]).path is None


def test_a_waiver_counts_where_the_policy_accepts_it(desk: Desk) -> None:
    failed(desk)
    desk.run.change(0, details={**DEVICE, "waived": WAIVED})
    refused = desk.sign(today=DAY)
    assert {one.message.key for one in refused.refusals} == {"signoff.waiver-refused"}
    signed = desk.sign(today=DAY, after={"release.toml": ACCEPTING})
    assert signed.path is not None
    assert "WAIVED by Li Wei" in "\n".join(signed.lines)
    assert desk.sign(today=date(2027, 1, 1), after={"release.toml": ACCEPTING}).path is None


def test_a_waiver_proves_nothing_about_a_device(desk: Desk) -> None:
    emulated(desk)
    desk.run.change(1, verdict="failed", measured=3.0, interval=None, details={**DEVICE, "waived": WAIVED})
    signed = desk.sign(today=DAY, after={"release.toml": ACCEPTING})
    assert {one.message.key for one in signed.refusals} == {"signoff.not-on-device"}


def test_what_the_policy_does_not_ask_of_a_device_may_be_emulated(desk: Desk, key_files: tuple[Path, Path]) -> None:
    emulated(desk)
    text = POLICY + '[proof]\ndevice = ["closeness", "latency"]\n'
    path = desk.sign(after={"release.toml": text}).path
    assert path is not None
    found = pth2om.verify(path, (), key_files[1])
    assert found.unproven == {"emulated": 1}
    assert "1 of them emulated, UNPROVEN" in found.line


def test_one_soc_of_a_merged_night_is_signed(desk: Desk, tmp_path: Path) -> None:
    """A night for two chips: each has an OM of its own under one variant's name."""
    first = desk.run.write(desk.root / "a")
    for number, each in enumerate(desk.run.gates):
        desk.run.change(number, soc="Ascend310P3", digests={**each.digests, "om": "9" * 64})
    om = desk.run.stages[2]
    desk.run.stages[2] = replace(om, digest="9" * 64, provenance=replace(om.provenance, soc="Ascend310P3"))
    desk.run.soc = "Ascend310P3"
    second = desk.run.write(desk.root / "b")
    folder = tmp_path / "merged"
    folder.mkdir()
    merged = evidence.merge([run / "evidence.jsonl" for run in (second, first)])
    (folder / "evidence.jsonl").write_bytes(merged.text)
    root = desk.root / "a"
    signed = signoff(
        folder, root / "release.toml", root / "s.json", desk.key, om_files=[root / "net.om"], models=root / "models"
    )
    assert signed.path is not None, signed.lines
    statement = envelope.opened(signed.path.read_bytes()).statement
    assert [one["digest"]["sha256"] for one in statement["subject"] if one["name"].endswith(".om")] == [sha(OM)]
    assert len(statement["predicate"]["results"]) == 3
    assert len(statement["predicate"]["run"]["runningDigests"]) == 2


def test_a_shard_alone_is_refused_and_names_what_the_others_hold(desk: Desk, tmp_path: Path) -> None:
    desk.run.shard, desk.run.elsewhere = (
        "1/2",
        (replace(planned("accuracy"), item="t.py::test_other[net-fp16-bs1]").row,),
    )
    (refusal,) = (one for one in desk.sign().refusals if one.message.key == "signoff.shard")
    assert refusal.about == ("t.py::test_other[net-fp16-bs1]",)
    # Merged without the other shard it still misses that test.
    folder = tmp_path / "merged"
    folder.mkdir()
    merged = evidence.merge([desk.root / "reports" / "RUN" / "evidence.jsonl"])
    (folder / "evidence.jsonl").write_bytes(merged.text)
    signed = signoff(
        folder, desk.root / "release.toml", desk.root / "s.json", desk.key,
        om_files=[desk.root / "net.om"], models=desk.root / "models",
    )  # fmt: skip
    assert {"signoff.not-whole", "signoff.not-reached"} <= {one.message.key for one in signed.refusals}
    assert any("t.py::test_other" in line for line in signed.lines)


@pytest.mark.parametrize("number", range(0, 60, 7))
def test_evidence_of_which_any_byte_was_changed_is_refused(desk: Desk, number: int) -> None:
    folder = desk.run.write(desk.root)
    file = folder / "evidence.jsonl"
    data = bytearray(file.read_bytes())
    data[len(data) * number // 60] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DataError):
        signoff(folder, desk.root / "release.toml", desk.root / "s.json", desk.key, models=desk.root / "models")


def test_evidence_without_digests_and_several_runs_are_refused(desk: Desk) -> None:
    folder = desk.run.write(desk.root)
    file = folder / "evidence.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    whole = file.read_bytes()
    for line in lines:
        line.pop("seal")
        line |= {"format": 1} if line["kind"] == "run" else {}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(SignoffError, match="no digests"):
        signoff(folder, desk.root / "release.toml", desk.root / "s.json", desk.key, models=desk.root / "models")
    file.write_bytes(whole + whole)
    with pytest.raises(DataError, match="exactly one"):
        signoff(folder, desk.root / "release.toml", desk.root / "s.json", desk.key, models=desk.root / "models")


@pytest.mark.parametrize(
    ("old", "new", "told", "not_told"),
    [
        (SOC, SOC.lower(), "The policy is for 'ascend310b1', and the run for Ascend310B1.", "nothing in the run"),
        ('["net"]', '["nett"]', "The policy names 'nett'", "'*'"),
    ],
)
def test_a_slip_of_the_pen_in_a_policy_is_named_and_not_what_follows_from_it(
    desk: Desk, old: str, new: str, told: str, not_told: str
) -> None:
    signed = desk.sign(after={"release.toml": POLICY.replace(old, new)})
    assert signed.path is None
    text = "\n".join(signed.lines)
    assert told in text
    assert not_told not in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (POLICY + "[waiver]\naccept = true\n", ["waiver", "waivers"]),
        (POLICY.replace("models", "model"), ["model", "models"]),
        (POLICY + '[proof]\ndevice = ["latensy"]\n', ["latensy", "latency"]),
        (POLICY.replace('soc = "Ascend310B1"\n', ""), ["soc"]),
        ("[release", [":1"]),
        (POLICY + '[waivers]\naccept = "false"\n', ["waivers.accept"]),
        (POLICY + "[waivers]\naccept = 1\n", ["waivers.accept"]),
    ],
)
def test_a_wrong_policy_is_named_by_its_line(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "release.toml"
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        policy.read(file)
    said = str(caught.value)
    assert said.startswith(f"{file}:")
    assert all(word in said for word in words), said


def test_the_digest_of_a_policy_is_that_of_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "release.toml"
    file.write_bytes(b"\xef\xbb\xbf" + POLICY.encode())
    read = policy.read(file)
    assert read.release.soc == SOC
    assert read.digest == sha(file.read_bytes())
    file.write_bytes(b"#" * (policy.MOST_BYTES + 1))
    with pytest.raises(SpecError, match="larger"):
        policy.read(file)


def test_an_absent_policy_is_no_absent_model(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no such policy") as caught:
        policy.read(tmp_path / "release.toml")
    assert "pth2om init" not in str(caught.value)
