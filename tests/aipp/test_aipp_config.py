"""Reading, writing and checking AIPP configurations."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pth2om import aipp
from pth2om.aipp.config import FIELDS, FORMATS
from pth2om.cli import main
from pth2om.errors import AippError

# What each real file is, found by reading it: (catalogue key of the error, line), or the rules of its findings.
_FINE: list[str] = []
EXCEPTIONS = {
    # the SDK's post-processing settings under the name of an AIPP configuration
    "densenet161_aipp.cfg": ("aipp.not-a-configuration", 1),
    "densenet201_aipp.cfg": ("aipp.not-a-configuration", 1),
    "densenet121_aipp.cfg": ("aipp.not-a-configuration", 1),
    "goolenet_aipp_pt.cfg": ("aipp.not-a-configuration", 1),
    "mnasnet_aipp.cfg": ("aipp.not-a-configuration", 1),
    # sizes of a crop that is off
    "resnet50_mmlab_for_pytorch__aipp.conf": ["aipp.no-effect"],
    "Yolov5_for_Pytorch__aipp.cfg": ["aipp.no-effect"],
    "aipp_ut_test_06.cfg": ["aipp.no-effect"],
    "aipp_ut_test_08.cfg": ["aipp.no-effect", "aipp.colour-shift"],
    # matrices and biases of a unit test, of no standard
    "aipp_ut_test_02.cfg": ["aipp.colour-shift"],
    "aipp_ut_test_04.cfg": ["aipp.colour-shift"],
    "aipp_ut_test_10.cfg": ["aipp.no-effect"],
    # a matrix without csc_switch
    "MobileNetV2_for_PyTorch__infer__convert__aipp.config": ["aipp.no-effect"],
    "WideResNet101_2_for_Pytorch__infer__convert__aipp.config": ["aipp.no-effect"],
    # 1 / (std * 255) divided by 255 once more
    "UNet++__infer__convert__aipp.cfg": ["aipp.tiny-factor"],
    # static parameters in dynamic mode
    "aipp_conf__aipp_dynamic.cfg": ["aipp.no-effect-dynamic"],
    # mean and std of 0..1 pixels
    "aipp_subgraph_conf.cfg": ["aipp.unit-range", "aipp.unit-range"],
    # YUV420SP of an odd width
    "aipp_ut_test_28.cfg": ["aipp.limit-odd"],
    # no aipp_mode
    "aipp_ut_test_26.cfg": ("E10052", 1),
}


def _expected(name: str) -> object:
    return next((value for end, value in EXCEPTIONS.items() if name.endswith(end)), _FINE)


def test_every_real_file(data_root: Path) -> None:
    files = sorted((data_root / "aipp").iterdir())
    assert len(files) == 59
    for end in EXCEPTIONS:
        assert sum(path.name.endswith(end) for path in files) == 1, end
    for path in files:
        expected = _expected(path.name)
        if isinstance(expected, tuple) and expected[0].startswith("aipp."):
            with pytest.raises(AippError) as caught:
                aipp.read_config(path)
            assert (caught.value.message.key, caught.value.where) == (expected[0], f"{path}:{expected[1]}")
            continue
        config = aipp.read_config(path)
        assert aipp.parse_config(aipp.write_config(config)) == config, path.name
        inputs = [(f"input_{rank}", (1, 3, -1, -1)) for rank in range(max(op.rank for op in config.ops) + 1)]
        refused = [(item.code, item.line) for item in aipp.refusals(config, inputs=inputs)]
        rules = [finding.rule for finding in aipp.findings(config)]
        assert (refused, rules) == (([expected], []) if isinstance(expected, tuple) else ([], expected)), path.name


def _op(body: str) -> str:
    return f"aipp_op {{\n{body}\n}}"


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("", "aipp.no-op", None),
        ("# only a comment\n", "aipp.no-op", None),
        ("aipp_op {\naipp_mode: static\n", "aipp.unexpected-end", 3),
        (_op("aipp_mode static"), "aipp.unexpected", 2),
        (_op("aipp_mode:\n static:"), "aipp.unexpected", 3),
        (_op("aipp_mod: static"), "aipp.unknown-field-nearest", 2),
        (_op("hello: 1"), "aipp.unknown-field", 2),
        (_op("aipp_mode: static\nrotation_angle: 90"), "aipp.rotation-angle", 3),
        (_op("aipp_mode: static\n\naipp_mode: static"), "aipp.twice", 4),
        (_op("aipp_mode: auto"), "aipp.not-a-choice", 2),
        (_op("input_format: RGB888"), "aipp.not-a-choice", 2),
        (_op("crop: yes"), "aipp.wrong-kind", 2),
        (_op("crop: 2"), "aipp.wrong-kind", 2),
        (_op("src_image_size_w: 2.5"), "aipp.wrong-kind", 2),
        (_op('src_image_size_w: "2"'), "aipp.wrong-kind", 2),
        (_op("src_image_size_w: 4294967296"), "aipp.wrong-kind", 2),
        (_op("related_input_rank: -1"), "aipp.wrong-kind", 2),
        (_op("min_chn_0: much"), "aipp.wrong-kind", 2),
        (_op("aipp_mode: static\n输入图片"), "aipp.stray-character", 3),
        (_op("crop { }"), "aipp.not-a-value", 2),
        ("aipp_op: 3", "aipp.not-a-message", 1),
        ("aipp_ops { }", "aipp.unknown-field-nearest", 1),
        ("\naipp_mode: static", "aipp.outside", 2),
        ("multi_shape_op { }", "aipp.multi-shape", 1),
        ("CLASS_NUM=1000", "aipp.not-a-configuration", 1),
        ("aipp_op {" * 40, "aipp.too-deep", 1),
        ("x" * (2**20 + 1), "aipp.too-long", None),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, key: str, line: int | None) -> None:
    with pytest.raises(AippError) as caught:
        aipp.parse_config(text, "a.cfg")
    assert caught.value.message.key == key
    assert caught.value.where == ("a.cfg" if line is None else f"a.cfg:{line}")
    for language in ("en", "zh"):
        assert not re.search(r"\{\w+\}", caught.value.render(language))


def test_all_forms_of_values() -> None:
    text = """# comment { not: parsed }
    aipp_op: < aipp_mode: 1, input_format: 3;
      crop: True padding: f
      src_image_size_w: 0x10 ; src_image_size_h: 010
      min_chn_0: 1e1 min_chn_1: .5 min_chn_2: 2.f min_chn_3: -inf
      var_reci_chn_0: [ 0.5 ] related_input_name: "da" 'ta'
      mean_chn_0: -3
    >"""
    op = aipp.parse_config(text).op()
    assert op.values == {
        "aipp_mode": ("static",), "input_format": ("RGB888_U8",), "crop": (True,), "padding": (False,),
        "src_image_size_w": (16,), "src_image_size_h": (8,), "min_chn_0": (10.0,), "min_chn_1": (0.5,),
        "min_chn_2": (2.0,), "min_chn_3": (float("-inf"),), "var_reci_chn_0": (0.5,),
        "related_input_name": ("data",), "mean_chn_0": (-3,),
    }  # fmt: skip
    assert op.lines["min_chn_3"] == 5


def test_a_byte_order_mark_and_windows_line_ends() -> None:
    config = aipp.parse_config("\ufeffaipp_op {\r\naipp_mode: static\r\ncrop: nope\r\n".replace("nope", "true") + "}")
    assert config.op().flag("crop")


_VALUES = {
    "mode": st.sampled_from(["static", "dynamic"]),
    "format": st.sampled_from(sorted(FORMATS)),
    "bool": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "uint": st.integers(0, 2**32 - 1),
    "float": st.floats(width=32, allow_nan=False),
    "string": st.text("abc_0/.", max_size=8),
}
_OPS = st.fixed_dictionaries({}, optional={name: _VALUES[kind.rstrip("*")] for name, kind in FIELDS.items()}).map(
    lambda values: aipp.AippOp.of(**values)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_OPS, min_size=1, max_size=3))
def test_written_and_read_back(ops: list[aipp.AippOp]) -> None:
    config = aipp.AippConfig(tuple(ops))
    assert aipp.parse_config(aipp.write_config(config)) == config


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*"aipp_op{}<>[]:;,-\"'#\\\n 01.xef静", "aipp_op{", "crop:", "true "])).map("".join))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        config = aipp.parse_config(text)
    except AippError:
        return
    assert config.ops


# --- atc's checks ---------------------------------------------------------------------------------------------------

_STATIC = "aipp_mode: static input_format: RGB888_U8"
_IMAGE = [("images", (1, 3, 640, 640))]


@pytest.mark.parametrize(
    ("text", "options", "code", "part"),
    [
        (_op(_STATIC), {"dynamic_dims": "1;2"}, "E10001", "The dynamic dims function does not support AIPP."),
        (_op(_STATIC) + _op(_STATIC), {}, "E10052", "Cannot insert aipp to the same position!"),
        (
            _op(_STATIC + ' related_input_name: "a" related_input_rank: 0'),
            {},
            "E10052",
            "Cannot both set related_input_rank and related_input_name!",
        ),
        (
            _op(_STATIC + " crop: true"),
            {"dynamic_image_size": "1,1;2,2"},
            "E10052",
            "When --dynamic_image_size is set, crop and padding cannot be set to 'true'",
        ),
        (
            _op(_STATIC + " src_image_size_w: 640"),
            {"dynamic_image_size": "1,1;2,2"},
            "E10052",
            "src_image_size_w and src_image_size_h must be set to '0'",
        ),
        (_op("input_format: RGB888_U8"), {}, "E10052", "aipp_mode must be configured as static or dynamic"),
        (
            _op(_STATIC + " var_reci_chn_0: 1 var_reci_chn_0: 2"),
            {},
            "E10052",
            "var_reci_chn_0 cannot be configured rep",
        ),
        (
            _op("aipp_mode: dynamic"),
            {},
            "E10052",
            "max_src_image_size must be set which number should be greater than 0",
        ),
        (_op("aipp_mode: static"), {}, "E10052", "Input format of AIPP conf must be set in static aipp"),
        (_op(_STATIC + " crop_size_w: -1"), {}, "E10052", "crop_size_w must not be configured smaller than 0"),
        (_op(_STATIC + " related_input_rank: 3"), {}, "E10052", "by aipp parameter related_input_rank 3"),
        (_op(_STATIC + ' related_input_name: "a"'), {}, "E10052", "related_input_name aconvert rank failed, "),
        (_op(_STATIC), {"input_fp16_nodes": ["images"]}, "E10034", "(for example, images)"),
        (_op("aipp_mode: dynamic max_src_image_size: 9"), {"input_format": "ND"}, "E13014", "Value ND"),
        (_op("aipp_mode: dynamic max_src_image_size: 9"), {"inputs": [("x", (1, 3))]}, "E10001", "Value 2"),
        (_op(_STATIC + " src_image_size_w: 320 src_image_size_h: 320"), {}, "E70014", "H is [320], W is [320]"),
        (_op(_STATIC + " padding: true left_padding_size: 40"), {"soc": "Ascend310B1"}, "E70014", "W is [680]"),
    ],
)
def test_what_atc_refuses(text: str, options: dict, code: str, part: str) -> None:
    found = aipp.refusals(aipp.parse_config(text), **({"inputs": _IMAGE} | options))
    assert found
    assert found[0].code == code
    assert part in found[0].text


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ("", {}),
        ("crop_size_h: -1", {}),  # atc forgets to test it
        ("src_image_size_w: 640 src_image_size_h: 640", {}),
        ("", {"dynamic_image_size": "640,640;1280,1280", "inputs": [("images", (1, 3, -1, -1))]}),
        ("", {"input_fp16_nodes": ["other"]}),
    ],
)
def test_what_atc_takes(body: str, options: dict) -> None:
    assert aipp.refusals(aipp.parse_config(_op(f"{_STATIC} {body}")), **({"inputs": _IMAGE} | options)) == []


@pytest.mark.parametrize(
    ("body", "soc", "rule"),
    [
        ("input_format: RGB888_U8", "Ascend035", "aipp.limit-no-aipp"),
        ("input_format: RGB888_U8 src_image_size_w: 5000", None, "aipp.limit-range"),
        ("input_format: RGB888_U8 mean_chn_0: 300", None, "aipp.limit-range"),
        ("input_format: RGB888_U8 resize: true", None, "aipp.limit-resize"),
        ("input_format: YUV420SP_U8 src_image_size_h: 33", None, "aipp.limit-odd"),
        ("input_format: YUV400_U8 csc_switch: true", None, "aipp.grey-conversion"),
        ("input_format: RGB888_U8 ax_swap_switch: true", None, "aipp.limit-ax"),
        (
            "input_format: RGB888_U8 src_image_size_w: 1070 src_image_size_h: 8 padding: true left_padding_size: 32",
            "Ascend310P3",
            "aipp.limit-width",
        ),
        (
            "input_format: RGB888_U8 src_image_size_w: 64 crop: true crop_size_w: 60 load_start_pos_w: 6",
            None,
            "aipp.crop-outside",
        ),
    ],
)
def test_limits_of_the_unit(body: str, soc: str | None, rule: str) -> None:
    config = aipp.parse_config(_op(f"aipp_mode: static {body}"))
    assert rule in [finding.rule for finding in aipp.findings(config, soc=soc)]


def test_limits_are_refused_as_inner_errors_where_the_soc_is_known() -> None:
    """Their texts are not public; an emulated atc must not pass them all the same."""
    config = aipp.parse_config(_op("aipp_mode: static input_format: RGB888_U8 resize: true"))
    assert aipp.refusals(config, inputs=_IMAGE) == []
    found = aipp.refusals(config, inputs=_IMAGE, soc="Ascend310B1")
    assert [item.code for item in found] == ["E19999"]


def test_even_starts_are_no_rule_of_950() -> None:
    body = "aipp_mode: static input_format: YUV420SP_U8 src_image_size_w: 64 src_image_size_h: 64 crop: true "
    config = aipp.parse_config(_op(body + "load_start_pos_w: 3 crop_size_w: 32 crop_size_h: 32"))
    rules = {soc: [item.rule for item in aipp.findings(config, soc=soc)] for soc in ("Ascend310B1", "Ascend950PR_9599")}
    assert rules == {"Ascend310B1": ["aipp.limit-odd"], "Ascend950PR_9599": []}


# --- the command line -----------------------------------------------------------------------------------------------


def test_check_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.cfg"
    path.write_text(_op(_STATIC), encoding="utf-8")
    assert main(["aipp", "check", str(path), "--size", "640,640", "--soc", "Ascend310B1"]) == 0
    path.write_text(_op(_STATIC + "\ncrop_size_w: -1"), encoding="utf-8")
    capsys.readouterr()
    assert main(["aipp", "check", str(path)]) == 1
    assert f"{path}:3: E10052: AIPP configuration is invalid. Reason: crop_size_w" in capsys.readouterr().out
    assert main(["aipp", "check", str(path), "--size", "big"]) == 1
    path.write_text("CLASS_NUM=3", encoding="utf-8")
    assert main(["aipp", "check", str(path)]) == 1
    assert f"{path}:1" in capsys.readouterr().err
    assert main(["aipp", "check", str(tmp_path / "none.cfg")]) == 1


def test_derive_on_the_command_line(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = str(repository / "models")
    assert main(["aipp", "derive", "mobilenet_v2", "--models", models]) == 0
    shown = capsys.readouterr().out
    path = tmp_path / "m.cfg"
    assert main(["aipp", "derive", "mobilenet_v2", "--models", models, "-o", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == shown
    assert sorted(tmp_path.iterdir()) == [path]
    op = aipp.read_config(path).op()
    # (x - 123.675) / 58.395: ImageNet's red in grey levels
    assert op.integer("mean_chn_0") + op.number("min_chn_0") == pytest.approx(123.675, abs=1e-6)
    assert op.number("var_reci_chn_0") == pytest.approx(1 / 58.395, rel=1e-6)
    assert main(["aipp", "derive", "no_such_model", "--models", models]) == 1
