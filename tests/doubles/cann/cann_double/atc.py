"""How the double of ``atc`` begins: failures on request come before anything heavy is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cann_double import rules

BANNER = "ATC start working now, please wait for a moment."
FAILURE = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"


_UNREGISTERED = "E13010: No operator plugin is registered for Op: r, optype: ai.onnx::{}::Relu."


def _opset(words: Sequence[str]) -> int:
    """Of the model that a command line names."""
    import onnx

    path = next(word.partition("=")[2] for word in words if word.startswith("--model="))
    return next(
        int(entry.version) for entry in onnx.load(path, load_external_data=False).opset_import if not entry.domain
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as ``atc``; returns its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not any(word.lstrip("-").startswith("help") for word in words):
        print(BANNER, flush=True)
    asked = {rule.do: rule.value for rule in rules.pass_by("atc")}
    if "error" in asked:
        print("...", FAILURE, asked["error"], sep="\n", flush=True)
        return int(str(asked.get("status", 255)))
    if "opset" in asked and _opset(words) >= int(asked["opset"]):
        print("...", FAILURE, _UNREGISTERED.format(_opset(words)), sep="\n", flush=True)
        return 255
    from cann_double.compiling import run

    return run(words, asked)
