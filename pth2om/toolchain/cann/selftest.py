"""``pth2om doctor --selftest``: tries the assumptions of ``docs/board.md`` on a machine; the table is to be sent back.

Small models are compiled with the machine's own atc and run by its ``acl``; what the calls return is compared with what
pth2om takes to be true (`pth2om.toolchain.cann.assumptions`). An assumption that needs a fault, hours, or another tool
is left out and listed as not tried.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pth2om.ascend.atc_options import AtcOptions
from pth2om.ascend.target import Target
from pth2om.errors import AtcError, LostError, Pth2omError, ToolchainError
from pth2om.language import Language, say
from pth2om.session import Array
from pth2om.toolchain import Access, CompiledModel
from pth2om.toolchain.cann import CannToolchain
from pth2om.toolchain.cann.agent import doctor
from pth2om.toolchain.cann.assumptions import assumptions
from pth2om.toolchain.cann.board import Board
from pth2om.toolchain.cann.place import Place
from pth2om.toolchain.emulator import EmulatorToolchain

Result = Literal["holds", "fails", "untried"]

_LIMIT = 900.0
_CLOSE = 2e-3  # of the largest output: two roundings to float16, one behind the other
_AIPP = """aipp_op {
  aipp_mode: static
  input_format: RGB888_U8
  src_image_size_w: 8
  src_image_size_h: 8
  csc_switch: false
  mean_chn_0: 124
  mean_chn_1: 117
  mean_chn_2: 104
  var_reci_chn_0: 0.0171247538
  var_reci_chn_1: 0.0175070028
  var_reci_chn_2: 0.0174291939
}
"""
_OTHER = ("Ascend310P3", "Ascend310B4")
_FOLDERS = ("/usr/local/Ascend/cann/", "/usr/local/Ascend/ascend-toolkit/", "/usr/local/Ascend/nnrt/")
_GEARS: Mapping[str, Mapping[str, str]] = {
    "static": {"input_shape": "x:1,3,8,8"},
    "batch": {"input_shape": "x:-1,3,8,8", "dynamic_batch_size": "1,2,4"},
    "hw": {"input_shape": "x:1,3,-1,-1", "dynamic_image_size": "8,8;8,12"},
    "range": {"input_shape": "x:1~4,3,8,8"},
}


@dataclass(frozen=True)
class Trial:
    """What came of one assumption.

    Attributes:
        id: of the assumption.
        result: see `Result`.
        seen: what was observed.
    """

    id: str
    result: Result
    seen: str


def selftest(url: str = "", progress: Callable[[str], None] | None = None) -> list[Trial]:
    """Try every assumption that can be tried, in the table's order.

    Args:
        url: of a board; empty: this machine.
        progress: gets the name of each step.

    Raises:
        ToolchainError: the machine cannot be reached, or an agent cannot run there.
    """
    found: dict[str, Trial] = {}
    for trial in _tried(Board(Place.of(url) if url else Place()), url, progress or (lambda _: None)):
        found.setdefault(trial.id, trial)
    return [found.get(entry.id, Trial(entry.id, "untried", "")) for entry in assumptions()]


def table(trials: Sequence[Trial], facts: Mapping[str, Any], to: Language | None = None) -> str:
    """As Markdown, with the machine's release above."""
    machine = facts.get("machine", {})
    none = say("doctor.trial-none").render(to)
    release = [doctor.soc_of(dict(facts)), machine.get("cann"), machine.get("driver")]
    head = "SoC {}, CANN {}, driver {}".format(*(known or none for known in release))
    names = {result: say(f"doctor.trial-{result}").render(to) for result in ("holds", "fails", "untried")}
    lines = [head, "", say("doctor.trial-head").render(to), "|---|---|---|"]
    lines += [f"| {trial.id} | {names[trial.result]} | {trial.seen.replace('|', '/')} |" for trial in trials]
    return "\n".join(lines)


def status(trials: Sequence[Trial]) -> int:
    """The exit status: 1 where an assumption does not hold, or none about an NPU could be tried.

    The connection (L) and the room for tensors (M5) can be tried on any PC, so they alone are no success.
    """
    tried = {trial.result for trial in trials if not trial.id.startswith("L") and trial.id != "M5"}
    return int(any(trial.result == "fails" for trial in trials) or "holds" not in tried)


