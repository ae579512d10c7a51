"""Packages that import their modules on demand offer what they say, and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

PACKAGES = ("pth2om.checkpoint", "pth2om.data")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_offered_name_is_found(name: str) -> None:
    package = importlib.import_module(name)
    modules = {each.name for each in pkgutil.iter_modules(package.__path__)}
    assert package.__all__
    for offered in package.__all__:
        assert getattr(package, offered).__module__.startswith(f"{name}.") or offered in ("Kind",)
        assert offered not in modules  # an imported module would take its place
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        _ = package.absent


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_alone_imports_none_of_its_modules(name: str) -> None:
    code = f"import sys, {name}; print([each for each in sys.modules if each.startswith('{name}.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
