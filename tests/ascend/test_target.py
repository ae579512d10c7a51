"""The target: one reader of SoC and CANN for every face, and the parts that go into keys."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om import cli
from pth2om.ascend import parser_table
from pth2om.ascend.target import Target, soc_problem
from pth2om.ascend.versions import generation, version
from pth2om.errors import ToolchainError


@pytest.mark.parametrize(
    ("text", "release", "rules"),
    [
        ("9.x", "9.x", 9),
        ("9", "9", 9),
        (" 7.0 ", "7.0", 7),
        ("8.0.RC2.alpha001", "8.0.RC2.alpha001", 8),
        ("v8.5.0-beta.1", "8.5.0-beta.1", 8),
    ],
)
def test_versions_that_are_known(text: str, release: str, rules: int) -> None:
    assert version(text) == release
    assert generation(text) == rules


@pytest.mark.parametrize(
    "text", ["10", "10.0", "6.3.RC1", "5", "", "x", "9x", "9.", "-9", "9.x.", "9\n8", "٩.x", "1" * 90]
)
def test_other_versions_are_refused_with_one_sentence(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ToolchainError) as refused:
        Target.of("Ascend310B1", text)
    assert refused.value.message.key == "ascend.cann-version"
    assert "9.x" in str(refused.value)
    for verb in ("check", "fix", "draw"):
        with pytest.raises(SystemExit) as ended:
            cli.main([verb, "m.onnx", f"--cann={text}"])
        assert ended.value.code == 2
        assert refused.value.message.render() in capsys.readouterr().err


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{1,3}(\.[0-9a-zA-Z.-]{0,20})?", fullmatch=True))
def test_a_version_is_known_or_refused(text: str) -> None:
    try:
        release = version(text)
    except ToolchainError:
        return
    assert version(release) == release
    assert generation(release) in (7, 8, 9)


@pytest.mark.parametrize(
    ("soc", "cann", "key"),
    [
        ("", "9.x", "soc-empty"),
        ("Ascend${chip_name}", "9.x", "soc-unfilled"),
        ("Ascend{chip_name}", "9.x", "soc-unfilled"),
        ("Ascend$chip", "9.x", "soc-unfilled"),
        ("<soc_version>", "9.x", "soc-unfilled"),
        ("Ascendxxx", "9.x", "soc-unfilled"),
        ("Ascend", "9.x", "soc-unfilled"),
        ("auto", "9.x", "soc-unfilled"),
        ("Ascend310B", "9.x", "soc-close"),
        ("ascend310p3", "9.x", "soc-close"),
        ("RTX4090", "9.x", "soc-unknown"),
        ("Ascend310", "9.x", "soc-other-release"),
        ("Ascend950PR_9599", "8.0", "soc-other-release"),
        ("Ascend310B1", "9.x", None),
        ("Ascend310", "7.0", None),
    ],
)
def test_names_of_socs(soc: str, cann: str, key: str | None) -> None:
    problem = soc_problem(soc, cann)
    assert (problem.key if problem else None) == (f"ascend.{key}" if key else None)
    if key is None:
        assert Target.of(soc, cann).soc == soc
    else:
        with pytest.raises(ToolchainError) as refused:
            Target.of(soc, cann)
        assert refused.value.message == problem


def test_each_part_changes_what_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Target.of("Ascend310B1", "9.x")
    assert plain.parser == {"cann": "9.x", "packages": ""}
    assert Target.of("Ascend310B4", "9.x").compiler == plain.compiler
    assert Target.of("Ascend310B4", "9.x").digest != plain.digest
    assert Target.of("Ascend310B1", "7.0").parser != plain.parser

    operators = tmp_path / "op_impl/ai_core/tbe/config/ascend310b/aic-ascend310b-ops-info.json"
    operators.parent.mkdir(parents=True)
    operators.write_text(json.dumps({"Swirl": {"input0": {"dtype": "float"}}}))
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", str(tmp_path))
    with_kernels = Target.of("Ascend310B1", "9.x")
    assert with_kernels.parser == plain.parser
    assert with_kernels.compiler != plain.compiler
    assert Target.of("Ascend310P3", "9.x").compiler == plain.compiler
    operators.write_text(json.dumps({"Swirl": {"input0": {"dtype": "float16"}}}))
    assert Target.of("Ascend310B1", "9.x").digest != with_kernels.digest

    plugin = tmp_path / "other" / "framework" / "libcust_onnx.so"
    plugin.parent.mkdir(parents=True)
    plugin.write_bytes(b"\x7fELF\0mine::1::Swirl\0")
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", str(tmp_path / "other"))
    assert Target.of("Ascend310B1", "9.x").parser != plain.parser


def test_standard_operators_whose_answer_depends_on_the_release() -> None:
    names = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    differing = [name for name in names if status(name, "7.0") != status(name, "9.x")]
    assert len(differing) == 13
    assert "Col2Im" in differing


def status(name: str, cann: str) -> str:
    return parser_table.status("", 18, name, cann)
