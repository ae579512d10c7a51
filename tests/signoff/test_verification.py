"""A statement is verified offline: which bytes it is of, who signed it, and which OM it is about."""

from __future__ import annotations

import base64
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pth2om
from pth2om.cli import main
from pth2om.errors import SignoffError
from pth2om.evidence import Limit
from pth2om.signoff import archive, canonical, envelope, keys
from pth2om.signoff.bundling import bundle
from pth2om.signoff.verification import verified_bytes
from tests.signoff.conftest import Desk
from tests.signoff.released import OM, gate, sha

WAIVED = {"owner": "Li Wei", "reason": "known", "link": "https://example.com/1", "expires": "2999-12-31"}


def walked(desk: Desk, monkeypatch: pytest.MonkeyPatch, words: str) -> int:
    """One command, typed in the repository."""
    monkeypatch.chdir(desk.root)
    return main(words.split())


def test_the_whole_way_as_typed(
    desk: Desk, key_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.run.write(desk.root)
    for file in key_files:
        shutil.copy2(file, desk.root / file.name)
    sign = "signoff reports/RUN --policy release.toml --key release.key --om net.om -o statement.json"
    assert walked(desk, monkeypatch, sign) == 0
    assert "statement.json: net 1.2, 1 OM, 3 gates, signed by key" in capsys.readouterr().out
    assert walked(desk, monkeypatch, "verify statement.json --om net.om --key release.pub") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("VERIFIED: net 1.2 for Ascend310B1: 3 gates, signed 20")
    assert line.endswith("OM files compared: 1 of 1")
    assert walked(desk, monkeypatch, "bundle reports/RUN -o release.zip") == 0
    capsys.readouterr()
    assert walked(desk, monkeypatch, "verify release.zip --om net.om --key release.pub") == 0
    capsys.readouterr()
    # It opens from a mail attachment: a page that needs nothing but itself.
    with zipfile.ZipFile("release.zip") as file:
        names, page = set(file.namelist()), file.read("report.html").decode()
        commands = file.read("commands.txt").decode()
    assert names == {
        "manifest.json", "statement.json", "evidence.jsonl", "report.html", "commands.txt", "release.toml",
        "specs/net.toml",
    }  # fmt: skip
    assert 'src="http' not in page
    assert '<link rel="stylesheet"' not in page
    assert "atc --model=a.onnx" in commands
    # The same run makes the same file.
    before = Path("release.zip").read_bytes()
    assert walked(desk, monkeypatch, "bundle reports/RUN -o release.zip") == 0
    assert Path("release.zip").read_bytes() == before
    capsys.readouterr()
    Path("net.om").write_bytes(OM + b"!")
    for source in ("statement.json", "release.zip"):
        assert walked(desk, monkeypatch, f"verify {source} --om net.om --key release.pub") == 1
        (line,) = capsys.readouterr().out.splitlines()
        assert "NOT VERIFIED" in line
        assert "net.om" in line


def test_the_public_function_returns_what_was_signed(desk: Desk, key_files: tuple[Path, Path]) -> None:
    desk.run.change(
        0,
        verdict="failed",
        measured=0.9,
        details={"dataset": "dots", "device": {"driver": "1", "soc": "Ascend310B1"}, "waived": WAIVED},
    )
    text = (desk.sign(draft=True) and (desk.root / "release.toml").read_text()) + "[waivers]\naccept = true\n"
    path = desk.sign(after={"release.toml": text}).path
    assert path is not None
    found = pth2om.verify(path, [desk.root / "net.om"], key_files[1])
    assert (found.name, found.soc, found.gates) == ("net 1.2", "Ascend310B1", 3)
    assert found.subjects == {"net-fp16-bs1.om": sha(OM), "net-bs1.onnx": "b" * 64}
    assert set(found.waivers.values()) == {"Li Wei"}
    assert "1 of them WAIVED by Li Wei" in found.line
    assert found.compared == (desk.root / "net.om",)


def test_the_statement_says_what_and_how(desk: Desk) -> None:
    path = desk.sign().path
    assert path is not None
    statement = envelope.opened(path.read_bytes()).statement
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert {"name": "net-fp16-bs1.om", "digest": {"sha256": sha(OM)}} in statement["subject"]
    told = statement["predicate"]
    drop = next(one for one in told["results"] if one["metric"] == "om/top1/drop")
    assert (drop["comparator"], drop["threshold"], drop["measured"], drop["interval"]) == ("<=", 1.0, 0.2, [-0.1, 0.5])
    assert (drop["sampleSize"], drop["passed"], drop["verdict"], drop["ground"]) == (500, True, "passed", "device")
    assert drop["digests"]["om"] == sha(OM)
    assert drop["device"] == {"driver": "24.1", "soc": "Ascend310B1"}
    latency = next(one for one in told["results"] if one["question"] == "latency")
    assert "passed" not in latency
    assert "threshold" not in latency
    (artifact,) = told["artifacts"]
    assert [one["stage"] for one in artifact["stages"]] == ["checkpoint", "onnx", "om"]
    assert artifact["stages"][-1]["command"] == ["atc", "--model=a.onnx", "--output=net-fp16-bs1"]
    assert artifact["stages"][-1]["compiler"] == {"cann": "8.0"}
    assert told["documents"]["evidence.jsonl"]["sha256"] == sha((desk.root / "reports/RUN/evidence.jsonl").read_bytes())
    assert told["run"]["commands"] == [["pytest", "--board", "b"]]
    assert len(told["run"]["runningDigests"]) == 1
    assert told["models"] == [{"name": "net", "spec": {"sha256": desk.run.specs[0].digest}}]


def test_without_a_key_nothing_is_verified(desk: Desk, tmp_path: Path) -> None:
    path = desk.sign().path
    assert path is not None
    with pytest.raises(SignoffError, match="anybody can do that"):
        pth2om.verify(path)
    _, other = keys.new(tmp_path / "other.key")
    with pytest.raises(SignoffError, match="signed by key"):
        pth2om.verify(path, (), other)


def test_a_draft_says_so_in_every_line_and_is_refused(
    desk: Desk, key_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.run.gates[1] = gate("accuracy", "om/top1/drop", 0.2, Limit("<=", 1.0), ground="emulated")
    desk.run.write(desk.root)
    assert walked(desk, monkeypatch, "signoff reports/RUN --draft -o statement.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    assert all(line.startswith("DRAFT, UNPROVEN: ") for line in lines)
    opened = envelope.opened(Path("statement.json").read_bytes())
    assert opened.signatures == ()
    told = opened.statement["predicate"]
    marked = [told["verdict"], *(one["verdict"] for one in (*told["results"], *told["refusals"]))]
    assert all(str(text).startswith("DRAFT, UNPROVEN") for text in marked)
    assert opened.statement["subject"]
    assert told["results"]
    assert all(one["name"].startswith("DRAFT, UNPROVEN") for one in opened.statement["subject"])
    assert not any("passed" in one for one in told["results"])
    assert walked(desk, monkeypatch, f"verify statement.json --key {key_files[1]}") == 1
    assert "draft, UNPROVEN" in capsys.readouterr().out
    assert walked(desk, monkeypatch, "bundle reports/RUN -o release.zip") == 0
    assert capsys.readouterr().out.startswith("DRAFT, UNPROVEN: ")
    with zipfile.ZipFile("release.zip") as file:
        assert "statement.json" not in file.namelist()
    for words in ("", f" --key {key_files[1]}"):
        assert walked(desk, monkeypatch, f"verify release.zip{words}") == 1
        assert "draft, UNPROVEN" in capsys.readouterr().out
    # A draft that somebody signs all the same stays one.
    forged = envelope.sealed(opened.statement, keys.private(key_files[0]))
    with pytest.raises(SignoffError, match="draft"):
        verified_bytes(forged, keys.public(key_files[1]))


def test_every_changed_byte_of_a_small_case_is_found(desk: Desk, key_files: tuple[Path, Path]) -> None:
    """Statement, evidence and bundle: each byte changed in each of two ways, and every place cut off."""
    path = desk.sign().path
    assert path is not None
    trusted = keys.public(key_files[1])
    data = path.read_bytes()
    whole = envelope.opened(data)
    verified_bytes(data, trusted)
    # A bundle with small documents, so that all of its bytes can be tried.
    documents = {"evidence.jsonl": b"evidence", "report.html": b"<p>report</p>"}
    told = {**whole.statement["predicate"], "results": whole.statement["predicate"]["results"][:1]}
    told |= {"documents": {name: {"sha256": sha(text)} for name, text in documents.items()}, "artifacts": []}
    small = envelope.sealed({**whole.statement, "predicate": told}, keys.private(key_files[0]))
    bundled = archive.write({**documents, "statement.json": small})
    verified_bytes(bundled, trusted)
    for good in (small, bundled):
        for place in range(len(good)):
            spoilt = bytearray(good)
            spoilt[place] ^= 1 << place % 8
            with pytest.raises(SignoffError):
                verified_bytes(bytes(spoilt), trusted)
        for length in range(0, len(good), 17):
            with pytest.raises(SignoffError):
                verified_bytes(good[:length], trusted)
    # With the manifest and the checksums written anew, what was signed still tells.
    for name in documents:
        with pytest.raises(SignoffError, match="not the one that was signed"):
            verified_bytes(archive.write({**documents, name: b"other", "statement.json": small}), trusted)
    with pytest.raises(SignoffError, match="not the one that was signed"):
        verified_bytes(archive.write({"evidence.jsonl": b"evidence", "statement.json": small}), trusted)
    with pytest.raises(SignoffError, match="no statement"):
        verified_bytes(archive.write(documents), trusted)


def test_every_changed_byte_of_an_om_is_found(desk: Desk, key_files: tuple[Path, Path]) -> None:
    path = desk.sign().path
    assert path is not None
    other = desk.root / "other.om"
    for place in range(len(OM)):
        other.write_bytes(OM[:place] + bytes([OM[place] ^ 1]) + OM[place + 1 :])
        with pytest.raises(SignoffError, match="none of the OM files"):
            pth2om.verify(path, [other], key_files[1])


def rewritten(data: bytes, key_files: tuple[Path, Path], **changed: object) -> bytes:
    statement = dict(envelope.opened(data).statement)
    statement["predicate"] = {**statement["predicate"], **changed}
    return envelope.sealed(statement, keys.private(key_files[0]))


def test_valid_json_that_is_not_canonical_is_refused(desk: Desk, key_files: tuple[Path, Path]) -> None:
    path = desk.sign().path
    assert path is not None
    data, trusted = path.read_bytes(), keys.public(key_files[1])
    envelope_ = json.loads(data)
    payload = base64.b64decode(envelope_["payload"])
    signature = envelope_["signatures"][0]

    def written(**changed: object) -> bytes:
        return canonical.write({**envelope_, **changed}) + b"\n"

    assert written() == data
    changed = [
        json.dumps(envelope_).encode() + b"\n",
        data + b"\n",
        data[:-1],
        data.replace(b'{"payload"', b'{ "payload"'),
        data.replace(b'"payloadType"', b'"payloadT\\u0079pe"'),
        data.replace(b',"signatures"', b',"payloadType":"application/vnd.in-toto+json","signatures"'),
        written(more=1),
        written(payloadType="application/json"),
        written(signatures=[]),
        written(signatures=[signature, signature]),
        written(signatures=[{**signature, "cert": "x"}]),
        written(signatures=[{**signature, "sig": signature["sig"].rstrip("=")}]),
        written(signatures=[{**signature, "sig": signature["sig"][:-3] + "B=="}]),
        written(payload=base64.b64encode(payload + b" ").decode()),
        written(payload=base64.b64encode(b"[" * 100_000).decode()),
        written(payload=5),
        written(signatures=[5]),
        b"PK" + data,
        b"",
        b"9" * 5000 + b"\n",
        b"[" * 100_000 + b"\n",
        b"NaN\n",
        "“”".encode("utf-16"),
    ]
    for each in changed:
        with pytest.raises(SignoffError):
            verified_bytes(each, trusted)


@pytest.mark.parametrize(
    "changed",
    [
        {"verdict": "FAILED"},
        {"results": [{"id": "x", "verdict": "failed"}]},
        {"results": [{"id": "x", "verdict": "passed", "measured": 2.0, "comparator": "<=", "threshold": 1.0}]},
        {"results": [{"id": "x"}]},
        {"results": 5},
        {"release": {}},
    ],
)
def test_a_statement_that_contradicts_itself_is_refused_also_when_signed(
    desk: Desk, key_files: tuple[Path, Path], changed: dict[str, object]
) -> None:
    path = desk.sign().path
    assert path is not None
    with pytest.raises(SignoffError):
        verified_bytes(rewritten(path.read_bytes(), key_files, **changed), keys.public(key_files[1]))


@settings(max_examples=40, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.text(max_size=9) | st.floats() | st.integers(), st.lists))
def test_canonical_json_is_read_as_it_was_written(value: object) -> None:
    try:
        data = canonical.write(value)
    except ValueError:  # NaN and infinities are no JSON
        return
    assert canonical.write(canonical.read(data)) == data


@given(st.binary(max_size=99))
def test_no_bytes_are_a_traceback(data: bytes) -> None:
    with pytest.raises(SignoffError):
        verified_bytes(data, None)


def test_a_bundle_is_of_the_run_that_was_signed(desk: Desk) -> None:
    folder = desk.run.write(desk.root)
    with pytest.raises(SignoffError, match="no statement"):
        bundle(folder, desk.root / "release.zip", desk.root / "nowhere.json")
    path = desk.sign().path
    desk.run.change(0, measured=0.9995)
    folder = desk.run.write(desk.root)
    with pytest.raises(SignoffError, match="another run"):
        bundle(folder, desk.root / "release.zip", path)
    assert not (desk.root / "release.zip").exists()
    (desk.root / "statement.json").write_text("{}")
    with pytest.raises(SignoffError):
        bundle(folder, desk.root / "release.zip", desk.root / "statement.json")
