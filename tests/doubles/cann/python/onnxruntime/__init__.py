"""A double of the wheel ``onnxruntime-cann``: the real ONNX Runtime, and a provider that computes as the emulator does.

Rules at ``cann-provider``: ``fallback`` (the session is made, and says that the CPU runs it), ``nodes`` (the session
says CANN, and its profile shows one node on the CPU), ``no-profile`` (an empty one), ``error`` (what making a session
raises), ``strict`` (no session where a node is left to the CPU); at ``cann-provider-run``: ``return``, ``size``. A
session with other providers is the real one.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parents[1]


def _real() -> Any:
    """The installed ONNX Runtime, under its own name."""
    before = list(sys.path)
    del sys.modules[__name__]
    # The folder of the doubles is a link in the machine's site-packages.
    sys.path[:] = [entry for entry in before if not (Path(entry) / "onnxruntime").resolve().is_relative_to(_HERE)]
    try:
        return importlib.import_module("onnxruntime")
    finally:
        sys.path[:] = before


real = _real()
PROVIDER = "CANNExecutionProvider"
_Session = real.InferenceSession
_available = real.get_available_providers


def _rules(where: str) -> dict[str, Any]:
    from cann_double import rules

    return {rule.do: rule.value for rule in rules.pass_by(where)}


def get_available_providers() -> list[str]:
    """With the provider of the wheel first."""
    return [PROVIDER, *_available()]


class InferenceSession:
    """A session on CANN; on any other provider it is the real one."""

    def __new__(cls, path: Any, sess_options: Any = None, providers: Any = None, *more: Any, **named: Any) -> Any:
        names = [entry if isinstance(entry, str) else entry[0] for entry in providers or ()]
        if PROVIDER not in names:
            return _Session(path, sess_options, providers, *more, **named)
        return super().__new__(cls)

    def __init__(self, path: str, sess_options: Any = None, providers: Any = None) -> None:
        self._asked = _rules("cann-provider")
        if "error" in self._asked:
            raise RuntimeError(str(self._asked["error"]))
        self._path, self._options = path, dict(providers[0][1])
        self._prefix = str(sess_options.profile_file_prefix)
        self._session: Any = None
        # A session that may fall back leaves to the CPU what the provider does not know: here Unique.
        strict = sess_options.get_session_config_entry if hasattr(sess_options, "get_session_config_entry") else None
        try:
            self._may_fall_back = strict is None or strict("session.disable_cpu_ep_fallback") != "1"
        except RuntimeError:  # it was not set
            self._may_fall_back = True
        self._unknown = _has_unique(path)
        if self._unknown and (not self._may_fall_back or "strict" in self._asked):
            raise RuntimeError("nodes are assigned to the default CPU EP, but fallback to CPU EP has been disabled")

    def disable_fallback(self) -> None:
        """Of a run that fails."""

    def get_providers(self) -> list[str]:
        """The CPU is always listed last."""
        return ["CPUExecutionProvider"] if "fallback" in self._asked else [PROVIDER, "CPUExecutionProvider"]

    def run(self, names: list[str], feeds: dict[str, Any]) -> list[Any]:
        """One inference."""
        asked = _rules("cann-provider-run")
        if "return" in asked:
            raise RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : CANN failure {asked['return']}")
        if self._unknown:
            return list(_Session(self._path, None, ["CPUExecutionProvider"]).run(names, feeds))
        if self._session is None:
            self._session = _emulated(self._path, self._options, feeds)
        results = self._session.run(feeds)
        return [results[name][:-1] if "size" in asked else results[name] for name in names]

    def end_profiling(self) -> str:
        """The file of a profile: the whole graph is one node of the provider."""
        nodes = {"CANNExecutionProvider_CANN_0_0": PROVIDER}
        if self._unknown:
            nodes["last"] = "CPUExecutionProvider"
        if "nodes" in self._asked:
            nodes["conv"] = "CPUExecutionProvider"
        events = [
            {"cat": "Node", "name": f"{name}_kernel_time", "args": {"provider": provider, "op_name": name}}
            for name, provider in nodes.items()
        ]
        path = f"{self._prefix}_{os.getpid()}.json"
        Path(path).write_text(json.dumps([] if "no-profile" in self._asked else events))
        return path


def _has_unique(path: str) -> bool:
    import onnx

    return any(node.op_type == "Unique" for node in onnx.load(path, load_external_data=False).graph.node)


def _emulated(path: str, options: dict[str, str], feeds: dict[str, Any]) -> Any:
    import tempfile

    from cann_double.machine import machine

    from pth2om.ascend.atc_options import AtcOptions
    from pth2om.ascend.target import Target
    from pth2om.toolchain.emulator import EmulatorToolchain

    found = machine()
    shapes = ";".join(f"{name}:{','.join(map(str, array.shape))}" for name, array in feeds.items())
    asked = AtcOptions(output="m", soc_version=found["soc"], input_shape=shapes, input_format="ND")
    asked = asked.given([f"--precision_mode={options['precision_mode']}"] if "precision_mode" in options else [])
    toolchain = EmulatorToolchain(Target.of(found["soc"], "8.0"), threads=1)
    folder = Path(tempfile.mkdtemp(dir=Path(path).parent))
    return toolchain.open(toolchain.compile(Path(path), asked, folder), found["band"])


real.get_available_providers = get_available_providers
real.InferenceSession = InferenceSession
