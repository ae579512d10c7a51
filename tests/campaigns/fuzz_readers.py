"""What the fuzz campaign feeds: for each reader good inputs to start from, and the call that a damaged one meets."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Reader:
    """A room that reads files of strangers.

    Attributes:
        name: what a damaged input is written as, in a folder of its own.
        seeds: good inputs; called once.
        read: reads the file; may raise `pth2om.errors.Pth2omError` and nothing else.
        binary: whether line and number mutations make no sense.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], object]
    binary: bool = False


def _tomls(pattern: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(REPOSITORY.glob(pattern))]


def _spec(path: Path) -> None:
    from pth2om.spec import load

    load(path.parent)


def _dataset(path: Path) -> None:
    from pth2om.data.labelled import read_source
    from pth2om.data.manifest import load_manifest

    given = path.with_name("digits.npz")
    if not given.exists():
        given.write_bytes((REPOSITORY / "calib/digits/digits.npz").read_bytes())
    read_source(load_manifest(path.parent), path.parent)


def _evidence_seeds() -> list[bytes]:
    from pth2om.evidence import to_json
    from tests.report.evidence_factory import small_run

    records = [to_json(record) for record in small_run()]
    records[0]["format"] = 1  # lines without digests: with them every change is refused before anything else is read
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    pieces = [lines[:1] + lines[first : first + 6] for first in range(1, min(len(lines), 61), 6)]
    return [("\n".join(piece) + "\n").encode() for piece in pieces]


def _evidence(path: Path) -> None:
    from pth2om.report import load
    from pth2om.report.html import render_html
    from pth2om.report.markdown import render_markdown

    report = load(path)
    render_markdown(report, "en")
    render_html(report, "zh")


def _record_seeds() -> list[bytes]:
    from pth2om.quantize.record import Record, render_records

    layers = {
        "conv1": Record(0.02, -3, (0.1, 0.2), (0, 0), (1, 2)),
        "/a/Gemm": Record(1e-9, 0, (3.0,), (0,)),
        "层": Record(None, None, (0.5,), (0,), other=(("dst_type", "INT8"),)),
    }
    return [render_records(layers).encode(), b'record { key: "a" value { scale_d: 0x1 offset_d: [1, 2] } }']


def _record(path: Path) -> None:
    from pth2om.quantize.record import read_records, render_records

    render_records(read_records(path))


_CFG = b"""skip_layers: "a"
override_layer_configs {
  layer_name: "b"
  calibration_config { arq_quantize { channel_wise: false } hfmg_quantize { num_of_bins: 4096 } }
}
batch_num: 1
"""


def _config_seeds() -> list[bytes]:
    from pth2om.quantize.amct_config import config_text
    from pth2om.quantize.settings import QuantizeSettings

    layer = {
        "quant_enable": True,
        "activation_quant_params": {"act_algo": "ifmr", "search_range": [0.7, 1.3], "search_step": 0.01},
        "weight_quant_params": {"wts_algo": "arq_quantize", "channel_wise": True},
    }
    data = {"version": 1, "batch_num": 2, "activation_offset": True, "conv1": layer, "fc": {"quant_enable": False}}
    return [
        json.dumps(data, indent=1).encode(),
        config_text(QuantizeSettings(), 4).encode(),
        _CFG,
    ]


def _config(path: Path) -> None:
    from pth2om.quantize.amct_config import read_config

    config = read_config(path)
    config.settings()
    config.render()


