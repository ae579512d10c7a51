"""Each row of the table of errors raises its code here, in ATC's form, with status 255; the pages are up to date."""

from __future__ import annotations

import pytest

from pth2om.toolchain.emulator.front_end import run_atc
from tests.toolchain import atc_error_cases as table


@pytest.mark.parametrize("row", table.CASES, ids=lambda row: f"{row.code}-{row.en.replace(' ', '_')[:40]}")
def test_row_raises_its_code(row, tmp_path):
    table.write_model(row.model, tmp_path / "model.onnx")
    for name, text in row.files:
        (tmp_path / name).write_text(text, encoding="utf-8")
    before = {path.name for path in tmp_path.iterdir()}
    result = run_atc(row.words, cann=row.cann, cwd=tmp_path)
    assert result.status == 255
    assert result.errors, result.text
    headline = next((code for code, _ in result.errors if code != "E19999"), "E19999")
    assert headline == row.code, result.text
    lines = result.text.splitlines()
    assert lines[0] == "ATC start working now, please wait for a moment."
    assert any(line.startswith("ATC run failed, ") for line in lines)
    assert any(line.startswith("pth2om: ") for line in lines), "no word on what to do"
    assert any(line.startswith("  → ") for line in lines)
    assert {path.name for path in tmp_path.iterdir()} - before <= {"check_result.json"}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_pages_are_up_to_date(language):
    path = table.pages()[language]
    assert path.read_text(encoding="utf-8") == table.render(language), "run python tests/toolchain/atc_error_cases.py"


def test_every_code_of_the_front_end_has_a_row():
    from pth2om.toolchain.emulator.front_end.texts import TEXTS

    # E10024 needs a file nobody may read (root may); E10037, E10038 cannot pass ATC's own flag checks;
    # E10059, E10410, E10501 and E13014 belong to steps that are not emulated.
    never = {"E10024", "E10037", "E10038", "E10059", "E10410", "E10501", "E13014"}
    assert set(TEXTS) - never == {case.code for case in table.CASES} - {"E19010", "EE1001"}


def test_general_advice_is_in_both_languages():
    from pth2om.toolchain.emulator.front_end.texts import TEXTS, failure

    for code in TEXTS:
        advice = failure(code).advice
        for language in ("en", "zh"):
            assert advice is None or (advice.render(language) and advice.fix(language)), code
