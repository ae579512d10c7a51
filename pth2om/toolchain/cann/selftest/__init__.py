"""``pth2om doctor --selftest``: tries the assumptions of ``docs/board.md`` on a machine; the table is to be sent back.

Small models are compiled with the machine's own atc and run by its ``acl``; what the calls return is compared with what
pth2om takes to be true (`pth2om.toolchain.cann.assumptions`). What no program can decide there is listed with the way
to look at it by hand; what this machine lacks, as not tried, with the reason.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pth2om.ascend.target import Target
from pth2om.errors import LostError, Pth2omError, ToolchainError
from pth2om.language import Language, language, say
from pth2om.session import Array
from pth2om.toolchain import Access, CompiledModel
from pth2om.toolchain.cann import CannToolchain
from pth2om.toolchain.cann.agent import doctor
from pth2om.toolchain.cann.assumptions import Assumption, assumptions
from pth2om.toolchain.cann.board import Board
from pth2om.toolchain.cann.compiling import Asked
from pth2om.toolchain.cann.place import Place
from pth2om.toolchain.cann.selftest import compiling, connection, tools
from pth2om.toolchain.cann.selftest.trials import SHAPES, Trial, line, network, options, trial
from pth2om.toolchain.emulator import EmulatorToolchain

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
_FOLDERS = ("/usr/local/Ascend/cann/", "/usr/local/Ascend/ascend-toolkit/", "/usr/local/Ascend/nnrt/")


def selftest(url: str = "", progress: Callable[[str], None] | None = None) -> list[Trial]:
    """Try every assumption that can be tried, in the table's order.

    Args:
        url: of a board; empty: this machine.
        progress: gets the name of each step.

    Raises:
        ToolchainError: the machine cannot be reached, or an agent cannot run there.
    """
    found: dict[str, Trial] = {}
    place = Place.of(url) if url else Place()
    for each in _tried(Board(place), place, progress or (lambda _: None)):
        found.setdefault(each.id, each)
    return [found.get(entry.id) or _without(entry) for entry in assumptions()]


def _without(entry: Assumption) -> Trial:
    """An assumption that nothing here decides."""
    if entry.by_hand:
        return Trial(entry.id, "hand", entry.by_hand[language()])
    return Trial(entry.id, "untried", say("doctor.trial-not-here").render())


def table(trials: Sequence[Trial], facts: Mapping[str, Any], to: Language | None = None) -> str:
    """As Markdown, with the machine's release above."""
    machine = facts.get("machine", {})
    none = say("doctor.trial-none").render(to)
    release = [doctor.soc_of(dict(facts)), machine.get("cann"), machine.get("driver")]
    head = "SoC {}, CANN {}, driver {}".format(*(known or none for known in release))
    names = {result: say(f"doctor.trial-{result}").render(to) for result in ("holds", "fails", "untried", "hand")}
    lines = [head, "", say("doctor.trial-head").render(to), "|---|---|---|"]
    lines += [f"| {each.id} | {names[each.result]} | {each.seen.replace('|', '/')} |" for each in trials]
    return "\n".join(lines)


def status(trials: Sequence[Trial]) -> int:
    """The exit status: 1 where an assumption does not hold, or none about an NPU could be tried.

    The connection (L) and the room for tensors (M5) can be tried on any PC, so they alone are no success.
    """
    tried = {each.result for each in trials if not each.id.startswith("L") and each.id != "M5"}
    return int(any(each.result == "fails" for each in trials) or "holds" not in tried)


def _tried(board: Board, place: Place, progress: Callable[[str], None]) -> Iterator[Trial]:
    progress("doctor")
    with contextlib.closing(board):
        answer, _ = board.ask({"kind": "doctor"}, limit=60.0)
        yield Trial("L1", "holds", board.name)
        yield from _machine(answer["facts"])
        yield from connection.lease(board, place)
        progress("rate")
        yield from connection.rate(board, place)
        soc = board.facts.soc
        if not soc:
            return
        access = Access((place.url,) if place.url else ())
        toolchain = CannToolchain(Target.of(soc, board.facts.cann or "9.x"), access)
        with tempfile.TemporaryDirectory(prefix="pth2om-selftest-") as name, contextlib.closing(toolchain):
            yield from _compiled(toolchain, board, access, Path(name), progress)


def _machine(facts: Mapping[str, Any]) -> Iterator[Trial]:
    machine = facts["machine"]
    nodes = ", ".join(machine["nodes"]) or "no node"
    # A PC without any trace of an NPU contradicts nothing: there is nothing to try there.
    bare = not (machine["nodes"] or machine["driver"] or machine["soc"] or machine["cann"])
    known = f"{nodes}; driver {machine['driver'] or '-'}; acl {machine['soc'] or '-'}"
    yield trial("M1", None if bare else machine["device"], known)
    script = facts["set_env"]
    if script or not bare:
        yield trial("M2", script.startswith(_FOLDERS) or "/Ascend/" in script, script or "no set_env.sh")
    runner = facts["runner"]
    seen = f"{runner.get('path', '-')} {runner.get('python', '')}, NumPy {runner.get('numpy', '-')}"
    yield trial("M3", None if bare else bool(runner.get("acl") and runner.get("numpy")), seen)
    if machine["nodes"]:
        yield trial("M4", bool(facts["openable"]) == bool(machine["soc"]), f"openable: {len(facts['openable'])}")
    free = facts["disk"].get("/dev/shm")  # noqa: S108 - a place to look at, not a file
    yield trial("M5", free is not None, "-" if free is None else f"{free >> 20} MB free")
    driver = facts["dcmi"]
    if driver.get("error") != "none":
        seen = driver.get("error") or ", ".join(sorted(driver["chips"][0]) if driver["chips"] else ["no chip"])
        yield trial("M6", driver["chips"], seen)
    for chip in driver["chips"][:1]:
        if "aicore_mhz" in chip:
            seen = f"{chip['aicore_mhz']} of {chip.get('aicore_max_mhz', '-')} MHz"
            yield trial("T3", "aicore_max_mhz" in chip, seen)
    printed = facts["smi"]
    if printed.get("error") != "none":
        seen = printed.get("error") or f"{len(printed['chips'])} chips, npu-smi {printed.get('version', '-')}"
        yield trial("M7", printed["chips"], seen)


