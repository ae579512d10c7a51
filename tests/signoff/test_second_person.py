"""What somebody tries who wants a release signed, or believed, that must not be."""

from __future__ import annotations

import base64
import dataclasses
import os
import select
import sys
import time
import unicodedata
import zipfile
from pathlib import Path

import pytest

import pth2om
from pth2om.errors import Pth2omError, SignoffError
from pth2om.evidence import Limit
from pth2om.signoff import archive, canonical, envelope, keys
from pth2om.signoff.bundling import bundle
from pth2om.signoff.verification import verified_bytes
from tests.signoff.conftest import Desk
from tests.signoff.released import POLICY, gate
from tests.signoff.test_archive import WHOLE, entry, zipped

ACCEPTING = POLICY + "[waivers]\naccept = true\n"


def test_a_second_signature_spoils_a_good_one(desk: Desk, key_files: tuple[Path, Path], tmp_path: Path) -> None:
    """A reader that is content with one of two would believe whoever added the other."""
    path = desk.sign().path
    assert path is not None
    other, _ = keys.new(tmp_path / "other.key")
    held = canonical.read(path.read_bytes()[:-1])
    statement = envelope.opened(path.read_bytes()).statement
    (good,) = held["signatures"]
    (foreign,) = canonical.read(envelope.sealed(statement, keys.private(other))[:-1])["signatures"]
    bad = {**good, "sig": base64.b64encode(bytes(64)).decode()}
    for signatures in ([good, bad], [bad, good], [good, foreign], [foreign, good], [foreign], [bad]):
        with pytest.raises(SignoffError):
            verified_bytes(canonical.write({**held, "signatures": signatures}) + b"\n", keys.public(key_files[1]))


def test_a_signature_is_of_its_type_and_length(desk: Desk, key_files: tuple[Path, Path]) -> None:
    """DSSE signs lengths with what they measure: bytes that move between type and payload change what was signed."""
    secret, trusted = keys.private(key_files[0]), keys.public(key_files[1])
    path = desk.sign().path
    assert path is not None
    whole = envelope.opened(path.read_bytes())
    from securesystemslib.dsse import Envelope

    kind = envelope.PAYLOAD_TYPE
    length = str(len(kind)).encode()
    assert Envelope(whole.payload, kind, {}).pae() == b"DSSEv1 %b %b %d %b" % (
        length, kind.encode(), len(whole.payload), whole.payload,
    )  # fmt: skip
    for signed_type, body in (("application/vnd.in-toto+jso", b"n" + whole.payload), (f"{kind} ", whole.payload)):
        signed = Envelope(body, signed_type, {})
        signed.sign(secret.signer)
        taken = {**canonical.read(path.read_bytes()[:-1]), "signatures": signed.to_dict()["signatures"]}
        with pytest.raises(SignoffError):
            verified_bytes(canonical.write(taken) + b"\n", trusted)


def test_a_statement_signed_under_a_weaker_policy_is_known_by_it(desk: Desk, key_files: tuple[Path, Path]) -> None:
    agreed = desk.root / "agreed.toml"
    agreed.write_text(POLICY, encoding="utf-8")
    weaker = desk.sign(after={"release.toml": POLICY + '[proof]\ndevice = ["latency"]\n'}).path
    assert weaker is not None
    pth2om.verify(weaker, key=key_files[1])
    with pytest.raises(SignoffError, match="another policy"):
        pth2om.verify(weaker, key=key_files[1], policy=agreed)
    strict = desk.sign().path
    assert strict is not None
    assert pth2om.verify(strict, key=key_files[1], policy=agreed).policy == canonical.sha256(POLICY.encode())
    data = POLICY.encode()
    for place in range(len(data)):
        agreed.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(SignoffError, match="another policy"):
            pth2om.verify(strict, key=key_files[1], policy=agreed)


@pytest.mark.parametrize(
    "more", ["[waiver]\n", "[proof]\ndevices = []\n", "[release]\n", "accept = true\n", "[waivers]\naccept = 1.5\n"]
)
def test_a_policy_with_words_that_it_has_not_signs_nothing(desk: Desk, more: str) -> None:
    with pytest.raises(Pth2omError):
        desk.sign(after={"release.toml": POLICY + more})
    assert not (desk.root / "statement.json").exists()


