"""The supervisor: answers frames from stdin on stdout, and never imports ``acl``, so that no crash of it is ours.

One thread reads: the inputs of a run go straight into a mapped file, and the worker is told at once, so the next
inputs travel while it computes. The other thread answers, in the order of the requests. When the other side is gone,
worker and compile are ended and the lease is given back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import select
import shutil
import sys
import tempfile
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import compile as compiling
from . import environment as environments
from . import machine
from .blobs import BlobError, Blobs, digest_of
from .child import Child, ChildError, tail_of
from .frames import MOST_AHEAD, PROTOCOL, FrameError, Header, Pipe, ahead, checked
from .lease import Lease
from .processes import AGENT, marked
from .shared import Mapped, folder, kept, sweep, workplace
from .worker import FLUSH

MOST_PART = 8 << 20
_END_LIMIT = 10.0
_DISMISS = 3.0
"""Seconds for a worker whose call failed: `acl.finalize` waits up to 2 s for the device's logs."""
_SHOWN = 64 << 10
_FULL = (errno.ENOSPC, errno.EDQUOT)


class RefusedError(Exception):
    """A request that cannot be done.

    Attributes:
        error: its name; the other side has the sentence.
        values: for it.
    """

    def __init__(self, error: str, **values: Any) -> None:
        super().__init__(error)
        self.error = error
        self.values = values


class Slot:
    """A pair of mapped files: inputs and outputs of one run."""

    def __init__(self, place: str, number: int) -> None:
        self.input = Mapped(os.path.join(place, "%d-in" % number))
        self.output = Mapped(os.path.join(place, "%d-out" % number))


