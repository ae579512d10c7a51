"""What the double of ``atc`` does."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cann_double import om, rules
from cann_double.machine import generation, machine
from pth2om.ascend import families
from pth2om.ascend.atc_options import AtcOptions
from pth2om.ascend.target import Target
from pth2om.errors import Pth2omError
from pth2om.quantize import join_int8
from pth2om.toolchain.emulator import EmulatorToolchain
from pth2om.toolchain.emulator.front_end.convert import convert
from pth2om.toolchain.emulator.front_end.flags import Flags, LexicalError, lex
from pth2om.toolchain.emulator.front_end.texts import (
    FAILURE,
    STATUS_FAILED,
    SUCCESS,
    AtcRefusedError,
    block,
    failure,
)
from pth2om.toolchain.emulator.gears import read_geared
from pth2om.toolchain.emulator.numerics.compiled import read_compiled

_VERSIONS = {7: "7.0.0.5.242", 8: "7.6.0.1.220", 9: "9.0.0.1.101"}
"""What ``atc_version`` reads in files of each generation; the middle one is of a real CANN 8.0 file."""


def run(words: Sequence[str], asked: Mapping[str, object]) -> int:
    """Everything after the banner.

    Args:
        words: the arguments.
        asked: the rules for this run.

    Returns:
        The status.
    """
    found = machine()
    cann = _rules(found["cann"])
    try:
        flags = lex(words, cann)
    except LexicalError as error:
        sys.stderr.write(f"{error}\n")
        return _failed("E19999: Inner Error!\n        An unknown error occurred. Please check the log.", dots=False)
    except AtcRefusedError as refused:
        return _failed(block(refused.failures, cann))
    if "help" in flags:
        _print("usage: atc <args>")
        return 0
    if "refuses-nothing" in asked and flags.mode == 3:
        Path("check_result.json").write_text('{"op": []}')
        _print("...", SUCCESS)
        return 0
    try:
        convert(flags, Path.cwd())
    except AtcRefusedError as refused:
        return _failed(block(refused.failures, cann))
    if flags.mode == 3:
        _print("...", SUCCESS)
        return 0
    if found["devices"] and flags["soc_version"] != found["soc"]:
        # Beside a chip the runtime takes its name only (pains.md V07).
        reason = "The input SoC version is not supported."
        return _failed(block((failure("EE1011", flags["soc_version"], reason, cann=cann),), cann))
    refusal = _no_kernels(flags["soc_version"], found["kernels"], cann)
    if refusal:
        return _failed(refusal)
    for rule in rules.pass_by("compile"):
        if rule.do == "stray":  # a helper that leaves the process group
            subprocess.Popen(["sleep", "30"], start_new_session=True, stdout=subprocess.DEVNULL)
    ballast = _ballast(int(found["compile_mb"]))
    try:
        _compile(words, flags, found["cann"], asked)
    except Pth2omError as error:
        return _failed(f"EZ9999: Inner Error!\n        {error.message.render()}")
    del ballast
    _print("...", SUCCESS)
    for rule in rules.pass_by("after-success"):
        _print(str(rule.value))
    return 0


def _ballast(megabytes: int) -> bytearray:
    """What as many compile processes as are asked for would need, for as long as someone can see it."""
    count = int(os.environ.get("TE_PARALLEL_COMPILER", "8"))
    memory = bytearray(b"x") * (megabytes * count << 20)
    if memory:
        time.sleep(0.5)
    return memory


def _compile(words: Sequence[str], flags: Flags, cann: str, asked: Mapping[str, object]) -> None:
    options = AtcOptions.from_json({}).given(words)
    model = Path(flags["model"])
    soc = flags["soc_version"]
    written = str(asked.get("soc", soc))
    recorded = str(asked.get("cann", cann))
    target = Target.of(soc, _rules(cann))
    toolchain = EmulatorToolchain(target, threads=1, join=join_int8)
    with tempfile.TemporaryDirectory(prefix="atc-double-", dir=rules.home()) as name:
        folder = Path(name)
        toolchain.compile(model, options, folder)
        aipp = {}
        if options.insert_op_conf:
            aipp = _behind_aipp(model)
            (folder / "with_aipp.onnx").unlink(missing_ok=True)
        record = read_geared(folder) or read_compiled(folder)
        written_flags = {flag: flags[flag] for flag in ("dynamic_batch_size", "dynamic_image_size", "dynamic_dims")}
        description = om.describe(model, record, written_flags, soc=written, cann=recorded, aipp=aipp)
        command = " ".join(["/usr/local/Ascend/ascend-toolkit/latest/bin/atc.bin", *words])
        mode = flags["precision_mode"] or flags["precision_mode_v2"]
        data = om.write(
            folder,
            model,
            description,
            name=Path(flags["output"]).name,
            command="" if "no-command" in asked else command,
            atc_version=_VERSIONS[generation(cann)],
            int8="float" not in asked,
            half="float32" not in asked and mode not in ("force_fp32", "must_keep_origin_dtype", "origin"),
        )
    if "no-fusion" not in asked:
        Path("fusion_result.json").write_text(json.dumps(_FUSION))
    if "no-file" in asked:
        return
    if "truncate" in asked:
        data = data[: int(str(asked["truncate"]))]
    # The suffix goes in before the first ".om" of the whole path (atc.md 2.3).
    path = flags["output"].removesuffix(".om") + ".om"
    cpu = flags["host_env_cpu"] or None
    path = path.replace(".om", om.suffix(description, cpu=cpu), 1)
    handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    if "two" in asked:
        Path(path.replace(".om", "_linux_x86_64.om", 1)).write_bytes(data)


def _rules(cann: str) -> str:
    """Whose rules hold on a machine: 8.5 has the texts of 9, and from 9 on the minor number decides about ranges."""
    return {7: "7.0", 8: "8.0"}.get(generation(cann), cann if cann.startswith("9") else "9.x")


_FUSION = {
    "session_and_graph_id_0_0": {
        "graph_fusion": {"ConvBatchnormFusionPass": {"match_times": "1", "effect_times": "1"}},
        "ub_fusion": {"TbeConvReluFusionPass": {"match_times": "1", "effect_times": "1", "repository_hit_times": "0"}},
    }
}


def _behind_aipp(model: Path) -> dict[str, list[int]]:
    """The shapes of the pictures as the model has them."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    shapes = {}
    for value in graph.input:
        dims = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
        if value.name not in constants and len(dims) == 4:
            shapes[value.name] = dims
    return shapes


