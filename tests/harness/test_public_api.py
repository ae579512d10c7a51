"""The public functions: importable, light until they are called, and doing what they say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import pth2om
from pth2om.data.samples import Sample
from pth2om.errors import Pth2omError
from pth2om.session import Provenance


class Scaled:
    """A session that multiplies by ``factor``."""

    provenance = Provenance("numpy", "1", "host")

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.digest = str(factor)

    def run(self, feeds):
        return {"output": feeds["x"] * np.float32(self.factor)}


def test_every_name_is_there_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, pth2om; "
        "assert all(callable(getattr(pth2om, name)) for name in pth2om.__all__ if name != '__version__'); "
        "import pth2om.cli; print(*{'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("", "")
    with pytest.raises(AttributeError, match="no_such"):
        _ = pth2om.no_such


@pytest.mark.parametrize(("factor", "verdicts"), [(1.0, {"passed"}), (1.1, {"passed", "failed"})])
def test_compare_sessions_judges(factor: float, verdicts: set[str]) -> None:
    values = np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32)
    judged = pth2om.compare_sessions(Scaled(1.0), Scaled(factor), [Sample(("one",), {"x": values})])
    assert {each.verdict for each in judged} == verdicts


def test_accept_models_returns_the_evidence(repo) -> None:
    accepted = pth2om.accept_models(repo.path, match="checkpoint", options=["-p", "no:cacheprovider"], quiet=True)
    assert accepted.exit_status == 0
    assert accepted.folder is not None
    assert {gate.verdict for gate in accepted.gates} == {"passed"}


def test_accept_models_says_why_pytest_refuses(repo) -> None:
    with pytest.raises(Pth2omError, match="Ascend999"):
        pth2om.accept_models(repo.path, soc="Ascend999", quiet=True)
