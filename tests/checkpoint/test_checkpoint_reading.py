"""Tensors come out of every container as torch itself would give them."""

from __future__ import annotations

import argparse
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pth2om.checkpoint import read
from pth2om.checkpoint.archives import scanned
from pth2om.checkpoint.tensors import Reader
from pth2om.errors import CheckpointError


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 10))


def saved(path: Path, value: Any, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def awkward() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(2, 3, 4)
    return {
        "plain": base.clone(),
        "transposed": base.transpose(0, 2),
        "slice": base[:, 1:, ::2],
        "shared": base.view(-1)[5:],
        "expanded": torch.ones(1, 1).expand(3, 4),
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "channels-last": torch.rand(1, 2, 3, 3).to(memory_format=torch.channels_last),
        "int64": torch.arange(3),
        "bool": torch.tensor([True, False]),
        "uint8": torch.arange(5, dtype=torch.uint8),
        "int8": torch.tensor([-3, 4], dtype=torch.int8),
        "half": torch.tensor([0.1, 65504.0], dtype=torch.float16),
        "bfloat16": torch.tensor([0.1, 1e30], dtype=torch.bfloat16),
        "double": torch.tensor([0.1, 1e300], dtype=torch.float64),
        "complex": torch.tensor([1 + 2j]),
        "parameter": nn.Parameter(torch.rand(2)),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_both_readers_agree_with_torch(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "w.pth", awkward(), zipped)
    checkpoint = read(path)
    assert checkpoint.read_by == "weights_only"
    with scanned(path, checkpoint.kind) as scan:
        reader = Reader(scan.block, big_endian=scan.big_endian, budget=1 << 20)
        inert = {name: reader.tensor(value) for name, value in scan.tree.items()}
    for name, value in awkward().items():
        wanted = value.detach().float() if value.dtype.is_floating_point else value
        if name == "parameter":
            wanted = torch.load(path)["parameter"].detach()
        for got in (checkpoint.tensors[name], inert[name]):
            assert got.dtype == wanted.dtype, name
            if name == "channels-last":
                assert got.shape == wanted.shape
            else:
                assert torch.equal(got, wanted), name
        assert torch.equal(checkpoint.tensors[name], inert[name])


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "uint16", "uint32"])
def test_newer_types(tmp_path: Path, dtype: str) -> None:
    value = torch.tensor([0, 1, 2, 3]).to(getattr(torch, dtype))
    path = saved(tmp_path / "w.pth", {"w": value, "x": argparse.Namespace(a=1)})
    got = read(path)
    assert got.read_by == "inert"
    assert torch.equal(got.tensors["w"].to(torch.float64), value.to(torch.float64))


def test_big_endian_files(tmp_path: Path) -> None:
    """As a big-endian machine writes them: every number swapped, and the record that says so."""
    path = saved(tmp_path / "little.pth", {"w": torch.tensor([1.5, -2.0]), "n": torch.tensor([7])})
    swapped = tmp_path / "big.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(swapped, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("byteorder"):
                data = b"big"
            elif "/data/" in entry.filename and len(data) == 8:
                word = 4 if np.frombuffer(data, "<f4")[0] == 1.5 else 8
                data = np.frombuffer(data, f"<u{word}").byteswap().tobytes()
            target.writestr(entry.filename, data)
    for reader in (read(swapped), read(_with_class(swapped))):
        assert reader.tensors["w"].tolist() == [1.5, -2.0]
        assert reader.tensors["n"].tolist() == [7]


def _with_class(path: Path) -> Path:
    """The same archive whose pickle also names a foreign class, so that torch refuses and the inert reader reads."""
    target_path = path.with_name("foreign.pth")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target_path, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                data = data[:-1] + b"X\x01\x00\x00\x00zcfoo.bar\nBaz\n)\x81s."
            target.writestr(entry.filename, data)
    assert read(target_path).read_by == "inert"
    return target_path


def test_big_endian_legacy_sizes(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"w": torch.tensor([1.5])}, zipped=False)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89", 1))
    if path.read_bytes() == data:
        pytest.skip("this PyTorch writes the system record otherwise")
    with pytest.raises(CheckpointError, match="another length"):
        read(path)


def test_plain_pickle_of_arrays(tmp_path: Path) -> None:
    weights = {"conv": np.arange(6, dtype=">f4").reshape(2, 3), "n": np.int64(3), "b": np.zeros(2, np.float16)}
    for protocol in (2, 4, 5):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps({"model": weights, "__author__": "someone"}, protocol))
        checkpoint = read(path)
        assert checkpoint.branch == "model"
        assert "n" not in checkpoint.skipped
        assert torch.equal(checkpoint.tensors["conv"], torch.arange(6.0).reshape(2, 3))
        assert checkpoint.tensors["b"].dtype == torch.float32


