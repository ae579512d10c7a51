"""What is assumed of the vendor's runners."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from pth2om.errors import CrashError, ToolchainError
from pth2om.toolchain import Access, CompiledModel
from pth2om.toolchain.cann import CannToolchain
from pth2om.toolchain.cann.board import Board
from pth2om.toolchain.cann.selftest.trials import Trial, fed, line, trial

_RUNS = 40
_CLOSE = 0.01


def msame(board: Board, first: CompiledModel) -> Iterator[Trial]:
    """X1, on one file of zeros."""
    files = {"static.om": first.path, "a.bin": first.path.parent / "a.bin"}
    files["a.bin"].write_bytes(bytes(4 * 3 * 8 * 8))
    words = ["--model", "static.om", "--input", "a.bin", "--output", "out", "--outfmt", "BIN"]
    request = {"kind": "compile", "program": "msame", "arguments": words, "limit": 60.0}
    try:
        answer, _ = board.ask({**request, "files": board.upload(files)}, limit=60.0)
    except ToolchainError:
        yield Trial("X1", "untried", "msame is not installed")
        return
    written = [entry["path"] for entry in answer["files"] if str(entry["path"]).startswith("out/")]
    said = "Inference average time" in str(answer["stdout"])
    holds = answer["code"] == 0 and said and any(path.endswith("a_output_0.bin") for path in written)
    yield trial("X1", holds, f"status {answer['code']}; {', '.join(written) or 'no file'}")


def ais_bench(toolchain: CannToolchain, access: Access, folder: Path) -> Iterator[Trial]:
    """X2: the same bits as through acl, with one shape and with gears. T2: the same times."""
    other = CannToolchain(toolchain.target, Access(access.boards, run_by="ais_bench"), toolchain.limits)
    try:
        same = []
        for name in ("static", "batch"):
            om = toolchain.compiled(folder / name)
            results = []
            for each in (toolchain, other):
                with each.open(om, "device") as session:
                    results.append(next(iter(session.run(fed()).values())).tobytes())
            same.append(results[0] == results[1])
        seen = [
            f"{name} {'equal' if equal else 'differs'}" for name, equal in zip(("static", "batch"), same, strict=True)
        ]
        yield trial("X2", all(same), f"against acl: {', '.join(seen)}")
        yield _times(toolchain, other, folder)
    except CrashError as error:
        yield Trial("X2", "fails", line(error))
    except ToolchainError as error:
        absent = error.message.key == "cann.no-module"
        yield trial("X2", None if absent else False, line(error))


def _times(toolchain: CannToolchain, other: CannToolchain, folder: Path) -> Trial:
    """T2, in turns, so that a chip that grows warm grows warm for both."""
    om = toolchain.compiled(folder / "wide-1")
    found: dict[int, list[int]] = {0: [], 1: []}
    for _ in range(2):
        for place, each in enumerate((toolchain, other)):
            with each.open(om, "device") as session:
                for _ in range(_RUNS // 2):
                    session.run(fed("wide"))
                found[place] += session.device_times()[2:]
    if not all(found.values()):
        return Trial("T2", "untried", "ais_bench keeps no times")
    return timed(median(found[0]) / 1e6, median(found[1]) / 1e6)


def timed(mine: float, theirs: float) -> Trial:
    """T2, of the medians in ms through acl and by ais_bench."""
    return trial("T2", abs(mine - theirs) <= _CLOSE * theirs, f"acl {mine:.3f} ms, ais_bench {theirs:.3f} ms (medians)")
