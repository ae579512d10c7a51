"""Logs of msame, ais_bench and benchmark: every recorded form of their lines."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.errors import DataError
from pth2om.offline.logs import read_log

MSAME = """[INFO] acl init success
[INFO] load model x.om success
[INFO] start to process file:./a.bin
[INFO] model execute success
Inference time: 30.5ms
Inference time: 12.5ms
Inference time: 11.5ms
[INFO] output data success
Inference average time: 18.166667 ms
Inference average time without first time: 12.000000 ms
[INFO] Execute sample success
"""
AIS = """[INFO] -----------------Performance Summary------------------
[INFO] H2D_latency (ms): min = 0.05, max = 0.05, mean = 0.05, median = 0.05, percentile(99%) = 0.05
[INFO] NPU_compute_time (ms): min = 2.45, max = 2.61, mean = 2.456, median = 2.45, percentile(99%) = 2.60
[INFO] D2H_latency (ms): min = 0.01, max = 0.01, mean = 0.01, median = 0.01, percentile(99%) = 0.01
[INFO] throughput {line}
[INFO] ------------------------------------------------------
"""


def write(folder: Path, text: str, name: str = "log.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_msame_leaves_the_first_call_out(tmp_path: Path) -> None:
    read = read_log(write(tmp_path, MSAME), batch=4)
    assert (read.tool, read.batch, read.latency_ms, read.without_first) == ("msame", 4, 12.0, True)
    assert read.fps == pytest.approx(4000 / 12)


def test_msame_over_a_folder_has_a_mean_of_its_own_form(tmp_path: Path) -> None:
    read = read_log(write(tmp_path, "Inference average time : 12.30 ms\n", "msame_bs4.txt"))
    assert (read.batch, read.latency_ms, read.without_first) == (4, 12.3, False)
    several = "Inference time: 90ms\nInference time: 10ms\nInference time: 20ms\nInference average time : 40.00 ms\n"
    assert read_log(write(tmp_path, several), batch=1).latency_ms == 15.0


@pytest.mark.parametrize(
    ("line", "fps"),
    [
        ("1000*batchsize.mean(1)/NPU_compute_time.mean(2.456): 407.16", 407.16),
        ("1000*batchsize(1)/NPU_compute_time.mean(2.456): 407.2", 407.2),
        ("(1000*batchsize/NPU_compute_time): 407.1", 407.1),
    ],
)
def test_ais_bench_in_each_form(tmp_path: Path, line: str, fps: float) -> None:
    read = read_log(write(tmp_path, AIS.format(line=line)), batch=1)
    assert (read.tool, read.batch, read.latency_ms, read.fps) == ("ais_bench", 1, 2.456, fps)


def test_ais_bench_knows_its_batch_better_than_the_file_name(tmp_path: Path) -> None:
    text = AIS.format(line="1000*batchsize.mean(8)/NPU_compute_time.mean(2.456): 3257.33")
    assert read_log(write(tmp_path, text)).batch == 8
    with pytest.raises(DataError, match="at batch 8, not 4"):
        read_log(write(tmp_path, text, "bs4.txt"))


def test_a_wrong_batch_contradicts_the_times(tmp_path: Path) -> None:
    text = AIS.format(line="(1000*batchsize/NPU_compute_time): 407.1")
    with pytest.raises(DataError, match=r"407\.1 fps"):
        read_log(write(tmp_path, text), batch=4)


def test_several_devices_are_summed(tmp_path: Path) -> None:
    lines = []
    for ms in (3.5, 3.6):
        lines.append(f"[INFO] NPU_compute_time (ms): min = 2, max = 4, mean = {ms}, median = 3, percentile(99%) = 4")
        lines.append(f"[INFO] throughput 1000*batchsize.mean(1)/NPU_compute_time.mean({ms}): {1000 / ms}")
    lines.append(f"[INFO] summary throughput:{1000 / 3.5 + 1000 / 3.6}")
    read = read_log(write(tmp_path, "\n".join(lines)))
    assert (read.devices, read.latency_ms) == (2, 3.55)
    assert read.fps == pytest.approx(1000 / 3.5 + 1000 / 3.6)


def test_the_old_tool(tmp_path: Path) -> None:
    text = "[infer] throughputRate: 171.595, Interface throughputRate: 247.898, moduleLatency: 5.12\n"
    read = read_log(write(tmp_path, text, "perf_vision_batchsize_8_device_0.txt"))
    assert (read.tool, read.batch, read.fps, read.latency_ms) == ("benchmark", 8, 171.595, 5.12)


def test_a_summary_file(tmp_path: Path) -> None:
    data = {"NPU_compute_time": {"mean": 4.0, "count": 12}, "throughput": 1000.0}
    read = read_log(write(tmp_path, json.dumps(data), "x_summary.json"))
    assert (read.batch, read.calls, read.fps) == (4, 12, 1000.0)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "no line with an inference time"),
        ("[ERROR] load model from file failed\nInference average time : 1 ms\n", "reported an error"),
        ("bs1: throughputRate: 0.0, moduleLatency: 0.0\n", "batch size is not in the log"),
        ("Inference average time : 12 ms\n", "batch size is not in the log"),
    ],
)
def test_what_is_no_measurement_is_refused(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(DataError, match=part):
        read_log(write(tmp_path, text))


@pytest.mark.parametrize("text", ["[]", "{", "[" * 9999, '{"NPU_compute_time": {"mean": "x"}}', '{"throughput": NaN}'])
def test_a_damaged_summary_is_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError):
        read_log(write(tmp_path, text, "x_summary.json"))


@given(st.text(max_size=200), st.sampled_from(MSAME.splitlines()))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, noise: str, line: str) -> None:
    path = write(tmp_path_factory.getbasetemp(), f"{noise}{line}\n", "noise.txt")
    with contextlib.suppress(DataError):
        assert read_log(path, batch=1).fps > 0


def test_a_time_of_zero_is_no_time(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no time or rate"):
        read_log(write(tmp_path, "Inference average time : 0.0 ms\n"), batch=1)
