"""A machine with CANN, as the toolchain uses it: what it is, its lease, uploads, compiles, and the loaded model."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pth2om.errors import CrashError, LostError, ToolchainError
from pth2om.session import Array, Feeds, Ground
from pth2om.store import file_digest
from pth2om.toolchain.cann.agent.frames import FrameError, Header, checked, described
from pth2om.toolchain.cann.link import Link
from pth2om.toolchain.cann.place import Place

PART = 4 << 20
"""Bytes of one part of an upload or download."""

_SOON = 60.0
_LOAD = 300.0
_BACK_OFF = (1.0, 2.0, 4.0)
_REST = 40.0


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds.

    Attributes:
        compile: one run of atc.
        run: one inference.
        wait: for a board that somebody else holds.
    """

    compile: float = 3600.0
    run: float = 60.0
    wait: float = 3600.0


@dataclass(frozen=True)
class Facts:
    """What a machine is.

    Attributes:
        soc: ``Ascend310B4``, of the driver; ``""`` where none answers.
        cann: release of its CANN; ``""`` without.
        driver: its version; ``""`` without.
        arch: ``aarch64``, ``x86_64``.
        nodes: ``/dev/davinci0``...
        proven: whether nodes, driver and SoC name together prove an NPU.
        has_atc: whether it can compile.
        platforms: the SoC names that its CANN lists; empty where it lists none.
        boot: changes when the machine starts anew.
        python: the Python that has ``acl``; ``""`` without.
        reason: why there is no SoC name.
    """

    soc: str
    cann: str
    driver: str
    arch: str
    nodes: tuple[str, ...]
    proven: bool
    has_atc: bool
    platforms: tuple[str, ...]
    boot: str
    python: str
    reason: str

    @classmethod
    def of(cls, header: Header) -> Facts:
        """From the agent's answer."""
        return cls(
            soc=str(header["soc"]),
            cann=str(header["cann"]),
            driver=str(header["driver"]),
            arch=str(header["arch"]),
            nodes=tuple(str(node) for node in header["nodes"]),
            proven=header["device"] is True,
            has_atc=bool(header["programs"].get("atc")),
            platforms=tuple(str(name) for name in header["platforms"]),
            boot=str(header["boot"]),
            python=str(header["python"]),
            reason=str(header["no_soc"]),
        )

    def compiles_for(self, soc: str) -> bool:
        """Whether its atc can be expected to take a SoC: beside an NPU only that of the NPU."""
        listed = not self.platforms or soc in self.platforms
        return self.has_atc and listed and (not self.soc or self.soc == soc)

    @property
    def ground(self) -> Ground:
        """``device`` only where an NPU is proven; whatever else runs an OM is a double."""
        return "device" if self.proven else "double"


