"""Workers of pytest-xdist share cores and models."""

from __future__ import annotations

from collections import Counter

import pytest

from pth2om import host
from tests.harness.test_not_reached import second_model

NOTED = """\
import os


def pytest_runtest_call(item):
    model = item.callspec.id.split("-")[0]
    with open(os.path.join({folder!r}, "noted"), "a") as file:
        file.write(f"{{os.environ['PYTEST_XDIST_WORKER']}} {{model}} {{os.environ.get('OMP_NUM_THREADS')}}\\n")
"""


@pytest.mark.parametrize(("given", "expected"), [(None, None), ("2", 2), ("3,1", 3), ("0", None), ("x", None)])
def test_threads_follow_the_variable_of_openmp(monkeypatch, given, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert host.threads() == expected


def test_sessions_of_onnx_runtime_follow_it_too(monkeypatch):
    from onnx import TensorProto, helper

    from pth2om.onnxfile.runtime import open_runtime

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert open_runtime(model.SerializeToString()).get_session_options().intra_op_num_threads == 3
    assert open_runtime(model.SerializeToString(), threads=2).get_session_options().intra_op_num_threads == 2


def test_two_workers_share_cores_and_start_at_different_models(repo: pytest.Pytester, monkeypatch) -> None:
    second_model(repo)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (repo.path / "conftest.py").write_text(NOTED.format(folder=str(repo.path)))
    result = repo.runpytest_subprocess("-n", "2", "-k", "checkpoint or exports")
    result.assert_outcomes(passed=6)
    lines = [line.split() for line in (repo.path / "noted").read_text().splitlines()]
    assert {threads for _, _, threads in lines} == {str(max(1, host.cores() // 2))}
    by_worker = Counter((worker, model) for worker, model, _ in lines)
    first = [next(model for one, model, _ in lines if one == worker) for worker in ("gw0", "gw1")]
    assert sorted(first) == ["second", "tiny"]
    assert sum(by_worker.values()) == 6
