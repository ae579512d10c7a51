"""Every SoC name has one family row, every row is reachable, and the rows agree with the platform files."""

from __future__ import annotations

import numpy as np
import pytest

from pth2om.aipp.arithmetic import rounds_to_nearest
from pth2om.ascend import families, kernels, socs
from pth2om.ascend.operators_page import FAMILIES as COLUMNS
from pth2om.errors import ToolchainError
from pth2om.toolchain.emulator.front_end import products
from pth2om.toolchain.emulator.numerics.modes import Policy

EVERY_NAME = sorted({*socs.table()["socs"], *socs.table()["aliases"], *socs.OLD_NAMES})


def test_names_of_all_releases_are_in_the_table() -> None:
    for cann in ("7.0", "8.0", "9.x"):
        assert set(socs.names(cann)) <= set(EVERY_NAME)


def test_every_name_has_one_family_and_every_family_a_name() -> None:
    reached = {families.family(name).key for name in EVERY_NAME}
    assert reached == set(families.FAMILIES)
    assert len({row.name for row in families.FAMILIES.values()}) == len(families.FAMILIES)


@pytest.mark.parametrize("name", EVERY_NAME)
def test_everyone_who_asks_gets_the_same_row(name: str) -> None:
    row = families.family(name)
    assert Policy.of("", name).family is row
    assert rounds_to_nearest(name) == (row.key == "ascend950")
    chip = socs.find(name)
    assert chip is not None
    assert chip.family == row.key


def test_rows_agree_with_the_platform_files() -> None:
    for name, entry in socs.table()["socs"].items():
        row = families.family(name)
        assert entry.get("cube_fp32", row.cube_fp32) == row.cube_fp32, name
        assert entry.get("cube_bf16", row.cube_bf16) == row.cube_bf16, name


def test_other_tables_use_the_same_keys() -> None:
    operators = kernels.table()["operators"].values()
    for table in ("core", "supported"):
        assert {key for row in operators for key in row.get(table, ())} <= set(families.FAMILIES)
    assert {key for key, _ in COLUMNS} <= set(families.FAMILIES)
    assert {key for _, keys in products.ONLY for key in keys} <= set(families.FAMILIES)


@pytest.mark.parametrize("name", ["Ascend910_9589", "Ascend910_9599", "AS31XM1", "ascend310b1", "Ascend", ""])
def test_a_name_outside_the_table_has_no_family(name: str) -> None:
    assert families.find(name) is None
    with pytest.raises(ToolchainError, match="Ascend310P"):
        families.family(name)


def test_scales_are_kept_as_each_family_keeps_them() -> None:
    scale = np.asarray([1.0009765, 3.1415927e-4, 2.0**-30], np.float32)
    kept = {row.scale: row.kept_scale(scale) for row in families.FAMILIES.values()}
    assert np.array_equal(kept["float32"], scale)
    assert np.array_equal(kept["float16"], scale.astype(np.float16).astype(np.float32))
    assert np.all(kept["s19"].view(np.uint32) & np.uint32(0x1FFF) == 0)
    assert np.all((kept["s19"] <= scale) & (kept["s19"] > scale * (1 - 2.0**-10)))