class Board:
    """One machine, with at most one connection to it.

    Args:
        place: where it is.
        limits: see `Limits`.

    Attributes:
        known: what was read of it, here or in another process of the same run.
    """

    def __init__(self, place: Place, limits: Limits | None = None) -> None:
        self.place = place
        self.limits = limits or Limits()
        self._link: Link | None = None
        self.known: Facts | None = None
        self._leased = False
        self._models: set[str] = set()

    @property
    def name(self) -> str:
        """See `Place.name`."""
        return self.place.name

    @property
    def is_leased(self) -> bool:
        """Whether this process holds it."""
        return self._leased

    @property
    def is_idle(self) -> bool:
        """Whether this process holds it and has no model loaded on it: after a crash, or a load that failed."""
        return self._leased and not self._models

    @property
    def facts(self) -> Facts:
        """What it is, asked once.

        Raises:
            LostError: it cannot be reached.
            ToolchainError: an agent cannot run there.
        """
        if self.known is None:
            self.known = self._asked_facts()
        return self.known

    def _asked_facts(self) -> Facts:
        header, _ = self.ask({"kind": "machine"}, limit=2 * _SOON)
        return Facts.of(header)

    @property
    def link(self) -> Link:
        """The connection, made anew where there is none; a board that does not answer is tried again a few times.

        Raises:
            LostError: it cannot be reached.
            CrashError: it was started anew since its facts were read.
            ToolchainError: an agent cannot run there.
        """
        if self._link is None:
            self._link = self._opened()
            if self.known is not None:
                boot = self._asked_facts().boot
                if boot != self.known.boot:
                    self.known = None
                    raise CrashError("cann.restarted", where=self.name)
        return self._link

    def _opened(self) -> Link:
        # A first connection that fails is a wrong address or key; one that worked before is worth waiting for.
        pauses = _BACK_OFF if self.known is not None and not self.place.is_here else ()
        for pause in pauses:
            with contextlib.suppress(LostError):
                return Link(self.place)
            time.sleep(pause)
        return Link(self.place)

    def close(self) -> None:
        """End the connection; the agent ends what it does, and gives the lease back."""
        link, self._link = self._link, None
        self._leased, self._models = False, set()
        if link is not None:
            link.close()

    # --- asking -------------------------------------------------------------------------------------------------------

    def ask(
        self,
        header: Mapping[str, Any],
        payload: Sequence[Any] = (),
        *,
        limit: float = _SOON,
        progress: Callable[[Header], None] | None = None,
    ) -> tuple[Header, bytearray]:
        """One request and its answer.

        Raises:
            LostError: the connection is lost.
            CrashError: what the agent ran crashed, hung, or met an error of the device.
            ToolchainError: the agent refuses the request.
        """
        link = self.link
        try:
            answer, data = link.ask(header, payload, limit=limit, progress=progress)
        except BaseException:  # also an interrupt: the rest of a frame would be taken for an answer
            self.close()
            raise
        return self.good(answer), data

    def good(self, answer: Header) -> Header:
        """An answer that is no error.

        Raises:
            LostError: the model is not loaded any more.
            CrashError: see `ask`.
            ToolchainError: see `ask`.
        """
        if answer.get("kind") == "error":
            if answer.get("id") is None:
                self.close()  # about the connection, not about a request: nothing more comes
            raise failure(answer, self.name)
        return answer

    # --- files --------------------------------------------------------------------------------------------------------

    def upload(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Send what is not there yet, by content; an upload that broke off goes on where it stopped.

        Args:
            files: name for the other side -> file.

        Returns:
            Name -> sha256.

        Raises:
            ToolchainError: see `ask`.
            OSError: a file cannot be read.
        """
        digests = {name: file_digest(path) for name, path in files.items()}
        by_digest = {digests[name]: path for name, path in files.items()}
        for attempt in range(len(_BACK_OFF) + 1):
            try:
                answer, _ = self.ask({"kind": "have", "names": list(by_digest)})
                for digest, (complete, here) in answer["have"].items():
                    if not complete:
                        self._send(digest, by_digest[digest], int(here))
            except LostError:
                if attempt == len(_BACK_OFF) or self.place.is_here:
                    raise
                time.sleep(_BACK_OFF[attempt])
                continue
            break
        return digests

    def _send(self, digest: str, path: Path, offset: int) -> None:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(offset)
            while offset < size or not size:
                data = file.read(PART)
                request = {"kind": "put", "name": digest, "offset": offset, "size": size}
                answer, _ = self.ask(request, [data], limit=2 * _SOON)
                offset = int(answer["here"])
                if not size:
                    break

    def download(self, job: str, path: str, size: int, target: Path) -> None:
        """Fetch a file of a job.

        Raises:
            ToolchainError: see `ask`; or it is shorter than it was said to be.
            OSError: it cannot be written.
        """
        with target.open("wb") as file:
            while file.tell() < size:
                request = {"kind": "get", "job": job, "path": path, "offset": file.tell()}
                _, data = self.ask(request, limit=2 * _SOON)
                if not data:
                    raise LostError("cann.lost", where=self.name, reason=path)
                file.write(data)

    # --- the lease ----------------------------------------------------------------------------------------------------

    def lease(self, wait: float) -> Mapping[str, Any] | None:
        """Take the board for one device job.

        Args:
            wait: seconds to wait for somebody else's.

        Returns:
            None when it is taken; else who holds it: ``who``, ``host``, ``seconds``.
        """
        if self._leased:
            return None
        holder = {"who": _user(), "host": socket.gethostname(), "client": os.getpid()}
        answer, _ = self.ask({"kind": "lease", "holder": holder, "wait": wait}, limit=wait + _SOON)
        if answer["kind"] == "busy":
            found: Mapping[str, Any] = answer["holder"]
            return found
        self._leased = True
        return None

    def rest(self) -> None:
        """End the device job: the worker leaves, and the lease is given back. Without a job nothing is done.

        Raises:
            CrashError: the worker crashed or hung while it left; what it had computed is right all the same.
        """
        self._models = set()
        if not self._leased or self._link is None:
            self._leased = False
            return
        self._leased = False
        try:
            answer, _ = self.ask({"kind": "rest"}, limit=_REST)
        except LostError:
            return  # with the connection everything ended
        ended = answer["ended"]
        if ended is not None:
            raise _at_exit(ended, self.name)

    # --- a model ------------------------------------------------------------------------------------------------------

    def has(self, model: str) -> bool:
        """Whether a model is loaded."""
        return model in self._models

    def load(self, model: str, files: Mapping[str, Path], main: str, way: Mapping[str, Any] | None = None) -> Header:
        """Load an OM in a new worker; within a lease.

        Args:
            model: what the caller calls it.
            files: name -> file: the OM, and what lies beside it.
            main: the OM's name.
            way: how it is run, where not through ``acl``: see `pth2om.toolchain.cann.agent.ways`.

        Raises:
            ToolchainError: see `ask`.
        """
        self._models.discard(model)
        request = {"kind": "load", "model": model, "files": self.upload(files), "main": main, "limit": _LOAD}
        request |= {"way": dict(way)} if way else {}
        answer, _ = self.ask(request, limit=_LOAD)
        self._models.add(model)
        return answer

    def send_run(self, model: str, feeds: Feeds) -> int:
        """Send one inference; `receive_run` takes its result. At most a few may be under way."""
        arrays = [(name, np.ascontiguousarray(array)) for name, array in feeds.items()]
        request = {"kind": "run", "model": model, "tensors": described(arrays), "limit": self.limits.run}
        try:
            return self.link.send(request, [array.reshape(-1).view(np.uint8) for _, array in arrays if array.size])
        except BaseException:  # an interrupt too: the answer that is under way would be taken for the next one's
            self.close()
            raise

    def receive_run(self, model: str, number: int) -> tuple[list[tuple[str, Array]], Mapping[str, int]]:
        """The outputs of `send_run`, in order, and the nanoseconds of its steps.

        Raises:
            LostError: the connection or the loaded model is lost.
            CrashError: it crashed, hung, or the device reported an error.
            ToolchainError: the feeds do not fit.
        """
        try:
            answer, data = self.link.receive(number, self.limits.run)
        except BaseException:  # an interrupt too: the answer that is under way would be taken for the next one's
            self.close()
            raise
        try:
            self.good(answer)
        except ToolchainError as error:
            if answer.get("gone") or isinstance(error, CrashError | LostError):
                self._models.discard(model)
            raise
        try:
            rows = checked(answer["tensors"], len(data))
        except FrameError as error:
            self.close()
            raise ToolchainError(f"cann.frame-{error.kind}", where=self.name, text=error.text) from None
        outputs = []
        for name, dtype, shape, offset in rows:
            count = int(np.prod(shape, dtype=np.int64))
            outputs.append((name, np.frombuffer(data, np.dtype(dtype), count, offset).reshape(shape)))
        return outputs, answer["times"]


# --- errors -----------------------------------------------------------------------------------------------------------


def failure(answer: Header, where: str) -> ToolchainError:
    """The error for an agent's answer."""
    name, values = str(answer.get("error")), dict(answer.get("values", {}))

    def text(key: str) -> str:
        return str(values.get(key, ""))

    said = last(text("text"))
    if name == "crash":
        if values.get("signal"):
            return CrashError("cann.crash", where=where, signal=text("signal"), code=text("code"), text=said)
        return CrashError("cann.left", where=where, code=text("code"), text=said)
    if name == "hang":
        return CrashError("cann.hang", where=where, seconds=text("seconds"), text=said)
    if name == "acl":
        return CrashError("cann.acl", where=where, call=text("call"), code=text("code"), text=said)
    if name == "not-loaded":
        return LostError("cann.not-loaded", where=where)
    if name == "fallback":
        return CrashError("cann.fallback", where=where, nodes=text("where") or "-", text=said)
    if name == "output":
        values = {key: text(key) for key in ("name", "wanted", "given")}
        return ToolchainError("cann.output-form", where=where, found=values.pop("given"), **values)
    if name == "import" and values.get("module"):
        return ToolchainError("cann.no-module", where=where, module=text("module"), reason=text("reason"))
    if name == "import":
        return ToolchainError("cann.no-acl", where=where, reason=text("reason"))
    if name == "no-program":
        return ToolchainError("cann.no-program", where=where, program=text("program"))
    if name.startswith("feeds-"):
        given = ", ".join(f"{key} {value}" for key, value in values.items())
        return ToolchainError("cann.feeds", where=where, what=name.removeprefix("feeds-"), values=given)
    if name == "full":
        return CrashError("cann.board-full", where=where, reason=text("reason"))
    if name == "shared":
        return CrashError("cann.no-room", where=where, reason=text("reason"))
    return ToolchainError("cann.agent", where=where, error=name, reason=", ".join(map(str, values.values())))


def _at_exit(ended: Mapping[str, Any], where: str) -> ToolchainError:
    text = last(str(ended.get("text", "")))
    if ended.get("how") == "error":
        return failure(dict(ended), where)
    if ended.get("how") == "hang":
        return CrashError("cann.exit-hang", where=where, seconds=str(ended.get("seconds", "")), text=text)
    signal = str(ended.get("signal") or ended.get("code"))
    return CrashError("cann.exit-crash", where=where, signal=signal, code=str(ended.get("code")), text=text)


def last(text: str, lines: int = 6, most: int = 800) -> str:
    """The end of what a tool printed, on one line."""
    kept = [line.strip() for line in text.splitlines() if line.strip()][-lines:]
    return " / ".join(kept)[-most:]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "?"
