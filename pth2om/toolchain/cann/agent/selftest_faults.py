"""Steps of the self-test that provoke what pth2om has to live with: faults, forks, ends without an end.

Each runs in a process of its own, behind the steps that want a whole device.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from typing import Any, Dict, List, Optional

Rows = Dict[str, Dict[str, Any]]

_NOWHERE = 0x1000  # an address that no allocation has
_FORK_LIMIT = 20
_OUTSIDE = 1 << 20  # an index behind 64 rows


def _fed(model: Any, seed: int = 7) -> int:
    """The elements of the output; the input is fed."""
    import numpy as np

    dims, _ = model.acl.mdl.get_input_dims(model.desc, 0)
    out, _ = model.acl.mdl.get_output_dims(model.desc, 0)
    model.put(np.random.RandomState(seed).randn(*dims["dims"]).astype(np.float32))
    return int(np.prod(out["dims"]))


def _result(model: Any, count: int) -> str:
    """Digest of one execution's output; ``""`` where a call fails."""
    import hashlib

    if model.execute() != 0:
        return ""
    array = model.take(count)
    return "" if array is None else hashlib.sha256(array.tobytes()).hexdigest()


def whole(folder: str) -> Rows:
    """What an undisturbed process computes; no assumption of its own."""
    from .selftest import opened

    model = opened(folder, "static.om")
    result = _result(model, _fed(model))
    model.close()
    return {"whole": {"holds": bool(result), "seen": result}}


def unfinished(folder: str) -> Rows:
    """A process that ends without `acl.finalize`; what it computed is printed before."""
    from .selftest import opened

    model = opened(folder, "static.om")
    print(json.dumps({"unfinished": {"holds": True, "seen": _result(model, _fed(model))}}))
    sys.stdout.flush()
    sys.exit(0)


def fork(folder: str) -> Rows:
    """A copy of a process with an open device, and how it fares."""
    from .selftest import opened

    model = opened(folder, "static.om")
    count = _fed(model)
    wanted = _result(model, count)
    child = os.fork()
    if child == 0:
        signal.alarm(_FORK_LIMIT)
        os._exit(0 if _result(model, count) == wanted else 3)
    _, status = os.waitpid(child, 0)
    ended = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    seen = {0: "computes right", 3: "gets errors or other results"}.get(ended, "ended by signal %d" % -ended)
    again = _result(model, count) == wanted
    model.close()
    return {"fork": {"holds": again, "seen": "a fork %s; the first goes on: %s" % (seen, "yes" if again else "no")}}


