"""What is assumed of ``atc``: its files, refusals, processes and memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pth2om.errors import AtcError, CrashError, Pth2omError
from pth2om.evidence import Finding
from pth2om.language import joined
from pth2om.toolchain import CompiledModel
from pth2om.toolchain.cann import CannToolchain
from pth2om.toolchain.cann.agent.frames import Header
from pth2om.toolchain.cann.board import Board
from pth2om.toolchain.cann.compiling import Asked, compiled
from pth2om.toolchain.cann.selftest.trials import Trial, fed, line, network, options, trial

_OTHER = ("Ascend310P3", "Ascend310B4")
_LIMIT = 900.0
_SMALL = {"TE_PARALLEL_COMPILER": "1", "MAX_COMPILE_CORE_NUMBER": "1"}
_LARGE = {"TE_PARALLEL_COMPILER": "8", "MAX_COMPILE_CORE_NUMBER": "8"}
_CONFINED = 192 << 20
"""Bytes that no compile of CANN fits into."""
_UNKNOWN = "Pth2omUnknown"
_REFUSED = 255
_FAILED = re.compile(r"^ATC run failed", re.MULTILINE)
_CODED = re.compile(r"\bE[A-Z0-9]\d{4}\b")
_OF = {"static": (), "batch": ("G1", "G2", "G3"), "hw": ("G4",), "gather": ("N5",), "range": ("G5",)}
"""The rows that a model is for."""


def files(first: CompiledModel, models: Mapping[str, Path]) -> Iterator[Trial]:
    """C2, C3, C4, N2: what atc left."""
    yield from recorded(first.path)
    yield Trial("C2", "holds", f"one OM each: {', '.join(sorted(models))}")
    kept = sorted(path.name for path in (first.path.parent / "atc").glob("*"))
    yield trial("C4", "fusion_result.json" in kept, ", ".join(kept))


def verdicts(board: Board, compiled: str) -> Iterator[Trial]:
    """C1: the lines and the status of a refusal; those of a success are seen in each compile.

    Args:
        board: where.
        compiled: how many models were compiled.
    """
    request = {"kind": "compile", "program": "atc", "arguments": ["--framework=5"], "limit": 60.0, "files": {}}
    try:
        answer, _ = board.ask(request, limit=_LIMIT)
    except Pth2omError as error:
        yield Trial("C1", "fails", line(error))
        return
    said, code = str(answer["stdout"]), answer["code"]
    coded = _CODED.search(said) is not None
    seen = f"a refusal: status {code}, {'its code' if coded else 'no code'} on stdout"
    yield trial("C1", code == _REFUSED and _FAILED.search(said) and coded, f"{compiled}; {seen}")


def recorded(path: Path) -> Iterator[Trial]:
    """C3, N2: what an OM records of itself.

    Args:
        path: of the OM, also of one that is not what was asked for.
    """
    from pth2om.omfile import check_against, read_om

    try:
        om = read_om(path)
    except Pth2omError as error:
        yield Trial("C3", "fails", line(error))
        return
    known = [om.soc_version, om.atc_cmdline, om.inputs, om.outputs]
    yield trial("C3", all(known), f"{om.soc_version}; inputs {len(om.inputs)}; outputs {len(om.outputs)}")
    wrong = [finding.message.render("en") for finding in check_against(om, precision="force_fp16")]
    yield trial("N2", not wrong, "; ".join(wrong) or "float16 matrix operators")


def failures(failed: Mapping[str, Pth2omError], folder: Path) -> Iterator[Trial]:
    """What follows of models that atc did not compile, or not as they were asked for.

    Args:
        failed: the model's name -> why.
        folder: of all of them.
    """
    for name, error in failed.items():
        if error.message.key == "cann.no-om":
            yield Trial("C2", "fails", line(error))
        path = folder / name / "model.om"
        if path.is_file():
            yield from (each for each in recorded(path) if each.result == "fails")
        for row in _OF[name]:
            yield Trial(row, "untried", f"atc: {line(error)}")


def _sentences(found: Sequence[Finding]) -> str:
    return joined((finding.message.render("en") for finding in found), "; ", "en")


def refusals(toolchain: CannToolchain, board: Board, folder: Path) -> Iterator[Trial]:
    """C5, C9, C10: what atc takes and what not."""
    place = folder / "refused"
    place.mkdir()
    model = network(place, "static")
    asked = options(toolchain, "static")
    try:
        found = toolchain.refuses(model, asked)
        yield trial("C5", not found, _sentences(found) or "nothing refused")
        seen = _sentences(toolchain.refuses(network(place, "static", last=_UNKNOWN), asked)) or "not refused"
        yield trial("C10", _UNKNOWN in seen, seen)
    except Pth2omError as error:
        yield Trial("C5", "fails", line(error))
    other = next(soc for soc in _OTHER if soc != board.facts.soc)
    try:
        toolchain.compile(model, replace(asked, soc_version=other), place)
    except AtcError as error:
        yield trial("C9", "EE10" in line(error), line(error))
    except Pth2omError as error:
        yield Trial("C9", "fails", line(error))
    else:
        yield Trial("C9", "fails", f"{other} was compiled")


def again(toolchain: CannToolchain, first: CompiledModel, folder: Path) -> Iterator[Trial]:
    """C11: the same compile twice."""
    place = folder / "again"
    place.mkdir()
    try:
        second = toolchain.compile(network(place, "static"), options(toolchain, "static"), place)
        same = _equal(toolchain, first, second, "static")
    except Pth2omError as error:
        yield Trial("C11", "fails", line(error))
        return
    seen = f"bytes {'equal' if first.digest == second.digest else 'differ'}"
    yield trial("C11", same, f"{seen}; results {'equal' if same else 'differ'}")


def memory(toolchain: CannToolchain, board: Board, folder: Path) -> Iterator[Trial]:
    """C6: the settings for small boards against many processes, with a model of many kernels."""
    made: list[CompiledModel] = []
    for settings in (_LARGE, _SMALL):
        place = folder / f"wide-{settings['TE_PARALLEL_COMPILER']}"
        place.mkdir()
        asked = Asked(network(place, "wide"), options(toolchain, "wide"), _LIMIT, environment=settings)
        try:
            made.append(compiled(board, asked, place, toolchain.provenance))
        except CrashError as error:
            yield trial("C6", None if settings is _LARGE else False, line(error))
            return
        except Pth2omError as error:
            yield Trial("C6", "fails", line(error))
            return
    large, small = (int(one.details["peak_memory_mb"]) for one in made)
    try:
        same = _equal(toolchain, made[0], made[1], "wide")
    except Pth2omError as error:
        yield Trial("C6", "fails", line(error))
        return
    yield settled(large, small, same=same)


def settled(large: int, small: int, *, same: bool) -> Trial:
    """C6, of the peaks in MB with many processes and with one, and whether both OMs compute the same."""
    seen = f"peak {large} MB with 8 processes, {small} MB with 1; results {'equal' if same else 'differ'}"
    return trial("C6", same and small < large, seen)


def processes(toolchain: CannToolchain, board: Board, folder: Path, seconds: float) -> Iterator[Trial]:
    """C7 and C8: a compile that is ended in its middle, and one that the kernel ends.

    Args:
        toolchain: compiles.
        board: where.
        folder: for files.
        seconds: that a whole compile takes.
    """
    place = folder / "ended"
    place.mkdir()
    asked, shipped = Asked(network(place, "wide"), options(toolchain, "wide"), _LIMIT).files()
    words = replace(shipped, output="out/wide").command_line()[1:]
    plain = {"kind": "compile", "program": "atc", "files": board.upload(asked), "arguments": words}
    try:
        answer, _ = board.ask({**plain, "limit": max(0.5, seconds / 2)}, limit=_LIMIT)
        yield ended(answer)
        answer, _ = board.ask({**plain, "limit": _LIMIT, "confined": _CONFINED}, limit=_LIMIT)
        yield killed(answer)
    except Pth2omError as error:
        yield Trial("C7", "fails", line(error))


def ended(answer: Header) -> Trial:
    """C7, of a compile that was ended in its middle."""
    left = [str(name) for name in answer["left"]]
    if not answer["ended"] and not left:
        return Trial("C7", "untried", "the compile was over before it could be ended")
    return trial("C7", not left, f"after {answer['seconds']} s; left: {', '.join(left) or 'none'}")


def killed(answer: Header) -> Trial:
    """C8, of a compile in a cgroup that is too small for it."""
    if not answer["confined"]:
        return Trial("C8", "untried", "no cgroup with a limit can be made here: that takes root")
    if answer["code"] == 0:
        return Trial("C8", "untried", f"the compile fitted into {_CONFINED >> 20} MB")
    printed = [text for text in ("ATC run success", "ATC run failed") if text in str(answer["stdout"])]
    seen = f"{answer['signal'] or 'status ' + str(answer['code'])}; printed: {', '.join(printed) or 'no verdict'}"
    return trial("C8", answer["signal"] == "SIGKILL" and not printed, seen)


def _equal(toolchain: CannToolchain, one: CompiledModel, other: CompiledModel, name: str) -> bool:
    results = []
    for each in (one, other):
        with toolchain.open(each, "device") as session:
            results.append(next(iter(session.run(fed(name)).values())).tobytes())
    return results[0] == results[1]