def _compiled(
    toolchain: CannToolchain, board: Board, access: Access, folder: Path, progress: Callable[[str], None]
) -> Iterator[Trial]:
    models: dict[str, Path] = {}
    failed: dict[str, Pth2omError] = {}
    first: CompiledModel | None = None
    for name in SHAPES:
        if name == "wide":
            continue
        progress(f"atc {name}")
        place = folder / name
        place.mkdir()
        try:
            compiled = toolchain.compile(network(place, name), options(toolchain, name), place)
        except Pth2omError as error:
            failed[name] = error
            continue
        models[f"{name}.om"] = compiled.path
        first = first or compiled
    yield from compiling.failures(failed, folder)
    if first is None:
        seen = "; ".join(dict.fromkeys(map(line, failed.values())))
        yield trial("C1", False if board.facts.has_atc else None, seen)
        return
    yield from compiling.verdicts(board, f"{len(models)} models compiled")
    yield from compiling.files(first, models)
    if "range" in failed:
        yield Trial("G6", "holds", f"atc: {line(failed['range'])}")
    progress("aipp")
    yield from _aipp(toolchain, folder)
    progress("msame")
    yield from tools.msame(board, first)
    progress("atc again")
    yield from compiling.refusals(toolchain, board, folder)
    yield from compiling.again(toolchain, first, folder)
    progress("atc memory")
    yield from compiling.memory(toolchain, board, folder)
    progress("atc ended")
    yield from compiling.processes(toolchain, board, folder, float(first.details["seconds"]))
    progress("ais_bench")
    yield from tools.ais_bench(toolchain, access, folder)
    progress("connection")
    toolchain.close()
    yield from _cut(toolchain, board, folder, first)
    progress("acl")
    yield from _ran(board, folder, models, toolchain)


def _cut(toolchain: CannToolchain, board: Board, folder: Path, first: CompiledModel) -> Iterator[Trial]:
    place = folder / "cut"
    place.mkdir()
    files, shipped = Asked(network(place, "wide"), options(toolchain, "wide"), _LIMIT).files()
    words = replace(shipped, output="out/wide").command_line()[1:]
    request = {"kind": "compile", "program": "atc", "arguments": words, "limit": _LIMIT, "files": board.upload(files)}
    yield from connection.cut(board, board.place, first.path, request)


def _aipp(toolchain: CannToolchain, folder: Path) -> Iterator[Trial]:
    """A picture of bytes: its size, and what the emulator makes of the same bytes."""
    place = folder / "aipp"
    place.mkdir()
    config = place / "aipp.cfg"
    config.write_text(_AIPP, encoding="utf-8")
    model = network(place, "static")
    asked = replace(options(toolchain, "static"), insert_op_conf=str(config))
    emulator = EmulatorToolchain(toolchain.target, threads=1)
    (place / "emulated").mkdir()
    try:
        emulated = emulator.compile(model, asked, place / "emulated")
        with emulator.open(emulated, emulated.bands[0]) as session:
            spec = session.inputs[0]
            shape = tuple(int(size or 1) for size in spec.shape)
            feeds = {spec.name: np.random.default_rng(3).integers(0, 256, shape, np.uint8)}
            wanted = next(iter(session.run(feeds).values())).astype(np.float64)
        compiled = toolchain.compile(model, asked, place)
        with toolchain.open(compiled, "device") as device:
            found = next(iter(device.run(feeds).values())).astype(np.float64)
    except Pth2omError as error:
        yield Trial("R10", "fails", line(error))
        return
    yield Trial("R10", "holds", f"{feeds[spec.name].nbytes} bytes taken")
    off = np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30)
    yield trial("N4", off < _CLOSE, f"{off:.2e} of the largest output away from the emulator")


def _ran(board: Board, folder: Path, models: Mapping[str, Path], toolchain: CannToolchain) -> Iterator[Trial]:
    board.rest()
    if board.lease(60.0) is not None:
        return
    try:
        unique = network(folder, "static", last="Unique")
        files = board.upload({**models, unique.name: unique})
        answer, _ = board.ask({"kind": "selftest", "files": files}, limit=_LIMIT)
        for name, row in answer["rows"].items():
            yield trial(name, row["holds"], str(row["seen"]))
        for name, size in answer["files"].items():
            board.download(answer["job"], name, size, folder / name)
    except (LostError, ToolchainError) as error:
        yield Trial("R6", "fails", line(error))
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
    compiled = emulator.compile(network(place, "static"), options(toolchain, "static"), place)
    fed, seen = np.load(folder / "fed.npy"), np.load(folder / "seen.npy")
    results: list[Array] = []
    for band in compiled.bands:
        with emulator.open(compiled, band) as session:
            results.append(next(iter(session.run({"x": fed}).values())).astype(np.float64))
    low, high = np.minimum.reduce(results), np.maximum.reduce(results)
    outside = np.maximum(np.maximum(low - seen, seen - high), 0).max() / max(np.abs(high).max(), 1e-30)
    same = any(np.array_equal(seen, result) for result in results)
    return trial("N1", outside < _CLOSE, f"{outside:.2e} of the largest output outside; bit-equal to a band: {same}")


__all__ = ["Trial", "selftest", "status", "table"]
