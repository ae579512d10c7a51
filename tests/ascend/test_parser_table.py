"""The packaged tables: they say what the facts say, keep their sources, stay small, and read quickly."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.ascend import TABLES, kernels, make_tables, operators_page, parser_table, socs


def test_small():
    assert sum(path.stat().st_size for path in TABLES.iterdir()) < 200_000


def test_every_parser_row_has_its_source():
    table = parser_table.table()
    for name, row in table["operators"].items():
        if not row.get("unknown"):
            assert row["source"], name
            assert all(table["sources"][place] for place in row["source"])
    assert table["meta"]["date"]


@pytest.mark.parametrize(
    ("domain", "opset", "op_type", "expected"),
    [
        ("", 18, "Add", True),
        ("", 19, "Add", False),
        ("", 7, "Add", False),
        ("", 22, "AscendQuant", True),
        ("", 23, "AscendQuant", False),
        ("", 10, "Upsample", False),
        ("", 9, "Upsample", True),
        ("", 18, "ReduceL2", False),
        ("", 17, "ReduceL2", True),
        ("", 12, "GridSample", False),
        ("", 16, "GridSample", True),
        ("", 16, "LayerNormalization", False),
        ("", 17, "LayerNormalization", True),
        ("", 13, "Loop", False),
        ("", 13, "QuantizeLinear", False),
        ("npu", 1, "NPUMish", True),
        ("com.microsoft", 1, "Gelu", False),
        ("", 99, "Constant", True),
    ],
)
def test_exact_keys(domain, opset, op_type, expected):
    assert parser_table.registered(domain, opset, op_type) is expected


def test_unknown_is_said():
    assert parser_table.status("", 13, "EmbeddingBag") == "unknown"
    assert parser_table.status("", 13, "EmbeddingBag", "7.0") == "registered"
    assert parser_table.status("", 18, "Col2Im", "8.0") == "unknown"


def test_counts_of_the_standard_operators():
    """Registered of the operators that ONNX itself defines at an opset, as counted over the repositories of 2026-08."""
    names = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    counts = {9: (119, 123), 11: (142, 154), 13: (147, 160), 15: (151, 167), 17: (153, 176), 18: (157, 183)}
    for opset, (registered, existing) in counts.items():
        there = [name for name in names if defined(name, opset)]
        assert (sum(parser_table.registered("", opset, name) for name in there), len(there)) == (registered, existing)


def defined(name, opset):
    try:
        return not onnx.defs.get_schema(name, opset, "").deprecated
    except onnx.defs.SchemaError:
        return False


@pytest.mark.parametrize("language", ["en", "zh"])
def test_page_of_operators_is_up_to_date(language, repository):
    path = repository / "docs" / ("operators.zh.md" if language == "zh" else "operators.md")
    wanted = operators_page.render(language)
    assert path.read_text(encoding="utf-8") == wanted, "run python -m pth2om.ascend.operators_page docs"


def test_socs():
    assert len(socs.table()["socs"]) == 69
    chip = socs.find("Ascend310B1")
    assert chip is not None
    assert (chip.family, chip.fp16_tflops) == ("ascend310b", 10.03)
    assert socs.find("Ascend910B").family == "ascend910"
    assert socs.find("Ascend910B2").family == "ascend910b"
    assert socs.find("Nothing") is None
    assert socs.suggestions("ascend310b1")[0] == "Ascend310B1"


def test_kernels():
    table = kernels.Kernels("ascend310b")
    assert table.look_up("SelectV2").verdict == "core"
    assert "float16" in table.look_up("SelectV2").dtypes
    assert table.look_up("AvgPool3D").verdict == "none"
    assert table.look_up("NeverHeardOf").verdict == "unknown"
    assert kernels.Kernels(None).look_up("SelectV2").verdict == "unknown"


def test_an_installed_library_knows_best(tmp_path, monkeypatch):
    place = tmp_path / "opp" / "built-in" / "op_impl" / "ai_core" / "tbe" / "config" / "ascend310b"
    place.mkdir(parents=True)
    info = {"AvgPool3D": {"input0": {"name": "x", "dtype": "float16,float"}}, "Bad": 1}
    (place / "aic-ascend310b-ops-info.json").write_text(json.dumps(info))
    monkeypatch.setenv("ASCEND_OPP_PATH", str(tmp_path / "opp"))
    found = kernels.Kernels.of("ascend310b")
    assert found.look_up("AvgPool3D").verdict == "core"
    assert found.look_up("AvgPool3D").dtypes == {"float16", "float32"}
    # The installed library lists what it has; what it leaves out is not claimed from the tables.
    assert found.look_up("SelectV2").verdict == "unknown"


def test_a_vendor_package_adds_its_operators(tmp_path, monkeypatch):
    place = tmp_path / "vendors" / "customize" / "op_impl" / "ai_core" / "tbe" / "config" / "ascend910b"
    place.mkdir(parents=True)
    info = {"ScatterMaxV3": {"input0": {"name": "x", "dtype": "float"}}}
    (place / "aic-ascend910b-ops-info.json").write_text(json.dumps(info))
    (tmp_path / "broken" / "op_impl" / "ai_core" / "tbe" / "config" / "ascend910b").mkdir(parents=True)
    (tmp_path / "broken" / "op_impl/ai_core/tbe/config/ascend910b/aic-ascend910b-ops-info.json").write_text("{")
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", f"{tmp_path}:{tmp_path / 'broken'}:{tmp_path / 'absent'}")
    found = kernels.Kernels.of("ascend910b")
    assert found.look_up("ScatterMaxV3").verdict == "core"
    assert found.look_up("SelectV2").verdict == "core"
    assert kernels.Kernels.of("ascend310b").look_up("ScatterMaxV3").verdict == "unknown"


def test_an_installed_plugin_registers_its_keys(tmp_path, monkeypatch):
    place = tmp_path / "vendors" / "customize" / "framework" / "onnx"
    place.mkdir(parents=True)
    (place / "libcust_onnx.so").write_bytes(b"\x7fELF\0mydomain::1::Swirl\0ai.onnx::19::Add\0" + bytes(64))
    assert parser_table.status("mydomain", 1, "Swirl") == "missing"
    monkeypatch.setenv("ASCEND_OPP_PATH", str(tmp_path))
    assert parser_table.registered("mydomain", 1, "Swirl")
    assert parser_table.registered("", 19, "Add")
    assert not parser_table.registered("", 20, "Add")
    monkeypatch.delenv("ASCEND_OPP_PATH")
    monkeypatch.setenv("ASCEND_CUSTOM_OPP_PATH", str(tmp_path / "vendors" / "customize"))
    assert parser_table.registered("mydomain", 1, "Swirl")


@given(st.lists(st.integers(0, 40)))
def test_packing(numbers):
    assert parser_table.unpack(parser_table.pack(numbers)) == tuple(sorted(set(numbers)))


def test_tables_are_those_of_the_facts(data_root, tmp_path):
    facts = Path(data_root).parent / "facts"
    if not (facts / "onnx_op_support.json").is_file():
        pytest.skip("the facts the tables are made from are absent")
    make_tables.main([str(facts), "--to", str(tmp_path)])
    for path in sorted(TABLES.iterdir()):
        made = tmp_path / path.name
        if path.suffix == ".gz":
            import gzip

            assert gzip.decompress(made.read_bytes()) == gzip.decompress(path.read_bytes())
        else:
            assert made.read_bytes() == path.read_bytes()
