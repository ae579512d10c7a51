"""Every error of ATC that the front end can raise, with the command that raises it.

``python tests/toolchain/atc_error_cases.py`` writes ``docs/atc-errors.md`` and ``docs/atc-errors.zh.md`` from this
table; ``test_atc_errors.py`` runs every row and checks that both pages are up to date.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

BASE = "--model=model.onnx --framework=5 --output=model --soc_version=Ascend310B1"


@dataclass(frozen=True)
class Case:
    code: str
    arguments: str
    en: str
    zh: str
    model: str = "plain"
    cann: str = "9.x"
    files: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> list[str]:
        return shlex.split(self.arguments)


def case(code: str, more: str, en: str, zh: str, **rest) -> Case:
    return Case(code, f"{BASE} {more}".strip(), en, zh, **rest)


CASES = [
    case("E10001", "--precision_mode=fp16", "a value outside an enumerated flag's table", "枚举参数取值越界"),
    case("E10001", "", "dynamic input without --input_shape", "动态输入但没有 --input_shape", model="dynamic"),
    case("E10001", "--input_format=NHWC", "a layout that ONNX models do not have", "ONNX 模型不支持的数据格式"),
    case("E10001", "--output_type=INT32", "an output type the code's table lacks", "输出类型不在代码表中"),
    case("E10001", "--auto_tune_mode=GA", "the Auto Tune flag of old guides", "旧指南中的 Auto Tune 参数"),
    case(
        "E10001",
        "--modify_mixlist=mix.json",
        "a mixed-precision list without a mix mode",
        "未用混合精度却给出名单",
        files=(("mix.json", "{}"),),
    ),
    case(
        "E10001",
        "--dynamic_dims='1;2' --input_shape=x:-1,3,8,8 --insert_op_conf=aipp.cfg",
        "AIPP with --dynamic_dims",
        "AIPP 与 --dynamic_dims 同用",
        model="dynamic",
        files=(("aipp.cfg", "aipp_op{}"),),
    ),
    Case(
        "E10001",
        "--model=absent.onnx --framework=5 --output=model --soc_version=Ascend310B1",
        "a model file that does not exist",
        "模型文件不存在",
    ),
    case("E10002", "'--input_shape=x:1,3,8,8;'", "a trailing semicolon", "末尾多了分号"),
    case("E10002", "--input_shape=1,3,8,8", "a shape without its input's name", "形状没有写输入名"),
    case(
        "E10003",
        "--dynamic_batch_size=1,two --input_shape=x:-1,3,8,8",
        "letters in the gears",
        "档位中有字母",
        model="dynamic",
    ),
    case("E10003", "--help=perhaps", "a bool flag with another word", "布尔参数取值错误"),
    case(
        "E10004",
        "--dynamic_batch_size=1,2",
        "gears without --input_shape",
        "给了档位但没有 --input_shape",
        model="dynamic",
    ),
    Case("E10004", "--mode=1 --om=model.onnx", "mode 1 without --json", "模式 1 缺少 --json"),
    case("E10005", "--enable_single_stream=1", "1 where true or false is wanted", "应写 true/false 却写了 1"),
    case("E10006", "--is_weight_clip=true", "true where 1 or 0 is wanted", "应写 1/0 却写了 true"),
    case("E10006", "--sparsity=2", "a switch beyond 0 and 1", "开关参数不是 0 或 1"),
    Case(
        "E10007",
        "--model=model.onnx --output=model --soc_version=Ascend310B1",
        "--framework forgotten",
        "忘记 --framework",
    ),
    Case(
        "E10008",
        "--model=model.onnx --framework=0 --output=model --soc_version=Ascend310B1",
        "Caffe without --weight",
        "Caffe 缺少 --weight",
    ),
    case(
        "E10009",
        "--dynamic_batch_size=1,2 '--dynamic_dims=1;2' --input_shape=x:-1,3,8,8",
        "two dynamic flags",
        "同时给出两个动态参数",
        model="dynamic",
    ),
    case("E10010", "--log=verbose", "a log level that does not exist", "日志级别不存在"),
    case("E10011", "--input_shape=x:0,3,8,8", "a size of zero", "尺寸为 0"),
    case("E10012", "'--input_shape=x:' --dynamic_batch_size=1,2", "batch gears on a scalar", "标量输入使用 batch 档位"),
    case("E10013", "--input_shape=x:99999999999999999999,3,8,8", "a size beyond 64 bits", "尺寸超出 64 位"),
    case("E10014", "--input_shape=x:a,3,8,8", "a size that is no number", "尺寸不是数字"),
    case("E10016", "--input_shape=images:1,3,8,8", "an input name the model lacks", "模型中没有该输入名"),
    case("E10017", "--input_fp16_nodes=conv", "a node that is no input", "该节点不是输入"),
    case(
        "E10018",
        "--input_shape=x:-1,3,-1,8 --dynamic_batch_size=1,2",
        "batch gears and a second -1",
        "batch 档位时出现第二个 -1",
        model="dynamic",
    ),
    case(
        "E10019",
        "'--input_shape=x:-1,3,-1,-1' '--dynamic_image_size=8,8;16,16'",
        "image gears and a -1 at the batch",
        "图像档位时 batch 也是 -1",
        model="dynamic",
    ),
    case(
        "E10020",
        "--input_shape=x:1,3,-1,-1 '--dynamic_image_size=8,8,8;16,16,16'",
        "three numbers in an image gear",
        "图像档位有三个数",
        model="dynamic",
    ),
    case("E10021", "--check_report=" + "a" * 4100, "a path of more than 4096 letters", "路径超过 4096 个字符"),
    Case(
        "E10022",
        "--model=model.onnx --framework=5 --output=out/ --soc_version=Ascend310B1",
        "--output is a folder",
        "--output 是目录",
    ),
    Case(
        "E10023",
        "--singleop=absent.json --output=out --soc_version=Ascend310B1",
        "no such single-op file",
        "单算子文件不存在",
    ),
    Case(
        "E10025",
        "--singleop=op.json --output=out --soc_version=Ascend310B1",
        "a single-op file that is no JSON",
        "单算子文件不是 JSON",
        files=(("op.json", "{"),),
    ),
    Case(
        "E10026",
        "--singleop=op.json --output=out --soc_version=Ascend310B1",
        "a single operator without a name",
        "单算子没有名字",
        files=(("op.json", "[{}]"),),
    ),
    case(
        "E10031", "--input_shape=x:1,3,8,8 --dynamic_batch_size=1,2", "batch gears without a -1", "batch 档位但没有 -1"
    ),
    case(
        "E10032",
        "--raw_ge_options=raw.json",
        "raw options that are no JSON",
        "原始选项文件不是 JSON",
        files=(("raw.json", "{"),),
    ),
    case(
        "E10034",
        "--insert_op_conf=aipp.cfg --input_fp16_nodes=x",
        "AIPP on an fp16 input node",
        "AIPP 作用于 fp16 输入",
        files=(
            (
                "aipp.cfg",
                "aipp_op { aipp_mode: static input_format: RGB888_U8 src_image_size_w: 8 src_image_size_h: 8 }",
            ),
        ),
    ),
    case("E10035", "--input_shape=x:-1,3,8,8 --dynamic_batch_size=4", "a single gear", "只有一个档位", model="dynamic"),
    case("E10039", "--input_shape=x:-1,3,8,8 --dynamic_batch_size=4,4", "a gear twice", "档位重复", model="dynamic"),
    case(
        "E10040",
        "--input_shape=x:1~4,3,8,8 --dynamic_batch_size=1,2",
        "a range and gears",
        "范围与档位同用",
        model="dynamic",
    ),
    Case("E10041", "--mode=6 --om=model.onnx", "an .om that is none", "不是 .om 文件"),
    case(
        "E10047",
        "--enable_compress_weight=true --compress_weight_conf=x.cfg",
        "two flags of weight compression",
        "同时给出两个权重压缩参数",
    ),
    case("E10048", "--input_shape=x:1~2~3,3,8,8", "a range of three ends", "范围写了三个端点", model="dynamic"),
    case("E10049", "--input_shape=x:-1,3,8", "a range of another rank", "范围的维数不符"),
    case("E10050", "--input_shape=x:2~4,3,8,8", "a range that leaves the model's size out", "范围不包含模型的尺寸"),
    case(
        "E10052",
        "--insert_op_conf=aipp.cfg",
        "an AIPP mode that is none",
        "AIPP 模式错误",
        files=(("aipp.cfg", "aipp_op { input_format: RGB888_U8 }"),),
    ),
    Case("E10054", "--model=model.onnx --framework=5 --output=model", "--soc_version forgotten", "忘记 --soc_version"),
    Case(
        "E10055",
        "--model=model.onnx --framework=5 --output=model --soc_version=Ascend035",
        "a nano chip without mode 30",
        "nano 芯片未用模式 30",
    ),
    case(
        "E10056", "--precision_mode=force_fp16 --precision_mode_v2=fp16", "both precision flags", "同时给出两个精度参数"
    ),
    Case("E10057", "--mode=6 --om=model.om --framework=5", "mode 6 with --framework", "模式 6 带 --framework"),
    case("E10058", "--input_shape=x:-1,3,8,8 '--dynamic_dims=;2'", "an empty gear", "空档位", model="dynamic"),
    case("E13001", "--raw_ge_options=absent.json", "a file that cannot be opened", "文件无法打开"),
    case("E13001", "", "external weights that are not there", "外部权重文件缺失", model="external"),
    case("E13005", "", "a file that is no ONNX", "文件不是 ONNX", model="garbage"),
    case(
        "E13005",
        "--insert_op_conf=aipp.cfg",
        "an AIPP file with an unknown field",
        "AIPP 文件有未知字段",
        files=(("aipp.cfg", "aipp_op { aipp_mode: static rotation_angle: 90 }"),),
    ),
    case("E13009", "", "two nodes of one name", "节点重名", model="duplicate"),
    case("E13010", "", "opset 19", "opset 19", model="opset19"),
    case("E13015", "", "an empty file", "空文件", model="empty"),
    case(
        "E13026",
        "",
        "external weights outside the model's folder (pth2om's own rule)",
        "外部权重在模型目录之外（pth2om 自己的规则）",
        model="outside",
    ),
    case("E16001", "", "a graph without inputs", "图没有输入", model="no_input"),
    case("E16004", "", "a file without a graph", "文件没有图", model="no_graph"),
    case(
        "E16005",
        "",
        "two domains, nodes without one (CANN 7 and older)",
        "两个域而节点未写域（CANN 7 及更早）",
        model="two_domains",
        cann="7.0",
    ),
    case("E19010", "", "opset 19, CANN 8", "opset 19，CANN 8", model="opset19", cann="8.0"),
    case("E19999", "--input_shape=x:1,3,8", "another rank: ATC fails without saying why", "维数不符：ATC 不说明原因"),
    case("E19999", "--out_nodes=nothing", "an output tensor the graph lacks", "图中没有该输出张量"),
    case("E19999", "", "a node of a domain that is not imported", "节点的域没有导入", model="foreign"),
    case("E20101", "--aicore_num=many", "a core number that is none", "核数格式错误"),
    case("E20103", "'--aicore_num=99|'", "more cores than the chip has", "核数超过芯片"),
    case("E21001", "--fusion_switch_file=absent.cfg", "a switch file that is not there", "融合开关文件不存在"),
    case(
        "E21002",
        "--fusion_switch_file=switch.cfg",
        "a switch that is not on or off",
        "开关不是 on/off",
        files=(("switch.cfg", "ConvBatchnormFusionPass:maybe\n"),),
    ),
    case(
        "E21002",
        "--op_precision_mode=op.ini",
        "an implementation mode that does not exist",
        "实现模式不存在",
        files=(("op.ini", "[ByOpType]\nSoftmax=best\n"),),
    ),
    case(
        "E70014",
        "--insert_op_conf=aipp.cfg",
        "AIPP makes another size than the model takes",
        "AIPP 输出尺寸与模型不符",
        files=(
            (
                "aipp.cfg",
                "aipp_op { aipp_mode: static input_format: RGB888_U8 src_image_size_w: 16 src_image_size_h: 16 }",
            ),
        ),
    ),
    Case(
        "EE1011",
        "--model=model.onnx --framework=5 --output=model --soc_version=Ascend310b1",
        "a misspelled SoC",
        "SoC 拼写错误",
    ),
    Case(
        "EE1001",
        "--model=model.onnx --framework=5 --output=model --soc_version=Ascend310b1",
        "the same in CANN 8",
        "同上，CANN 8",
        cann="8.0",
    ),
]


def write_model(kind: str, path: Path) -> None:
    """The model of that kind: a convolution, spoiled in one way."""
    if kind in ("empty", "garbage", "no_graph"):
        content = {"empty": b"", "garbage": b"version https://git-lfs.github.com/spec/v1\n", "no_graph": b"\x08\x08"}
        path.write_bytes(content[kind])
        return
    shape = ["n", 3, "h", "w"] if kind == "dynamic" else [1, 3, 8, 8]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 3, 3], [0.1] * 108)
    if kind in ("external", "outside"):
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        place = "../weights.bin" if kind == "outside" else "weights.bin"
        weight.external_data.add(key="location", value=place)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], "conv" if kind == "duplicate" else "relu"),
    ]
    if kind == "foreign":
        nodes[1].domain = "mydomain"
    inputs = [] if kind == "no_input" else [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight])
    imports = [helper.make_opsetid("", 19 if kind == "opset19" else 13)]
    if kind == "two_domains":
        imports.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(helper.make_model(graph, opset_imports=imports), str(path))


HEADS = {
    "en": (
        "# ATC's errors, and the command that raises each of them here",
        (
            "Every row is run by `tests/toolchain/test_atc_errors.py`; `python tests/toolchain/atc_error_cases.py` "
            "writes this page. `model.onnx` is a small convolution, spoiled as the row says. Nothing below needs CANN. "
            "E10024 (a file nobody may read), E10037 and E10038 (stopped earlier by ATC's own flag checks), E10059, "
            "E10410, E10501 and E13014 are known to the front end and have no row."
        ),
        ("code", "CANN", "what is wrong", "`pth2om atc --`"),
    ),
    "zh": (
        "# ATC 错误码，以及在此触发它的命令",
        (
            "每一行都由 `tests/toolchain/test_atc_errors.py` 执行；"
            "本页由 `python tests/toolchain/atc_error_cases.py` 生成。"
            "`model.onnx` 是一个小卷积模型，按该行的说明加以破坏。以下内容都不需要 CANN。"
            "E10024（无读取权限的文件）、E10037 与 E10038（更早被 ATC 的参数检查拦下）、"
            "E10059、E10410、E10501、"
            "E13014 前端认识，但没有对应的行。"
        ),
        ("错误码", "CANN", "问题", "`pth2om atc --`"),
    ),
}


def render(language: str) -> str:
    """The page in one language."""
    title, intro, columns = HEADS[language]
    lines = [title, "", intro, "", f"| {' | '.join(columns)} |", "|---|---|---|---|"]
    for item in CASES:
        command = item.arguments if len(item.arguments) < 300 else item.arguments[:120] + "..."
        command = command.replace("|", "\\|")
        lines.append(f"| {item.code} | {item.cann} | {getattr(item, language)} | `{command}` |")
    return "\n".join(lines) + "\n"


def pages() -> dict[str, Path]:
    docs = Path(__file__).resolve().parents[2] / "docs"
    return {"en": docs / "atc-errors.md", "zh": docs / "atc-errors.zh.md"}


if __name__ == "__main__":
    for language, path in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(language), encoding="utf-8")
    sys.exit(0)
