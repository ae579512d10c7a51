"""Feeds damaged files to every reader, and asks for one sentence, soon, within bounded memory.

::

    python -m tests.campaigns.fuzz --count 100000 --seed 1 --folder reports/fuzz

Inputs are shared out evenly among the readers. Each is made of a good one by a few mutations that its number alone
decides, so a fault is repeated by ``--only record --first 1234 --count 1``. A child process works through a batch; the
parent ends it when one input takes longer than five seconds. Finished batches are listed in ``done.jsonl`` and are left
out when the command is given again; faulty inputs are kept beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.campaigns.fuzz_readers import READERS, REPOSITORY, Reader

SECONDS = 5.0
MEMORY = 2 << 30
BATCH = 500
_START = 120.0  # of a child, which imports torch on a busy machine
_NUMBERS = (
    "0",
    "-1",
    "1e999",
    "-1e999",
    "nan",
    "inf",
    "9" * 30,
    "9" * 5000,
    "0x1",
    "1.5",
    "2147483648",
    "-0",
    "1e-320",
)
_PIECES = (
    b"\0", b"\xff" * 8, b"\x1b[2J", "\u2028".encode(), b"\xed\xa0\x80", b"\r\n", b'"', b"'", b"{", b"}", b"[" * 3000,
    b"{" * 300, b"a = [" * 200, b"#", b"\\", b"null", b"true", b"$(x)", b"9" * 5000, b"\x80" * 16, b"a" * 20_000, b"..",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """An input that was not answered by one sentence in time."""

    reader: str
    number: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.reader} {self.number}: {self.kind}: {self.text}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; the exit status is 1 when there are faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=100_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each reader")
    parser.add_argument("--only", default="", help="readers, separated by commas")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "reports" / "fuzz")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.child:
        return _child(asked.child, asked.seed, asked.first, asked.count)
    names = [name for name in asked.only.split(",") if name] or list(READERS)
    faults = campaign(asked.folder, asked.count, asked.seed, names, first=asked.first)
    for fault in faults:
        print(fault)
    print(f"{asked.count} inputs, {len(faults)} faults: {dict(Counter(fault.reader for fault in faults))}")
    return 1 if faults else 0


def campaign(folder: Path, count: int, seed: int, names: Sequence[str], *, first: int = 0) -> list[Fault]:
    """What went wrong; ``folder`` keeps the faulty inputs and what is done already."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "done.jsonl"
    finished: dict[tuple[str, int, int, int], list[Fault]] = {}
    if record.exists():
        for line in record.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            finished[tuple(row["batch"])] = [Fault(**fault) for fault in row["faults"]]
    faults: list[Fault] = []
    share = -(-count // len(names))
    for name in names:
        for begin in range(first, first + share, BATCH):
            size = min(BATCH, first + share - begin)
            batch = (name, seed, begin, size)
            if batch not in finished:
                finished[batch] = _batch(*batch)
                for fault in finished[batch]:
                    kept = folder / f"{fault.reader}-{seed}-{fault.number}{Path(READERS[name].name).suffix}"
                    kept.write_bytes(damaged(READERS[name], name, seed, fault.number))
                with record.open("a", encoding="utf-8") as file:
                    file.write(
                        json.dumps({"batch": batch, "faults": [asdict(each) for each in finished[batch]]}) + "\n"
                    )
            faults += finished[batch]
    return faults


def damaged(reader: Reader, name: str, seed: int, number: int) -> bytes:
    """The input of that number: a good one with one to four mutations."""
    seeds = reader.seeds()
    chance = random.Random(f"{name}/{seed}/{number}")
    data = chance.choice(seeds)
    for _ in range(chance.randint(1, 4)):
        data = _mutated(data, chance, seeds, binary=reader.binary)
    return data


def _mutated(data: bytes, chance: random.Random, seeds: Sequence[bytes], *, binary: bool) -> bytes:
    place = chance.randrange(len(data) + 1)
    end = min(len(data), place + chance.choice((1, 2, 8, 64)))
    ways = ["flip", "cut", "insert", "repeat", "truncate", "splice"] + ([] if binary else ["number", "number", "line"])
    way = chance.choice(ways)
    if way == "flip" and place < len(data):
        return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
    if way == "cut":
        return data[:place] + data[end:]
    if way == "insert":
        return data[:place] + chance.choice(_PIECES) + data[place:]
    if way == "repeat":
        return data[:end] + data[place:end] * chance.choice((1, 3, 200)) + data[end:]
    if way == "truncate":
        return data[:place]
    if way == "splice":
        other = chance.choice(seeds)
        return data[:place] + other[chance.randrange(len(other) + 1) :]
    if way == "number":
        found = list(re.finditer(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", data))
        if found:
            match = chance.choice(found)
            return data[: match.start()] + chance.choice(_NUMBERS).encode() + data[match.end() :]
    lines = data.split(b"\n")
    one, two = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[two] = lines[two], lines[one]
    return b"\n".join(lines)


def _batch(name: str, seed: int, first: int, count: int) -> list[Fault]:
    """The faults of a batch: a child works through it, and a new one goes on behind an input that ended the last."""
    faults: list[Fault] = []
    after = first + count
    while first < after:
        command = [sys.executable, "-m", "tests.campaigns.fuzz", "--child", name, "--seed", str(seed)]
        command += ["--first", str(first), "--count", str(after - first)]
        first = _watched(command, name, first, after, faults)
    return faults


def _watched(command: Sequence[str], name: str, first: int, after: int, faults: list[Fault]) -> int:
    """Run a child to its end or to the input that ends it; the number to go on with."""
    child = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert child.stdout is not None
    state = {"number": first - 1, "since": time.monotonic(), "limit": _START}

    def read() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            row = json.loads(line)
            if "begin" in row:
                state.update(number=row["begin"], since=time.monotonic(), limit=2 * SECONDS + 1)
            else:
                faults.append(Fault(name, row["number"], row["kind"], row["text"]))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while child.poll() is None:
        if time.monotonic() - state["since"] > state["limit"]:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            reader.join()
            faults.append(Fault(name, int(state["number"]), "hang", f"longer than {SECONDS:g} s"))
            return int(state["number"]) + 1
        time.sleep(0.05)
    reader.join()
    if child.returncode:
        faults.append(Fault(name, int(state["number"]), "crash", f"the child ended with status {child.returncode}"))
        return int(state["number"]) + 1
    return after


def _child(name: str, seed: int, first: int, count: int) -> int:
    """Work through inputs, telling the parent of each before it begins, and of its fault."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    say = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        tempfile.TemporaryDirectory(prefix="fuzz-") as scratch,
    ):
        os.dup2(nowhere.fileno(), 1)
        for number in range(first, first + count):
            print(json.dumps({"begin": number}), file=say, flush=True)
            fault = one(name, seed, number, Path(scratch))
            if fault is not None:
                print(json.dumps(asdict(fault)), file=say, flush=True)
    return 0


def one(name: str, seed: int, number: int, scratch: Path) -> Fault | None:
    """Feed one input to its reader in this process.

    Args:
        name: of the reader.
        seed: of the campaign.
        number: of the input.
        scratch: a folder that may be written to.
    """
    from pth2om.errors import Pth2omError

    reader = READERS[name]
    path = scratch / "given" / reader.name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(damaged(reader, name, seed, number))
    began = time.process_time()
    try:
        reader.read(path)
    except Pth2omError as error:
        text = str(error)
        if len(text) > 25_000:
            return Fault(name, number, "long", text[:200])
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the fault that is looked for
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        return Fault(name, number, "traceback", f"{type(error).__name__} at {place}: {str(error)[:200]}")
    took = time.process_time() - began
    return Fault(name, number, "slow", f"{took:.1f} s") if took > SECONDS else None


if __name__ == "__main__":
    raise SystemExit(main())
