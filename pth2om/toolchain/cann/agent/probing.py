"""The Pythons of the machine, each asked in a process of its own: an import of ``acl`` can crash or hang."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from typing import Any

TBE_MODULES = ("attr", "cffi", "decorator", "google.protobuf", "numpy", "psutil", "scipy", "sympy", "yaml")
"""What the operator compiler imports, beside its own ``tbe``; missing ones are CANN's commonest first error."""

_CODE = r"""
import glob, json, os, sys
names, modules, device = json.loads(sys.argv[1])
found = {"python": "%d.%d.%d" % sys.version_info[:3], "executable": sys.executable}
def show():
    print(json.dumps(found))
    sys.stdout.flush()
show()
try:
    import importlib.util
    def place(name):
        try:
            spec = importlib.util.find_spec(name)
        except Exception:  # looking for a.b imports a, and that runs whatever a package does when it is imported
            return None
        return (spec.origin or "") if spec else None
    found["missing"] = [name for name in names if place(name) is None]
    found["modules"] = {name: where for name in modules for where in [place(name)] if where is not None}
    found["versions"] = {}
    for entry in sys.path:
        for path in glob.glob(os.path.join(entry, "*.dist-info")) + glob.glob(os.path.join(entry, "*.egg-info")):
            name, _, version = os.path.basename(path).rsplit(".", 1)[0].partition("-")
            name = name.lower().replace("_", "-")
            if name in ("numpy", "onnxruntime", "onnxruntime-cann", "aclruntime", "ais-bench", "amct-onnx", "protobuf"):
                found["versions"].setdefault(name, version.split("-py")[0])
    where = place("onnxruntime")
    if where:
        pattern = os.path.join(os.path.dirname(where), "capi", "libonnxruntime_providers_cann*")
        found["cann_provider"] = bool(glob.glob(pattern))
    show()
    import numpy
    found["numpy"] = numpy.__version__
    show()
    import acl
    found["acl"] = getattr(acl, "__file__", "") or ""
    found["double"] = hasattr(acl, "DOUBLE")
    show()
    if device:
        found["soc"] = acl.get_soc_name() or ""
        show()
except Exception as error:  # an import of numpy or acl may raise anything; what it was is the answer
    found["error"] = "%s: %s" % (type(error).__name__, str(error)[:300])
    show()
os._exit(0)
"""


def ask(python: str, environment: dict[str, str], limit: float = 4.0, *, device: bool = True) -> dict[str, Any]:
    """What one interpreter has.

    Args:
        python: its path.
        environment: of CANN.
        limit: seconds after which it counts as hanging.
        device: whether ``acl.get_soc_name()`` may be called.

    Returns:
        ``python`` (its version), ``missing`` modules of TBE, ``modules`` (name -> file), ``versions``, ``numpy``,
        ``acl`` (its file), ``double``, ``soc``; ``error`` with the first import that failed, ``signal`` or ``hang``
        where the process died: then what came before it is kept.
    """
    modules = ("tbe", "te", "acl", "ais_bench", "aclruntime", "amct_onnx", "onnxruntime", "torch_npu")
    argument = json.dumps([TBE_MODULES, modules, device])
    clean = dict(environment, PYTHONDONTWRITEBYTECODE="1")
    died: dict[str, Any] = {}
    try:
        process = subprocess.Popen(
            [python, "-c", _CODE, argument],
            env=clean,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        return {"path": python, "error": str(error)}
    try:
        output, _ = process.communicate(timeout=limit)
        if process.returncode < 0:
            died = {"signal": _name(-process.returncode)}
        elif process.returncode:
            died = {"error": "status %d" % process.returncode}
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)  # a child of it may hold its output
        output, _ = process.communicate()
        died = {"hang": limit}
    found: dict[str, Any] = {}
    for line in output.decode("utf-8", "replace").splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue  # a sitecustomize that prints
        if isinstance(answer, dict):
            found = answer
    return dict(found, path=python, **died)


def best(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The interpreter that runs models: the first with ``acl`` and NumPy, else the first that says why not."""
    for answer in answers:
        if answer.get("acl") and answer.get("numpy"):
            return answer
    died = [answer for answer in answers if "signal" in answer]
    # One that did not even come to NumPy in time is slow, and says nothing of acl.
    died += [answer for answer in answers if "hang" in answer and answer.get("numpy")]
    return (died or answers or [{}])[0]


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number


def readable(path: str) -> bool:
    """Whether this user may open a device node."""
    return os.access(path, os.R_OK | os.W_OK)