def beside(folder: str) -> Rows:
    """A process with an open device starts another, which opens it too."""
    import subprocess

    from .selftest import opened

    model = opened(folder, "static.om")
    count = _fed(model)
    mine = _result(model, count)
    code = "import acl,sys;sys.exit(acl.init() or acl.rt.set_device(0) or acl.rt.reset_device(0) or acl.finalize())"
    ended = subprocess.call([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    holds = ended == 0 and bool(mine) and _result(model, count) == mine
    model.close()
    return {"beside": {"holds": holds, "seen": "a new process: %s" % ("works" if ended == 0 else "status %d" % ended)}}


def fault(folder: str) -> Rows:
    """An output at an address that does not exist, and an execution after it."""
    from .selftest import opened

    model = opened(folder, "static.om")
    acl = model.acl
    count = _fed(model)
    wanted = _result(model, count)
    wrong = acl.mdl.create_dataset()
    size = acl.mdl.get_output_size_by_index(model.desc, 0)
    acl.mdl.add_dataset_buffer(wrong, acl.create_data_buffer(_NOWHERE, size))
    code = int(acl.mdl.execute(model.number, model.inputs, wrong))
    after = _result(model, count)
    then = "right" if after == wanted else "an error" if not after else "other results"
    # The process is not to be trusted any more: it leaves as it is.
    print(json.dumps({"fault": {"holds": code != 0, "seen": "execute returned %d; the next one: %s" % (code, then)}}))
    sys.stdout.flush()
    os._exit(0)


def gather(folder: str) -> Rows:
    """An index outside of what is gathered from."""
    import numpy as np

    from .selftest import opened

    model = opened(folder, "gather.om")
    model.put(np.arange(64 * 16, dtype=np.float32).reshape(64, 16), 0)
    inside = np.array([0, 1, 2, 3], np.int32)
    outside = np.array([0, _OUTSIDE, 2, 3], np.int32)
    codes = []
    for at in (inside, outside):
        model.put(at, 1)
        codes.append(model.execute())
    print(json.dumps({"N5": {"holds": codes == [0, 0], "seen": "inside %d, outside %d" % tuple(codes)}}))
    sys.stdout.flush()
    os._exit(0)


def provider(folder: str) -> Rows:
    """A model of which ONNX Runtime's CANN provider cannot take every node, as a user would run it."""
    try:
        import onnxruntime
    except ImportError:
        return {"X3": {"holds": None, "seen": "onnxruntime-cann is not installed"}}
    import numpy as np

    from .cann_provider import PROVIDER, kernels

    if PROVIDER not in onnxruntime.get_available_providers():
        return {"X3": {"holds": None, "seen": "onnxruntime-cann is not installed"}}
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = os.path.join(tempfile.mkdtemp(dir=folder), "profile")
    try:
        session = onnxruntime.InferenceSession(
            os.path.join(folder, "unique.onnx"), options, providers=[(PROVIDER, {"device_id": "0"})]
        )
        session.run(["y"], {"x": np.ones((1, 3, 8, 8), np.float32)})
    except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
        return {"X3": {"holds": False, "seen": "an error: %s" % str(error)[:200]}}
    nodes = kernels(session.end_profiling())
    elsewhere = sorted(name for name, place in nodes.items() if place != PROVIDER)
    seen = "no error; get_providers: %s; on the CPU: %s" % (", ".join(session.get_providers()), ", ".join(elsewhere))
    return {"X3": {"holds": bool(elsewhere) if nodes else False, "seen": seen}}


def loop(folder: str) -> Rows:
    """Executes until it is ended."""
    from .selftest import opened

    model = opened(folder, "static.om")
    _fed(model)
    print("1")
    sys.stdout.flush()
    while True:
        model.execute()


STEPS = {
    "whole": whole,
    "unfinished": unfinished,
    "fork": fork,
    "beside": beside,
    "fault": fault,
    "gather": gather,
    "provider": provider,
    "loop": loop,
}


def rows(found: Dict[str, Dict[str, Any]], how: Dict[str, str], crashed: bool) -> Rows:
    """What the steps tell together.

    Args:
        found: row of each step that printed one.
        how: step -> how its process ended, where not with 0.
        crashed: whether the unfinished process ended badly.
    """
    told = {name: dict(row) for name, row in found.items() if name in ("N5", "X3")}
    if "gather" in how and "N5" not in told:
        told["N5"] = {"holds": False, "seen": how["gather"]}
    right = found.get("whole", {}).get("seen", "")
    last = found.get("unfinished", {}).get("seen")
    same = bool(right) and last == right
    ended = how.get("unfinished", "ended with 0 without acl.finalize")
    seen = "%s; its outputs: %s" % (ended, "right" if same else "other ones" if last else "none came")
    told["R12"] = {"holds": same if crashed or not same else None, "seen": seen}
    told["R15"] = _forked(found, how)
    told["R17"] = _faulted(found, how, right)
    return told


def _forked(found: Dict[str, Dict[str, Any]], how: Dict[str, str]) -> Dict[str, Any]:
    new, old = found.get("beside"), found.get("fork")
    seen = "%s; %s" % (_seen(new, how.get("beside")), _seen(old, how.get("fork")))
    return {"holds": bool(new and new["holds"]), "seen": seen}


def _faulted(found: Dict[str, Dict[str, Any]], how: Dict[str, str], right: str) -> Dict[str, Any]:
    first, after = found.get("fault"), found.get("after", {}).get("seen", "")
    seen = "%s; a new process: %s" % (
        _seen(first, how.get("fault")),
        "right" if after == right and right else "not right",
    )
    provoked: Optional[bool] = bool(first["holds"]) if first else bool(how.get("fault"))
    return {"holds": (bool(right) and after == right) if provoked else None, "seen": seen}


def _seen(row: Optional[Dict[str, Any]], ended: Optional[str]) -> str:
    return str(row["seen"]) if row else ended or "nothing"


ORDER: List[str] = ["whole", "unfinished", "beside", "fork", "gather", "fault"]
"""A fault may leave the device in need of time, so it comes last."""
