"""Every recorded form of ``npu-smi`` is read; the texts are in ``tests/doubles/cann/npu_smi``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.toolchain.cann.agent import smi
from pth2om.toolchain.cann.agent.processes import remaining

FORMS = Path(__file__).parents[1] / "doubles/cann/npu_smi"

# npu, chip, device, name, health, power, temperature, used and total MB (of HBM where the device has it)
Row = tuple[int, int, int | None, str, str, float | None, float | None, int | None, int | None]
TABLES: dict[str, list[Row]] = {
    "310b4-orangepi-8g": [(0, 0, 0, "310B4", "Alarm", 0.0, 58, 2500, 7545)],
    "310b4-orangepi-16g": [(0, 0, 0, "310B4", "Alarm", 0.0, 61, 3628, 15609)],
    "310b4-200i-dk-a2": [(0, 0, 0, "310B4", "OK", 7.7, 54, 2166, 3513)],
    "310b4-25.0": [(0, 0, 0, "310B4", "OK", 8.1, 49, 1331, 3514)],
    "310b1-20t": [(0, 0, 0, "310B1", "OK", 9.2, 53, 3841, 11577)],
    "310b1-busy": [(0, 0, 0, "310B1", "OK", 12.4, 66, 9120, 11577)],
    "310b-bare-name": [(0, 0, 0, "310B", "OK", 7.9, 50, 1003, 10810)],
    "310b4-power-dash": [(0, 0, 0, "310B4", "OK", None, 51, 2100, 7545)],
    "310b4-power-na": [(0, 0, 0, "310B4", "OK", None, 51, 2100, 7545)],
    "310b4-critical": [(0, 0, 0, "310B4", "Critical", 0.0, 98, 2500, 7545)],
    "310b4-unknown-health": [(0, 0, 0, "310B4", "UNKNOWN", None, None, None, None)],
    "310-200dk": [(0, 0, 0, "310", "OK", 8.0, 45, 2457, 8192)],
    "310p3-single": [(0, 0, 0, "310P3", "OK", 16.5, 56, 929, 21534)],
    "310p3-duo": [
        (32, 0, 2, "310P3", "OK", None, 43, 1497, 44278),
        (32, 1, 3, "310P3", "OK", None, 42, 1298, 43693),
    ],
    "310p3-two-duo": [
        (24, 0, 0, "310P3", "OK", None, 43, 1497, 44278),
        (24, 1, 1, "310P3", "OK", None, 42, 1298, 43693),
        (32, 0, 2, "310P3", "OK", None, 43, 1497, 44278),
        (32, 1, 3, "310P3", "OK", None, 42, 1298, 43693),
    ],
    "310p3-high-ids": [
        (32768, 0, 0, "310P3", "OK", 16.5, 56, 929, 21534),
        (32800, 0, 1, "310P3", "OK", 17.0, 57, 929, 21534),
    ],
    "310p1": [(8, 0, 0, "310P1", "Warning", 20.1, 70, 5000, 21534)],
    "910b4-hbm": [(0, 0, None, "910B4", "OK", 88.2, 30, 26838, 32768)],
    "910b-bare-name": [(0, 0, None, "910B", "OK", 66.9, 36, 0, 32768)],
    "910b3-eight": [(n, 0, None, "910B3", "OK", float(f"9{n}.1"), 40 + n, 3365, 65536) for n in range(8)],
    "910b2c": [(0, 0, None, "910B2C", "OK", 93.0, 41, 3363, 65536)],
    "910-phy-id": [
        (0, 0, 0, "910B3", "OK", 95.5, 39, 3365, 65536),
        (1, 0, 1, "910B3", "OK", 93.2, 38, 3364, 65536),
    ],
    "a3-phy-id": [
        (0, 0, 0, "Ascend910", "OK", 178.3, 37, 3123, 65536),
        (0, 1, 1, "Ascend910", "OK", None, 37, 2889, 65536),
    ],
    "910a-training": [(0, 0, None, "910A", "OK", 68.5, 43, 0, 32768)],
    "unusable-npu": [],
    "one-unusable-one-good": [(1, 0, 0, "310P3", "OK", 16.5, 56, 929, 21534)],
    "no-device": [],
    "driver-not-loaded": [],
    "no-library": [],
}


def text_of(name: str) -> str:
    return (FORMS / f"{name}.txt").read_text()


def row_of(chip: dict[str, Any]) -> Row:
    memory = ("hbm_used_mb", "hbm_mb") if "hbm_mb" in chip else ("memory_used_mb", "memory_mb")
    keys = ("npu", "chip", "device", "name", "health", "power_w", "temperature_c", *memory)
    return tuple(chip.get(key) for key in keys)


def test_the_corpus_is_whole() -> None:
    tables = {path.stem for path in FORMS.glob("*.txt") if not path.stem.startswith(("map-", "board-"))}
    assert tables == set(TABLES)
    assert len(TABLES) >= 25


@pytest.mark.parametrize("name", TABLES)
def test_every_form_is_read(name: str) -> None:
    assert [row_of(chip) for chip in smi.table(text_of(name))["chips"]] == TABLES[name]


def test_processes_and_versions_are_read() -> None:
    busy = smi.table(text_of("310b1-busy"))
    assert busy["processes"] == [{"npu": 0, "chip": 0, "pid": 1893, "name": "python3", "mb": 412}]
    assert busy["chips"][0]["aicore_percent"] == 97
    assert smi.table(text_of("910-phy-id"))["version"] == "24.1.rc3.7"
    assert smi.table(text_of("910b-bare-name"))["chips"][0]["memory_mb"] == 15137


def test_an_npu_of_minus_one_is_unusable_and_none_of_the_chips() -> None:
    found = smi.table(text_of("one-unusable-one-good"))
    assert found["unusable"] == ["310P3"]
    assert [chip["npu"] for chip in found["chips"]] == [1]
    assert smi.mapping(text_of("map-unusable")) == []


def test_rows_of_the_mcu_are_no_chips() -> None:
    assert smi.mapping(text_of("map-310b1")) == [{"npu": 0, "chip": 0, "logic": 0, "name": "Ascend 310B1"}]
    assert [row["logic"] for row in smi.mapping(text_of("map-duo"))] == [0, 1]


@pytest.mark.parametrize(
    ("name", "soc"),
    [("board-310b1", "Ascend310B1"), ("board-a3", "Ascend910_9391"), ("board-mcu", ""), ("board-masked", "")],
)
def test_the_boards_record_names_the_soc(name: str, soc: str) -> None:
    assert smi.soc_of_board(smi.board(text_of(name))) == soc


@pytest.mark.parametrize(
    ("name", "soc"),
    [
        ("310B4", "Ascend310B4"),
        ("Ascend 310P3", "Ascend310P3"),
        ("910B2C", "Ascend910B2C"),
        ("910A", "Ascend910A"),
        ("310", "Ascend310"),
        ("310B", ""),  # the suffix must come from elsewhere
        ("910B", ""),
        ("Ascend910", ""),
    ],
)
def test_a_bare_name_is_no_soc(name: str, soc: str) -> None:
    assert smi.soc_of_name(name) == soc


@given(st.text(max_size=400))
def test_any_text_is_read_without_a_failure(text: str) -> None:
    smi.table(text)
    smi.mapping(text)
    smi.board(text)


@given(st.sampled_from([name for name, rows in TABLES.items() if rows]), st.integers(0, 4000))
def test_a_cut_table_never_invents_a_chip(name: str, length: int) -> None:
    whole, cut = smi.table(text_of(name)), smi.table(text_of(name)[:length])
    assert [chip["npu"] for chip in cut["chips"]] == [chip["npu"] for chip in whole["chips"]][: len(cut["chips"])]


WEIRD = {
    "endless": ("yes '| 0     310B4           | OK            | 1.0 | 40 |'", "status", "SIGKILL"),
    "binary": ("head -c 200000 /dev/urandom", "empty", ""),
    "escapes": ("printf '\\033[31m| 0 310B4 | OK |\\033]0;x\\007'", "empty", ""),
    "status": ("echo oops >&2; exit 7", "status", "7: oops"),
    "signal": ("kill -SEGV $$", "status", "SIGSEGV: -"),
    "hang": ("sleep 300", "hang", "0.7 s"),
    "deaf": ("trap '' TERM INT; sleep 300", "hang", "0.7 s"),
    "helper": ("sleep 300 & echo done", "hang", "0.7 s"),
    "input": ("read x; echo $x", "empty", ""),
}


@pytest.mark.parametrize("name", WEIRD)
def test_a_program_that_does_something_else_is_named_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    script, error, reason = WEIRD[name]
    (tmp_path / "npu-smi").write_text(f"#!/bin/bash\n{script}\n")
    (tmp_path / "npu-smi").chmod(0o755)
    begun = time.monotonic()
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PTH2OM_MARK": str(tmp_path)}
    found = smi.readings(environment, limit=0.7)
    assert found["error"] == error, found
    assert str(found.get("reason", "")).startswith(reason)
    assert time.monotonic() - begun < 5
    assert remaining("PTH2OM_MARK", str(tmp_path), 2.0) == []
