"""``npu-smi`` in its printed forms: the only source where the driver's library is not mounted.

Forms: tables of 310B, 310P (also two chips a card), 910B with a column for HBM, A3; headers ``Chip  Device`` and
``Chip  Phy-ID``; power ``NA`` or ``-``; bare names without the SoC's suffix; rows of the MCU; an NPU id of -1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .child import how_ended
from .processes import ran

_HEAD = re.compile(r"npu-smi\s+(\S+)\s+Version:\s*(\S+)")
_FIRST = re.compile(
    r"^\|\s*(?P<npu>-?\d+)\s+(?P<name>[A-Za-z]*\d{3}[A-Za-z0-9_-]*)\s*\|\s*(?P<health>[A-Za-z]+)\s*"
    r"\|\s*(?P<power>[\d.]+|NA|N/A|-)\s+(?P<temperature>-?[\d.]+|NA|N/A|-)"
)
_SECOND = re.compile(
    r"^\|\s*(?P<chip>\d+)(?:\s+(?P<device>\d+))?\s*\|\s*(?P<bus>[0-9A-Fa-f:.]+|NA|N/A|-)\s*\|(?P<rest>.*)$"
)
_PAIR = re.compile(r"(\d+)\s*/\s*(\d+)")
_PROCESS = re.compile(r"^\|\s*(?P<npu>\d+)\s+(?P<chip>\d+)\s*\|\s*(?P<pid>\d+)\s*\|\s*(?P<name>.*?)\s*\|\s*(?P<mb>\d+)")
_KEY = re.compile(r"^\s*([A-Za-z][A-Za-z0-9 ()/_-]*?)\s*:\s*(.*?)\s*$")
_MAPPED = re.compile(r"^\s*(-?\d+)\s+(\d+)\s+(\d+|-)\s+(?:(?:\d+|-)\s+)?(\S.*?)\s*$")
_WHOLE = re.compile(r"^Ascend(310B[1-9]|310P[1-9]|910B[1-9]\w*|910_\d{4}|910(Pro|Premium)?A|910ProB|310|610)$")
_PLACES = ("/usr/local/sbin/npu-smi", "/usr/local/bin/npu-smi", "/usr/sbin/npu-smi", "/usr/bin/npu-smi")
_MOST = 1 << 20


def program(environment: dict[str, str]) -> str | None:
    """Where it lies."""
    found = shutil.which("npu-smi", path=environment.get("PATH"))
    return found or next((place for place in _PLACES if os.access(place, os.X_OK)), None)


def table(text: str) -> dict[str, Any]:
    """What ``npu-smi info`` printed.

    Returns:
        ``version``, and ``chips``: one object a chip with ``npu``, ``chip``, ``device``, ``name``, ``health``, and
        what was printed of ``power_w``, ``temperature_c``, ``aicore_percent``, ``memory_mb``, ``memory_used_mb``,
        ``hbm_mb``, ``hbm_used_mb``, ``bus``; ``processes`` with ``npu``, ``chip``, ``pid``, ``name``, ``mb``.
        A chip that the driver cannot use (NPU id -1) is in ``unusable``.
    """
    head = _HEAD.search(text)
    chips: list[dict[str, Any]] = []
    unusable: list[str] = []
    processes: list[dict[str, Any]] = []
    first: dict[str, Any] | None = None
    for line in text.splitlines():
        found = _FIRST.match(line)
        if found:
            first = {"npu": int(found.group("npu")), "name": found.group("name"), "health": found.group("health")}
            for name, group in (("power_w", "power"), ("temperature_c", "temperature")):
                value = _number(found.group(group))
                if value is not None:
                    first[name] = value
            if first["npu"] < 0:
                unusable.append(first["name"])
                first = None
            continue
        found = _SECOND.match(line)
        if found and first is not None:
            chips.append(_second(dict(first), found))
            first = None
            continue
        found = _PROCESS.match(line)
        if found:
            row = {name: int(found.group(name)) for name in ("npu", "chip", "pid", "mb")}
            processes.append(dict(row, name=found.group("name")))
    answer: dict[str, Any] = {"chips": chips, "processes": processes, "unusable": unusable}
    if head:
        answer["version"] = head.group(1)
    return answer


def _second(chip: dict[str, Any], found: Any) -> dict[str, Any]:
    chip["chip"] = int(found.group("chip"))
    # Without a device number the row is of a card with one chip, whose number is the card's.
    device = found.group("device")
    chip["device"] = int(device) if device is not None else None
    if found.group("bus") not in ("NA", "N/A", "-"):
        chip["bus"] = found.group("bus")
    rest = found.group("rest")
    load = re.match(r"\s*(\d+)\s", rest)
    if load:
        chip["aicore_percent"] = int(load.group(1))
        rest = rest[load.end() :]
    pairs = [(int(used), int(total)) for used, total in _PAIR.findall(rest)]
    if pairs:
        used, total = pairs[0]
        if total:
            chip["memory_used_mb"], chip["memory_mb"] = used, total
        if len(pairs) > 1 and pairs[1][1]:
            chip["hbm_used_mb"], chip["hbm_mb"] = pairs[1]
    return chip


def mapping(text: str) -> list[dict[str, Any]]:
    """The rows of ``npu-smi info -m``: ``npu``, ``chip``, ``logic``, ``name``; those of the MCU and of -1 left out."""
    rows = []
    for line in text.splitlines():
        found = _MAPPED.match(line)
        if not found:
            continue
        npu, chip, logic, name = found.groups()
        if int(npu) < 0 or logic == "-" or name.upper() == "MCU":
            continue
        rows.append({"npu": int(npu), "chip": int(chip), "logic": int(logic), "name": name})
    return rows


def board(text: str) -> dict[str, str]:
    """The ``key : value`` lines of ``npu-smi info -t board``; of a repeated key the first."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        found = _KEY.match(line)
        if found:
            values.setdefault(found.group(1), found.group(2))
    return values