@functools.cache
def _onnx_seeds() -> list[bytes]:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    def model(nodes: list[object], weights: Mapping[str, object], out: list[int | str]) -> bytes:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, out)
        tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
        graph = helper.make_graph(nodes, "g", [x], [y], tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()

    weight = np.ones((4, 3, 3, 3), np.float32)
    convolution = helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1])
    shape = np.array([0, -1], np.int64)
    return [
        model([convolution, helper.make_node("Relu", ["c"], ["y"])], {"w": weight}, ["n", 4, 8, 8]),
        model(
            [
                convolution,
                helper.make_node("Reshape", ["c", "s"], ["r"]),
                helper.make_node("Gemm", ["r", "m"], ["g"], transB=1),
                helper.make_node("Softmax", ["g"], ["y"], axis=1),
            ],
            {"w": weight, "s": shape, "m": np.ones((5, 256), np.float32)},
            ["n", 5],
        ),
        model(
            [
                helper.make_node("Resize", ["x", "", "f"], ["a"], mode="nearest"),
                helper.make_node("Slice", ["a", "b", "e"], ["y"]),
            ],
            {"f": np.array([1, 1, 2, 2], np.float32), "b": np.array([0], np.int64), "e": np.array([1], np.int64)},
            [1, 3, 16, 16],
        ),
    ]


def _onnx(path: Path) -> None:
    from pth2om.ascend.atc_options import AtcOptions
    from pth2om.preflight import check

    check(path, soc="Ascend310B1", options=AtcOptions(str(path), "Ascend310B1", input_shape="x:2,3,8,8"))


def _fix(path: Path) -> None:
    from pth2om.graph.contract import PassSettings
    from pth2om.graph.fixing import fix

    settings = PassSettings(input_shapes={"x": (1, 3, 8, 8)}, time_limit=4.0)
    fix(path, path.with_name("fixed.onnx"), settings=settings, soc="Ascend310B1", force=True)


def _om_seeds() -> list[bytes]:
    from tests.omfile import om_factory as make
    from tests.omfile.test_read_om import _PARTS

    return [make.om(_PARTS, wide=True, name="yolo"), make.om(_PARTS, wide=False), make.om(_PARTS[1:])]


def _om(path: Path) -> None:
    from pth2om import omfile
    from pth2om.omfile.show import model_info_text, tables

    om = omfile.read_om(path)
    omfile.summary(om)
    model_info_text(om)
    tables(om)
    omfile.check_against(om, soc="Ascend310B1")


_AIPP = b"""aipp_op {
    aipp_mode: static  related_input_rank: 0  input_format: YUV420SP_U8  src_image_size_w: 64  src_image_size_h: 64
    crop: true  load_start_pos_h: 2  load_start_pos_w: 2  crop_size_w: 32  crop_size_h: 32
    csc_switch: true  rbuv_swap_switch: false  matrix_r0c0: 298  matrix_r0c1: 516  input_bias_0: 16
    min_chn_0: 123.675  var_reci_chn_0: 0.0171247538316637  # comment
}
"""


def _aipp(path: Path) -> None:
    from pth2om import aipp

    config = aipp.read_config(path)
    aipp.refusals(config, inputs=[("x", (1, 3, 32, 32))])
    aipp.findings(config, model_hw=(32, 32), soc="Ascend310B1")
    aipp.write_config(config)


@functools.cache
def _checkpoint_seeds() -> list[bytes]:
    import torch
    from safetensors.torch import save

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = {"epoch": 3, "names": ["a", "b"], "model": module.state_dict(), "ema": {"module": module.half()}}
    seeds = [save({"a.weight": torch.zeros(2, 3), "b": torch.arange(3)})]
    for kept in (module.state_dict(), state):
        for zipped in (True, False):
            stream = io.BytesIO()
            torch.save(kept, stream, _use_new_zipfile_serialization=zipped)
            seeds.append(stream.getvalue())
    return seeds


def _checkpoint(path: Path) -> None:
    from pth2om.checkpoint import read

    read(path)


def _init(path: Path) -> None:
    import shutil

    from pth2om.drafting.start import start

    models = path.parent / "models"
    shutil.rmtree(models, ignore_errors=True)
    start("m", path, models=models)


_ATC = (
    b"--framework=5 --output=o --soc_version=Ascend310B1",
    b'--framework=5 --output=o --soc_version=Ascend310P3 --input_shape="x:1,3,8,8" --precision_mode=force_fp16',
    b'--framework 5 --output o --soc_version Ascend310B1 --input_shape "x:-1,3,8,8" --dynamic_batch_size 1,2,4',
    b'--framework=5 --output=o --soc_version=Ascend910B4 --input_shape="x:1,3,-1,-1" --dynamic_image_size="8,8;16,16"',
    b"--mode=1 --om=m.onnx --json=out.json",
    b'--framework=5 --output=o --soc_version=Ascend310B1 --out_nodes="conv:0" --log=error --insert_op_conf=a.cfg',
)


