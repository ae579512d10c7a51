"""Reading .om files: real ones, ones written here from the format's description, and damaged ones."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pth2om import omfile
from pth2om.cli import main
from pth2om.errors import OmFileError
from pth2om.session import TensorSpec
from tests.omfile import om_factory as make

REAL = {
    # name: (soc, atc version, inputs, outputs, operators, kernels), read by eye out of the files
    "Ascend__a3c_pong_model.om": (None, "1.75.22.0.220", ["s"], 1, 25, 12),
    "Ascend__hh_om.om": ("Ascend310", "1.80.T15.0.B156", ["input"], 1, 46, 26),
    "Atlas200dk__crowd_counting.om": (None, None, ["input_1"], 1, 52, 0),
    "Atlas200dk__matmul.om": (None, None, ["x", "y"], 1, 8, 0),
    "HelloChang1__nanotrack_backbone_127.om": ("Ascend310B4", "7.6.T11.0.B080", ["input"], 1, 174, 79),
    "HelloChang1__nanotrack_backbone_255.om": ("Ascend310B4", "7.6.T11.0.B080", ["input"], 1, 174, 79),
    "a-ircle__my_122_anenet.om": ("Ascend310B4", "7.6.0.1.220", ["input_image"], 2, 547, 129),
    "hicann__dynamic_and_static_graph_without_unfold.om": (None, None, ["data_1", "data_2"], 2, 22, 3),
    "hicann__flow_model.om": (None, None, ["_arg_0"], 1, 3, 0),
    "hicann__root_model.om": (None, None, ["_arg_0"], 1, 3, 0),
}


@pytest.mark.parametrize("name", sorted(REAL))
def test_a_real_file_is_read(data_root: Path, name: str) -> None:
    soc, version, inputs, outputs, operators, kernels = REAL[name]
    om = omfile.read_om(data_root / "om" / name)
    assert om.soc_version == soc
    assert om.atc_version == version
    assert [tensor.name for tensor in om.inputs] == inputs
    assert len(om.outputs) == outputs
    assert len(om.operators) == operators
    assert len(om.kernels) == kernels
    assert omfile.check(om) == []
    json.dumps(omfile.summary(om))
    json.dumps(omfile.model_json(om))


def test_every_real_file_is_in_the_table(data_root: Path) -> None:
    assert {path.name for path in (data_root / "om").glob("*.om")} == set(REAL)


def test_the_lanenet_om_was_made_from_its_onnx(data_root: Path) -> None:
    om = omfile.read_om(data_root / "om" / "a-ircle__my_122_anenet.om")
    match = omfile.match_source(om, data_root / "om" / "pairs" / "lanenet_epoch_122_batch_8_AUG.onnx")
    assert (match.nodes, match.occurring) == (462, 357)
    assert match.recorded <= match.occurring
    other = omfile.match_source(om, data_root / "onnx_hard" / "ultraface_RFB-320.onnx")
    assert other.share < 0.1


def test_dtypes_shapes_and_flags_of_a_cann_8_file(data_root: Path) -> None:
    om = omfile.read_om(data_root / "om" / "a-ircle__my_122_anenet.om")
    assert om.from_records
    assert om.inputs[0] == omfile.OmTensor("input_image", (1, 3, 256, 512), "FLOAT", "NCHW", 1572864)
    assert [tensor.shape for tensor in om.outputs] == [(1, 2, 256, 512), (1, 4, 256, 512)]
    assert om.flags["input_shape"] == "input_image:1,3,256,512"
    assert omfile.precision_mode(om) == "force_fp16"
    assert om.histogram["Conv2D"] == 127


def test_names_and_shared_strings_are_restored(data_root: Path) -> None:
    om = omfile.read_om(data_root / "om" / "HelloChang1__nanotrack_backbone_127.om")
    definition = om.model_def()
    operators = definition["graph"][0]["op"]
    assert not any(key.startswith("\0") or "\\x00" in key for item in operators for key in item.get("attr", {}))
    libraries = {item["attr"]["_ge_attr_op_kernel_lib_name"]["s"] for item in operators}
    assert b"AIcoreEngine" in libraries  # kept once, in attr_value_enum, and named by number in the operators


def test_submodels_names_go_through_both_tables(data_root: Path) -> None:
    om = omfile.read_om(data_root / "om" / "hicann__dynamic_and_static_graph_without_unfold.om")
    assert om.header.models == len(om.models) == 3
    keys = {key for item in om.model_def(1)["graph"][0]["op"] for key in item.get("attr", {})}
    assert "index" in keys
    assert not any(key.startswith("\0") for key in keys)


def test_a_flow_model_holds_oms(data_root: Path) -> None:
    om = omfile.read_om(data_root / "om" / "hicann__flow_model.om")
    assert [(engine, inner.header.name) for engine, inner in om.submodels] == [
        ("NPU", "graph1"),
        ("HOST_CPU", "graph2"),
    ]
    assert [len(inner.operators) for _, inner in om.submodels] == [3, 3]


# --- files written here ---------------------------------------------------------------------------------------------


def _definition(**attributes: bytes) -> bytes:
    data = make.operator("images", "Data", (make.description(1, (1, 3, 8, 8), size=768),))
    conv = make.operator(
        "conv+relu",
        "Conv2D",
        (make.description(2, (1, 3, 8, 8)),),
        make.entry(10, "_datadump_original_op_names", make.strings("conv", "relu")),
    )
    out = make.operator("Node_Output", "NetOutput", (make.description(1, (1, 4)),), sources=(("conv+relu", 0),))
    return make.model_def((data, conv, out), {"soc_version": make.text("Ascend310B1")} | attributes)


_RECORDS = make.inout(
    (make.tensor("images", (1, 3, 8, 8), size=768),),
    (make.tensor("conv+relu:0:output", (1, 4), size=16),),
    make.tlv(2, struct.pack("<I2Q", 2, 1, 4)),
    make.tlv(3, struct.pack("<IIqqIqq", 2, 2, 8, 8, 2, 16, 16)[:4] + struct.pack("<II4q", 2, 2, 8, 8, 16, 16)),
    make.tlv(99, b"unknown records are passed over"),
)
_PARTS = [(8, _RECORDS), (0, _definition()), (1, b"w" * 32), (3, make.kernels(("k", b"\x7fELF")))]


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("old", [True, False])
def test_both_headers_and_both_tables(tmp_path: Path, wide: bool, old: bool) -> None:
    path = tmp_path / "m.om"
    path.write_bytes(make.om(_PARTS, wide=wide, old=old, name="yolo"))
    om = omfile.read_om(path)
    assert om.header.wide is wide
    assert om.header.platform_version == "1.11.z.0"
    assert om.header.models == 1
    assert om.header.name == "yolo"
    assert [part.name for part in om.partitions] == ["MODEL_INOUT_INFO", "MODEL_DEF", "WEIGHTS_DATA", "TBE_KERNELS"]
    assert om.soc_version == "Ascend310B1"
    assert om.inout.batches == (1, 4)
    assert om.inout.image_sizes == ((8, 8), (16, 16))
    assert [operator.sources for operator in om.operators] == [(), ("conv", "relu"), ()]
    assert om.kernels == (omfile.Kernel("k", 4, "aicore"),)


def test_inputs_and_outputs_of_a_file_without_records(tmp_path: Path) -> None:
    path = tmp_path / "m.om"
    path.write_bytes(make.om(_PARTS[1:]))
    om = omfile.read_om(path)
    assert not om.from_records
    assert [(item.name, item.shape, item.dtype, item.size) for item in om.inputs] == [
        ("images", (1, 3, 8, 8), "FLOAT", 768)
    ]
    assert [(item.name, item.shape) for item in om.outputs] == [("conv+relu:0", (1, 4))]


def test_inputs_are_ordered_by_their_index(tmp_path: Path) -> None:
    data = tuple(
        make.operator(name, "Data", (make.description(1, (1,)),), make.entry(10, "index", make.number(3, index)))
        for name, index in (("second", 1), ("third", 2), ("first", 0))
    )
    path = tmp_path / "m.om"
    path.write_bytes(make.om([(0, make.model_def(data, {}))]))
    assert [item.name for item in omfile.read_om(path).inputs] == ["first", "second", "third"]


@given(st.integers(0, 127**3 - 1))
def test_base_127_names(index: int) -> None:
    """The digits are written here as the format says: least significant first, each plus one."""
    from pth2om.omfile.graph import AttributeNames

    digits, rest = [], index
    while True:
        rest, digit = divmod(rest, 127)
        digits.append(digit + 1)
        if not rest:
            break

    class Table(list):
        def __len__(self) -> int:
            return 127**3

        def __getitem__(self, place: int) -> bytes:
            return b"attr%d" % place

    names = AttributeNames.__new__(AttributeNames)
    names._tables = [(Table(), [], [])]
    assert names.name(b"\0" + bytes(digits), 0) == (f"attr{index}", None)


def test_reading_a_100_mb_om_touches_less_than_1_mb(tmp_path: Path) -> None:
    """Graph of 20,000 operators, a task list of 8 MB and 100 MB of weights stay unread."""
    operators = tuple(
        make.operator(
            f"op_{index}", "Conv2D", (make.description(2, (1, 3, 8, 8)),), make.entry(10, "a", make.text("x" * 99))
        )
        for index in range(20_000)
    )
    graph = make.message(7, make.message(1, "g") + b"".join(make.message(6, item) for item in operators))
    attributes = make.entry(11, "tasks", make.message(7, bytes(8 * 2**20)))
    attributes += make.entry(11, "soc_version", make.text("Ascend310B1")) + make.entry(
        11, "opp_version", make.text("7")
    )
    path = tmp_path / "large.om"
    make.sparse_om(path, [(8, _RECORDS), (0, make.message(1, "m") + graph + attributes)], 100 * 2**20)
    om = omfile.read_om(path)
    assert om.size > 100 * 2**20
    assert om.soc_version == "Ascend310B1"
    assert [item.name for item in om.inputs] == ["images"]
    assert om.fetched < 2**20, f"{om.fetched} bytes"


def test_the_same_without_records_of_inputs_and_outputs(tmp_path: Path) -> None:
    """An old file: the graph is walked from operator to operator, over 24 MB of their attributes."""
    kernel = make.entry(10, "_tbe_kernel_buffer", make.message(7, bytes(8000)))
    operators = tuple(make.operator(f"some/long/scope/op_{index}", "Conv2D", (), kernel) for index in range(3000))
    data = make.operator("images", "Data", (make.description(1, (1, 3, 8, 8)),))
    out = make.operator("Node_Output", "NetOutput", (make.description(1, (1, 4)),))
    path = tmp_path / "large.om"
    make.sparse_om(path, [(0, make.model_def((data, *operators, out), {}))], 100 * 2**20)
    om = omfile.read_om(path)
    assert ([item.name for item in om.inputs], len(om.outputs)) == (["images"], 1)
    assert om.fetched < 2**20, f"{om.fetched} bytes"


# --- not an OM, or damaged ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"", "omfile.empty"),
        (b"PK\x03\x04" + bytes(22) + struct.pack("<HH", 8, 0) + b"model.om2", "omfile.om2"),
        (b"PK\x03\x04" + bytes(22) + struct.pack("<HH", 16, 0) + b"archive/data.pkl", "omfile.torch-zip"),
        (b"\x80\x02}q\x00", "omfile.pickle"),
        (b"\x08\x08\x12\x07pytorch", "omfile.onnx"),
        (b"<!DOCTYPE html><html>", "omfile.html"),
        (b"version https://git-lfs.github.com/spec/v1\n", "omfile.lfs-pointer"),
        (b"hello world", "omfile.no-magic"),
        (b"IMOD" + bytes(100), "omfile.truncated"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, key: str) -> None:
    path = tmp_path / "m.om"
    path.write_bytes(content)
    with pytest.raises(OmFileError) as caught:
        omfile.read_om(path)
    assert caught.value.message.key == key
    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.om", tmp_path):
        with pytest.raises(OmFileError):
            omfile.read_om(path)


def test_a_cut_file_says_how_much_is_missing(data_root: Path, tmp_path: Path) -> None:
    whole = (data_root / "om" / "Atlas200dk__matmul.om").read_bytes()
    path = tmp_path / "m.om"
    path.write_bytes(whole[:-100])
    with pytest.raises(OmFileError) as caught:
        omfile.read_om(path)
    assert caught.value.message.key == "omfile.shorter-than-said"
    assert caught.value.message.values == {"said": len(whole), "size": len(whole) - 100}


def test_an_encrypted_file_is_named(tmp_path: Path) -> None:
    raw = bytearray(make.om(_PARTS))
    raw[80] = 1
    path = tmp_path / "m.om"
    path.write_bytes(raw)
    with pytest.raises(OmFileError) as caught:
        omfile.read_om(path)
    assert caught.value.message.key == "omfile.encrypted"


def _use_everything(path: Path) -> None:
    om = omfile.read_om(path)
    omfile.summary(om)
    omfile.model_json(om)
    omfile.model_info_text(om)


def _survives(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    with contextlib.suppress(OmFileError):  # any other error fails the test
        _use_everything(path)


_SMALL = [
    make.om(_PARTS),
    make.om(_PARTS, wide=False, old=True),
    make.om(
        [
            (
                0,
                _definition(
                    attr_name_enum=make.strings("a", "b"),
                    attr_value_enum=make.strings("x"),
                    attrs_use_string_value=make.bools(True, False),
                    om_info_list=make.ints(1, 2, 3, 4, 5),
                ),
            )
        ],
        [(0, _definition())],
    ),
]


def _mutated(raw: bytes, changes: list[tuple[int, int]], cut: int | None) -> bytes:
    data = bytearray(raw)
    for place, value in changes:
        data[place % len(data)] = value
    return bytes(data[:cut] if cut is not None else data)


_CHANGES = st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=6)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(_SMALL), _CHANGES, st.one_of(st.none(), st.integers(0, 1500)))
def test_damage_gives_a_clean_error(tmp_path: Path, raw: bytes, changes: list, cut: int | None) -> None:
    _survives(tmp_path / "m.om", _mutated(raw, changes, cut))


@pytest.mark.nightly
def test_damage_gives_a_clean_error_100_000_times(data_root: Path, tmp_path: Path) -> None:
    """10^5 seeded mutations, half of them of real files small enough to be read whole each time."""
    generator = np.random.default_rng(20261121)
    real = [(data_root / "om" / name).read_bytes() for name in ("hicann__root_model.om", "hicann__flow_model.om")]
    real.append((data_root / "om" / "Atlas200dk__matmul.om").read_bytes())
    for round_ in range(100_000):
        pool = real if round_ % 2 else _SMALL
        raw = pool[int(generator.integers(len(pool)))]
        count = int(generator.integers(1, 8))
        places = generator.integers(0, len(raw), count)
        changes = [
            (int(place), int(value)) for place, value in zip(places, generator.integers(0, 256, count), strict=True)
        ]
        cut = int(generator.integers(0, len(raw))) if round_ % 7 == 0 else None
        _survives(tmp_path / "m.om", _mutated(raw, changes, cut))


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    value = make.text("end")
    for _ in range(500):
        value = make.message(10, make.entry(2, "k", value))  # func -> NamedAttrs -> attr
    path = tmp_path / "m.om"
    path.write_bytes(make.om([(0, make.model_def((), {"deep": value}))]))
    with pytest.raises(OmFileError) as caught:
        omfile.read_om(path)
    assert caught.value.message.key == "omfile.too-deep"


def test_a_hostile_length_costs_no_memory(tmp_path: Path) -> None:
    """A sparse file of 4 GB with one operator whose name claims all of it."""
    claim = 4 * 2**30
    body = b""
    for field in (1, 6, 7):  # OpDef.name inside GraphDef.op inside ModelDef.graph
        body = make.varint(field << 3 | 2) + make.varint(claim + len(body)) + body
    table = make.table([(0, len(body) + claim)])
    path = tmp_path / "m.om"
    with path.open("wb") as file:
        file.write(make.header(len(table) + len(body) + claim) + table + body)
        file.truncate(256 + len(table) + len(body) + claim)
    om = omfile.read_om(path)
    assert om.fetched < 2**20
    with pytest.raises(OmFileError) as caught:
        om.operators  # noqa: B018 - reads
    assert caught.value.message.key == "omfile.too-large-piece"


# --- what was asked -------------------------------------------------------------------------------------------------


def _specs(
    shape: tuple[int | None, ...] = (1, 3, 8, 8), dtype: str = "float32", name: str = "images"
) -> list[TensorSpec]:
    return [TensorSpec(name, shape, np.dtype(dtype))]


@pytest.mark.parametrize(
    ("asked", "rules"),
    [
        ({"soc": "Ascend310B1", "inputs": _specs(), "outputs": _specs((1, 4), name="output")}, []),
        ({"soc": "Ascend310B4"}, ["om.wrong-soc"]),
        ({"inputs": _specs((1, 3, 8, 16))}, ["om.wrong-shape"]),
        ({"inputs": _specs((None, 3, 8, 8))}, ["om.wrong-shape"]),
        ({"inputs": _specs(dtype="uint8")}, ["om.wrong-dtype"]),
        ({"inputs": _specs(name="x")}, ["om.wrong-input-name"]),
        ({"inputs": []}, ["om.wrong-input-count"]),
        ({"outputs": _specs((1, 4), name="other")}, ["om.wrong-output-name"]),
        ({"outputs": _specs((1, 4), "float16", "output")}, ["om.wrong-dtype"]),
        ({"precision": "fp16"}, ["om.precision-not-recorded"]),
    ],
)
def test_what_was_asked(tmp_path: Path, asked: dict, rules: list[str]) -> None:
    path = tmp_path / "m.om"
    path.write_bytes(make.om(_PARTS))
    findings = omfile.check_against(omfile.read_om(path), **asked)
    assert [finding.rule for finding in findings] == rules
    assert all(finding.message.render() and "{" not in finding.message.render("zh") for finding in findings)


@pytest.mark.parametrize(
    ("flags", "precision", "rules"),
    [
        ("", "fp16", []),
        ("--precision_mode=force_fp16", "fp16", []),
        ("--precision_mode_v2=fp16", "fp16", []),
        ("--precision_mode_v2=origin", "origin", []),
        ("--precision_mode_v2=mixed_float16", "mixed", []),
        ("--precision_mode=allow_mix_precision_fp16", "allow_mix_precision", []),
        ("--precision_mode=must_keep_origin_dtype", "fp16", ["om.wrong-precision"]),
        ("", "int8", ["om.no-int8"]),
    ],
)
def test_precision_that_was_asked(tmp_path: Path, flags: str, precision: str, rules: list[str]) -> None:
    path = tmp_path / "m.om"
    command = make.text(f"/bin/atc.bin --model=m.onnx --output=dir/model {flags}".strip())
    path.write_bytes(make.om([(0, _definition(atc_cmdline=command))]))
    assert [item.rule for item in omfile.check_against(omfile.read_om(path), precision=precision)] == rules


def test_fp16_in_the_flags_but_not_in_the_operators(tmp_path: Path) -> None:
    conv = make.operator("c", "Conv2D", (make.description(1, (1, 3, 8, 8)),))
    path = tmp_path / "m.om"
    path.write_bytes(make.om([(0, make.model_def((conv,), {"atc_cmdline": make.text("atc.bin --model=m")}))]))
    assert [item.rule for item in omfile.check_against(omfile.read_om(path), precision="fp16")] == ["om.no-fp16"]


@pytest.mark.parametrize(("kinds", "rules"), [((3, 3), []), ((3, 2), []), ((3, 1), ["om.no-fp16"])])
def test_int8_operators_say_nothing_of_fp16(tmp_path: Path, kinds: tuple[int, ...], rules: list[str]) -> None:
    nodes = tuple(
        make.operator(f"c{place}", "Conv2D", (make.description(kind, (1, 32, 8, 8)),))
        for place, kind in enumerate(kinds)
    )
    path = tmp_path / "m.om"
    path.write_bytes(make.om([(0, make.model_def(nodes, {"atc_cmdline": make.text("atc.bin --model=m")}))]))
    assert [item.rule for item in omfile.check_against(omfile.read_om(path), precision="fp16")] == rules


def test_disagreements_inside_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m.om"
    command = make.text("atc.bin --output=elsewhere/other")
    definition = _definition(om_info_list=make.ints(32, 5, 0, 0, 0), atc_cmdline=command)
    records = make.inout((make.tensor("a", (1,)), make.tensor("b", (1,))), ())
    path.write_bytes(make.om([(8, records), (0, definition), (1, b"w" * 32)]))
    rules = [finding.rule for finding in omfile.check(omfile.read_om(path))]
    assert rules == ["om.size-differs", "om.inputs-differ", "om.name-differs"]


# --- the command line -----------------------------------------------------------------------------------------------


def test_mode_6_text(data_root: Path) -> None:
    lines = omfile.model_info_text(omfile.read_om(data_root / "om" / "a-ircle__my_122_anenet.om")).splitlines()
    assert len(lines) == 6
    assert lines[1].startswith("Original Atc command line: /usr/local/Ascend/ascend-toolkit/8.0.0/")
    assert lines[2] == "system   info: atc_version[7.6.0.1.220], soc_version[Ascend310B4], framework_type[Onnx]."
    assert lines[3] == ("resource info: memory_size[11275776 B], weight_size[2203648 B], stream_num[1], event_num[0].")
    assert lines[4] == (
        "om       info: modeldef_size[1297461 B], weight_data_size[2203648 B], tbe_kernels_size[378946 B], "
        "cust_aicpu_kernel_store_size[0 B], task_info_size[79616 B], so_store_size[0 B]."
    )


def test_mode_1_json_leaves_out_what_atc_leaves_out(data_root: Path) -> None:
    data = omfile.model_json(omfile.read_om(data_root / "om" / "Atlas200dk__crowd_counting.om"))
    text = json.dumps(data)
    assert '"size"' not in text
    assert '"data_offset"' not in text
    assert data["graph"][0]["op"][0]["name"] == "input_1"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_inspect(data_root: Path, language: str, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("PTH2OM_LANG", language)
    for name in REAL:
        assert main(["inspect", str(data_root / "om" / name)]) == 0
    shown = capsys.readouterr().out
    assert "Ascend310B4" in shown
    assert "omfile." not in shown
    path = str(data_root / "om" / "a-ircle__my_122_anenet.om")
    assert main(["inspect", path, "--json", "--soc", "Ascend310B1"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["inputs"][0]["shape"] == [1, 3, 256, 512]
    assert [finding["rule"] for finding in data["findings"]] == ["om.wrong-soc"]


def test_inspect_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x[bold].om"
    path.write_bytes(b"not an om")
    assert main(["inspect", str(path)]) == 1
    captured = capsys.readouterr()
    assert "x[bold].om" in captured.err
    assert "Traceback" not in captured.err


def test_reading_needs_no_heavy_import() -> None:
    import subprocess
    import sys

    heavy = "('torch', 'onnx', 'onnxruntime', 'rich')"
    code = f"import sys, pth2om.omfile, pth2om.cli.inspect; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