def soc_of_board(values: dict[str, str]) -> str:
    """``Ascend310B1`` of what ``-t board -i N -c M`` printed; ``""`` of an MCU's, or where the digits are masked."""
    name, npu = values.get("Chip Name", ""), values.get("NPU Name", "")
    if not name or name.upper() == "MCU" or "xxx" in name.lower():
        return ""
    plain = name.replace(" ", "")
    if plain == "Ascend910" and re.match(r"^\d{4}$", npu):
        return plain + "_" + npu
    return soc_of_name(plain)


def soc_of_name(name: str) -> str:
    """``Ascend310P3`` of ``310P3`` or ``Ascend 310P3``; ``""`` of a name without its suffix (``310B``, ``910B``)."""
    plain = name.replace(" ", "")
    plain = plain if plain.startswith("Ascend") else "Ascend" + plain
    return plain if _WHOLE.match(plain) else ""


def readings(environment: dict[str, str], limit: float = 3.0) -> dict[str, Any]:
    """Ask the program.

    Returns:
        As `table`, with ``path``, ``mapping``, ``soc`` (of the board's own record, else of the printed name), and
        ``error`` where it failed: ``none``, ``status``, ``hang``, ``start``, ``empty``, with ``reason``.
    """
    path = program(environment)
    if path is None:
        return {"error": "none", "chips": [], "processes": [], "unusable": []}
    text, error, reason = _ask([path, "info"], environment, limit)
    answer = dict(table(text), path=path)
    if error:
        return dict(answer, error=error, reason=reason)
    if not answer["chips"]:
        # "Healthy host, no device, status 0" is a real state.
        return dict(answer, error="empty")
    first = answer["chips"][0]
    asked = ["-t", "board", "-i", str(first["npu"]), "-c", str(first["chip"])]
    lines = [[path, "info", "-m"], [path, "info", *asked], [path, "info", *asked[:4]]]
    with ThreadPoolExecutor(len(lines)) as pool:
        rows, one, whole = (text for text, _, _ in pool.map(lambda line: _ask(line, environment, limit), lines))
    answer["mapping"] = mapping(rows)
    answer["board"] = {**board(whole), **board(one)}
    names = [row["name"] for row in answer["mapping"]] + [chip["name"] for chip in answer["chips"]]
    found = [soc_of_board(board(one)), *map(soc_of_name, names)]
    answer["soc"] = next((name for name in found if name), "")
    return answer


def _ask(line: list[str], environment: dict[str, str], limit: float) -> tuple[str, str, str]:
    try:
        code, printed = ran(line, environment, limit, _MOST)
    except subprocess.TimeoutExpired:
        return "", "hang", "%g s" % limit
    except OSError as error:
        return "", "start", str(error)
    text = printed.decode("utf-8", "replace")
    if code:
        lines = [line for line in text.splitlines() if line.strip()]
        return text, "status", "%s: %s" % (how_ended(code)["signal"] or code, lines[-1][:300] if lines else "-")
    return text, "", ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
