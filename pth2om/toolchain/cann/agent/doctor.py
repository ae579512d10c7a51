"""``board_agent.pyz doctor``: what this machine is, and what stands in the way of running models on it.

It needs no pth2om and no CANN, takes less than five seconds, and ends with 0 only where a device was found and nothing
is wrong. Sentences are in the catalogue of pth2om; the agent carries a copy (``texts.json``).
"""

from __future__ import annotations

import json
import os
import pkgutil
import platform
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict

from . import dcmi, environment, installed, machine, probing, smi
from .lease import Lease

Finding = Dict[str, Any]
"""``id``, ``severity`` (``error``, ``warning``, ``info``) and ``values`` of a sentence."""

_LIMIT = 3.0
_GB = 1 << 30
_BUILT = 1735689600.0  # 2025-01-01: a board whose clock is before it has lost its time
_SHOWN = ("ASCEND", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TE_PARALLEL_COMPILER", "MAX_COMPILE_CORE_NUMBER")


def collect(root: str = "/", limit: float = _LIMIT) -> dict[str, Any]:
    """Everything that is asked of the machine, as JSON values.

    Args:
        root: of the file system; only tests name another.
        limit: seconds for each of the questions, which are asked side by side.
    """
    given, script = environment.captured()
    pythons = environment.pythons(given)[:4]
    with ThreadPoolExecutor(8) as pool:
        driver = pool.submit(dcmi.readings, given, limit)
        printed = pool.submit(smi.readings, given, limit / 2)
        answers = [pool.submit(probing.ask, python, given, limit) for python in pythons]
        asked = [answer.result() for answer in answers]
        readings, table = driver.result(), printed.result()
    runner = probing.best(asked)
    facts = machine.facts(given, str(runner.get("soc") or ""), root)
    nodes = facts["nodes"]
    return {
        "machine": facts,
        "system": _system(),
        "openable": [path for path in nodes if probing.readable(path)],
        "set_env": script,
        "toolkits": installed.toolkits(root, given),
        "kernels": installed.kernel_families(given),
        "pythons": asked,
        "runner": runner,
        "tbe": asked[0] if asked else {},
        "dcmi": readings,
        "smi": table,
        "programs": {name: environment.program(name, given) for name in ("atc", "msame", "amct_onnx")},
        "stubs": installed.stubs_before(given),
        "memory": machine.memory(),
        "swap_total": _swap(),
        "disk": {place: _free(place) for place in ("/tmp", os.path.expanduser("~"), "/dev/shm")},  # noqa: S108 - a place to look at, not a file
        "clock": time.time(),
        "lease": Lease().look(),
        "environment": {name: value for name, value in given.items() if name.startswith(_SHOWN)},
    }


def findings(facts: dict[str, Any]) -> list[Finding]:
    """What is wrong, the worst first."""
    found = [*_device(facts), *_chip(facts), *_cann(facts), *_pythons(facts), *_room(facts), *_tools(facts)]
    order = {"error": 0, "warning": 1, "info": 2}
    return sorted(found, key=lambda finding: order[finding["severity"]])


def soc_of(facts: dict[str, Any]) -> str:
    """The SoC's name: ``acl``'s before the board's own record, that before a printed name."""
    return str(facts["machine"]["soc"] or facts["smi"].get("soc") or smi.soc_of_name(_driver_name(facts)))


def chips_of(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The chips, with the driver's own answers before the printed ones."""
    printed = facts["smi"].get("chips", [])
    asked = facts["dcmi"].get("chips", [])
    rows = []
    for place in range(max(len(asked), len(printed))):
        row = dict(printed[place]) if place < len(printed) else {}
        if place < len(asked):
            row.update(asked[place])
        rows.append(row)
    return rows


def status(found: list[Finding]) -> int:
    """The exit status: 0 only without an error; no device is one."""
    return int(any(finding["severity"] == "error" for finding in found))


def _device(facts: dict[str, Any]) -> list[Finding]:
    here = facts["machine"]
    runner = facts["runner"]
    found = []
    if not here["nodes"]:
        found.append(_say("error", "no-device"))
    elif not facts["openable"]:
        found.append(_say("error", "device-closed", node=here["nodes"][0], group="HwHiAiUser"))
    if here["nodes"] and not here["driver"]:
        found.append(_say("error", "no-driver"))
    if runner.get("double"):
        found.append(_say("error", "double", file=runner.get("acl", "")))
    elif runner.get("signal"):
        found.append(_say("error", "acl-crash", signal=runner["signal"], python=runner["path"]))
    elif runner.get("hang") and runner.get("numpy"):
        found.append(_say("error", "acl-hang", seconds=runner["hang"], python=runner["path"]))
    elif here["nodes"] and not runner.get("acl"):
        reason = runner.get("error", "") if runner else ""
        found.append(_say("error", "no-acl", python=runner.get("path", "python3"), reason=reason))
    elif here["nodes"] and not here["soc"]:
        found.append(_say("error", "no-soc", printed=soc_of(facts) or "-"))
    board = facts["smi"].get("soc", "")
    if here["soc"] and board and board != here["soc"]:
        found.append(_say("warning", "soc-differs", acl=here["soc"], board=board))
    if here["nodes"] and facts["stubs"]:
        found.append(_say("error", "stubs", folder=facts["stubs"][0]))
    return found


def _chip(facts: dict[str, Any]) -> list[Finding]:
    found = []
    table, driver = facts["smi"], facts["dcmi"]
    if table.get("unusable"):
        found.append(_say("error", "unusable", name=table["unusable"][0]))
    if table.get("error") == "empty":
        found.append(_say("error", "smi-empty"))
    elif table.get("error") in ("status", "hang", "start"):
        found.append(_say("error" if facts["machine"]["nodes"] else "warning", "smi-failed", reason=table["reason"]))
    if driver.get("error") in ("hang", "crash", "init", "load", "list"):
        found.append(
            _say(
                "warning",
                "dcmi-failed",
                library=driver["library"],
                how=driver["error"],
                reason=driver.get("reason", ""),
            )
        )
    for chip in chips_of(facts):
        name = str(chip.get("npu", chip.get("card", 0)))
        health = str(chip.get("health", "OK")).lower()
        if health in ("critical", "unknown"):
            found.append(_say("error", "health-critical", chip=name, health=chip["health"]))
        elif health != "ok":
            found.append(_say("warning", "health-alarm", chip=name, health=chip["health"]))
        now, most = chip.get("aicore_mhz"), chip.get("aicore_max_mhz")
        if now and most and now < most and chip.get("aicore_percent", 0) >= 50:
            found.append(_say("warning", "throttled", chip=name, now=now, most=most))
        if chip.get("temperature_c", 0) >= 90:
            found.append(_say("warning", "hot", chip=name, temperature=chip["temperature_c"]))
    others = _others(facts)
    if others:
        found.append(_say("warning", "busy", processes=", ".join(others[:4]), count=len(others)))
    return found


def _others(facts: dict[str, Any]) -> list[str]:
    named = ["%s (%d)" % (row["name"], row["pid"]) for row in facts["smi"].get("processes", [])]
    known = {row["pid"] for row in facts["smi"].get("processes", [])}
    for chip in facts["dcmi"].get("chips", []):
        named += [str(row["pid"]) for row in chip.get("processes", []) if row["pid"] not in known]
    return named


def _cann(facts: dict[str, Any]) -> list[Finding]:
    found = []
    kits = facts["toolkits"]
    if not kits:
        # On a PC without a device that is how it should be; its missing device is an error of its own.
        return [_say("error" if facts["machine"]["nodes"] else "info", "no-cann")]
    if not facts["set_env"]:
        found.append(_say("error", "no-set-env", path=kits[0]["path"]))
    versions = sorted({kit["version"] for kit in kits})
    if len(versions) > 1:
        found.append(_say("info", "several-cann", versions=", ".join(versions), active=kits[0]["version"]))
    parts = kits[0]["parts"]
    differing = sorted(
        {version for part, version in parts.items() if part in ("toolkit", "opp", "compiler", "runtime")}
    )
    if len(differing) > 1:
        text = ", ".join("%s %s" % (part, parts[part]) for part in sorted(parts))
        found.append(_say("warning", "parts-differ", parts=text))
    family = installed.family_of(soc_of(facts))
    if facts["programs"]["atc"] and family and family not in facts["kernels"]:
        kernels = ", ".join(facts["kernels"]) or "-"
        found.append(_say("error", "no-kernels", family=family, installed=kernels))
    if not facts["programs"]["atc"]:
        found.append(_say("info", "no-atc"))
    return found


def _pythons(facts: dict[str, Any]) -> list[Finding]:
    found = []
    compiler = facts["tbe"]
    version = _numbers(str(compiler.get("python", "")))
    cann = _numbers(facts["toolkits"][0]["version"]) if facts["toolkits"] else ()
    if facts["programs"]["atc"] and compiler:
        path = compiler.get("executable", compiler["path"])
        missing = [name for name in compiler.get("missing", []) if name != "numpy" or "numpy" not in compiler]
        if missing:
            found.append(_say("error", "tbe-modules", python=path, modules=", ".join(missing)))
        if "modules" in compiler and "tbe" not in compiler["modules"] and "te" not in compiler["modules"]:
            found.append(_say("warning", "no-tbe", python=path))
        if version and version < (3, 7):
            found.append(_say("error", "old-python", python=path, version=compiler["python"]))
        if cann and cann[0] == 8 and version >= (3, 13):
            found.append(_say("error", "new-python", python=path, version=compiler["python"], cann=_dotted(cann)))
        numpy = _numbers(str(compiler.get("numpy", "")))
        if cann and cann[0] <= 8 and numpy >= (2,):
            found.append(_say("error", "numpy", python=path, version=compiler["numpy"], cann=_dotted(cann)))
        elif cann and cann[0] <= 7 and numpy >= (1, 24):
            found.append(_say("warning", "numpy", python=path, version=compiler["numpy"], cann=_dotted(cann)))
    runner = facts["runner"]
    versions = runner.get("versions", {})
    if "ais_bench" in runner.get("modules", {}) and "aclruntime" not in runner.get("modules", {}):
        found.append(_say("warning", "no-aclruntime", python=runner["path"]))
    if "onnxruntime" in runner.get("modules", {}):
        if runner.get("cann_provider") and "onnxruntime" in versions:
            found.append(_say("warning", "two-runtimes", python=runner["path"]))
        elif not runner.get("cann_provider"):
            found.append(_say("info", "cpu-runtime", python=runner["path"]))
    if "amct_onnx" in runner.get("modules", {}) and _numbers(versions.get("protobuf", "")) >= (4,):
        found.append(_say("warning", "amct-protobuf", version=versions["protobuf"]))
    return found


def _room(facts: dict[str, Any]) -> list[Finding]:
    found = []
    memory = facts["memory"]
    free = memory["MemAvailable"] + memory["SwapFree"]
    if facts["programs"]["atc"] and memory["MemTotal"] and free < 3 * _GB:
        found.append(_say("warning", "little-memory", free="%.1f" % (free / _GB)))
    for place, bytes_free in facts["disk"].items():
        if bytes_free is None:
            if place == "/dev/shm":  # noqa: S108 - a place to look at, not a file
                found.append(_say("error", "no-shm"))
        elif bytes_free < (_GB if place != "/dev/shm" else _GB // 16):  # noqa: S108 - a place to look at, not a file
            found.append(_say("warning", "little-disk", place=place, free="%.2f" % (bytes_free / _GB)))
    if facts["clock"] < _BUILT:
        found.append(_say("warning", "clock", time=date(facts["clock"])))
    return found


def _tools(facts: dict[str, Any]) -> list[Finding]:
    modules = facts["runner"].get("modules", {})
    if facts["programs"]["msame"] or "ais_bench" in modules or not facts["machine"]["nodes"]:
        return []
    return [_say("info", "no-tools")]


def _system() -> dict[str, Any]:
    name = ""
    for line in installed.read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            name = line.partition("=")[2].strip().strip('"')
    return {"os": name or platform.system(), "kernel": platform.release(), "python": platform.python_version()}


def _swap() -> int:
    for line in installed.read("/proc/meminfo").splitlines():
        if line.startswith("SwapTotal:"):
            return int(line.split()[1]) << 10
    return 0


def _free(place: str) -> int | None:
    try:
        return int(shutil.disk_usage(place).free)
    except OSError:
        return None


def _driver_name(facts: dict[str, Any]) -> str:
    chips = facts["dcmi"].get("chips", [])
    return str(chips[0].get("npu") or chips[0].get("name") or "") if chips else ""


def _numbers(text: str) -> Any:
    """``(8, 0)`` of ``8.0.RC1``."""
    numbers: list[int] = []
    for part in text.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _dotted(numbers: Any) -> str:
    return ".".join(map(str, numbers))


def date(clock: float) -> str:
    """``2026-01-31 12:00`` of seconds since 1970, UTC."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(clock))


def _say(severity: str, key: str, **values: Any) -> Finding:
    return {"id": key, "severity": severity, "values": values}


def _printable(value: Any) -> str:
    return "".join(character if character.isprintable() else "?" for character in str(value))


def _texts() -> dict[str, Any]:
    """The sentences, where the agent was packed with them."""
    try:
        return dict(json.loads((pkgutil.get_data(str(__package__), "texts.json") or b"{}").decode("utf-8")))
    except OSError:
        return {}


def main(arguments: list[str]) -> int:
    """Print the facts and the findings; returns the exit status."""
    facts = collect()
    found = findings(facts)
    if "--json" in arguments:
        json.dump({"facts": facts, "findings": found, "status": status(found)}, sys.stdout)
        print()
        return status(found)
    language = "zh" if "--zh" in arguments else "en"
    texts = _texts()
    print(
        "%s · %s · CANN %s" % (soc_of(facts) or "-", facts["machine"]["driver"] or "-", facts["machine"]["cann"] or "-")
    )
    marks = {"error": "✗", "warning": "!", "info": "·"}
    for finding in found:
        entry = texts.get(finding["id"])
        if entry is None:
            print("%s %s %s" % (marks[finding["severity"]], finding["id"], json.dumps(finding["values"])))
            continue
        # Values come from files and programs: nothing in them may steer a terminal.
        values = {name: _printable(value) for name, value in finding["values"].items()}
        print("%s %s" % (marks[finding["severity"]], entry[language].format(**values)))
        if "fix" in entry:
            print("  → %s" % entry["fix"][language].format(**values))
    return status(found)
