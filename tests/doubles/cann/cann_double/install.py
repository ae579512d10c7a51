"""A pretended machine: a folder with a CANN tree, drivers and devices as the facts describe them.

Its ``set_env.sh`` puts the doubles on ``PATH`` and ``PYTHONPATH`` as the real one does with the real programs.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cann_double.rules import HOME

HERE = Path(__file__).resolve().parents[1]
REPOSITORY = HERE.parents[2]
PROGRAMS = ("atc", "npu-smi", "msame", "amct_onnx")
_INNER = {"7": "V100R001C15SPC002B217", "8": "V100R001C19SPC001B220", "9": "V100R001C25B101"}


@dataclass(frozen=True)
class Installed:
    """Where it lies.

    Attributes:
        home: the folder, the value of ``PTH2OM_DOUBLE_HOME``.
        root: the tree that stands for ``/``: CANN and the driver are below ``usr/local/Ascend``.
        toolkit: the value of ``ASCEND_HOME_PATH``.
        set_env: the script to source.
    """

    home: Path
    root: Path
    toolkit: Path
    set_env: Path

    def rules(self, *rows: Mapping[str, Any]) -> None:
        """Replace the failures asked for; none: it works."""
        shutil.rmtree(self.home / "taken", ignore_errors=True)
        (self.home / "device-lost").unlink(missing_ok=True)
        text = json.dumps(list(rows))
        new = self.home / "rules.json.new"
        new.write_text(text)
        new.replace(self.home / "rules.json")

    def machine(self, **properties: Any) -> None:
        """Change what the machine is."""
        path = self.home / "machine.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **properties}))

    @property
    def broken(self) -> list[str]:
        """Which restrictions of the vendor were broken so far."""
        path = self.home / "broken.txt"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def environment(self) -> dict[str, str]:
        """What ``set_env.sh`` would export, for a child."""
        path = os.pathsep.join([str(self.toolkit / "bin"), str(self.root / "usr/local/bin"), os.environ["PATH"]])
        return {
            **os.environ,
            "PATH": path,
            "PYTHONPATH": self._python_path,
            "ASCEND_HOME_PATH": str(self.toolkit),
            "ASCEND_TOOLKIT_HOME": str(self.toolkit),
            "ASCEND_OPP_PATH": str(self.toolkit / "opp"),
            HOME: str(self.home),
        }

    @property
    def _python_path(self) -> str:
        return os.pathsep.join([str(self.toolkit / "python/site-packages"), str(HERE), str(REPOSITORY)])


def install(
    home: Path,
    *,
    layout: str = "toolkit",
    programs: Sequence[str] = PROGRAMS,
    packages: Sequence[str] = (),
    **machine: Any,
) -> Installed:
    """Make the machine.

    Args:
        home: an empty folder, or one that is not there yet.
        layout: ``toolkit`` (``ascend-toolkit/latest``, to CANN 8.3) or ``cann`` (``/usr/local/Ascend/cann``, from 8.5).
        programs: which doubles are there.
        packages: doubles of Python packages beside ``acl``: ``ais_bench``, ``onnxruntime`` (of ``onnxruntime-cann``).
        machine: properties other than `cann_double.machine.DEFAULTS`.
    """
    home.mkdir(parents=True, exist_ok=True)
    root = home / "root"
    ascend = root / "usr/local/Ascend"
    (home / "machine.json").write_text(json.dumps(machine))
    toolkit = ascend / ("cann" if layout == "cann" else "ascend-toolkit/latest")
    installed = Installed(
        home, root, toolkit, toolkit.parent / "set_env.sh" if layout != "cann" else toolkit / "set_env.sh"
    )
    cann = str(machine.get("cann", "8.0.0"))
    for folder in ("bin", "python/site-packages", "opp", f"{os.uname().machine}-linux/data/platform_config"):
        (toolkit / folder).mkdir(parents=True)
    inner = _INNER.get(cann[0], _INNER["9"])
    (toolkit / f"{os.uname().machine}-linux/ascend_toolkit_install.info").write_text(
        f"package_name=Ascend-cann-toolkit\nversion={cann}\ninnerversion={inner}\n"
        f"compatible_version=[V100R001C15],[V100R001C19]\narch={os.uname().machine}\nos=linux\npath={toolkit}\n"
    )
    (toolkit / "version.cfg").write_text(
        f"# version: 1.0\nruntime_running_version=[7.6.0.1.220:{cann}]\ncompiler_running_version=[7.6.0.1.220:{cann}]\n"
        f"opp_running_version=[7.6.0.1.220:{cann}]\ntoolkit_running_version=[7.6.0.1.220:{cann}]\n"
    )
    (toolkit / "opp/scene.info").write_text(f"os=linux\narch={os.uname().machine}\n")
    platforms = [str(machine.get("soc", "Ascend310B4")), "Ascend310B1", "Ascend310P3"]
    for name in machine.get("platforms", platforms):
        (toolkit / f"{os.uname().machine}-linux/data/platform_config/{name}.ini").write_text("[version]\n")
    for family in machine.get("kernels", ["ascend310b"]):
        (toolkit / f"opp/built-in/op_impl/ai_core/tbe/config/{family}").mkdir(parents=True)
        (toolkit / f"opp/built-in/op_impl/ai_core/tbe/kernel/{family}").mkdir(parents=True)
    (toolkit / "python/site-packages/acl").symlink_to(HERE / "acl")
    for package in packages:
        (toolkit / "python/site-packages" / package).symlink_to(HERE / "python" / package)
    driver = ascend / "driver"
    (driver / "lib64/driver").mkdir(parents=True)
    (driver / "version.info").write_text(
        f"Version={machine.get('driver', '24.1.rc3')}\nascendhal_version=7.35.23\naicpu_version=1.0\n"
        "log_version=1.0\nprof_version=2.0\npackage_version=24.1.rc3\n"
    )
    (root / "etc").mkdir()
    (root / "etc/ascend_install.info").write_text(
        "UserName=HwHiAiUser\nUserGroup=HwHiAiUser\nDriver_Install_Type=full\n"
        f"Driver_Install_Path_Param={ascend}\nDriver_Install_For_All=no\n"
    )
    (root / "dev").mkdir()
    for number in range(int(machine.get("devices", 1))):
        (root / f"dev/davinci{number}").touch()
    (root / "dev/davinci_manager").touch()
    (root / "usr/local/bin").mkdir(parents=True)
    for name in programs:
        place = root / "usr/local/bin" if name == "npu-smi" else toolkit / "bin"
        _program(place / name, HERE / "bin" / name, installed)
    _program(toolkit / "bin/python-of-acl", None, installed)
    installed.set_env.write_text(_set_env(installed))
    installed.rules()
    return installed


def _program(path: Path, script: Path | None, installed: Installed) -> None:
    lines = ["#!/bin/sh", f"PYTHONPATH='{installed._python_path}' {HOME}='{installed.home}'"]
    lines += [
        f"export PYTHONPATH {HOME}",
        " ".join(["exec", sys.executable, *([str(script)] if script else []), '"$@"']),
    ]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _set_env(installed: Installed) -> str:
    home = installed.toolkit
    return (
        f"export ASCEND_TOOLKIT_HOME={home}\n"
        f"export ASCEND_HOME_PATH={home}\n"
        f"export ASCEND_OPP_PATH={home}/opp\n"
        f"export LD_LIBRARY_PATH={home}/lib64:{home}/lib64/plugin/opskernel${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n"
        f"export PYTHONPATH={installed._python_path}${{PYTHONPATH:+:$PYTHONPATH}}\n"
        f"export PATH={home}/bin:{installed.root}/usr/local/bin:$PATH\n"
        f"export {HOME}={installed.home}\n"
    )
