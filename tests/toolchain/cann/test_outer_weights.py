"""What atc writes beside an OM with ``--external_weight`` is kept, hashed, and goes where the OM goes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from pth2om.session import Provenance
from pth2om.toolchain.cann import compiling
from pth2om.toolchain.cann.ways import files_of


def test_weights_are_kept_hashed_and_sent_with_the_om(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = {
        "out/net.om": b"om",
        "out/weight/weight_7f": b"one",
        "out/net_weight_combined": b"all",
        "fusion.json": b"{}",
    }

    def run(_board: object, _asked: object, folder: Path, _progress: object) -> compiling.Ran:
        kept = {}
        for name, data in left.items():
            kept[name] = folder / Path(name).name
            kept[name].write_bytes(data)
        return compiling.Ran({"seconds": 1, "peak_bytes": 0, "settings": {}, "stdout": ""}, kept)

    monkeypatch.setattr(compiling, "run_atc", run)
    monkeypatch.setattr(compiling, "as_asked", lambda _path, _asked: ([], [], []))
    board, asked = SimpleNamespace(name="b"), SimpleNamespace()
    made = compiling.compiled(board, asked, tmp_path, Provenance("cann", "8", "device", "Ascend310B1"))
    main, files = files_of(made)
    assert main == "model.om"
    assert {name: file.read_bytes() for name, file in files.items()} == {
        "model.om": b"om", "weight/weight_7f": b"one", "net_weight_combined": b"all",
    }  # fmt: skip
    assert made.details["weights"] == {
        name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in files if name != main
    }
