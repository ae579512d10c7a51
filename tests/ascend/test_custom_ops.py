"""Operator packages are read as they lie; what a model declares is registered for that model only."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from pth2om.ascend import parser_table
from pth2om.ascend.custom_ops import Operators, find
from pth2om.ascend.kernels import Kernels
from pth2om.ascend.operator_package import read_package
from pth2om.ascend.target import Target
from pth2om.errors import SpecError, ToolchainError
from pth2om.spec.custom_ops import CustomOp

MSDA = "MultiScaleDeformableAttn"
INFO = {
    MSDA: {
        "input0": {"name": "value", "dtype": "float", "paramType": "required"},
        "input1": {"name": "value_spatial_shapes", "dtype": "int32,int64"},
        "output0": {"name": "output", "dtype": "float32"},
        "opFile": {"value": "multi_scale_deformable_attn"},
    },
    "Broken": 3,
}
PLACE = "mx_driving/packages/vendors/customize"


def files(*, plugin: bool = True, proto: bool = True) -> dict[str, bytes]:
    found = {
        f"{PLACE}/op_impl/ai_core/tbe/config/ascend910b/aic-ascend910b-ops-info.json": json.dumps(INFO).encode(),
        f"{PLACE}/op_impl/ai_core/tbe/config/ascend310p/aic-ascend910b-ops-info.json": b"{}",  # of another family
        f"{PLACE}/version.info": b"custom_opp_compiler_version=8.5.0\n",
        "mx_driving/_C.so": b"npu::1::NotAPlugin",
    }
    if plugin:
        found[f"{PLACE}/framework/onnx/libcust_onnx_parsers.so"] = b"\0npu::1::%s\0ai.onnx::11::%s\0" % (
            MSDA.encode(),
            MSDA.encode(),
        )
    if proto:
        found[f"{PLACE}/op_proto/lib/linux/x86_64/libcust_opsproto_rt2.0.so"] = b"\0"
    return found


def as_folder(folder: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def as_wheel(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def test_a_wheel_and_a_folder_say_the_same(tmp_path: Path) -> None:
    wheel = read_package(as_wheel(tmp_path / "mx_driving.whl", files()))
    folder = read_package(as_folder(tmp_path / "site", files()))
    assert wheel.digest == folder.digest
    for package in (wheel, folder):
        assert package.families(MSDA) == ("ascend910b",)
        assert package.keys == {f"npu::1::{MSDA}", f"ai.onnx::11::{MSDA}"}
        assert (package.has_plugin, package.has_proto, package.version) == (True, True, "8.5.0")
        ports = package.operator(MSDA)
        assert ports is not None
        assert [(port.name, port.dtypes) for port in ports.inputs] == [
            ("value", ("float32",)),
            ("value_spatial_shapes", ("int32", "int64")),
        ]
        assert package.operator("Broken") is None


def test_what_is_missing_is_seen(tmp_path: Path) -> None:
    package = read_package(as_wheel(tmp_path / "w.whl", files(plugin=False, proto=False)))
    assert (package.has_plugin, package.has_proto, package.keys) == (False, False, frozenset())


@pytest.mark.parametrize(
    ("name", "data", "key"),
    [
        ("absent", None, "package-absent"),
        ("empty.whl", b"PK\x05\x06" + b"\0" * 18, "package-empty"),
        ("torn.whl", b"PK\x03\x04 nothing", "package-kind"),
        ("text.run", b"#!/bin/sh", "package-kind"),
        ("n\0ul", None, "package-absent"),
    ],
)
def test_no_package_is_a_sentence(tmp_path: Path, name: str, data: bytes | None, key: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ToolchainError) as caught:
        read_package(tmp_path / name)
    assert caught.value.message.key == f"ascend.{key}"


def msda() -> CustomOp:
    found = find("npu", MSDA)
    assert found is not None
    return found


def test_declared_operators_are_registered_inside_the_block_only() -> None:
    def state() -> list[str]:
        return [parser_table.status(domain, opset, MSDA) for domain, opset in (("npu", 1), ("", 13), ("", 14))]

    assert state() == ["missing"] * 3
    with Operators((msda(),)).known():
        assert state() == ["registered", "registered", "missing"]
        assert Kernels.of("ascend910b").look_up(MSDA).dtypes == {"float32", "int32"}
        assert Kernels.of("ascend310b").look_up(MSDA).verdict == "unknown"
        with Operators().known():
            assert state() == ["missing"] * 3
    assert state() == ["missing"] * 3


def test_the_package_counts_before_the_declaration(tmp_path: Path) -> None:
    package = read_package(as_folder(tmp_path, files()))
    operators = Operators((msda(),), {msda().label: package})
    with operators.known():
        assert parser_table.status("", 11, MSDA) == "registered"
        assert parser_table.status("", 13, MSDA) == "missing"
        assert Kernels.of("ascend910b").look_up(MSDA).dtypes == {"float32", "int32", "int64"}
    assert operators.digest != Operators((msda(),)).digest


def test_only_models_with_custom_operators_have_them_in_their_keys() -> None:
    assert "operators" not in Target("Ascend910B2").compiler
    keys = {Target("Ascend910B2", operators=Operators((entry,))).digest for entry in (msda(), other())}
    assert len(keys) == 2


def other() -> CustomOp:
    return msda().model_copy(update={"version": 2})


def test_a_short_declaration_is_completed_by_the_one_that_comes_along() -> None:
    short = CustomOp(domain="npu", op_type=MSDA, body="mine.py:f", version=3)
    (full,) = Operators.of([short]).declared
    assert (full.inputs, full.body, full.version) == (msda().inputs, "mine.py:f", 3)
    with pytest.raises(SpecError, match="acme::Gate has no inputs"):
        Operators.of([CustomOp(domain="acme", op_type="Gate")])
