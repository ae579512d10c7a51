"""ONNX Runtime with its CANN provider as a second opinion: it compiles the ONNX file itself and runs no OM.

The provider leaves what it cannot take to the CPU without an error. So the session is made without a CPU to fall back
to, the provider that is in use is looked up, and the first run is profiled: every node must have run on CANN.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from typing import Any, Dict, List

from .ways import Description, Results, WayError, fed, named

PROVIDER = "CANNExecutionProvider"
_NAMED = 3
_MOST_PROFILE = 64 << 20


class CannProvider:
    """A session.

    Args:
        description: see `ways`; with ``options`` of the provider.
        path: of the ONNX file.
        device: number of the NPU.

    Raises:
        WayError: there is no such provider, or it is not in use.
    """

    def __init__(self, description: Description, path: str, device: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise WayError("import", module="onnxruntime-cann", reason=str(error)) from error
        there = list(onnxruntime.get_available_providers())
        if PROVIDER not in there:
            raise WayError("import", module="onnxruntime-cann", reason="providers: %s" % ", ".join(there))
        self._description = description
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(tempfile.mkdtemp(dir=os.path.dirname(path)), "profile")
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        asked = {"device_id": str(device), "enable_cann_graph": "1", **description.get("options", {})}
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=[(PROVIDER, asked)])
            self._session.disable_fallback()
        except Exception as error:  # of no common base in ONNX Runtime
            text = str(error)
            kind = "fallback" if "fallback" in text.lower() else "acl"
            raise WayError(kind, call="InferenceSession", code=-1, where="", text=text) from error
        in_use = list(self._session.get_providers())
        if in_use[:1] != [PROVIDER]:
            raise WayError("fallback", where="", text="get_providers: %s" % ", ".join(in_use))
        self.facts: Dict[str, Any] = {"providers": in_use, "onnxruntime": str(onnxruntime.__version__)}
        self._proven = False

    def run(self, feeds: Dict[str, Any]) -> Results:
        """One inference.

        Args:
            feeds: a C-contiguous array for each input, of its dtype and shape.

        Returns:
            Name and array of each output, and the nanoseconds of the ``call``: what the NPU alone takes is not known.

        Raises:
            ShapeError: the feeds do not fit.
            WayError: the run failed, a node ran elsewhere, or the outputs are not the model's.
        """
        fed(self._description, feeds)
        begun = time.perf_counter_ns()
        try:
            arrays = self._session.run([entry["name"] for entry in self._description["outputs"]], feeds)
        except Exception as error:  # of no common base in ONNX Runtime
            raise WayError("acl", call="InferenceSession.run", code=-1, text=str(error)) from error
        took = time.perf_counter_ns() - begun
        if not self._proven:
            self._prove()
        return named(self._description, arrays), {"call": took}

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _prove(self) -> None:
        """Where each node of the first run was computed."""
        path = self._session.end_profiling()
        nodes = kernels(path)
        elsewhere = ["%s (%s)" % (name, provider) for name, provider in sorted(nodes.items()) if provider != PROVIDER]
        if not nodes or elsewhere:
            text = "%d of %d nodes" % (len(elsewhere), len(nodes))
            raise WayError("fallback", where=", ".join(elsewhere[:_NAMED]), text=text)
        self._proven = True


def kernels(path: str) -> Dict[str, str]:
    """The nodes of a profile of ONNX Runtime, and the provider that computed each; empty where it lists none."""
    if os.path.getsize(path) > _MOST_PROFILE:
        return {}
    with open(path, encoding="utf-8", errors="replace") as file:
        try:
            events: List[Any] = json.load(file)
        except (ValueError, RecursionError):
            return {}
    found = {}
    for event in events if isinstance(events, list) else ():
        arguments = event.get("args") if isinstance(event, dict) else None
        if isinstance(arguments, dict) and event.get("cat") == "Node" and arguments.get("provider"):
            name = str(event.get("name", ""))
            found[name[: -len("_kernel_time")] if name.endswith("_kernel_time") else name] = str(arguments["provider"])
    return found
