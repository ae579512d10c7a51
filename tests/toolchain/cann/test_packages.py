"""Operator packages go to the compile, whatever they were delivered as."""

from __future__ import annotations

import stat
import zipfile
from dataclasses import replace

import pytest

from pth2om.ascend.custom_ops import Operators
from pth2om.ascend.operator_package import OperatorPackage
from pth2om.errors import ToolchainError
from pth2om.toolchain.cann import CannToolchain
from pth2om.toolchain.cann.packages import vendor_folders
from tests.toolchain.cann.conftest import OPTIONS, write_model

FILES = ("op_impl/ai_core/tbe/config/a.json", "op_proto/lib.so", "framework/onnx/p.so")


def package(folder):
    for name in FILES:
        path = folder / "mx_driving/packages/vendors/customize" / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    return folder


@pytest.mark.parametrize("kind", ["folder", "vendor", "wheel"])
def test_the_vendor_folder_is_found(tmp_path, kind) -> None:
    root = package(tmp_path / "p")
    path = {"folder": root, "vendor": root / "mx_driving/packages/vendors/customize"}.get(kind)
    if path is None:
        path = tmp_path / "mx_driving-1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(root.rglob("*")):
                archive.write(file, file.relative_to(root))
    (found,) = vendor_folders([path, path], tmp_path / "scratch")
    assert all((found / name).read_text() == name for name in FILES)


def test_a_wheel_whose_names_lead_out_is_refused(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.whl", "w") as archive:
        archive.writestr("../op_impl/x", "x")
    with pytest.raises(ToolchainError):
        vendor_folders([tmp_path / "bad.whl"], tmp_path / "scratch")
    assert not (tmp_path / "op_impl").exists()


def test_atc_gets_the_packages_of_the_model(machine, toolchain, tmp_path, monkeypatch) -> None:
    """A program in atc's place prints what it was given."""
    atc = machine.toolkit / "bin/atc"
    before = atc.read_bytes()
    where = '"$ASCEND_CUSTOM_OPP_PATH"'
    atc.write_text(f"#!/bin/sh\ncat {where}/op_proto/lib.so\necho E10001: $ASCEND_CUSTOM_OPP_PATH\nexit 255\n")
    atc.chmod(atc.stat().st_mode | stat.S_IXUSR)
    try:
        held = OperatorPackage(package(tmp_path / "p"), digest="d")
        target = replace(toolchain.target, operators=Operators(packages={"a::B": held}))
        other = CannToolchain(target, limits=toolchain.limits)
        with pytest.raises(ToolchainError, match=r"op_proto/lib\.so.*package-0"):
            other.compile(write_model(tmp_path / "m.onnx"), OPTIONS, tmp_path)
    finally:
        atc.write_bytes(before)
