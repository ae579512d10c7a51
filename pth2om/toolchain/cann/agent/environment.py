"""What CANN's ``set_env.sh`` exports, captured once, and the Python in which ``acl`` can be imported."""

from __future__ import annotations

import glob
import json
import os
import shutil
import subprocess
import sys
from typing import Dict, List, Optional, Tuple

PYTHON = "PTH2OM_BOARD_PYTHON"
"""Names the Python that has ``acl``, where the right one is not found."""

_LIMIT = 30.0
_CODE = "import json,os,sys; json.dump(dict(os.environ), sys.stdout)"
_SCRIPT = 'set +e +u; . "$1" >/dev/null 2>&1; exec "$2" -E -c "$3"'


def scripts(environment: Dict[str, str]) -> List[str]:
    """The ``set_env.sh`` files that exist, the likeliest first."""
    places = []
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        home = environment.get(name)
        if home:
            places += [os.path.join(home, "set_env.sh"), os.path.join(os.path.dirname(home.rstrip("/")), "set_env.sh")]
    for root in ("/usr/local/Ascend", os.path.expanduser("~/Ascend"), "/home/HwHiAiUser/Ascend"):
        places += [root + "/" + below + "/set_env.sh" for below in ("cann", "ascend-toolkit", "nnrt", "nnae")]
    return [place for place in dict.fromkeys(places) if os.path.isfile(place)]


def captured() -> Tuple[Dict[str, str], str]:
    """The environment for ``atc`` and ``acl``, and the script that it comes from.

    Returns:
        The environment of this process with what the script changes; the script's path, or ``""`` where there is none.
    """
    own = dict(os.environ)
    for script in scripts(own):
        try:
            done = subprocess.run(
                ["/bin/bash", "-c", _SCRIPT, "pth2om", script, sys.executable, _CODE],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_LIMIT,
            )
            found = json.loads(done.stdout.decode("utf-8", "surrogateescape"))
        except (OSError, ValueError, subprocess.TimeoutExpired):
            continue
        return {str(name): str(value) for name, value in found.items()}, script
    return own, ""


def program(name: str, environment: Dict[str, str]) -> Optional[str]:
    """Where a program of CANN lies: on the captured ``PATH``, or below the toolkit.

    Args:
        name: ``atc``, ``msame``...
        environment: of `captured`.
    """
    found = shutil.which(name, path=environment.get("PATH"))
    if found:
        return found
    for variable in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        home = environment.get(variable)
        for below in ("bin", "compiler/bin", "atc/bin"):
            path = os.path.join(home or "/nowhere", below, name)
            if os.access(path, os.X_OK):
                return path
    return None


def pythons(environment: Dict[str, str]) -> List[str]:
    """The interpreters that may have ``acl``, the likeliest first."""
    named = environment.get(PYTHON)
    if named:
        return [named]
    found = [shutil.which("python3", path=environment.get("PATH")), sys.executable]
    found += ["/usr/local/miniconda3/bin/python3", "/usr/bin/python3", "/usr/local/bin/python3"]
    found += sorted(glob.glob("/usr/local/python3*/bin/python3"))
    real = [path for path in found if path and os.access(path, os.X_OK)]
    return list(dict.fromkeys(real))


def probed(environment: Dict[str, str]) -> Tuple[str, str, str]:
    """The first interpreter that imports ``acl`` and NumPy, and what ``acl.get_soc_name()`` returns there.

    Returns:
        The interpreter, the SoC's name, and ``""``; where there is no interpreter or no name, the reason for it: the
        last line that the likeliest one printed, or the signal that ended it.
    """
    reason = ""
    for path in pythons(environment):
        try:
            done = subprocess.run(
                [path, "-c", _PROBE],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=_LIMIT,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = reason or "%s: %s" % (path, error)
            continue
        _, _, name = done.stdout.decode("utf-8", "replace").partition(_IMPORTED)
        name = name.strip().splitlines()[0] if name.strip() else ""
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["status %d" % done.returncode]
        if _IMPORTED.encode() in done.stdout:
            return path, name, "" if name else lines[-1][:300]
        reason = reason or "%s: %s" % (path, lines[-1][:300])
    return "", "", reason


_IMPORTED = "PTH2OM-SOC "
_PROBE = (
    "import sys, numpy, acl\n"
    "sys.stdout.write('PTH2OM-SOC '); sys.stdout.flush()\n"
    "name = acl.get_soc_name() if hasattr(acl, 'get_soc_name') else ''\n"
    "sys.stdout.write(str(name or '') + chr(10)); sys.stdout.flush()\n"
)
