"""``pth2om fix`` and ``pth2om draw`` on hand-made and on real awkward files."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import onnx
import pytest

from pth2om.cli import main
from pth2om.errors import GraphError
from pth2om.graph import fixing
from pth2om.graph.contract import PassSettings
from pth2om.graph.document import Document
from pth2om.graph.fixing import fix
from pth2om.graph.layout import place
from pth2om.graph.passes import ORDER
from pth2om.graph.picture import picture
from pth2om.graph.surgery import types
from pth2om.language import catalogue
from pth2om.preflight import check

TEXT = """agraph (float[1,4,8,8] x) => (float[1,4,8,8] y) {
    c = Constant<value_float = -1000000000.0>()
    m = Less(x, x)
    a = Where(m, c, x)
    g = Gelu(a)
    y = Softmax<axis = -1>(g)
}"""


@pytest.fixture
def awkward(bench, tmp_path) -> Path:
    path = tmp_path / "awkward.onnx"
    path.write_bytes(bench.parse(TEXT, opset=20, ir=9).SerializeToString())
    return path


def run(*words: str) -> int:
    try:
        return main(list(words))
    except SystemExit as stop:  # argparse
        return int(stop.code or 0)


# --- fix ------------------------------------------------------------------------------------------------------------


def test_fix_mends_what_preflight_finds(bench, awkward, capsys):
    before = awkward.read_bytes()
    assert any(finding.severity == "error" for finding in check(awkward, soc="Ascend310B1"))
    made = awkward.with_name("mended.onnx")
    assert run("fix", str(awkward), "-o", str(made), "--soc", "Ascend310B1") == 0
    said = capsys.readouterr().out
    assert "Gelu" in said
    assert "proven" in said
    assert awkward.read_bytes() == before
    assert not [finding for finding in check(made, soc="Ascend310B1") if finding.severity == "error"]
    x = np.random.default_rng(3).standard_normal((1, 4, 8, 8))
    np.testing.assert_allclose(
        bench.answer(onnx.load(made), x=x)[0], bench.answer(onnx.load(awkward), x=x)[0], rtol=1e-5, atol=1e-6
    )
    assert sorted(path.name for path in awkward.parent.iterdir()) == ["awkward.onnx", "mended.onnx"]


def test_fix_exit_status_1_while_errors_remain(bench, tmp_path, capsys):
    path = tmp_path / "a.onnx"
    text = "agraph (float[2] x) => (float[2] y) { y = own.Thing(x) }"
    path.write_bytes(bench.parse(text, imports=', "own" : 1').SerializeToString())
    assert run("fix", str(path)) == 1
    assert "own::Thing" in capsys.readouterr().out
    assert (tmp_path / "a.fixed.onnx").is_file()


def test_fix_never_overwrites_unasked(awkward, capsys):
    made = awkward.with_name("b.onnx")
    made.write_bytes(b"mine")
    assert run("fix", str(awkward), "-o", str(made)) == 1
    assert made.read_bytes() == b"mine"
    assert run("fix", str(awkward), "-o", str(awkward), "--force") == 1
    assert run("fix", str(awkward), "-o", str(made), "--force") == 0
    assert run("fix", str(awkward), "-o", str(awkward.parent / "no" / "b.onnx")) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("--pass", "simplyfy"),
        ("--skip", "nope"),
        ("--input-shape", "x:1,a"),
        ("--input-shape", "x"),
        ("--input-shape", "z:1,2"),
        ("--outputs", "zzz"),
        ("--soc", "Ascend999"),
        ("--cann", "newest"),
        ("--opset", "99"),
        (),
    ],
)
def test_fix_says_mistakes(tmp_path, awkward, words, capsys):
    target = [str(awkward)] if words else []
    assert run("fix", *target, "-o", str(tmp_path / "o.onnx"), *words) in (1, 2)
    said = capsys.readouterr()
    assert said.err.strip() or "Ascend999" in said.out
    assert "Traceback" not in said.err


def test_fix_runs_only_the_passes_asked(awkward):
    made = awkward.with_name("c.onnx")
    fixed = fix(awkward, made, settings=PassSettings(), names=["constant-value"])
    assert fixed.cleaned.applied == ("constant-value",)
    assert fixed.names == ("constant-value",)
    skipped = fix(awkward, made, settings=PassSettings(), skip=["decompose", "downconvert"], force=True)
    assert {"decompose", "downconvert"}.isdisjoint(skipped.names)


def test_fix_json_and_list(awkward, capsys):
    assert run("fix", str(awkward), "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["opset"] == [20, 17]
    assert run("fix", "--list") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ORDER)


def test_every_pass_that_preflight_names_is_there():
    named = set()
    for room in ("preflight", "atc"):
        for entry in catalogue(room).values():
            remedy = entry.get("fix", {}).get("en", "") if isinstance(entry, dict) else ""
            for match in fixing._NAMED.finditer(remedy):
                named |= set(match[1].strip(",").split(","))
    assert named, "the remedies name no pass at all?"
    assert named <= set(ORDER)


HARD = {
    "Lanenet_my_improve_4_batch_8.onnx": {"simplify"},
    "ascend_parser_onnx_const_type.onnx": set(),
    "ascend_parser_onnx_if_const_intput.onnx": {"unique-names"},
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": {"unique-names"},
    "ncnn_3d_net.pnnx.onnx": {"ir-version", "domains"},
    "polygraphy_bad_graph_with_duplicate_node_names.onnx": {"unique-names"},
    "polygraphy_ext_weights.onnx": None,
    "polygraphy_sparse.conv.onnx": set(),
    "polygraphy_unsorted.onnx": {"simplify"},
    "rknn_dual_residual_customop.onnx": {"opset-imports"},
    "tract_gather_block_quantized.onnx": {"opset-imports"},
    "ultraface_RFB-320.onnx": {"unique-names"},
}
"""What has to be mended in each file at least; None: it cannot be read, and is said to be."""


def test_hard_files(data_root, tmp_path):
    """No traceback, every change proven or said not to be, nothing but the result left behind."""
    files = sorted((data_root / "onnx_hard").glob("*.onnx"))
    assert len(files) >= 31
    unreadable = set()
    for source in files:
        made = tmp_path / source.name
        try:
            fixed = fix(source, made, settings=PassSettings(simplifier="onnxslim", time_limit=60), soc="Ascend310B1")
        except GraphError:
            unreadable.add(source.name)
            continue
        assert (HARD.get(source.name) or set()) <= set(fixed.cleaned.applied), source.name
        rules = {finding.rule for finding in fixed.cleaned.findings}
        assert "graph.failed" not in rules, [str(finding.message) for finding in fixed.cleaned.findings]
        unproven = [entry for entry in fixed.cleaned.details if not entry["proven"]]
        assert not unproven or "graph.not-proven" in rules
        errors = [sum(item.severity == "error" for item in found) for found in (fixed.before, fixed.after)]
        # Without an opset no operator could be looked up at all: mended, the file shows what else it has.
        assert errors[1] <= errors[0] or source.name == "ncnn_3d_net.pnnx.onnx"
        assert made.is_file()
        made.unlink()
    assert not list(tmp_path.iterdir())
    assert unreadable == {name for name, expected in HARD.items() if expected is None}


# --- draw -----------------------------------------------------------------------------------------------------------


def test_draw_marks_findings(awkward, capsys):
    made = awkward.with_suffix(".svg")
    assert run("draw", str(awkward), "--soc", "Ascend310B1", "--layout", "own") == 0
    assert "pth2om" in capsys.readouterr().out
    root = ElementTree.parse(made).getroot()
    space = "{http://www.w3.org/2000/svg}"
    groups = list(root.iter(f"{space}g"))
    assert [group.get("class") for group in groups].count("input") == 1
    marked = [group for group in groups if group.get("data-severity") == "error"]
    assert any("Gelu" in "".join(group.itertext()) for group in marked)


def test_boxes_of_a_row_do_not_overlap(bench):
    body = " ".join(f"a{i} = Relu(x) b{i} = Abs(a{i})" for i in range(9))
    model = bench.parse(f"agraph (float[2] x) => (float[18] y) {{ {body} y = Concat<axis = 0>({', '.join(f'a{i}, b{i}' for i in range(9))}) }}")  # fmt: skip  # noqa: E501
    document = Document.of(model)
    made = picture(document, types(document), (), title="t", limit=99)
    assert place(made, "own") == "pth2om"
    boxes = list(made.boxes.values())
    for one in boxes:
        for other in boxes:
            if one is not other and abs(one.y - other.y) < 1:
                assert abs(one.x - other.x) >= (one.width + other.width) / 2
    for source, target, _ in made.arrows:
        assert made.boxes[source].y < made.boxes[target].y


def test_a_broken_dot_is_passed_over(bench, monkeypatch):
    from pth2om.graph import layout

    document = Document.of(bench.parse("agraph (float[2] x) => (float[2] y) { y = Relu(x) }"))
    made = picture(document, types(document), (), title="t", limit=99)
    monkeypatch.setattr(layout.shutil, "which", lambda _name: sys.executable)
    assert place(made, "dot") == "pth2om"


def test_large_graphs_are_bounded(bench, tmp_path, capsys):
    body = " ".join(f"a{i + 1} = Relu(a{i})" for i in range(40))
    path = tmp_path / "long.onnx"
    path.write_bytes(bench.parse(f"agraph (float[2] a0) => (float[2] a40) {{ {body} }}").SerializeToString())
    assert run("draw", str(path), "--limit", "10") == 0
    assert "10 of 40" in capsys.readouterr().out
    assert "30 more nodes" in path.with_suffix(".svg").read_text(encoding="utf-8")


def test_names_cannot_break_the_picture(bench, tmp_path):
    model = bench.parse("agraph (float[2] x) => (float[2] y) { y = Relu(x) }")
    model.graph.node[0].name = '<script>alert("&")</script>\x01'
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    assert run("draw", str(path)) == 0
    text = path.with_suffix(".svg").read_text(encoding="utf-8")
    assert "<script" not in text
    ElementTree.fromstring(text)


def test_draw_hard_files(data_root, tmp_path, capsys):
    for source in sorted((data_root / "onnx_hard").glob("*.onnx")):
        made = tmp_path / "a.svg"
        status = run("draw", str(source), "-o", str(made), "--layout", "own")
        assert status == 0 or source.name == "polygraphy_ext_weights.onnx"
        if not status:
            ElementTree.parse(made)
    assert "Traceback" not in capsys.readouterr().err


def test_netron_absent_is_said(awkward, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "netron", None)
    assert run("draw", str(awkward), "--netron") == 1
    assert "pth2om[draw]" in capsys.readouterr().err


def test_help_is_light():
    code = "import sys; from pth2om.cli import main\ntry: main(['fix', '--help'])\nexcept SystemExit: pass\nassert 'onnx' not in sys.modules and 'numpy' not in sys.modules"  # noqa: E501
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
