"""What the machine is: device nodes, driver, CANN, and whether that proves an NPU."""

from __future__ import annotations

import glob
import os
import re
import stat
from typing import Any, Dict, List

from .installed import read


def device_nodes(root: str = "/") -> List[str]:
    """``/dev/davinci0``...: the nodes that the driver makes for chips."""
    found = glob.glob(os.path.join(root, "dev/davinci[0-9]*"))
    return sorted(path for path in found if re.fullmatch(r"davinci[0-9]+", os.path.basename(path)))


def is_node(path: str) -> bool:
    """Whether a driver stands behind it: a plain file of that name proves nothing."""
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False


def driver_version(root: str = "/") -> str:
    """``Version=`` of the driver's ``version.info``; ``""`` where no driver is installed."""
    places = ["usr/local/Ascend/driver/version.info"]
    named = _values(os.path.join(root, "etc/ascend_install.info")).get("Driver_Install_Path_Param", "")
    if named:
        places.insert(0, named.lstrip("/") + "/driver/version.info")
    for place in places:
        version = _values(os.path.join(root, place)).get("Version", "")
        if version:
            return version
    return ""


def cann_version(environment: Dict[str, str]) -> str:
    """The release of the toolkit (or run time) that an environment names: ``8.0.0``; ``""`` if none is found."""
    home = environment.get("ASCEND_HOME_PATH") or environment.get("ASCEND_TOOLKIT_HOME") or ""
    if not home:
        return ""
    for pattern in ("*-linux/ascend_toolkit_install.info", "*-linux/ascend_nnrt_install.info", "*_install.info"):
        for path in sorted(glob.glob(os.path.join(home, pattern))):
            version = _values(path).get("version", "")
            if version:
                return version
    for name in ("version.cfg", "runtime/version.cfg"):
        text = read(os.path.join(home, name))
        found = re.search(r"(?:toolkit|runtime)_running_version=\[[^:\]]*:([^\]]+)\]", text)
        if found:
            return found.group(1).strip()
    return ""


def platforms(environment: Dict[str, str]) -> List[str]:
    """The SoC names that the toolkit has a platform file of; empty where it has no folder of them."""
    home = environment.get("ASCEND_HOME_PATH") or environment.get("ASCEND_TOOLKIT_HOME") or "/nonexistent"
    found = glob.glob(os.path.join(home, "*-linux/data/platform_config/*.ini"))
    return sorted({os.path.basename(path)[:-4] for path in found})


def facts(environment: Dict[str, str], soc: str, root: str = "/") -> Dict[str, Any]:
    """What the other side asks first.

    Args:
        environment: of `environment.captured`.
        soc: what ``acl.get_soc_name()`` returned; ``""`` where it returned nothing.
        root: of the file system; only tests name another.

    Returns:
        ``nodes``, ``driver``, ``platforms``, ``cann``, ``soc``, ``arch``, ``boot``, ``cores``, ``memory_bytes``, and
        ``device``: whether nodes, driver and SoC name together prove an NPU.
    """
    nodes, driver = device_nodes(root), driver_version(root)
    return {
        "nodes": nodes,
        "driver": driver,
        "platforms": platforms(environment),
        "cann": cann_version(environment),
        "soc": soc,
        "arch": os.uname().machine,
        "host": os.uname().nodename,
        "boot": read("/proc/sys/kernel/random/boot_id").strip(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": memory()["MemTotal"],
        "device": bool(any(map(is_node, nodes)) and driver and soc),
    }


def memory() -> Dict[str, int]:
    """``MemTotal`` and ``MemAvailable`` of the machine, and ``SwapFree``, in bytes; 0 where unknown."""
    found = {"MemTotal": 0, "MemAvailable": 0, "SwapFree": 0}
    for line in read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name in found and value.split():
            found[name] = int(value.split()[0]) << 10
    return found


def _values(path: str) -> Dict[str, str]:
    pairs = (line.partition("=") for line in read(path).splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}