class Supervisor:
    """One connection.

    Args:
        pipe: to the other side.
        program: the command that starts this agent's verbs: a Python is put before it.
        digest: sha256 of the agent's file.
    """

    def __init__(self, pipe: Pipe, program: List[str], digest: str) -> None:
        self._pipe = pipe
        self._program = program
        self._digest = digest
        self._queue: "queue.Queue[Any]" = queue.Queue()
        self._free: "queue.Queue[Slot]" = queue.LifoQueue()  # what was used last is mapped already
        self._gone = threading.Event()
        self._token = "%d-%.6f" % (os.getpid(), time.time())
        self._home = kept("board", workplace())
        self._places: List[str] = []
        self._children: Dict[str, Child] = {}  # by the name that the other side gave its model
        self._leaving: List[Tuple[Child, threading.Thread]] = []
        self._python = ""
        self._reason = ""
        self._environment: Dict[str, str] = {}
        self._script = ""
        self._soc = ""
        self._lease = Lease()
        self._blobs: Optional[Blobs] = None
        self._jobs: Dict[str, str] = {}

    def serve(self) -> int:
        """Answer until the other side is gone."""
        sweep()
        self._pipe.send({"kind": "hello", "protocol": PROTOCOL, "agent": self._digest, "pid": os.getpid()})
        threading.Thread(target=self._read, daemon=True).start()
        try:
            while True:
                item = self._queue.get()
                if item is None:
                    return 0
                if isinstance(item, dict):
                    self._pipe.send(item)
                else:
                    self._answer(*item)
        except OSError:
            return 0  # nobody reads the answers any more
        finally:
            self._gone.set()
            self._end_all()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            while True:
                header, length = self._pipe.receive()
                if header.get("kind") == "run":
                    self._read_run(header, length)
                elif length > MOST_PART:
                    raise FrameError("length", "%d" % length)
                else:
                    self._queue.put((header, self._pipe.payload(length), None))
        except FrameError as error:
            if error.kind in ("garbage", "length", "header"):
                self._queue.put({"kind": "error", "error": "frame", "values": {"reason": str(error)}})
        finally:
            self._gone.set()
            for child in [*self._children.values(), *(child for child, _ in self._leaving)]:
                child.signal()  # a worker that hangs would keep the other thread waiting
            self._queue.put(None)

    def _read_run(self, header: Header, length: int) -> None:
        tensors = checked(header.get("tensors"), length)
        slot = None
        try:
            slot = self._slot(length)
            view = slot.input.view(length)
        except OSError as error:
            if slot is not None:
                self._free.put(slot)
            self._pipe.skip(length)
            self._queue.put(({"kind": "no-room", "id": header.get("id"), "reason": str(error)}, None, None))
            return
        self._pipe.fill(view)
        child = self._children.get(str(header.get("model")))
        if child is not None:
            command = {
                "kind": "run",
                "in": slot.input.path,
                "out": slot.output.path,
                "size": length,
                "tensors": tensors,
            }
            child.send(command)
        self._queue.put((header, child, slot))

    def _slot(self, size: int) -> Slot:
        """A free pair of files; waiting for one, the end of the other side is seen."""
        if not self._places:
            place = folder(ahead(size) * 4 * size)
            self._places.append(place)
            for number in range(MOST_AHEAD):
                self._free.put(Slot(place, number))
        hung_up = select.poll()
        hung_up.register(self._pipe.read_fd, select.POLLHUP)
        while True:
            with contextlib.suppress(queue.Empty):
                return self._free.get(timeout=0.2)
            if any(state & select.POLLHUP for _, state in hung_up.poll(0)):
                raise FrameError("ended")

    # --- answering ----------------------------------------------------------------------------------------------------

    def _answer(self, header: Header, payload: Any, slot: Optional[Slot]) -> None:
        requests: Dict[str, Callable[[Header, Any], Tuple[Header, List[Any]]]] = {
            "machine": self._machine,
            "have": self._have,
            "put": self._put,
            "get": self._get,
            "drop": self._drop,
            "compile": self._compile,
            "lease": self._take_lease,
            "load": self._load,
            "rest": self._rest,
            "readings": self._readings,
            "left": self._left_running,
            "doctor": self._doctor,
            "selftest": self._selftest,
            "no-room": self._no_room,
        }
        if slot is not None:
            self._answer_run(header, payload, slot)
            return
        number = header.get("id")
        try:
            make = requests.get(str(header.get("kind")))
            if make is None:
                raise RefusedError("request", kind=str(header.get("kind"))[:80])
            answer, parts = make(header, payload)
        except RefusedError as error:
            answer, parts = {"kind": "error", "error": error.error, "values": error.values}, []
        except ChildError as error:
            answer, parts = {"kind": "error", "error": error.how, "values": error.values}, []
        except BlobError as error:
            answer, parts = {"kind": "error", "error": "upload", "values": {"reason": str(error)}}, []
        except (OSError, KeyError, TypeError, ValueError) as error:
            full = isinstance(error, OSError) and error.errno in _FULL
            reason = str(error) if full else "%s: %s" % (type(error).__name__, error)
            answer, parts = {"kind": "error", "error": "full" if full else "agent", "values": {"reason": reason}}, []
        self._pipe.send({**answer, "id": number}, parts)

    def _answer_run(self, header: Header, child: Optional[Child], slot: Slot) -> None:
        number = header.get("id")
        try:
            if child is None or child is not self._children.get(str(header.get("model"))):
                answer: Header = {"kind": "error", "error": "not-loaded", "values": {}}
            else:
                answer = child.receive(float(header.get("limit", 60.0)))
                if answer.get("error") in ("acl", "fallback", "output"):
                    # After a failed execution a process is not to be trusted; it leaves, with the device's logs.
                    self._drop_child(header, _dismiss)
                    answer["gone"] = True
        except ChildError as error:
            self._drop_child(header)
            answer = {"kind": "error", "error": error.how, "values": error.values}
        parts = [slot.output.view(answer["size"])] if answer["kind"] == "ran" and answer["size"] else []
        self._pipe.send({**answer, "id": number}, parts)
        del parts
        self._free.put(slot)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _machine(self, header: Header, payload: Any) -> Tuple[Header, List[Any]]:  # noqa: ARG002 - a request's
        self._capture()
        found = machine.facts(self._environment, self._soc)
        programs = {name: environments.program(name, self._environment) for name in ("atc", "msame", "amct_onnx")}
        more = {"python": self._python, "set_env": self._script, "programs": programs, "no_soc": self._reason}
        return {"kind": "machine", **found, **more}, []

    def _have(self, header: Header, payload: Any) -> Tuple[Header, List[Any]]:  # noqa: ARG002 - a request's
        return {"kind": "have", "have": {name: self._store.have(name) for name in header["names"]}}, []

    def _put(self, header: Header, payload: Any) -> Tuple[Header, List[Any]]:
        here = self._store.add(header["name"], int(header["offset"]), payload, int(header["size"]))
        return {"kind": "here", "here": here}, []

    def _get(self, header: Header, payload: Any) -> Tuple[Header, List[Any]]:  # noqa: ARG002 - a request's
        job = self._jobs.get(str(header["job"]))
        if job is None:
            raise RefusedError("no-job", job=str(header["job"])[:80])
        path = os.path.realpath(os.path.join(job, str(header["path"])))
        if not path.startswith(os.path.realpath(job) + os.sep):
            raise RefusedError("no-job", job=str(header["path"])[:80])
        with open(path, "rb") as file:
            file.seek(int(header["offset"]))
            data = file.read(MOST_PART)
        return {"kind": "data"}, [data]

    def _drop(self, header: Header, payload: Any) -> Tuple[Header, List[Any]]:  # noqa: ARG002 - a request's
        shutil.rmtree(self._jobs.pop(str(header["job"]), "") or "/nonexistent", ignore_errors=True)
        return {"kind": "dropped"}, []

    def _compile(self, header: Header, payload: Any) -> Tuple[Header, List[Any]]:  # noqa: ARG002 - a request's
        self._capture()
        program = environments.program(str(header["program"]), self._environment)
        if program is None:
            raise RefusedError("no-program", program=str(header["program"]), set_env=self._script)
        job, place = self._job(header["files"])
        os.makedirs(os.path.join(place, compiling.OUT))
        environment = {**self._environment, **{str(k): str(v) for k, v in header.get("environment", {}).items()}}
        for name, folders in header.get("folders", {}).items():  # variables that name folders of the job
            values = [os.path.join(place, below) for below in folders] + [environment.get(name, "")]
            environment[str(name)] = os.pathsep.join(filter(None, values))
        command = [program, *(str(word) for word in header["arguments"])]
        number = header.get("id")

        def report(state: Dict[str, Any]) -> None:
            self._pipe.send({"kind": "progress", "id": number, **state})

        limit, most = float(header["limit"]), int(header.get("confined", 0))
        done = compiling.run(command, environment, place, limit, report, self._gone.is_set, most)
        files = []
        for parent, _, names in os.walk(place):
            for name in names:
                path = os.path.join(parent, name)
                relative = os.path.relpath(path, place)
                if relative in header["files"] or os.path.islink(path):
                    continue
                with open(path, "rb") as file:
                    files.append({"path": relative, "size": os.path.getsize(path), "sha256": digest_of(file)})
        texts = {
            name: tail_of(os.path.join(place, name), _SHOWN, 2000) for name in (compiling.STDOUT, compiling.STDERR)
        }
        said = {"stdout": texts[compiling.STDOUT], "stderr": texts[compiling.STDERR]}
        room = shutil.disk_usage(place).free
        return {"kind": "compiled", "job": job, "program": program, "files": files, "room": room, **said, **done}, []

    def _take_lease(self, header: Header, payload: Any) -> Tuple[Header, List[Any]]:  # noqa: ARG002 - a request's
        self._settle()
        other = self._lease.take(dict(header["holder"]), float(header.get("wait", 0.0)), self._gone.is_set)
        return ({"kind": "leased"} if other is None else {"kind": "busy", "holder": other}), []

    def _load(self, header: Header, payload: Any) -> Tuple[Header, List[Any]]:  # noqa: ARG002 - a request's
        self._capture()
        if not self._python:
            raise RefusedError("import", reason=self._reason)
        way: Header = {"way": dict(header["way"])} if "way" in header else {}
        if way and way["way"].get("by") == "msame":
            way["way"]["program"] = environments.program("msame", self._environment)
            if way["way"]["program"] is None:
                raise RefusedError("no-program", program="msame", set_env=self._script)
        self._drop_child(header)
        job, place = self._job(header["files"])
        child = self._start(place)
        self._children[str(header["model"])] = child
        if self._gone.is_set():
            child.kill()  # the reading thread looked before it was there
        path = os.path.join(place, str(header["main"]))
        self._settle()  # the device, and its memory, are free before it is opened again
        try:
            answer = child.ask({"kind": "load", "path": path, "device": 0, **way}, float(header["limit"]))
        except ChildError:
            self._drop_child(header)
            raise
        if answer["kind"] == "error":
            self._drop_child(header, _dismiss)
        return {**answer, "job": job}, []

    def _rest(self, header: Header, payload: Any) -> Tuple[Header, List[Any]]:  # noqa: ARG002 - a request's
        """End the workers and give the lease back; the first that does not leave in peace is told."""
        ended: Optional[Dict[str, Any]] = None
        try:
            for child in list(self._children.values()):
                if ended is None:
                    ended = _left(child)  # it stays known: a connection that ends meanwhile ends it at once
                else:
                    child.kill()
        finally:
            self._children = {}
            self._release()
        return {"kind": "rested", "ended": ended}, []

    def _readings(self, header: Header, payload: Any) -> Tuple[Header, List[Any]]:  # noqa: ARG002 - a request's
        from . import dcmi

        self._capture()
        return {"kind": "readings", "readings": dcmi.readings(self._environment)}, []

    def _left_running(self, header: Header, payload: Any) -> Tuple[Header, List[Any]]:  # noqa: ARG002 - a request's
        """The processes that an agent started and that live; without a name, this agent's."""
        token = str(header.get("agent", self._token))
        return {"kind": "left", "token": self._token, "processes": [name for _, name in marked(AGENT, token)]}, []

    def _doctor(self, header: Header, payload: Any) -> Tuple[Header, List[Any]]:  # noqa: ARG002 - a request's
        from . import doctor

        return {"kind": "doctor", "facts": doctor.collect()}, []

    def _selftest(self, header: Header, payload: Any) -> Tuple[Header, List[Any]]:  # noqa: ARG002 - a request's
        """Try what is assumed of ``acl``, with the OMs that were sent; the caller holds the lease."""
        from . import selftest

        self._capture()
        if not self._python:
            raise RefusedError("import", reason="no Python has acl and numpy")
        job, place = self._job(header["files"])
        command = [self._python, *self._program]
        rows = selftest.everything(place, command, self._environment)
        names = [name for name in ("fed.npy", "seen.npy") if os.path.isfile(os.path.join(place, name))]
        files = {name: os.path.getsize(os.path.join(place, name)) for name in names}
        return {"kind": "selftest", "rows": rows, "job": job, "files": files}, []

    def _no_room(self, header: Header, payload: Any) -> Tuple[Header, List[Any]]:  # noqa: ARG002 - a request's
        raise RefusedError("shared", reason=str(header.get("reason")))

    # --- pieces -------------------------------------------------------------------------------------------------------

    @property
    def _store(self) -> Blobs:
        if self._blobs is None:
            self._blobs = Blobs()
            self._blobs.prune()
        return self._blobs

    def _capture(self) -> None:
        if not self._environment:
            environment, self._script = environments.captured()
            self._python, self._soc, self._reason = environments.probed(environment)
            self._environment = {**environment, AGENT: self._token}

    def _job(self, files: Dict[str, str]) -> Tuple[str, str]:
        place = tempfile.mkdtemp(dir=self._home)
        missing = self._store.lay({str(name): str(digest) for name, digest in files.items()}, place)
        if missing:
            raise RefusedError("missing", names=missing)
        job = os.path.basename(place)
        self._jobs[job] = place
        return job, place

    def _start(self, place: str) -> Child:
        environment = dict(self._environment)
        environment.setdefault(FLUSH, "0")  # else every child may wait 2 s at its end for logs that nobody collects
        return Child([self._python, *self._program, "worker"], environment, place)

    def _drop_child(self, header: Header, end: Callable[[Child], None] = lambda child: child.kill()) -> None:
        """Let go of a worker: its end may take seconds, in which the failure is told and others are answered."""
        child = self._children.pop(str(header.get("model")), None)
        if child is not None:
            thread = threading.Thread(target=end, args=(child,), daemon=True)
            self._leaving.append((child, thread))
            thread.start()

    def _settle(self) -> None:
        """Wait for the end of the workers that were let go of."""
        while self._leaving:
            self._leaving[0][1].join()
            del self._leaving[0]

    def _release(self) -> None:
        """Give the lease back, once the workers that were let go of have left the device."""
        if not self._leaving:
            self._lease.give_back()
            return
        waiting = list(self._leaving)

        def release() -> None:
            for _, thread in waiting:
                thread.join()
            self._lease.give_back()

        self._leaving.append((waiting[-1][0], threading.Thread(target=release, daemon=True)))
        self._leaving[-1][1].start()

    def _end_all(self) -> None:
        for child in [*self._children.values(), *(child for child, _ in self._leaving)]:
            child.signal()
        self._settle()
        for child in self._children.values():
            child.kill()
        self._lease.give_back()
        for place in (self._home, *self._places):
            shutil.rmtree(place, ignore_errors=True)


def _dismiss(child: Child) -> None:
    """Let a worker leave after a failure, as the vendor asks, within `_DISMISS`; whatever it does, it is gone then."""
    child.send({"kind": "end", "failed": True})
    with contextlib.suppress(ChildError):
        child.receive(_DISMISS)
    child.finish(1.0)
    child.kill()


def _left(child: Child) -> Optional[Dict[str, Any]]:
    """Ask a worker to leave; None if it did so in peace, else how it ended."""
    try:
        answer = child.ask({"kind": "end"}, _END_LIMIT)
    except ChildError as error:
        return {"how": error.how, **error.values}
    how = child.finish(_END_LIMIT)
    if how is not None:
        return {"how": "hang" if "seconds" in how else "crash", **how}
    return None if answer["kind"] == "ended" else {"how": "error", **answer}


def main(digest: str, program: List[str]) -> int:
    """Serve on stdin and stdout; whatever else prints goes to stderr."""
    pipe = Pipe(os.dup(0), os.dup(1))
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return Supervisor(pipe, program, digest).serve()