def _tried(board: Board, url: str, progress: Callable[[str], None]) -> Iterator[Trial]:
    progress("doctor")
    with contextlib.closing(board):
        answer, _ = board.ask({"kind": "doctor"}, limit=60.0)
        yield Trial("L1", "holds", board.name)
        yield from _machine(answer["facts"])
        yield from _lease(board, url)
        soc = board.facts.soc
        if not soc:
            return
        toolchain = CannToolchain(Target.of(soc, board.facts.cann or "9.x"), Access((url,) if url else ()))
        with tempfile.TemporaryDirectory(prefix="pth2om-selftest-") as name, contextlib.closing(toolchain):
            yield from _compiled(toolchain, board, Path(name), progress)


def _machine(facts: Mapping[str, Any]) -> Iterator[Trial]:
    machine = facts["machine"]
    nodes = ", ".join(machine["nodes"]) or "no node"
    # A PC without any trace of an NPU contradicts nothing: there is nothing to try there.
    bare = not (machine["nodes"] or machine["driver"] or machine["soc"] or machine["cann"])
    known = f"{nodes}; driver {machine['driver'] or '-'}; acl {machine['soc'] or '-'}"
    yield _trial("M1", None if bare else machine["device"], known)
    script = facts["set_env"]
    if script or not bare:
        yield _trial("M2", script.startswith(_FOLDERS) or "/Ascend/" in script, script or "no set_env.sh")
    runner = facts["runner"]
    seen = f"{runner.get('path', '-')} {runner.get('python', '')}, NumPy {runner.get('numpy', '-')}"
    yield _trial("M3", None if bare else bool(runner.get("acl") and runner.get("numpy")), seen)
    if machine["nodes"]:
        yield _trial("M4", bool(facts["openable"]) == bool(machine["soc"]), f"openable: {len(facts['openable'])}")
    free = facts["disk"].get("/dev/shm")  # noqa: S108
    yield _trial("M5", free is not None, "-" if free is None else f"{free >> 20} MB free")
    driver = facts["dcmi"]
    if driver.get("error") != "none":
        seen = driver.get("error") or ", ".join(sorted(driver["chips"][0]) if driver["chips"] else ["no chip"])
        yield _trial("M6", driver["chips"], seen)
    for chip in driver["chips"][:1]:
        if "aicore_mhz" in chip:
            seen = f"{chip['aicore_mhz']} of {chip.get('aicore_max_mhz', '-')} MHz"
            yield _trial("T3", "aicore_max_mhz" in chip, seen)
    printed = facts["smi"]
    if printed.get("error") != "none":
        seen = printed.get("error") or f"{len(printed['chips'])} chips, npu-smi {printed.get('version', '-')}"
        yield _trial("M7", printed["chips"], seen)


def _lease(board: Board, url: str) -> Iterator[Trial]:
    other = Board(Place.of(url) if url else Place())
    with contextlib.closing(other):
        first = board.lease(5.0)
        if first is not None:
            return
        second = other.lease(0.0)
        board.rest()
        third = other.lease(5.0)
        other.rest()
    yield _trial("L2", second is not None and third is None, f"held: {second is not None}; given back: {third is None}")


def _compiled(toolchain: CannToolchain, board: Board, folder: Path, progress: Callable[[str], None]) -> Iterator[Trial]:
    models: dict[str, Path] = {}
    failed: dict[str, str] = {}
    first: CompiledModel | None = None
    for name, shapes in _GEARS.items():
        progress(f"atc {name}")
        place = folder / name
        place.mkdir()
        try:
            compiled = toolchain.compile(_network(place, name), _options(toolchain, name, shapes), place)
        except Pth2omError as error:
            failed[name] = _line(error)
            continue
        models[f"{name}.om"] = compiled.path
        first = first or compiled
    if first is None:
        yield Trial("C1", "fails" if board.facts.has_atc else "untried", failed.get("static", ""))
        return
    yield Trial("C1", "holds", f"{len(models)} models compiled")
    yield from _om(first, models)
    if "range" in failed:
        yield Trial("G6", "holds", f"atc: {failed['range']}")
    progress("aipp")
    yield from _aipp(toolchain, folder)
    progress("msame")
    yield from _msame(board, first)
    progress("atc again")
    yield from _refusals(toolchain, board, folder)
    yield from _again(toolchain, first, folder)
    progress("acl")
    yield from _ran(toolchain, board, folder, models)