def test_tensors_pickled_without_torch_save(tmp_path: Path) -> None:
    state = small_net().state_dict()
    path = tmp_path / "w.pkl"
    for protocol in (2, 4):
        path.write_bytes(pickle.dumps({"model": dict(state), "epoch": 2}, protocol))
        checkpoint = read(path)
        assert checkpoint.kind == "pickle"
        assert checkpoint.classes == ()
        assert all(torch.equal(checkpoint.tensors[key], state[key]) for key in state)


def test_object_arrays_are_not_built(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"w": np.ones(2), "o": np.array([print], dtype=object)}, 4))
    checkpoint = read(path)
    assert list(checkpoint.tensors) == ["w"]
    assert "o" in checkpoint.skipped


def test_tensors_saved_on_an_npu(tmp_path: Path) -> None:
    """torch_npu names its own rebuild function and a storage format behind the usual arguments."""
    path = saved(tmp_path / "w.pth", {"w": torch.tensor([1.0, 2.0])})
    npu = tmp_path / "npu.pth"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(npu, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                data = data.replace(
                    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch_npu.utils.storage\n_rebuild_npu_tensor\n"
                )
                data = data.replace(b"tq\x0cRq\rs.", b"K\x02tq\x0cRq\rs.")
            target.writestr(entry.filename, data)
    checkpoint = read(npu)
    assert checkpoint.tensors["w"].tolist() == [1.0, 2.0]
    assert checkpoint.classes == ()


# --- branches ---------------------------------------------------------------------------------------------------------


def test_branches(tmp_path: Path) -> None:
    state = small_net().state_dict()
    other = {name: value + 1 for name, value in state.items()}
    optimizer = torch.optim.Adam(small_net().parameters()).state_dict()
    cases: dict[str, tuple[Any, str]] = {
        "bare": (state, ""),
        "state_dict": ({"state_dict": state, "optimizer": optimizer, "epoch": 3}, "state_dict"),
        "model": ({"model": state, "optimizer_state_dict": optimizer}, "model"),
        "model_state_dict": ({"model_state_dict": state, "loss": torch.tensor(1.0)}, "model_state_dict"),
        "net": ({"net": state, "acc": 93.1}, "net"),
        "params": ({"params": other, "params_ema": state}, "params_ema"),
        "ema": ({"model": other, "ema": state, "updates": 5}, "ema"),
        "ema-none": ({"model": state, "ema": None}, "model"),
        "ema-module": ({"model": other, "ema": {"module": state, "updates": 1}}, "ema.module"),
        "ema_state_dict": ({"state_dict": other, "ema_state_dict": state}, "ema_state_dict"),
        "gan": ({"discriminator": other, "generator": state}, "generator"),
        "rng": ({"rng_state": torch.get_rng_state(), "state_dict": state}, "state_dict"),
        "deep": ({"state": {"network": state}}, "state.network"),
        "odd": ({"my_weights": state, "n": 3}, "my_weights"),
    }
    for name, (value, branch) in cases.items():
        checkpoint = read(saved(tmp_path / f"{name}.pth", value))
        assert checkpoint.branch == branch, name
        assert set(checkpoint.tensors) == set(state), name
        assert all(torch.equal(checkpoint.tensors[key], state[key]) for key in state), name
    ema = read(tmp_path / "ema.pth")
    assert dict(ema.branches) == {"ema": len(state), "model": len(state)}
    assert torch.equal(read(tmp_path / "ema.pth", branch="model").tensors["0.bias"], other["0.bias"])
    with pytest.raises(CheckpointError, match="no part 'teacher'"):
        read(tmp_path / "ema.pth", branch="teacher")
    assert read(tmp_path / "net.pth").facts["acc"] == 93.1


def pickled_elsewhere(path: Path, body: str) -> Path:
    """Save with classes of a module that exists in another process only."""
    code = (
        "import sys, types, torch\nfrom torch import nn\n"
        "module = types.ModuleType('training_repo'); sys.modules['training_repo'] = module\n"
        "class Block(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.conv = nn.Conv2d(3, 4, 3); self.bn = nn.BatchNorm2d(4)\n"
        "        self.register_buffer('grid', torch.ones(2), persistent=False); self.nc = 7; self.names = ['a', 'b']\n"
        "class Ema:\n    def __init__(self, m): self.module = m; self.updates = 3\n"
        "for c in (Block, Ema): c.__module__ = 'training_repo'; setattr(module, c.__name__, c)\n"
        "torch.manual_seed(0); m = nn.Module(); m.a = Block(); m.a.half()\n"
        f"{body}\ntorch.save(value, {str(path)!r})\n"
        f"torch.save(m.state_dict(), {str(path) + '.state'!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    return path


def test_a_module_of_absent_classes_is_read_as_data(tmp_path: Path) -> None:
    path = pickled_elsewhere(
        tmp_path / "w.pt",
        "import copy; e = copy.deepcopy(m); e.a.conv.bias.data += 1; value = {'model': m, 'ema': Ema(e), 'epoch': 9}",
    )
    checkpoint = read(path)
    expected = torch.load(str(path) + ".state")
    assert checkpoint.branch == "ema.module"
    assert set(checkpoint.branches) == {"ema.module", "model"}
    assert set(checkpoint.tensors) == set(expected)  # the non-persistent buffer is not among them
    assert checkpoint.tensors["a.conv.weight"].dtype == torch.float32
    assert torch.equal(read(path, branch="model").tensors["a.conv.weight"], expected["a.conv.weight"].float())
    assert "training_repo.Block" in checkpoint.classes
    assert "training_repo" not in sys.modules
    assert checkpoint.dtypes["float16"] == 6
    assert checkpoint.facts["epoch"] == 9


def test_torchscript_tensors_are_read_without_running_it(tmp_path: Path) -> None:
    module = small_net().eval()
    torch.jit.script(module).save(str(tmp_path / "s.pt"))
    checkpoint = read(tmp_path / "s.pt")
    assert checkpoint.is_torchscript
    state = module.state_dict()
    assert all(torch.equal(checkpoint.tensors[key], state[key]) for key in state if "num_batches" not in key)


# --- declared sizes ---------------------------------------------------------------------------------------------------


def rezipped(path: Path, target: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", compression) as archive:
        for entry in source.infolist():
            archive.writestr(entry.filename, change(entry.filename, source.read(entry)))
    return target


def test_a_compressed_archive_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", small_net().state_dict())
    packed = rezipped(path, tmp_path / "packed.pth", lambda _, data: data, zipfile.ZIP_DEFLATED)
    assert set(read(packed).tensors) == set(read(path).tensors)


def test_zip_bombs_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"w": torch.zeros(40_000_000)})
    bomb = rezipped(path, tmp_path / "bomb.pth", lambda _, data: data, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1_000_000
    with pytest.raises(CheckpointError) as caught:
        read(bomb)
    assert caught.value.message.key == "checkpoint.zip-bomb"


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_may_not_reach_beyond_their_storage(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "w.pth", {"w": torch.zeros(200)}, zipped)
    # The shape (200,), BININT1 200 and TUPLE1, becomes (2^30,).
    old, new = b"K\xc8\x85", b"J" + struct.pack("<i", 1 << 30) + b"\x85"
    if zipped:
        path = rezipped(path, tmp_path / "x.pth", lambda _, data: data.replace(old, new, 1))
    else:
        path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(CheckpointError, match="reaches beyond"):
        read(path)


def test_expanded_tensors_may_not_fill_the_memory(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"w": torch.zeros(1, dtype=torch.float16).expand(1 << 36)})
    with pytest.raises(CheckpointError, match="larger than the file"):
        read(path)


def test_a_flipped_bit_in_the_weights_is_noticed(tmp_path: Path) -> None:
    """torch.load does not verify checksums: it returns the damaged number."""
    path = saved(tmp_path / "w.pth", {"w": torch.full((1000,), 1.5), "v": torch.ones(3), "x": argparse.Namespace()})
    data = bytearray(path.read_bytes())
    position = data.index(struct.pack("<f", 1.5) * 4) + 42
    data[position] ^= 0x40
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="checksum"):
        read(path)


def test_archives_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "w.pth", {"w": torch.arange(3.0)})
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert all(entry.CRC == 0 != zlib.crc32(b"x") for entry in archive.infolist())
    assert read(path).tensors["w"].tolist() == [0, 1, 2]


def test_truncated_files_say_so(tmp_path: Path) -> None:
    for zipped, expected in ((True, "end is missing"), (False, "ends inside storage")):
        path = saved(tmp_path / "w.pth", {"w": torch.zeros(1000)}, zipped)
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(CheckpointError, match=expected):
            read(path)


def test_nothing_but_numbers(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tensors"):
        read(saved(tmp_path / "w.pth", {"epoch": 3, "acc": [1.0]}))


def test_sparse_and_quantized_tensors_are_named(tmp_path: Path) -> None:
    value = {
        "w": torch.ones(2),
        "sparse": torch.eye(3).to_sparse(),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    }
    for extra, zipped in (
        (extra, zipped) for extra in ({}, {"x": argparse.Namespace(a=1)}) for zipped in (True, False)
    ):
        checkpoint = read(saved(tmp_path / "w.pth", {**value, **extra}, zipped))
        assert set(checkpoint.skipped) == {"sparse", "quantized"}
        assert set(checkpoint.tensors) == {"w"}
