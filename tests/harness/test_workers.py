"""Workers of pytest-xdist share cores and models."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


class Node:
    """A worker as the scheduler sees it."""

    def __init__(self, name: str) -> None:
        self.gateway = type("Gateway", (), {"id": name})()
        self.given: list[int] = []
        self.stolen: list[int] = []
        self.shutting_down = False

    def send_runtest_some(self, tests: list[int]) -> None:
        self.given += tests

    def send_steal(self, tests: list[int]) -> None:
        self.stolen = list(tests)

    def shutdown(self) -> None:
        self.shutting_down = True


def scheduled(request: pytest.FixtureRequest, tests: list[str], models: list[str], workers: int):
    pytest.importorskip("xdist")
    from pth2om.harness.scheduling import ModelScheduling

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("xdist.scheduler.worksteal.parse_tx_spec_config", lambda _config: ["popen"] * workers)
        scheduler = ModelScheduling(request.config, None, models)
    nodes = [Node(f"gw{number}") for number in range(workers)]
    for node in nodes:
        scheduler.add_node(node)
    for node in nodes:
        scheduler.add_node_collection(node, tests)
    scheduler.schedule()
    return scheduler, nodes


def test_models_are_given_one_by_one_and_the_last_ones_are_shared(request: pytest.FixtureRequest) -> None:
    models = ["net", "net-digits", "other"]
    tests = [f"t.py::test_{number}[{model}-fp16-bs1]" for model in models for number in range(6)]
    scheduler, (first, second) = scheduled(request, tests, models, 2)
    assert (first.given, second.given) == (list(range(6)), list(range(6, 12)))
    for test in range(4):
        scheduler.mark_test_complete(second, 6 + test)
    assert second.given[6:] == []  # two are left: it has what it needs
    scheduler.mark_test_complete(second, 10)
    assert second.given[6:] == list(range(12, 18))
    for test in range(5):
        scheduler.mark_test_complete(first, test)
    # No model is left, and the first holds its last test: one more lets it run that, and not the long one at the end.
    assert second.stolen == [13]
    scheduler.remove_pending_tests_from_node(second, second.stolen)
    assert first.given[6:] == [13]
    scheduler.mark_test_complete(first, 5)
    assert second.stolen == [14]
    scheduler.remove_pending_tests_from_node(second, [])  # it had begun that
    for node in (first, second):
        for test in list(scheduler.node2pending[node]):
            scheduler.mark_test_complete(node, test)
            if scheduler.steal_requested_from_node is not None:
                scheduler.remove_pending_tests_from_node(scheduler.steal_requested_from_node, [])
    assert sorted(first.given + [test for test in second.given if test != 13]) == list(range(18))
    assert scheduler.tests_finished


def test_a_worker_that_has_nothing_takes_half(request: pytest.FixtureRequest) -> None:
    tests = [f"t.py::test_{number}[net-fp16-bs1]" for number in range(8)]
    scheduler, (first, second) = scheduled(request, tests, ["net"], 2)
    assert (first.given, second.given, first.stolen) == (list(range(8)), [], [4, 5, 6, 7])
    scheduler.remove_pending_tests_from_node(first, first.stolen)
    assert second.given == [4, 5, 6, 7]


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_done_first_every_test_is_run_once(request: pytest.FixtureRequest, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    models = [f"m{number}" for number in range(len(sizes))]
    tests = [f"t.py::test_{n}[{model}]" for model, size in zip(models, sizes, strict=True) for n in range(size)]
    scheduler, nodes = scheduled(request, tests, models, data.draw(st.integers(1, 4)))
    done: list[int] = []
    while len(done) < len(tests):
        thief = scheduler.steal_requested_from_node
        if thief is not None and data.draw(st.booleans()):
            ready = scheduler.node2pending[thief][2:]  # what it holds on to, as a worker does
            scheduler.remove_pending_tests_from_node(thief, [test for test in thief.stolen if test in ready])
            continue
        able = [node for node in nodes if len(scheduler.node2pending[node]) > (0 if node.shutting_down else 1)]
        if not able:
            assert thief is not None, "everybody waits for everybody"
            ready = scheduler.node2pending[thief][2:]
            scheduler.remove_pending_tests_from_node(thief, [test for test in thief.stolen if test in ready])
            continue
        node = data.draw(st.sampled_from(able))
        test = scheduler.node2pending[node][0]
        done.append(test)
        scheduler.mark_test_complete(node, test)
    assert sorted(done) == list(range(len(tests)))
    assert not scheduler.pending
