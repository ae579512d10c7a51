"""The machines of a run: the options that name boards, and what the controller reads of them before anything runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from pth2om.errors import ToolchainError
from pth2om.language import say

if TYPE_CHECKING:
    from pth2om.toolchain import Access

_UNSAFE = ("loadgroup", "loadfile")
_PLACES = ("here", "board")
_TARGET, _MACHINES = "pth2om_target", "pth2om_machines"


def add(group: pytest.OptionGroup) -> None:
    """Tell pytest the options."""
    group.addoption(
        "--board",
        metavar="URL",
        action="append",
        default=[],
        help="run the OMs on this board, ssh://user@host:port (repeatable: workers take whichever is free)",
    )
    group.addoption(
        "--om-compile",
        metavar="WHERE",
        default=None,
        help="compile here or on the board (default: here if this machine has an atc for the SoC)",
    )
    group.addoption(
        "--om-run-by",
        metavar="WAY",
        default="acl",
        help="run the OMs through acl (default), by ais_bench, or by msame (inputs and outputs are files, slow); or, "
        "without an OM, the ONNX files by onnxruntime-cann",
    )


def toolchain(config: pytest.Config) -> str:
    """Who compiles and runs: as asked; with a board CANN, else the emulator.

    Raises:
        UsageError: boards for a toolchain that uses none.
    """
    from pth2om.toolchain.choosing import named

    try:
        return named(config.getoption("--om-toolchain"), config.getoption("--board"))
    except ToolchainError as error:
        raise pytest.UsageError(error.message.with_fix()) from None


def access(config: pytest.Config) -> Access:
    """Where the toolchain finds its machines.

    Raises:
        UsageError: a place to compile, or a way to run, that there is not, or that this run has no use for.
    """
    from pth2om.toolchain import NO_OM, WAYS, Access

    place, way = config.getoption("--om-compile"), config.getoption("--om-run-by")
    for option, word, known in (("--om-compile", place, _PLACES), ("--om-run-by", way, WAYS)):
        if word is not None and word not in known:
            words = ", ".join(known)
            raise pytest.UsageError(
                say("plugin.unknown-word", option=option, word=word, nearest="", words=words).render()
            )
        if word not in (None, WAYS[0]) and toolchain(config) != "cann":
            used = toolchain(config)
            raise pytest.UsageError(say("plugin.machine-unused", option=option, word=word, toolchain=used).with_fix())
    if place and way == NO_OM:
        raise pytest.UsageError(say("plugin.compile-unused", word=place, by=way).with_fix())
    boards = tuple(dict.fromkeys(config.getoption("--board")))
    if place == "board" and not boards:
        raise pytest.UsageError(say("plugin.compile-no-board").with_fix())
    if boards:
        from pth2om.toolchain.cann.place import Place

        try:
            for board in boards:
                Place.of(board)
        except ToolchainError as error:
            raise pytest.UsageError(str(error)) from None
    # Each worker begins at a board of its own, so that none connects to all of them to find the free one.
    first = _worker(config) % len(boards) if boards else 0
    return Access(boards[first:] + boards[:first], place or "", way)


def _worker(config: pytest.Config) -> int:
    """The number of a worker of xdist; 0 without workers."""
    name = str(getattr(config, "workerinput", {}).get("workerid", ""))
    return int(name.removeprefix("gw")) if name.removeprefix("gw").isdigit() else 0


def settle(config: pytest.Config) -> None:
    """Read the machines once, and put their SoC and CANN where none was asked for; workers get them with the options.

    Collection and dry runs connect to nothing.

    Raises:
        UsageError: a way of distributing tests that loses some; a machine that cannot be reached; machines that differ
            from each other or from what was asked for.
    """
    if hasattr(config, "workerinput"):
        # xdist gives its workers the words of the command line, not what became of them.
        for name, value in config.workerinput.get(_TARGET, {}).items():
            setattr(config.option, name, value)
        if config.workerinput.get(_MACHINES):
            from pth2om.toolchain.cann import remember

            remember(config.workerinput[_MACHINES])
        return
    dist = config.getoption("dist", "no")
    if dist in _UNSAFE:
        raise pytest.UsageError(say("plugin.dist", dist=dist).with_fix())
    if toolchain(config) != "cann" or config.option.collectonly or config.getoption("--om-dry-run"):
        return
    from pth2om.ascend import versions
    from pth2om.errors import ToolchainError
    from pth2om.toolchain.cann import survey

    try:
        found = survey(access(config))
        if not found.python and not found.has_atc:
            raise ToolchainError("cann.nothing", where=", ".join(config.getoption("--board")) or None)
        cann = versions.version(found.cann) if found.cann else None
    except ToolchainError as error:
        raise pytest.UsageError(str(error)) from None
    asked, soc = config.getoption("--om-cann"), config.getoption("--soc")
    if asked is not None and cann is not None and not agrees(asked, cann):
        raise pytest.UsageError(say("plugin.other-cann", asked=asked, found=cann).with_fix())
    if soc is not None and found.soc and soc != found.soc:
        raise pytest.UsageError(say("plugin.other-soc", asked=soc, found=found.soc).with_fix())
    config.option.om_cann = cann or asked
    config.option.soc = soc or found.soc or None


def hand_over(config: pytest.Config, node: Any) -> None:  # noqa: ANN401 - xdist's WorkerController
    """Give a worker of xdist what `settle` read of the machines: no worker asks all of them again."""
    node.workerinput[_TARGET] = {name: getattr(config.option, name) for name in ("soc", "om_cann")}
    if toolchain(config) == "cann":
        from pth2om.toolchain.cann import known

        node.workerinput[_MACHINES] = known()


def agrees(asked: str, found: str) -> bool:
    """Whether a CANN is of the release that was asked for: ``8.0`` and ``8.x`` both take ``8.0.RC2``."""
    parts = re.split(r"[.-]", asked.strip().lower().removeprefix("v"))
    return all(
        one in ("x", other) for one, other in zip(parts, re.split(r"[.-]", found.lower()), strict=False)
    ) and len(parts) <= len(re.split(r"[.-]", found))