def test_names_that_look_alike_stay_two(desk: Desk) -> None:
    """A failure under the decomposed form of a name is not hidden by a pass, or a waiver, under the composed one."""
    composed, apart = (unicodedata.normalize(form, "om/größe/drop") for form in ("NFC", "NFD"))
    limit = Limit("<=", 1.0)
    desk.run.gates.append(gate("accuracy", composed, 0.1, limit, unit="points"))
    desk.run.gates.append(gate("accuracy", apart, 3.0, limit, unit="points", verdict="failed"))
    (refusal,) = desk.sign(after={"release.toml": ACCEPTING}).refusals
    assert refusal.message.key == "signoff.failed"
    assert refusal.about == (desk.run.gates[-1].id,)


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, 1e400, float("nan")])
def test_absurd_numbers_are_judged_or_refused(desk: Desk, value: float) -> None:
    desk.run.change(1, measured=value, interval=None)
    try:
        signed = desk.sign().path is not None
    except Pth2omError:  # a pass that its own figure contradicts is no evidence at all
        signed = False
    assert signed == (value in (-1e308, 5e-324))


def test_evidence_and_report_of_a_bundle_cannot_be_exchanged(desk: Desk, key_files: tuple[Path, Path]) -> None:
    """Evidence that was edited, with all its digests made anew, is other evidence than what was signed."""
    path = desk.sign().path
    assert path is not None
    desk.run.change(0, measured=0.99998)
    desk.run.write(desk.root)
    with pytest.raises(SignoffError, match="evidence"):
        bundle(desk.root / "reports" / "RUN", desk.root / "b.zip", path)


def linked(file: zipfile.ZipFile) -> None:
    link = entry("specs/net.toml")
    link.external_attr = 0o120777 << 16
    file.writestr(link, b"/etc/passwd")


def sixty_four(file: zipfile.ZipFile) -> None:
    with file.open(entry("a"), "w", force_zip64=True) as large:
        large.write(b"x")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("fill", [linked, sixty_four])
def test_links_and_large_zip_files_are_refused(fill: object) -> None:
    for start in (b"", WHOLE):
        with pytest.raises(SignoffError):
            archive.read(zipped(fill, start))


@pytest.mark.skipif(os.name != "posix", reason="a terminal of POSIX")
@pytest.mark.parametrize("right", [True, False])
def test_a_passphrase_is_asked_for_and_never_shown(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: bool
) -> None:
    monkeypatch.setenv(keys.PASSPHRASE, "correct horse")
    keys.new(tmp_path / "locked.key")
    monkeypatch.delenv(keys.PASSPHRASE)
    desk.run.write(desk.root)
    typing = "signoff reports/RUN --policy release.toml --key locked.key --om net.om -o statement.json"
    import pty

    child, terminal = pty.fork()
    if not child:
        os.chdir(desk.root)
        os.execve(
            sys.executable, [sys.executable, "-m", "pth2om", *typing.split()], {**os.environ, "PTH2OM_LANG": "en"}
        )  # fmt: skip
    shown, typed, end = b"", False, time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            read = os.read(terminal, 4096)
        except OSError:  # the child has closed its end
            break
        if not read:
            break
        shown += read
        if b"Passphrase of locked.key: " in shown and not typed:
            time.sleep(0.2)  # until the terminal echoes no more
            os.write(terminal, b"correct horse\n" if right else b"battery staple\n")
            typed = True
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert typed
    assert b"horse" not in shown
    assert b"staple" not in shown
    assert os.waitstatus_to_exitcode(status) == (0 if right else 1), shown
    assert (desk.root / "statement.json").exists() == right
    if right:
        assert b"horse" not in (desk.root / "statement.json").read_bytes()
    else:
        assert b"does not open this key" in shown
        assert b"Traceback" not in shown


def test_a_statement_of_one_release_is_none_of_another_om(desk: Desk, key_files: tuple[Path, Path]) -> None:
    path = desk.sign().path
    assert path is not None
    other = desk.root / "net-fp16-bs1.om"  # the name that was signed, of other bytes
    other.write_bytes(b"another OM")
    with pytest.raises(SignoffError, match="none of the OM files"):
        pth2om.verify(path, [other], key_files[1])
    desk.run.stages[2] = dataclasses.replace(desk.run.stages[2], digest="d" * 64)
    assert "signoff.other-om" in {one.message.key for one in desk.sign().refusals}


def test_a_night_that_was_compared_with_its_baseline_is_signed(desk: Desk, key_files: tuple[Path, Path]) -> None:
    """What is as it was is counted, and has no figure of its own; of any other question that is no pass."""
    unchanged = {"ground": "host", "digests": {}, "details": {"baseline": "b" * 64}, "verdict": "passed"}
    same = gate("regression", "regression/unchanged", None, **unchanged)
    desk.run.gates.append(dataclasses.replace(same, soc=None, provenance=None))
    path = desk.sign().path
    assert path is not None
    assert pth2om.verify(path, key=key_files[1]).gates == len(desk.run.gates)
    desk.run.gates[-1] = dataclasses.replace(desk.run.gates[-1], question="export")
    assert {one.message.key for one in desk.sign().refusals} == {"signoff.values"}
