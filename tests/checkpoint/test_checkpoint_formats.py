"""A file is what its bytes say, whatever it is called."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pth2om.checkpoint import kind_of, read
from pth2om.checkpoint.formats import READABLE
from pth2om.errors import CheckpointError


def _zip(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def _tar(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def _safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1234\n"
CASES = {
    "empty": (b"", "empty"),
    "lfs": (LFS, "lfs-pointer"),
    "html": (b"\n<!DOCTYPE html><html><body>Google Drive - virus scan warning", "html"),
    "html-bom": (b"\xef\xbb\xbf<html>", "html"),
    "xml-error": (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "html"),
    "openvino": (b'<?xml version="1.0"?>\n<net name="x" version="11">', "openvino"),
    "json": (b'{"error": "not found"}', "json"),
    "text": (b"404: Not Found\n", "text"),
    "zeros": (bytes(10000), "zeros"),
    "om": (b"IMOD" + bytes(300), "om"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "hdf5"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(100), "tflite"),
    "gguf": (b"GGUF\x03\x00\x00\x00", "gguf"),
    "ncnn": (b"7767517\n3 3\nInput in0 0 1 in0\n", "ncnn"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "image"),
    "gzip": (gzip.compress(b"hello"), "archive"),
    "tar": (_tar(["weights/a.pth"]), "archive"),
    "torch-tar": (_tar(["sys_info", "pickle", "tensors", "storages"]), "torch-tar"),
    "zip": (_zip(["README.md", "weights/model.pth"]), "zip"),
    "torch-zip": (_zip(["archive/data.pkl", "archive/version"]), "torch-zip"),
    "torchscript": (_zip(["m/data.pkl", "m/code/__torch__.py", "m/constants.pkl"]), "torchscript"),
    "package": (_zip(["p/.data/version", "p/model/model.pkl"]), "torch-package"),
    "exported": (_zip(["m/archive_format", "m/models/model.json"]), "exported-program"),
    "keras": (_zip(["metadata.json", "config.json", "model.weights.h5"]), "keras"),
    "npz": (_zip(["a.npy", "b.npy"]), "numpy"),
    "npy": (_npy(), "numpy"),
    "cut-zip": (_zip(["archive/data.pkl"])[:-30], "truncated-zip"),
    "pickle-2": (pickle.dumps({"a": 1}, protocol=2), "pickle"),
    "pickle-5": (pickle.dumps({"a": 1}, protocol=5), "pickle"),
    "safetensors": (_safetensors(), "safetensors"),
    # ir_version 8, producer "pytorch", an empty graph, opset import 17.
    "onnx": (b"\x08\x08\x12\x07pytorch\x3a\x00\x42\x04\x0a\x00\x10\x11", "onnx"),
    # repeated value = 1 {tag = "w", tensor = 2 {...}}, as mindspore.save_checkpoint writes
    "mindspore": (b"\x0a\x07\x0a\x01w\x12\x02\x08\x01" * 2, "mindspore"),
    # SavedModel: schema version 1, meta graph
    "saved-model": (b"\x08\x01\x12\x03\x0a\x01x", "tensorflow"),
    "unknown": (b"\x03\x01\x00\xff" * 100, "unknown"),
}


@pytest.mark.parametrize("entry", CASES)
@pytest.mark.parametrize("suffix", [".pth", ".onnx"])
def test_kind_is_read_off_the_content(tmp_path: Path, entry: str, suffix: str) -> None:
    data, kind = CASES[entry]
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(data)
    assert kind_of(path) == kind


@pytest.mark.parametrize("entry", [entry for entry, (_, kind) in CASES.items() if kind not in READABLE])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_other_files_are_named_with_what_to_do(tmp_path: Path, entry: str, language: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(CASES[entry][0])
    with pytest.raises(CheckpointError) as caught:
        read(path)
    text = caught.value.render(language)
    assert str(path) in text
    assert "→" in text
    assert "{" not in text.replace("{key:", "").replace("{k[", "")


def test_folder_and_missing_file(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"best\.pt"):
        kind_of(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        kind_of(tmp_path / "absent.pth")


def test_importing_the_package_imports_no_torch() -> None:
    modules = "pth2om.checkpoint, pth2om.drafting.start"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_kind_has_its_sentence_in_both_languages() -> None:
    from typing import get_args

    from pth2om.checkpoint.formats import Kind
    from pth2om.language import catalogue

    sentences = catalogue("checkpoint")
    for kind in set(get_args(Kind)) - READABLE:
        entry = sentences[f"is-{kind}"]
        assert all((entry["en"], entry["zh"], entry["fix"]["en"], entry["fix"]["zh"])), kind


def test_every_sentence_the_code_names_exists() -> None:
    import re

    import pth2om
    from pth2om.language import catalogue

    package = Path(pth2om.__file__).parent
    files = [*(package / "checkpoint").glob("*.py"), *(package / "drafting").glob("*.py"), package / "cli" / "init.py"]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    named = set(re.findall(r'"((?:checkpoint|starter)\.[a-z0-9-]+)"', text))
    named |= {f"checkpoint.{name}" for name in re.findall(r'_finding\(\s*"([a-z0-9-]+)"', text)}
    named |= {f"checkpoint.misfit-{name}" for name in re.findall(r'return "([a-z-]+)", \{', text)}
    assert len(named) > 60
    for key in named - {"checkpoint.misfit-"}:
        room, _, name = key.partition(".")
        entry = catalogue(room)[name]
        assert all((entry["en"], entry["zh"])), key