def _om(compiled: CompiledModel, models: Mapping[str, Path]) -> Iterator[Trial]:
    from pth2om.omfile import check_against, read_om

    om = read_om(compiled.path)
    known = [om.soc_version, om.atc_cmdline, om.inputs, om.outputs]
    yield _trial("C3", all(known), f"{om.soc_version}; inputs {len(om.inputs)}; outputs {len(om.outputs)}")
    yield Trial("C2", "holds", f"one OM each: {', '.join(sorted(models))}")
    kept = sorted(path.name for path in (compiled.path.parent / "atc").glob("*"))
    yield _trial("C4", "fusion_result.json" in kept, ", ".join(kept))
    wrong = [finding.message.render("en") for finding in check_against(om, precision="force_fp16")]
    yield _trial("N2", not wrong, "; ".join(wrong) or "float16 matrix operators")


def _refusals(toolchain: CannToolchain, board: Board, folder: Path) -> Iterator[Trial]:
    place = folder / "refused"
    place.mkdir()
    model = _network(place, "static")
    options = _options(toolchain, "static", _GEARS["static"])
    try:
        found = toolchain.refuses(model, options)
        yield _trial("C5", not found, "; ".join(finding.message.render("en") for finding in found) or "nothing refused")
        unknown = _network(place, "static", unknown=True)
        found = toolchain.refuses(unknown, options)
        yield _trial("C10", found, "; ".join(finding.message.render("en") for finding in found)[:200] or "not refused")
    except Pth2omError as error:
        yield Trial("C5", "fails", _line(error))
    other = next(soc for soc in _OTHER if soc != board.facts.soc)
    try:
        toolchain.compile(model, replace(options, soc_version=other), place)
    except AtcError as error:
        yield _trial("C9", "EE10" in _line(error), _line(error))
    except Pth2omError as error:
        yield Trial("C9", "fails", _line(error))
    else:
        yield Trial("C9", "fails", f"{other} was compiled")


def _aipp(toolchain: CannToolchain, folder: Path) -> Iterator[Trial]:
    """A picture of bytes: its size, and what the emulator makes of the same bytes."""
    place = folder / "aipp"
    place.mkdir()
    config = place / "aipp.cfg"
    config.write_text(_AIPP, encoding="utf-8")
    model = _network(place, "static")
    options = replace(_options(toolchain, "static", _GEARS["static"]), insert_op_conf=str(config))
    emulator = EmulatorToolchain(toolchain.target, threads=1)
    (place / "emulated").mkdir()
    try:
        emulated = emulator.compile(model, options, place / "emulated")
        with emulator.open(emulated, emulated.bands[0]) as session:
            spec = session.inputs[0]
            shape = tuple(int(size or 1) for size in spec.shape)
            feeds = {spec.name: np.random.default_rng(3).integers(0, 256, shape, np.uint8)}
            wanted = next(iter(session.run(feeds).values())).astype(np.float64)
        compiled = toolchain.compile(model, options, place)
        with toolchain.open(compiled, "device") as device:
            found = next(iter(device.run(feeds).values())).astype(np.float64)
    except Pth2omError as error:
        yield Trial("R10", "fails", _line(error))
        return
    yield Trial("R10", "holds", f"{feeds[spec.name].nbytes} bytes taken")
    off = np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30)
    yield _trial("N4", off < _CLOSE, f"{off:.2e} of the largest output away from the emulator")


def _msame(board: Board, compiled: CompiledModel) -> Iterator[Trial]:
    """The vendor's runner, where it is installed, on one file of zeros."""
    files = {"static.om": compiled.path, "a.bin": compiled.path.parent / "a.bin"}
    files["a.bin"].write_bytes(bytes(4 * 3 * 8 * 8))
    words = ["--model", "static.om", "--input", "a.bin", "--output", "out", "--outfmt", "BIN"]
    try:
        request = {
            "kind": "compile",
            "program": "msame",
            "files": board.upload(files),
            "arguments": words,
            "limit": 60.0,
        }
        answer, _ = board.ask(request, limit=60.0)
    except ToolchainError:
        return  # it is not installed
    written = [entry["path"] for entry in answer["files"] if str(entry["path"]).startswith("out/")]
    said = "Inference average time" in str(answer["stdout"])
    holds = answer["code"] == 0 and said and any(path.endswith("a_output_0.bin") for path in written)
    yield _trial("X1", holds, f"status {answer['code']}; {', '.join(written) or 'no file'}")


