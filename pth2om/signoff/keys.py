"""Keys: Ed25519 and ECDSA, in PEM or OpenSSH's form. A private key is never printed, logged or copied."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.errors import SignoffError
from pth2om.files import opened
from pth2om.language import say
from pth2om.signoff.canonical import sha256

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

MOST_BYTES = 1 << 16
PASSPHRASE = "PTH2OM_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable
"""Environment variable with the passphrase of an encrypted key; without it, it is asked for on a terminal."""
_PRIVATE = b"PRIVATE KEY-----"


@dataclass(frozen=True)
class PublicKey:
    """A public key.

    Attributes:
        id: sha256 of its DER form (SubjectPublicKeyInfo), as ``openssl pkey -pubin -outform DER | sha256sum`` prints.
        pem: its PEM text.
        key: securesystemslib's object.
    """

    id: str
    pem: str
    key: SSlibKey

    @property
    def short(self) -> str:
        """Enough of the id for a line of text."""
        return self.id[:16]


@dataclass(frozen=True)
class PrivateKey:
    """A private key that can sign; its ``repr`` shows nothing of it."""

    public: PublicKey
    signer: CryptoSigner

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.short})"


@contextlib.contextmanager
def needs_packages() -> Iterator[None]:
    """Inside the block, a missing package is one sentence that says what to install.

    Raises:
        SignoffError: cryptography or securesystemslib is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise SignoffError("signoff.no-packages", reason=str(error)) from None


def private(path: Path) -> PrivateKey:
    """Read a private key.

    Raises:
        SignoffError: the file is absent, can be read by others, is no key of a supported kind, or its passphrase is
            not known.
    """
    data = _read_own(path)
    with needs_packages():
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
        from securesystemslib.signer import CryptoSigner
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
    if _PRIVATE not in data:
        raise SignoffError("signoff.key-not-private", where=str(path))
    key: Any = None
    # The library's own words may quote the file: they are not passed on.
    try:
        key = load(data, None)
    except TypeError:
        key = _decrypted(load, data, path)
    except Exception:  # noqa: BLE001 - whatever a damaged key makes the library raise
        if b"OPENSSH" in data:
            key = _decrypted(load, data, path)
        else:
            raise SignoffError("signoff.key-unreadable", where=str(path)) from None
    if not isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
        raise SignoffError("signoff.key-kind", where=str(path))
    found = _public(key.public_key(), path)
    return PrivateKey(found, CryptoSigner(key, found.key))


def public(path: Path) -> PublicKey:
    """Read a public key.

    Raises:
        SignoffError: the file is absent, or no public key of a supported kind.
    """
    try:
        with opened(path) as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SignoffError("signoff.unreadable", where=str(path), reason=error.strerror or "") from None
    if _PRIVATE in data:
        raise SignoffError("signoff.key-not-public", where=str(path))
    return public_of(data, path)


def public_of(data: bytes, path: Path | None = None) -> PublicKey:
    """A public key from its PEM or OpenSSH text.

    Raises:
        SignoffError: it is none of a supported kind.
    """
    with needs_packages():
        from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key
    load: Any = load_pem_public_key if b"-----BEGIN" in data else load_ssh_public_key
    try:
        if len(data) > MOST_BYTES:
            raise ValueError
        key = load(data)
    except Exception:  # noqa: BLE001 - whatever a damaged key makes the library raise
        raise SignoffError("signoff.key-unreadable", where=None if path is None else str(path)) from None
    return _public(key, path)


def new(path: Path) -> tuple[Path, Path]:
    """Make an Ed25519 key: ``path``, which only its owner can read, and ``path`` with the suffix ``.pub``.

    The key is encrypted where the variable `PASSPHRASE` is set.

    Returns:
        The private and the public file.

    Raises:
        SignoffError: one of them is there already, or cannot be written.
    """
    with needs_packages():
        from cryptography.hazmat.primitives import serialization as forms
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    beside = path.with_name(f"{path.stem if path.suffix == '.key' else path.name}.pub")
    for file in (path, beside):
        if os.path.lexists(file):
            raise SignoffError("signoff.key-there", where=str(file))
    key = Ed25519PrivateKey.generate()
    words = os.environ.get(PASSPHRASE, "")
    locked = forms.BestAvailableEncryption(words.encode()) if words else forms.NoEncryption()
    secret = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, locked)
    shown = key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    try:
        for file, data, mode in ((path, secret, 0o600), (beside, shown, 0o644)):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as made:
                made.write(data)
    except OSError as error:
        raise SignoffError("signoff.unwritable", where=str(path), reason=error.strerror or "") from None
    return path, beside


def _read_own(path: Path) -> bytes:
    """A private key's file, which nobody but its owner may read or write."""
    try:
        with opened(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            if os.name == "posix" and mode & 0o077:
                raise SignoffError("signoff.key-loose", where=str(path), mode=f"{mode & 0o777:o}")
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SignoffError("signoff.unreadable", where=str(path), reason=error.strerror or "") from None
    if len(data) > MOST_BYTES:
        raise SignoffError("signoff.key-unreadable", where=str(path))
    return data


def _decrypted(load: Any, data: bytes, path: Path) -> Any:  # noqa: ANN401 - cryptography's functions and keys
    words = os.environ.get(PASSPHRASE, "")
    if not words and sys.stdin is not None and sys.stdin.isatty():
        import getpass

        try:
            words = getpass.getpass(say("signoff.key-ask", name=path.name).render())
        except EOFError:
            words = ""
    if not words:
        raise SignoffError("signoff.key-locked", where=str(path), variable=PASSPHRASE)
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return load(data, words.encode())
    except UnsupportedAlgorithm:  # OpenSSH's form needs one more package
        raise SignoffError("signoff.key-bcrypt", where=str(path)) from None
    except Exception:  # noqa: BLE001 - a wrong passphrase, hardly ever a damaged key
        raise SignoffError("signoff.key-passphrase", where=str(path), variable=PASSPHRASE) from None


def _public(key: Any, path: Path | None) -> PublicKey:  # noqa: ANN401 - cryptography's keys
    with needs_packages():
        from cryptography.hazmat.primitives import serialization as forms
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from securesystemslib.signer import SSlibKey
    where = None if path is None else str(path)
    if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey):
        raise SignoffError("signoff.key-kind", where=where)
    der = key.public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    pem = key.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo).decode("ascii")
    name = sha256(der)
    try:
        return PublicKey(name, pem, SSlibKey.from_crypto(key, name))
    except ValueError:  # a curve that has no scheme
        raise SignoffError("signoff.key-kind", where=where) from None