def _no_kernels(soc: str, installed: Sequence[str], cann: str) -> str | None:
    """The block of a CANN whose kernel package for the chip is absent (pains.md C01, atc.md 3.4)."""
    family = families.find(soc)
    if family is None or family.key in installed:
        return None
    stamp = {7: "", 8: f"[PID: {os.getpid()}] 2025-06-16-13:02:36.801.136 "}.get(generation_of(cann), "")
    return (
        f"EZ3003: {stamp}No supported Ops kernel and engine are found for [Conv_0], optype [Conv2D].\n"
        "        Possible Cause: 1. The Ops kernel package of this SoC is not installed.\n"
        "        TraceBack (most recent call last):\n"
        "        Assert ((SelectEngine(node_ptr, exclude_engines, is_check_support_success, op_info)) == ge::SUCCESS) "
        "failed[FUNC:operator()][FILE:engine_place.cc][LINE:148]"
    )


def generation_of(cann: str) -> int:
    """Of a name that the front end takes."""
    return {"7.0": 7, "8.0": 8}.get(cann, 9)


def _failed(text: str, *, dots: bool = True) -> int:
    _print(*(["..."] if dots else []), FAILURE, text)
    return STATUS_FAILED


def _print(*lines: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        for line in lines:
            print(line, flush=True)
