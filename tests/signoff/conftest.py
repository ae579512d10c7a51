"""A run that can be signed, a key, and what signs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pth2om.signoff import keys
from pth2om.signoff.signing import Signed, signoff
from pth2om.store import Store
from tests.signoff.released import Run


@pytest.fixture(scope="session", autouse=True)
def packages() -> None:
    """Skips where they are absent; raised while this file is read, it would end the whole run."""
    for name in ("securesystemslib", "cryptography"):
        pytest.importorskip(name, reason="needs the extra signoff: pip install 'pth2om[signoff]'")


@pytest.fixture(scope="session")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private and a public key."""
    return keys.new(tmp_path_factory.mktemp("keys") / "release.key")


class Desk:
    """Signs runs in one folder."""

    def __init__(self, root: Path, key: Path) -> None:
        self.root = root
        self.key = key
        self.run = Run()

    def sign(self, **options: object) -> Signed:
        folder = self.run.write(self.root)
        given: dict[str, object] = {"om_files": [self.root / "net.om"], "models": self.root / "models"}
        given |= {"store": Store(self.root / "store"), "language": "en"} | options
        for name, text in given.pop("after", {}).items():
            (self.root / name).write_text(text, encoding="utf-8")
        return signoff(folder, self.root / "release.toml", self.root / "statement.json", self.key, **given)


@pytest.fixture
def desk(tmp_path: Path, key_files: tuple[Path, Path]) -> Desk:
    """See `Desk`."""
    return Desk(tmp_path, key_files[0])