def _again(toolchain: CannToolchain, first: CompiledModel, folder: Path) -> Iterator[Trial]:
    place = folder / "again"
    place.mkdir()
    try:
        options = _options(toolchain, "static", _GEARS["static"])
        second = toolchain.compile(_network(place, "static"), options, place)
        feeds = {"x": np.random.default_rng(2).normal(size=(1, 3, 8, 8)).astype(np.float32)}
        results = []
        for compiled in (first, second):
            with toolchain.open(compiled, "device") as session:
                results.append(next(iter(session.run(feeds).values())).tobytes())
    except Pth2omError as error:
        yield Trial("C11", "fails", _line(error))
        return
    seen = f"bytes {'equal' if first.digest == second.digest else 'differ'}"
    yield _trial(
        "C11", results[0] == results[1], f"{seen}; results {'equal' if results[0] == results[1] else 'differ'}"
    )


def _ran(toolchain: CannToolchain, board: Board, folder: Path, models: Mapping[str, Path]) -> Iterator[Trial]:
    board.rest()
    if board.lease(60.0) is not None:
        return
    try:
        files = board.upload(dict(models))
        begun = time.monotonic()
        answer, _ = board.ask({"kind": "selftest", "files": files}, limit=_LIMIT)
        for name, row in answer["rows"].items():
            yield _trial(name, row["holds"], str(row["seen"]))
        yield Trial("L3", "untried", f"{time.monotonic() - begun:.0f} s")
        for name, size in answer["files"].items():
            board.download(answer["job"], name, size, folder / name)
    except (LostError, ToolchainError) as error:
        yield Trial("R6", "fails", _line(error))
        return
    finally:
        with contextlib.suppress(ToolchainError):
            board.rest()
    if (folder / "seen.npy").is_file() and (folder / "fed.npy").is_file():
        yield _bands(toolchain, folder)


def _bands(toolchain: CannToolchain, folder: Path) -> Trial:
    """How far the device's outputs lie outside of the emulator's two bands, as a share of the largest output."""
    place = folder / "emulated"
    place.mkdir()
    emulator = EmulatorToolchain(toolchain.target, threads=1)
    compiled = emulator.compile(_network(place, "static"), _options(toolchain, "static", _GEARS["static"]), place)
    fed, seen = np.load(folder / "fed.npy"), np.load(folder / "seen.npy")
    results: list[Array] = []
    for band in compiled.bands:
        with emulator.open(compiled, band) as session:
            results.append(next(iter(session.run({"x": fed}).values())).astype(np.float64))
    low, high = np.minimum.reduce(results), np.maximum.reduce(results)
    outside = np.maximum(np.maximum(low - seen, seen - high), 0).max() / max(np.abs(high).max(), 1e-30)
    same = any(np.array_equal(seen, result) for result in results)
    return _trial("N1", outside < _CLOSE, f"{outside:.2e} of the largest output outside; bit-equal to a band: {same}")


def _options(toolchain: CannToolchain, name: str, shapes: Mapping[str, str]) -> AtcOptions:
    plain = AtcOptions(output=name, soc_version=toolchain.target.soc, precision_mode="force_fp16", input_format="NCHW")
    return plain.given([f"--{flag}={value}" for flag, value in shapes.items()])


def _network(folder: Path, name: str, *, unknown: bool = False) -> Path:
    """A convolution and a Relu; open axes where gears want them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    batch: int | str = "n" if name in ("batch", "range") else 1
    sides: Sequence[int | str] = ("h", "w") if name == "hw" else (8, 8)
    weights = np.random.default_rng(0).normal(size=(16, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Pth2omUnknown" if unknown else "Relu", ["c"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "selftest",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, *sides])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 16, *sides])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = folder / ("unknown.onnx" if unknown else "model.onnx")
    written = io.BytesIO()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7), written)
    path.write_bytes(written.getvalue())
    return path


def _trial(name: str, holds: object, seen: str) -> Trial:
    return Trial(name, "untried" if holds is None else "holds" if holds else "fails", seen[:300])


def _line(error: Pth2omError) -> str:
    return " ".join(error.render("en").split())[:300]
