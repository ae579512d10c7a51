"""Keys: which are taken, and that nothing of a private one is ever shown."""

from __future__ import annotations

import base64
import importlib.util
import json
import logging
import shutil
import subprocess
from pathlib import Path

import pytest

from pth2om.cli import main
from pth2om.errors import SignoffError
from pth2om.signoff import envelope, keys

STATEMENT = {"_type": "x", "predicate": {}}


def made(folder: Path, kind: str) -> Path:
    """A private key as others make it: ``ed25519``, ``P-256``..., ``rsa``, or ``ssh``."""
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if kind in ("ed25519", "ssh"):
        key = ed25519.Ed25519PrivateKey.generate()
    elif kind == "rsa":
        key = rsa.generate_private_key(65537, 2048)
    else:
        curves = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1, "koblitz": ec.SECP256K1}
        key = ec.generate_private_key(curves[kind]())
    form = forms.PrivateFormat.OpenSSH if kind == "ssh" else forms.PrivateFormat.PKCS8
    path = folder / "key"
    path.write_bytes(key.private_bytes(forms.Encoding.PEM, form, forms.NoEncryption()))
    path.chmod(0o600)
    public = forms.PublicFormat.OpenSSH if kind == "ssh" else forms.PublicFormat.SubjectPublicKeyInfo
    encoding = forms.Encoding.OpenSSH if kind == "ssh" else forms.Encoding.PEM
    (folder / "key.pub").write_bytes(key.public_key().public_bytes(encoding, public))
    return path


@pytest.mark.parametrize("kind", ["ed25519", "P-256", "P-384", "P-521", "ssh"])
def test_each_kind_signs_and_verifies(tmp_path: Path, kind: str) -> None:
    key, public = keys.private(made(tmp_path, kind)), keys.public(tmp_path / "key.pub")
    assert key.public.id == public.id
    opened = envelope.opened(envelope.sealed(STATEMENT, key))
    assert opened.statement == STATEMENT
    envelope.verify(opened, public)
    other = tmp_path / "other"
    other.mkdir()
    made(other, kind)
    with pytest.raises(SignoffError, match="signed by key"):
        envelope.verify(opened, keys.public(other / "key.pub"))


@pytest.mark.parametrize("kind", ["rsa", "koblitz"])
def test_other_kinds_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(SignoffError, match="Ed25519"):
        keys.private(made(tmp_path, kind))
    with pytest.raises(SignoffError, match="Ed25519"):
        keys.public(tmp_path / "key.pub")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644, 0o777, 0o601])
def test_a_key_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = made(tmp_path, "ed25519")
    path.chmod(mode)
    with pytest.raises(SignoffError, match=f"{mode:o}") as caught:
        keys.private(path)
    assert "chmod 600" in str(caught.value)


def test_a_new_key_is_its_owners_alone_and_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "release.key"
    assert main(["signoff", "--new-key", str(path)]) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    public = keys.public(tmp_path / "release.pub")
    assert keys.private(path).public.id == public.id
    assert public.short in capsys.readouterr().out
    before = path.read_bytes()
    assert main(["signoff", "--new-key", str(path)]) == 1
    assert path.read_bytes() == before
    (tmp_path / "second.pub").write_text("mine")
    assert main(["signoff", "--new-key", str(tmp_path / "second.key")]) == 1
    assert not (tmp_path / "second.key").exists()
    assert main(["signoff"]) == 2


def test_a_passphrase_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.PASSPHRASE, "correct horse")
    path, _ = keys.new(tmp_path / "a.key")
    assert b"ENCRYPTED" in path.read_bytes()
    keys.private(path)
    monkeypatch.setenv(keys.PASSPHRASE, "wrong horse")
    with pytest.raises(SignoffError, match="passphrase") as caught:
        keys.private(path)
    assert "horse" not in str(caught.value)
    monkeypatch.delenv(keys.PASSPHRASE)
    with pytest.raises(SignoffError, match=keys.PASSPHRASE):
        keys.private(path)


def test_a_key_in_the_wrong_place_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path, "ed25519")
    with pytest.raises(SignoffError, match="private key"):
        keys.public(path)
    (tmp_path / "key.pub").chmod(0o600)
    with pytest.raises(SignoffError, match="no private key"):
        keys.private(tmp_path / "key.pub")
    for wrong in (tmp_path, tmp_path / "absent", Path("/dev/null")):
        with pytest.raises(SignoffError):
            keys.private(wrong)
        with pytest.raises(SignoffError):
            keys.public(wrong)


def test_no_damaged_key_is_quoted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    path = made(tmp_path, "ed25519")
    secret = path.read_text().splitlines()[1]
    key = keys.private(path)
    opened = envelope.opened(envelope.sealed(STATEMENT, key))
    shown = [repr(key), str(key), repr(opened), f"{key.signer}"]
    for text in (path.read_text().replace(secret, secret[:-9]), path.read_text()[:40], "-----BEGIN PRIVATE KEY-----"):
        path.write_text(text)
        with pytest.raises(SignoffError) as caught:
            keys.private(path)
        shown += [str(caught.value), repr(caught.value)]
    shown += [record.getMessage() for record in caplog.records]
    assert not [text for text in shown if any(secret[at : at + 12] in text for at in range(len(secret) - 12))]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_keys_of_openssl_as_documented(tmp_path: Path) -> None:
    run = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", "release.key"]
    subprocess.run(run, cwd=tmp_path, check=True, capture_output=True)
    pub = ["openssl", "pkey", "-in", "release.key", "-pubout", "-out", "release.pub"]
    subprocess.run(pub, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "release.key").chmod(0o600)
    der = ["openssl", "pkey", "-pubin", "-in", "release.pub", "-outform", "DER"]
    import hashlib

    shown = hashlib.sha256(subprocess.run(der, cwd=tmp_path, check=True, capture_output=True).stdout).hexdigest()
    assert keys.private(tmp_path / "release.key").public.id == shown == keys.public(tmp_path / "release.pub").id


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("kind", ["ed25519", "P-256", "P-384"])
def test_openssl_verifies_what_was_signed_as_dsse_defines_it(tmp_path: Path, kind: str) -> None:
    key = made(tmp_path, kind)
    written = json.loads(envelope.sealed(STATEMENT, keys.private(key)))
    payload, name = base64.b64decode(written["payload"]), written["payloadType"].encode()
    (tmp_path / "signed").write_bytes(b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload))
    (tmp_path / "sig").write_bytes(base64.b64decode(written["signatures"][0]["sig"]))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.pub", "-rawin", "-in", "signed"]
    if kind != "ed25519":
        command += ["-digest", {"P-256": "sha256", "P-384": "sha384"}[kind]]
    done = subprocess.run([*command, "-sigfile", "sig"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, "Verified Successfully" in done.stdout) == (0, True), done.stderr
    assert json.loads(payload) == STATEMENT


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_keys_of_ssh_keygen_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ("", "correct horse"):
        name = f"release{len(words)}"
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", words, "-f", name]
        subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
        monkeypatch.setenv(keys.PASSPHRASE, words)
        if words and importlib.util.find_spec("bcrypt") is None:
            with pytest.raises(SignoffError, match=r"cryptography\[ssh\]"):
                keys.private(tmp_path / name)
            continue
        assert keys.private(tmp_path / name).public.id == keys.public(tmp_path / f"{name}.pub").id
