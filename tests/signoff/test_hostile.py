"""Evidence, policies, statements and files that are made to be signed or verified although they prove nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import pth2om
from pth2om import evidence
from pth2om.errors import Pth2omError, SignoffError
from pth2om.evidence import GateRecord, Limit, Record, SpecText, to_json
from pth2om.session import Provenance
from pth2om.signoff import archive, canonical, envelope, keys
from pth2om.signoff.bundling import bundle
from pth2om.signoff.signing import signoff
from pth2om.signoff.verification import verified_bytes
from tests.signoff.conftest import Desk
from tests.signoff.released import POLICY, SOC, SPEC, gate, sha

NAN = float("nan")
DEVICE = {"dataset": "dots", "device": {"driver": "24.1", "soc": SOC}}
WAIVED = {"owner": "Li Wei", "reason": "known", "link": "https://example.com/1", "expires": "2999-12-31"}
ACCEPTING = POLICY + "\n[waivers]\naccept = true\n"


def shown_instead_of_failed(desk: Desk) -> None:
    desk.run.change(1, verdict="shown", measured=3.0, interval=None)


def no_number(desk: Desk) -> None:
    desk.run.change(2, measured=NAN, interval=None)


def no_limit(desk: Desk) -> None:
    desk.run.change(1, measured=99.0, interval=None, limit=Limit("<=", float("inf")))


def a_double_by_its_details(desk: Desk) -> None:
    """Verdict and provenance say device; what the machine answered does not."""
    desk.run.change(0, details={"dataset": "dots", "device": {"driver": "24.1", "soc": SOC, "ground": "double"}})


def no_chip(desk: Desk) -> None:
    desk.run.change(0, details={"dataset": "dots", "device": {"driver": "24.1"}})


def a_host_compiled_it(desk: Desk) -> None:
    desk.run.stages[2] = replace(desk.run.stages[2], provenance=Provenance("cann", "8", "host", SOC))


def unread_spec(desk: Desk) -> None:
    text = SPEC + "\n[of_a_later_version]\n"
    desk.run.specs = (SpecText("net", sha(text.encode()), text),)


@pytest.mark.parametrize(
    ("spoil", "key"),
    [
        (shown_instead_of_failed, "values"),
        (no_number, "values"),
        (no_limit, "values"),
        (a_double_by_its_details, "no-device"),
        (no_chip, "no-device"),
        (a_host_compiled_it, "om-unproven"),
        (unread_spec, "spec-unread"),
    ],
)
def test_evidence_that_was_made_to_fit_is_refused(desk: Desk, spoil: Callable[[Desk], None], key: str) -> None:
    spoil(desk)
    signed = desk.sign()
    assert f"signoff.{key}" in {one.message.key for one in signed.refusals}, signed.lines
    assert signed.path is None


def test_a_policy_has_to_ask_for_something_on_a_device(desk: Desk) -> None:
    with pytest.raises(Pth2omError, match="device"):
        desk.sign(after={"release.toml": POLICY + "[proof]\ndevice = []\n"})


def test_what_an_emulator_left_out_is_refused_also_where_no_device_is_asked_for(desk: Desk) -> None:
    desk.run.gates.append(gate("latency", "om/fps", None, verdict="not_measured", ground="emulated", interval=None))
    signed = desk.sign(after={"release.toml": POLICY + '[proof]\ndevice = ["closeness", "accuracy"]\n'})
    assert {one.message.key for one in signed.refusals} == {"signoff.not-measured"}


def test_each_model_of_a_policy_has_a_variant_in_the_release(desk: Desk) -> None:
    desk.run.specs += (SpecText("other", sha(SPEC.encode()), SPEC),)
    desk.run.gates.append(replace(gate("closeness", "x", 1.0), model="net", variant="int8-bs1"))
    text = POLICY.replace('["net"]', '["net", "oth*"]') + 'variants = ["int8-*"]\n'
    found = {one.message.key: one for one in desk.sign(after={"release.toml": text}).refusals}
    assert found["signoff.no-variant"].about == ("other",)


@pytest.mark.parametrize("zone", ["Etc/GMT+12", "Etc/GMT-14", "X99"])
def test_a_waiver_that_is_over_in_utc_is_over_everywhere(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    over = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
    waived = {**WAIVED, "expires": over}
    desk.run.change(0, verdict="failed", measured=0.9, details={**DEVICE, "waived": waived})
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        signed = desk.sign(after={"release.toml": ACCEPTING})
    finally:
        monkeypatch.undo()
        time.tzset()
    assert {one.message.key for one in signed.refusals} == {"signoff.waiver-lapsed"}


@pytest.mark.parametrize("absent", ["owner", "reason", "link", "expires"])
def test_a_waiver_of_which_a_part_is_missing_is_none(desk: Desk, absent: str) -> None:
    desk.run.change(0, verdict="failed", measured=0.9, details={**DEVICE, "waived": {**WAIVED, absent: " "}})
    signed = desk.sign(after={"release.toml": ACCEPTING})
    assert {one.message.key for one in signed.refusals} == {"signoff.waiver-lapsed"}


def test_a_name_that_stands_twice_in_a_line_is_refused(desk: Desk) -> None:
    """Its digest fits, and a reader that takes the first of two values reads another verdict."""

    def resealed_line(records: Sequence[Record]) -> bytes:
        digest, lines = "", []
        for record in records:
            text = json.dumps(to_json(record)).encode()
            if isinstance(record, GateRecord):
                text = b'{"verdict": "failed", ' + text[1:]
            digest = hashlib.sha256(digest.encode() + b"\n" + text).hexdigest()[:32]
            lines.append(text[:-1] + f', "seal": "{digest}"}}\n'.encode())
        return b"".join(lines)

    folder = desk.run.write(desk.root)
    file = folder / "evidence.jsonl"
    file.write_bytes(resealed_line(list(evidence.read(file))))
    assert all(one.verdict != "failed" for one in evidence.read(file) if isinstance(one, GateRecord))
    with pytest.raises(SignoffError, match="twice"):
        signoff(folder, desk.root / "release.toml", desk.root / "s.json", desk.key, om_files=[desk.root / "net.om"],
                models=desk.root / "models")  # fmt: skip


# --- statements that somebody signed all the same ------------------------------------------------------------------


def resealed(desk: Desk, key_files: tuple[Path, Path], change: Callable[[dict], None]) -> bytes:
    path = desk.sign().path
    assert path is not None
    statement = dict(envelope.opened(path.read_bytes()).statement)
    change(statement)
    return envelope.sealed(statement, keys.private(key_files[0]))


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told["predicate"].update(results=[]),
        lambda told: told.update(subject=[]),
        lambda told: told.update(subject=[one for one in told["subject"] if not one["name"].endswith(".om")]),
        lambda told: told["subject"].append({"name": "net-fp16-bs1.om", "digest": {"sha256": "0" * 64}}),
        lambda told: told["predicate"]["results"][0].update(measured="NaN"),
        lambda told: told["predicate"]["results"].append({"id": "x", "verdict": "passed", "ground": "device"}),
        lambda told: told["predicate"].update(refusals=[{"reason": "x"}]),
        lambda told: told["predicate"].update(timeCreated="yesterday"),
        lambda told: told["predicate"].update(waivers=[{"gate": "x", "owner": "Li Wei", "expires": "2001-01-01"}]),
        lambda told: told["predicate"].update(waivers=[{"gate": "x", "owner": "", "expires": "2999-01-01"}]),
        lambda told: told["predicate"]["release"].update(name="\ud800"),
    ],
)
def test_a_signed_statement_about_nothing_is_refused(
    desk: Desk, key_files: tuple[Path, Path], change: Callable[[dict[str, object]], None]
) -> None:
    with pytest.raises(SignoffError):
        verified_bytes(resealed(desk, key_files, change), keys.public(key_files[1]))


def test_text_that_is_none_is_a_sentence(desk: Desk, key_files: tuple[Path, Path]) -> None:
    def change(told: dict) -> None:
        told["predicate"]["signer"]["publicKey"] = "\ud800"
        told["predicate"]["release"]["policy"]["text"] = "\udfff"

    data = resealed(desk, key_files, change)
    with pytest.raises(SignoffError):
        verified_bytes(data, None)
    (desk.root / "statement.json").write_bytes(data)
    with pytest.raises(SignoffError):
        bundle(desk.root / "reports" / "RUN", desk.root / "release.zip", desk.root / "statement.json")
    assert canonical.read(canonical.write("😀 \\ud800")) == "😀 \\ud800"


def test_terminal_signs_and_marks_in_a_name_are_escaped(desk: Desk, key_files: tuple[Path, Path]) -> None:
    name = r'name = "net\u001b]0;x\u0007 \u202e1.2"'
    signed = desk.sign(after={"release.toml": POLICY.replace('name = "net 1.2"', name)})
    assert signed.path is not None
    line = pth2om.verify(signed.path, (), key_files[1]).line
    assert "\\x1b" in line
    assert line.isprintable()


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_are_refused_and_nothing_waits(desk: Desk, key_files: tuple[Path, Path]) -> None:
    path = desk.sign().path
    assert path is not None
    pipe, root = desk.root / "pipe", desk.root
    os.mkfifo(pipe, 0o600)
    for odd in (pipe, Path("/dev/zero"), root):
        for source, om, key in ((odd, path, key_files[1]), (path, odd, key_files[1]), (path, path, odd)):
            with pytest.raises(SignoffError):
                pth2om.verify(source, [om], key)
        run = root / "reports" / "RUN"
        for policy, key in ((odd, key_files[0]), (root / "release.toml", odd)):
            with pytest.raises(Pth2omError):
                signoff(run, policy, root / "s.json", key, om_files=[root / "net.om"], models=root / "models")
        with pytest.raises(Pth2omError):
            signoff(run, root / "release.toml", root / "s.json", key_files[0], om_files=[odd], models=root / "models")
    (root / "models/net/model.toml").unlink()
    os.mkfifo(root / "models/net/model.toml")
    signed = signoff(run, root / "release.toml", root / "s.json", desk.key, om_files=[root / "net.om"],
                     models=root / "models")  # fmt: skip
    assert "signoff.spec-absent" in {one.message.key for one in signed.refusals}


def test_no_output_is_written_over_an_input(desk: Desk, key_files: tuple[Path, Path]) -> None:
    run, root = desk.run.write(desk.root), desk.root
    (root / "link").symlink_to(root / "net.om")
    for output in (root / "release.toml", key_files[0], run / "evidence.jsonl", root / "net.om", root / "link"):
        before = output.read_bytes()
        with pytest.raises(SignoffError, match="written over"):
            signoff(
                run, root / "release.toml", output, key_files[0], om_files=[root / "net.om"], models=root / "models"
            )
        assert output.read_bytes() == before
    statement = desk.sign().path
    assert statement is not None
    for output in (statement, run / "evidence.jsonl"):
        with pytest.raises(SignoffError, match="written over"):
            bundle(run, output, statement)
    bundle(run, root / "release.zip", statement)


def test_the_list_of_a_zip_file_is_bounded_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = b"PK\x03\x04" + b"\0" * 26
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("was opened"))
    listing = 1 << 24
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 9, 9, listing, len(entry), 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 1)
    small = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 9, 9, 46, len(entry), 0)
    for data in (entry + b"x" * listing + end, entry + locator + small, entry):
        with pytest.raises(SignoffError):
            archive.read(data)


def test_names_that_some_systems_take_for_one_are_refused() -> None:
    with pytest.raises(SignoffError):
        archive.write({"specs/Net.toml": b"", "specs/net.toml": b"x"})
    memory = io.BytesIO(archive.write({"specs/net.toml": b"x"}))
    with zipfile.ZipFile(memory, "a") as file:
        made = zipfile.ZipInfo("specs/NET.toml", (1980, 1, 1, 0, 0, 0))
        made.create_system, made.external_attr = 3, 0o120777 << 16
        file.writestr(made, "/etc/passwd")
    with pytest.raises(SignoffError):
        archive.read(memory.getvalue())
