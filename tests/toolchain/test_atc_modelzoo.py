"""Command lines as model repositories print them: clean as they stand, and named when one thing is wrong."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import onnx
import pytest
from onnx import TensorProto, helper

from pth2om.ascend.atc_options import AtcOptions
from pth2om.toolchain.emulator.front_end import run_atc
from pth2om.toolchain.emulator.front_end.flags import lex


@dataclass(frozen=True)
class Recipe:
    """A command line, the inputs of its model, and the same line with one mistake."""

    name: str
    command: str
    inputs: tuple[tuple[str, int, tuple], ...]
    wrong: tuple[str, str]
    code: str
    files: tuple[tuple[str, str], ...] = ()


F, I64 = TensorProto.FLOAT, TensorProto.INT64

RECIPES = [
    Recipe(
        "resnet50",
        "atc --framework=5 --model=m.onnx --output=resnet50_bs1 --input_format=NCHW "
        '--input_shape="actual_input_1:1,3,224,224" --enable_small_channel=1 --log=error --soc_version=Ascend310P3',
        (("actual_input_1", F, ("N", 3, 224, 224)),),
        ("actual_input_1:", "input:"),
        "E10016",
    ),
    Recipe(
        "mobilenet_v2",
        "atc --model=m.onnx --framework=5 --output=mobilenetv2 --input_format=NCHW "
        '--input_shape="image:16,3,224,224" --log=error --soc_version=Ascend310P3 --op_precision_mode=op.ini',
        (("image", F, ("N", 3, 224, 224)),),
        ("--soc_version=Ascend310P3", "--soc_version=310P3"),
        "EE1011",
        (("op.ini", "[ByOpType]\nSigmoid=high_performance\nMul=high_performance\n"),),
    ),
    Recipe(
        "yolov5s",
        "atc --model=m.onnx --framework=5 --output=yolov5s_bs4 --input_format=NCHW --log=error "
        '--soc_version=Ascend310P3 --input_shape="images:4,3,640,640" --output_type=FP16 --optypelist_for_implmode="Sigmoid" '  # noqa: E501 - a command line
        "--op_select_implmode=high_performance",
        (("images", F, ("batch", 3, 640, 640)),),
        ("--op_select_implmode=high_performance", ""),
        "E10001",
    ),
    Recipe(
        "yolov6n",
        'atc --framework=5 --model=m.onnx --output=yolov6n --input_shape="images:1,3,640,640" '
        "--soc_version=Ascend310B1 --output_type=FP32 --op_select_implmode=high_precision",
        (("images", F, (1, 3, 640, 640)),),
        ("images:1,3,640,640", "images:1,3,640,640;"),
        "E10002",
    ),
    Recipe(
        "bert",
        "atc --input_format=ND --framework=5 --model=m.onnx --output=bert_bs1 --log=error --soc_version=Ascend310P3 "
        '--input_shape="input_ids:1,512;token_type_ids:1,512;attention_mask:1,512" --optypelist_for_implmode="Gelu" '
        "--op_select_implmode=high_performance",
        tuple((name, I64, ("b", 512)) for name in ("input_ids", "token_type_ids", "attention_mask")),
        ("--input_format=ND", "--input_format=NTC"),
        "E10001",
    ),
    Recipe(
        "crnn",
        'atc --model=m.onnx --framework=5 --output=crnn_bs16 --input_shape="actual_input_1:16,1,32,100" --log=info '
        "--soc_version=Ascend310",
        (("actual_input_1", F, ("N", 1, 32, 100)),),
        ("--framework=5", "--framework=onnx"),
        "E10007",
    ),
    Recipe(
        "deeplabv3",
        'atc --framework=5 --model=m.onnx --output=deeplab --input_format=NCHW --input_shape="actual_input_1:1,3,-1,-1" '  # noqa: E501 - a command line
        '--dynamic_image_size="512,512;1024,1024" --soc_version=Ascend310P3',
        (("actual_input_1", F, (1, 3, "h", "w")),),
        ("512,512;1024,1024", "512,512"),
        "E10035",
    ),
    Recipe(
        "conformer",
        'atc --framework=5 --model=m.onnx --output=encoder --input_shape="speech:-1,-1,80;lengths:-1" '
        '--dynamic_dims="1,128,1;8,256,8" --soc_version=Ascend310P3 --input_format=ND --precision_mode=allow_mix_precision '  # noqa: E501 - a command line
        "--modify_mixlist=mix.json",
        (("speech", F, ("b", "t", 80)), ("lengths", TensorProto.INT32, ("b",))),
        ("--precision_mode=allow_mix_precision", "--precision_mode=allow_fp32_to_fp16"),
        "E10001",
        (("mix.json", '{"black-list": {"to-add": ["Softmax"]}}'),),
    ),
    Recipe(
        "3dunet",
        'atc --model=m.onnx --framework=5 --output=nnunet --input_format=NCDHW --input_shape="image:1,1,128,128,128" '
        "--log=debug --soc_version=Ascend310P3 --fusion_switch_file=switch.cfg --output_type=FP16",
        (("image", F, (1, 1, 128, 128, 128)),),
        ("--output_type=FP16", "--output_type=FLOAT16"),
        "E10001",
        (("switch.cfg", "TbeConv3dElemwisePass:off\n"),),
    ),
    Recipe(
        "superpoint",
        "atc --model=m.onnx --framework=5 --output=sp_bs8 --input_shape='data:8,1,240,320' --soc_version=Ascend310B4 "
        "--precision_mode_v2=mixed_float16 --keep_dtype=keep.txt",
        (("data", F, (8, 1, 240, 320)),),
        ("--precision_mode_v2=mixed_float16", "--precision_mode_v2=mixed_float16 --precision_mode=force_fp16"),
        "E10056",
        (("keep.txt", "relu_0\n"),),
    ),
]


def build(recipe: Recipe, path):
    nodes = [
        helper.make_node("Relu" if kind == F else "Abs", [name], [f"out_{place}"], f"relu_{place}")
        for place, (name, kind, _) in enumerate(recipe.inputs)
    ]
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in recipe.inputs]
    outputs = [
        helper.make_tensor_value_info(f"out_{place}", kind, None) for place, (_, kind, _) in enumerate(recipe.inputs)
    ]
    model = helper.make_model(
        helper.make_graph(nodes, recipe.name, inputs, outputs), opset_imports=[helper.make_opsetid("", 11)]
    )
    onnx.save(model, str(path))


@pytest.fixture(params=RECIPES, ids=lambda recipe: recipe.name)
def recipe(request, tmp_path):
    build(request.param, tmp_path / "m.onnx")
    for name, text in request.param.files:
        (tmp_path / name).write_text(text, encoding="utf-8")
    return request.param


def cann_of(recipe: Recipe) -> str:
    return "7.0" if "Ascend310 " in recipe.command + " " else "9.x"


def options_of(words: list[str], cann: str) -> AtcOptions:
    """What the front end's lexer reads, typed."""
    kinds = {"int": int, "bool": "true".__eq__}
    given = lex(words, cann).given
    kind_of = {name: kinds.get(AtcOptions.__annotations__[name].split(" ")[0], str) for name in given}
    return AtcOptions.from_json({name: kind_of[name](text) for name, text in given.items()})


def test_clean_as_printed(recipe, tmp_path):
    result = run_atc(shlex.split(recipe.command)[1:], cwd=tmp_path, cann=cann_of(recipe))
    assert (result.status, result.errors) == (0, []), result.text
    assert "emulated" in result.text.splitlines()[-1]
    assert not list(tmp_path.glob("*.om"))


def test_one_mistake_is_named(recipe, tmp_path):
    good, bad = recipe.wrong
    assert good in recipe.command
    result = run_atc(shlex.split(recipe.command.replace(good, bad))[1:], cwd=tmp_path, cann=cann_of(recipe))
    assert result.status == 255
    assert result.errors[0][0] == recipe.code, result.text


def test_options_build_the_same_line(recipe, tmp_path):
    words = shlex.split(recipe.command)[1:]
    options = options_of(words, cann_of(recipe))
    again = run_atc(options.command_line()[1:], cwd=tmp_path, cann=cann_of(recipe))
    assert again.status == 0, again.text
    assert AtcOptions.from_json(options.to_json()) == options
