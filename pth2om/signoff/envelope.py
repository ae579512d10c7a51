"""The DSSE envelope of a statement: signed by securesystemslib, written and read canonically."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pth2om.errors import SignoffError
from pth2om.signoff import canonical
from pth2om.signoff.keys import PrivateKey, PublicKey, needs_packages

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MOST_BYTES = 256 << 20
_MOST_SIGNATURE = 2048


@dataclass(frozen=True)
class Opened:
    """An envelope whose signature nobody has looked at yet.

    Attributes:
        statement: the in-toto statement.
        signatures: (key's id, signature in hexadecimal digits); empty in a draft.
        payload: the bytes that are signed.
    """

    statement: Mapping[str, Any]
    signatures: tuple[tuple[str, str], ...]
    payload: bytes


def sealed(statement: Mapping[str, Any], key: PrivateKey | None) -> bytes:
    """A statement in its envelope, as the bytes of a file.

    Args:
        statement: JSON values.
        key: signs; None leaves the envelope without a signature.
    """
    with needs_packages():
        from securesystemslib.dsse import Envelope
    envelope = Envelope(canonical.write(statement), PAYLOAD_TYPE, {})
    if key is not None:
        envelope.sign(key.signer)
    return canonical.write(envelope.to_dict()) + b"\n"


def opened(data: bytes) -> Opened:
    """Read an envelope; its signature is not verified yet.

    Raises:
        SignoffError: the bytes are no envelope of an in-toto statement, or not written as `sealed` writes it.
    """
    import base64
    import binascii

    if len(data) > MOST_BYTES:
        raise SignoffError("signoff.too-large", most=MOST_BYTES)
    if not data.endswith(b"\n"):
        raise SignoffError("signoff.not-canonical")
    envelope = canonical.read(data[:-1])
    shape = isinstance(envelope, dict) and set(envelope) == {"payload", "payloadType", "signatures"}
    if not shape or envelope["payloadType"] != PAYLOAD_TYPE or not isinstance(envelope["signatures"], list):
        raise SignoffError("signoff.no-envelope")

    def plain(text: object) -> bytes:
        if not isinstance(text, str):
            raise SignoffError("signoff.no-envelope")
        try:
            raw = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            raise SignoffError("signoff.not-canonical") from None
        # The last digit of base64 has bits that mean nothing.
        if base64.b64encode(raw).decode() != text:
            raise SignoffError("signoff.not-canonical")
        return raw

    signatures = []
    for one in envelope["signatures"]:
        if not isinstance(one, dict) or set(one) != {"keyid", "sig"} or not isinstance(one["keyid"], str):
            raise SignoffError("signoff.no-envelope")
        signatures.append((one["keyid"], plain(one["sig"])[:_MOST_SIGNATURE].hex()))
    payload = plain(envelope["payload"])
    statement = canonical.read(payload)
    if not isinstance(statement, dict):
        raise SignoffError("signoff.no-envelope")
    return Opened(statement, tuple(signatures), payload)


def verify(envelope: Opened, key: PublicKey) -> None:
    """Verify that the envelope has one signature, and that it is of this key.

    Raises:
        SignoffError: it is of another key, or of other bytes.
    """
    if len(envelope.signatures) != 1:
        raise SignoffError("signoff.signatures", count=len(envelope.signatures))
    (name, signature) = envelope.signatures[0]
    if name != key.id:
        raise SignoffError("signoff.other-key", signed=name[:16], given=key.short)
    with needs_packages():
        from securesystemslib.dsse import Envelope
        from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
        from securesystemslib.signer import Signature
    whole = Envelope(envelope.payload, PAYLOAD_TYPE, {name: Signature(name, signature)})
    try:
        whole.verify([key.key], 1)
    except (VerificationError, UnverifiedSignatureError, ValueError):
        raise SignoffError("signoff.bad-signature") from None
