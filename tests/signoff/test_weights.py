"""Weights that lie beside an OM are signed and verified with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import pth2om
from pth2om.errors import SignoffError
from tests.signoff.conftest import Desk
from tests.signoff.released import OM, sha

WEIGHTS = {"weight/weight_1": b"some weights", "net_weight_combined": b"others"}


def with_weights(desk: Desk, folder: Path, told: dict[str, bytes] = WEIGHTS) -> Path:
    """A run whose OM has weights in files of their own, and the OM with them in a folder."""
    *before, om = desk.run.stages
    command = (*om.command, "--external_weight=1")
    details = {**om.details, **({"weights": {name: sha(data) for name, data in told.items()}} if told else {})}
    desk.run.stages = [*before, replace(om, command=command, details=details)]
    for name, data in {**WEIGHTS, "net.om": OM}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder / "net.om"


def test_every_changed_byte_of_weights_is_found(desk: Desk, key_files: tuple[Path, Path]) -> None:
    om = with_weights(desk, desk.root / "given")
    path = desk.sign(om_files=[om]).path
    assert path is not None
    verified = pth2om.verify(path, [om], key_files[1])
    assert verified.subjects["net-fp16-bs1.om/weight/weight_1"] == sha(WEIGHTS["weight/weight_1"])
    assert list(verified.oms) == ["net-fp16-bs1.om"]
    for name, data in WEIGHTS.items():
        file = om.parent / name
        for place in range(len(data)):
            file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            with pytest.raises(SignoffError, match=name):
                pth2om.verify(path, [om], key_files[1])
        for other in (data[:-1], data + b"!", b""):
            file.write_bytes(other)
            with pytest.raises(SignoffError, match=name):
                pth2om.verify(path, [om], key_files[1])
        file.unlink()
        with pytest.raises(SignoffError, match=name):
            pth2om.verify(path, [om], key_files[1])
        file.write_bytes(data)
    pth2om.verify(path, [om], key_files[1])


def test_an_om_is_signed_with_its_own_weights_only(desk: Desk) -> None:
    om = with_weights(desk, desk.root / "given")
    (om.parent / "weight" / "weight_1").write_bytes(b"others")
    signed = desk.sign(om_files=[om])
    (refusal,) = signed.refusals
    assert refusal.message.key == "signoff.weights-differ"
    assert refusal.about == ("net-fp16-bs1 weight/weight_1",)


def test_weights_of_an_om_in_the_store_are_compared_too(desk: Desk) -> None:
    om = with_weights(desk, desk.root / "store" / "om" / ("k" * 64))
    told = {"path": "net.om", "digest": sha(OM), "provenance": {"name": "cann", "version": "8", "ground": "device"}}
    (om.parent / "compiled.json").write_text(json.dumps({**told, "bands": ["device"], "details": {}}))
    assert desk.sign(om_files=[]).path is not None
    (om.parent / "net_weight_combined").unlink()
    assert {one.message.key for one in desk.sign(om_files=[]).refusals} == {"signoff.file-absent"}


def test_weights_without_digests_are_not_signed(desk: Desk) -> None:
    om = with_weights(desk, desk.root / "given", {})
    assert {one.message.key for one in desk.sign(om_files=[om]).refusals} == {"signoff.weights-unknown"}


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "weight/../../secret", "a\\b", "C:x", ""])
def test_names_of_weights_lead_nowhere_else(desk: Desk, name: str) -> None:
    (desk.root / "secret").write_bytes(b"x")
    om = with_weights(desk, desk.root / "given", {name: b"x"})
    assert {one.message.key for one in desk.sign(om_files=[om]).refusals} == {"signoff.weights-differ"}
