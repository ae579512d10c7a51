"""The small repository that the tests of this room run pytest in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.harness.tiny import DATASET, NET, SPEC


@pytest.fixture(scope="session")
def prototype(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """One model with weights, one dataset with labels."""
    import numpy as np
    import torch

    from pth2om.data import Preprocessor
    from pth2om.spec import Preprocess

    root = tmp_path_factory.mktemp("prototype")
    model = root / "models" / "tiny"
    (model / "weights").mkdir(parents=True)
    (model / "model.toml").write_text(SPEC)
    (model / "net.py").write_text(NET)
    names: dict[str, object] = {}
    exec(NET, names)
    dots = root / "calib" / "dots"
    dots.mkdir(parents=True)
    (dots / "dataset.toml").write_text(DATASET)
    pixels = np.random.default_rng(0).integers(0, 256, (400, 8, 8, 3), np.uint8)
    torch.manual_seed(0)
    net = names["build"](3).eval()
    images = torch.from_numpy(np.stack([Preprocessor(Preprocess(size=(8, 8)))(one)[0] for one in pixels])).float()
    with torch.no_grad():
        # The labels are the net's own answers, spread over the classes: a score of chance would be refused.
        net[-1].weight *= 40
        net[-1].bias -= net(images).mean(0)
        labels = net(images).argmax(1).numpy()
    torch.save(net.state_dict(), model / "weights" / "tiny.pth")
    np.savez(dots / "dots.npz", x=pixels, y=labels)
    shutil.copytree(repository / "test_cases", root / "test_cases", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "pytest.ini").write_text("[pytest]\ntestpaths = test_cases\naddopts = -ra --import-mode=importlib\n")
    return root


@pytest.fixture
def repo(prototype: Path, pytester: pytest.Pytester, tmp_path_factory, monkeypatch) -> pytest.Pytester:
    shutil.copytree(prototype, pytester.path, dirs_exist_ok=True)
    monkeypatch.setenv("PTH2OM_STORE", str(tmp_path_factory.getbasetemp() / "plugin-store"))
    monkeypatch.delenv("PTH2OM_DATA", raising=False)
    return pytester