def _atc(path: Path) -> None:
    from pth2om.toolchain.emulator.front_end.run import run_atc

    (path.parent / "m.onnx").write_bytes(_onnx_seeds()[0])
    (path.parent / "a.cfg").write_bytes(_AIPP)
    text = path.read_bytes().decode("utf-8", "replace").replace("\0", "")
    for line in text.splitlines()[:3]:
        with contextlib.suppress(ValueError):  # an open quote: the shell would wait for more
            run_atc(shlex.split(line)[:60], cwd=path.parent)


_RECIPE = b"""{  # of a detector
  "det_pre_params": {"img_root": "images", "fixed_scale": true, "batch_size": 2, "des_channels": 3, "des_height": 8,
    "des_width": 8, "is_BGR2RGB": true, "means": [123.7, 116.3, 103.5], "stds": [58.4, 57.1, 57.4],},  // pixels
}
"""


def _recipe(path: Path) -> None:
    from pth2om.quantize.preprocessing import read_recipe

    read_recipe(path)


def _fetch(path: Path) -> None:
    from pth2om.cli import main

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(["fetch", "--manifest", str(path)])


def _store_seeds() -> list[bytes]:
    parts = {
        "stage": "onnx",
        "version": 3,
        "inputs": {"checkpoint": "0" * 64},
        "options": {"batch": 1},
        "libraries": {},
    }
    record = {
        "parts": parts,
        "label": "m-bs1",
        "created": "2026-11-21T04:02:13+00:00",
        "seconds": 1.5,
        "files": {"a": 3},
    }
    return [json.dumps(record, indent=1).encode()]


def _store(path: Path) -> None:
    from pth2om.cli import main

    root = path.parent / "store"
    folder = root / "onnx" / ("0" * 64)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "artifact.json").write_bytes(path.read_bytes())
    os.environ["PTH2OM_STORE"] = str(root)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(["store", "ls"])
        main(["store", "why", "m-bs1"])


def _log_seeds() -> list[bytes]:
    from pth2om.explain import entries

    examples = [entry.example for entry in entries()]
    head = "E19999: Inner Error!\n        TraceBack (most recent call last):\n"
    return [(head + "\n".join(examples[first : first + 8])).encode() for first in range(0, len(examples), 8)]


def _log(path: Path) -> None:
    from pth2om.cli import main

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(["explain", str(path)])


READERS: dict[str, Reader] = {
    "spec": Reader("model.toml", lambda: _tomls("models/*/model.toml"), _spec),
    "dataset": Reader("dataset.toml", lambda: _tomls("calib/*/dataset.toml"), _dataset),
    "evidence": Reader("evidence.jsonl", _evidence_seeds, _evidence),
    "record": Reader("record.txt", _record_seeds, _record),
    "config": Reader("amct.cfg", _config_seeds, _config),
    "onnx": Reader("m.onnx", _onnx_seeds, _onnx, binary=True),
    "fix": Reader("m.onnx", _onnx_seeds, _fix, binary=True),
    "om": Reader("m.om", _om_seeds, _om, binary=True),
    "aipp": Reader("aipp.cfg", lambda: [_AIPP], _aipp),
    "checkpoint": Reader("w.pth", _checkpoint_seeds, _checkpoint, binary=True),
    "init": Reader("w.pth", _checkpoint_seeds, _init, binary=True),
    "atc": Reader("lines.txt", lambda: [b"--model=m.onnx " + line for line in _ATC], _atc),
    "recipe": Reader("recipe.json", lambda: [_RECIPE], _recipe),
    "fetch": Reader("manifest.toml", lambda: _tomls("pth2om/fetch_manifest.toml"), _fetch),
    "store": Reader("record.json", _store_seeds, _store),
    "log": Reader("a.log", _log_seeds, _log),
}
