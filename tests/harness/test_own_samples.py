"""A user's own samples, by a fixture, and a figure of their own, by a test: both are in the evidence."""

from __future__ import annotations

import pytest

from pth2om import evidence
from tests.harness.tiny import records

CONFTEST = """\
import numpy as np
import pytest


@pytest.fixture
def samples(batch):
    from pth2om.data import GivenSamples

    def mine():
        for number in range(2):
            yield {"image": np.random.default_rng(number).random((batch, 3, 8, 8), dtype=np.float32)}

    return GivenSamples(mine, 2, batch=batch, name="my pictures", digest="1", pixels=None)
"""

TESTS = """\
import pytest


@pytest.mark.question("closeness")
def test_onnx_matches(torch_session, onnx_session, samples, accept):
    accept.closeness(torch_session, onnx_session, samples)


@pytest.mark.question("accuracy")
def test_mine(torch_session, onnx_session, accept):
    from pth2om.evidence import Judgement, Limit

    limit = Limit(">=", 101.0)
    accept.judged([Judgement("onnx/same-answer", 100.0, "%", limit, "failed")], onnx_session)
"""


def test_own_samples_and_an_own_figure_are_evidence(repo: pytest.Pytester) -> None:
    (repo.path / "test_cases" / "conftest.py").write_text(CONFTEST)
    for file in (repo.path / "test_cases").glob("test_*.py"):
        file.unlink()
    (repo.path / "test_cases" / "test_own.py").write_text(TESTS)
    result = repo.runpytest_subprocess("-p", "no:cacheprovider", "-k", "bs1")
    result.stdout.fnmatch_lines(["*onnx/same-answer = 100 % (limit >= 101)*"])
    gates = {record.check: record for record in records(repo) if isinstance(record, evidence.GateRecord)}
    own = gates["onnx/same-answer"]
    assert (own.question, own.verdict, own.ground, own.provenance.name) == ("accuracy", "failed", "host", "onnxruntime")
    close = gates["torch~onnx/scores/relative_l2"]
    assert close.verdict == "passed"
    assert "my pictures" in close.details["worst"]
