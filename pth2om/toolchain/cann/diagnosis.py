"""``pth2om doctor``: what a machine is and what stands in the way, of this machine or a board.

The questions and findings are the agent's (`pth2om.toolchain.cann.agent.doctor`), so that a board can be examined where
pth2om cannot be installed. Nothing here imports torch, onnx or ONNX Runtime: their versions are read from metadata.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pth2om import __version__
from pth2om.errors import ToolchainError
from pth2om.evidence import Finding
from pth2om.files import replacing
from pth2om.language import Language, Message, joined, say
from pth2om.toolchain.cann.agent import doctor
from pth2om.toolchain.cann.boards import holder, unsaid
from pth2om.toolchain.cann.link import Link
from pth2om.toolchain.cann.place import Place

_MARKS = {"error": "✗", "warning": "!", "info": "·"}
_MOST_SKEW = 120.0
_PATIENCE = 30.0  # a small board starts ten processes for it
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-cann", "onnxruntime-directml", "onnxruntime-openvino")
_ASKED = ("torch", "onnx", "numpy", "onnxscript", "protobuf", *_RUNTIMES)
_ADDRESS = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])|(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", re.I)
_SERIAL = re.compile(r"serial|die id|token|password|passwd|secret|(api|private|access|ssh)[_ -]?key", re.I)


@dataclass(frozen=True)
class Diagnosis:
    """One machine.

    Attributes:
        place: ``ssh://root@192.0.2.7``; ``""`` for this machine.
        facts: of `doctor.collect`; empty where nobody answered.
        findings: the worst first.
        own: versions of this Python's packages; empty for a board.
    """

    place: str
    facts: Mapping[str, Any]
    findings: tuple[Finding, ...]
    own: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The exit status: 1 with an error; no device is one."""
        return int(any(finding.severity == "error" for finding in self.findings))

    @property
    def proven(self) -> bool:
        """Whether node, driver and SoC name prove an NPU."""
        return bool(self.facts and self.facts["machine"]["device"])

    def to_json(self) -> dict[str, Any]:
        """As JSON values; ``shown`` are the titles and texts of `lines`, in the reader's language."""
        return {
            "place": self.place,
            "pth2om": __version__,
            "status": self.status,
            "findings": [finding.to_json() for finding in self.findings],
            "facts": dict(self.facts),
            "own": dict(self.own),
            "shown": [[say(f"doctor.line-{name}").render(), text] for name, text in _rows(self, None) if text],
        }

    def lines(self, to: Language | None = None) -> list[str]:
        """What is printed: one screen."""
        title = f"pth2om {__version__} doctor · {self.place or say('doctor.here').render(to)}"
        lines = [title, *(f"  {name}  {text}" for name, text in self._table(to))]
        for finding in self.findings:
            first, *more = finding.message.with_fix(to).splitlines()
            lines += [f"{_MARKS[finding.severity]} {first}", *more]
        counts = {kind: sum(finding.severity == kind for finding in self.findings) for kind in ("error", "warning")}
        if any(counts.values()):
            lines.append(say("doctor.counted", errors=counts["error"], warnings=counts["warning"]).render(to))
        else:
            lines.append(say("doctor.sound").render(to))
        return lines

    def _table(self, to: Language | None) -> Iterator[tuple[str, str]]:
        rows = [(name, text) for name, text in _rows(self, to) if text]
        names = {name: say(f"doctor.line-{name}").render(to) for name, _ in rows}
        widest = max((_width(text) for text in names.values()), default=0)
        for name, text in rows:
            yield names[name] + " " * (widest - _width(names[name])), text


def examine(boards: Sequence[str]) -> list[Diagnosis]:
    """The boards, or this machine where none is named.

    Args:
        boards: ``ssh://user@host:port``.

    Raises:
        ToolchainError: that is no address of a board.
    """
    return [asked(place) for place in dict.fromkeys(map(Place.of, boards))] or [here()]


def asked(place: Place) -> Diagnosis:
    """A machine, through the agent there; one that does not answer has that as its only finding."""
    try:
        with contextlib.closing(Link(place)) as link:
            answer, _ = link.ask({"kind": "doctor"}, limit=_PATIENCE)
    except ToolchainError as error:
        return unreachable(place.url, error.message)
    if answer.get("kind") != "doctor":
        from pth2om.toolchain.cann.board import failure  # with NumPy, which a whole examination needs not

        return unreachable(place.url, failure(answer, place.name).message)
    return remote(place.url, answer["facts"], now=time.time())


def here(root: str = "/") -> Diagnosis:
    """This machine.

    Args:
        root: of the file system; only tests name another.
    """
    versions = installed()
    facts = doctor.collect(root)
    return Diagnosis("", facts, _sorted([*_findings(facts), *own_findings(versions)]), versions)


def remote(place: str, facts: Mapping[str, Any], *, now: float) -> Diagnosis:
    """A board that answered.

    Args:
        place: how it is named.
        facts: what its agent collected.
        now: this machine's clock when the answer came.
    """
    found = _findings(facts)
    skew = abs(now - float(facts["clock"]))
    if skew > _MOST_SKEW and all(finding.rule != "doctor.clock" for finding in found):
        found.append(_finding("warning", "clock-differs", {"seconds": round(skew)}))
    return Diagnosis(place, facts, _sorted(found))


def unreachable(place: str, reason: Message) -> Diagnosis:
    """A board that did not answer; the reason is the finding, with its own fix."""
    return Diagnosis(place, {}, (Finding("doctor.unreachable", "error", reason),))


def installed() -> dict[str, str]:
    """The versions of this Python's packages, by their metadata."""
    found = {"python": platform.python_version()}
    for name in _ASKED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def own_findings(versions: Mapping[str, str]) -> list[Finding]:
    """Pairs of packages that are known not to fit, and what pth2om lacks.

    Args:
        versions: of `installed`.
    """
    absent = [name for name in ("torch", "onnx") if name not in versions]
    found = [_finding("warning", "no-module", {"module": name}) for name in absent]
    runtimes = [name for name in _RUNTIMES if name in versions]
    if not runtimes:
        found.append(_finding("warning", "no-module", {"module": "onnxruntime"}))
    elif len(runtimes) > 1:
        found.append(_finding("warning", "pair-runtimes", {"packages": ", ".join(runtimes)}))
    torch, numpy = _numbers(versions.get("torch", "")), _numbers(versions.get("numpy", ""))
    if torch and torch < (2, 3) and numpy >= (2,):
        found.append(_finding("error", "pair-numpy", {"torch": versions["torch"], "numpy": versions["numpy"]}))
    if torch >= (2, 9) and "onnxscript" not in versions:
        found.append(_finding("info", "pair-exporter", {"torch": versions["torch"]}))
    if torch and _numbers(versions["python"]) >= (3, 14):
        found.append(_finding("warning", "pair-jit", {"python": versions["python"]}))
    return [*found, *_too_old(versions)]


def bundle(path: Path, diagnoses: Sequence[Diagnosis]) -> None:
    """Write facts, findings and the printed page into a zip file, without names, addresses and serial numbers.

    Raises:
        OSError: the file cannot be written.
    """
    secrets = [name for diagnosis in diagnoses for name in _names(diagnosis)]
    with replacing(path) as new, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, diagnosis in enumerate(diagnoses):
            stem = f"machine-{number}"
            data = cleaned(diagnosis.to_json(), secrets)
            archive.writestr(f"{stem}.json", json.dumps(data, ensure_ascii=False, indent=1))
            text = "\n".join(diagnosis.lines("en"))
            archive.writestr(f"{stem}.txt", str(cleaned(text, secrets)) + "\n")


def cleaned(value: Any, secrets: Sequence[str]) -> Any:  # noqa: ANN401 - JSON
    """JSON values without secrets: addresses, the given names, and whatever a key calls a serial number or a secret.

    Args:
        value: JSON values.
        secrets: texts that are written ``***``.
    """
    if isinstance(value, Mapping):
        return {
            cleaned(str(name), secrets): "***" if _SERIAL.search(str(name)) else cleaned(entry, secrets)
            for name, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [cleaned(entry, secrets) for entry in value]
    if not isinstance(value, str):
        return value
    text = _ADDRESS.sub("***", value)
    for secret in sorted({name for name in secrets if len(name) > 1}, key=len, reverse=True):
        text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])", "***", text)
    return text


def _rows(diagnosis: Diagnosis, to: Language | None) -> Iterator[tuple[str, str]]:
    if diagnosis.own:
        known = {name: diagnosis.own.get(name, "-") for name in ("python", "torch", "onnx", "onnxruntime")}
        yield "own", say("doctor.own-python", **known).render(to)
    facts = diagnosis.facts
    if not facts:
        return
    none = say("doctor.none").render(to)
    machine = facts["machine"]
    yield "device", _device(facts, none, to)
    kits = facts["toolkits"]
    kernels = ", ".join(facts["kernels"])
    yield "cann", f"{kits[0]['version']} ({kits[0]['path']}{', ' + kernels if kernels else ''})" if kits else none
    compiler, atc = facts["tbe"], facts["programs"]["atc"]
    if atc:
        yield "compiler", f"{atc}, {_python(compiler)}"
    runner = facts["runner"]
    yield "runner", _python(runner) if runner.get("acl") else none
    versions = runner.get("versions", {})
    tools = [f"{name} {versions.get(name, '')}".strip() for name in ("ais-bench", "aclruntime", "onnxruntime-cann")]
    named = [tool for tool, name in zip(tools, ("ais_bench", "aclruntime", "onnxruntime-cann"), strict=True)]
    modules = runner.get("modules", {})
    shown = [tool for tool in named if tool.split(" ")[0].replace("-", "_") in modules or " " in tool]
    shown += [name for name in ("msame", "amct_onnx") if facts["programs"][name]]
    yield "tools", ", ".join(shown) or none
    yield "lease", _lease(facts, to)
    yield "machine", _machine(facts)
    if machine["device"]:
        yield "ground", say("doctor.ground-device").render(to)
    else:
        absent = [name for name, here_ in (("nodes", machine["nodes"]), ("driver", machine["driver"])) if not here_]
        absent += [] if machine["soc"] else ["soc"]
        texts = joined((say(f"doctor.missing-{name}").render(to) for name in absent), ", ", to) or "acl.DOUBLE"
        yield "ground", say("doctor.ground-double", missing=texts).render(to)


def _device(facts: Mapping[str, Any], none: str, to: Language | None) -> str:
    texts = []
    for chip in doctor.chips_of(dict(facts)):
        memory = [chip.get("hbm_used_mb", chip.get("memory_used_mb")), chip.get("hbm_mb", chip.get("memory_mb"))]
        clocks = [chip.get("aicore_mhz"), chip.get("aicore_max_mhz")]
        texts.append(
            say(
                "doctor.chip",
                name=str(chip.get("npu_name") or chip.get("name", "?")),
                health=str(chip.get("health", "?")),
                temperature=_plain(chip.get("temperature_c")),
                power=_plain(chip.get("power_w")),
                clock="/".join(map(_plain, clocks)),
                memory="/".join(map(_plain, memory)),
            ).render(to)
        )
    driver = facts["machine"]["driver"]
    soc = doctor.soc_of(dict(facts))
    head = ", ".join(part for part in (soc, f"driver {driver}" if driver else "") if part)
    rest = f"+{len(texts) - 4}" if len(texts) > 4 else ""  # more than a screen has room for
    return joined((head, *texts[:4], rest), "; ", to) or none


def _lease(facts: Mapping[str, Any], to: Language | None) -> str:
    """Who holds the NPU now; nothing where there is neither an NPU nor a holder."""
    found = facts.get("lease", {})
    if found.get("held"):
        who, since = holder(found, time.time())
        return say("doctor.lease-held" + unsaid(who, since), holder=who, since=since).render(to)
    if not facts["machine"]["nodes"] or "held" not in found:
        return ""
    if found["held"] is None:
        return say("doctor.lease-unknown", reason=str(found.get("reason", ""))).render(to)
    return say("doctor.lease-free").render(to)


def _machine(facts: Mapping[str, Any]) -> str:
    gigabyte = 2**30
    memory = facts["memory"]
    disk = next((free for place, free in facts["disk"].items() if place != "/dev/shm" and free is not None), 0)  # noqa: S108 - a place to look at, not a file
    parts = (
        facts["machine"]["arch"],
        facts["system"]["os"],
        f"{facts['machine']['cores']} CPU",
        f"{memory['MemAvailable'] / gigabyte:.1f}/{memory['MemTotal'] / gigabyte:.1f} GB",
        f"swap {facts['swap_total'] / gigabyte:.1f} GB",
        f"disk {disk / gigabyte:.0f} GB",
        doctor.date(facts["clock"]) + " UTC",
    )
    return ", ".join(parts)


def _python(answer: Mapping[str, Any]) -> str:
    if not answer:
        return "-"
    numpy = f", NumPy {answer['numpy']}" if answer.get("numpy") else ""
    return f"{answer.get('executable', answer.get('path', '-'))} {answer.get('python', '')}{numpy}"


def _names(diagnosis: Diagnosis) -> Iterator[str]:
    """Texts of a machine that are nobody's business: user and host names, folders of a home, addresses."""
    yield Path.home().name
    yield platform.node()
    if diagnosis.place:
        yield diagnosis.place
        user, _, host = diagnosis.place.removeprefix("ssh://").rpartition("@")
        yield from (user, host.partition(":")[0])
    machine = diagnosis.facts.get("machine", {})
    yield str(machine.get("host", ""))
    yield from (str(diagnosis.facts.get("lease", {}).get(name, "")) for name in ("who", "host"))
    for place in diagnosis.facts.get("disk", {}):
        if place.startswith(("/home/", "/Users/")):
            yield Path(place).name


def _too_old(versions: Mapping[str, str]) -> list[Finding]:
    """Packages below what pth2om's own metadata demands."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return []
    found = []
    try:
        wanted = [Requirement(text) for text in metadata.requires("pth2om") or []]
    except metadata.PackageNotFoundError:
        return []
    for requirement in wanted:
        version = versions.get(requirement.name)
        if version is None or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        if not requirement.specifier.contains(version.partition("+")[0], prereleases=True):
            values = {"module": requirement.name, "version": version, "wanted": str(requirement.specifier)}
            found.append(_finding("error", "old-module", values))
    return found


def _findings(facts: Mapping[str, Any]) -> list[Finding]:
    return [_finding(row["severity"], row["id"], row["values"]) for row in doctor.findings(dict(facts))]


def _finding(severity: Any, name: str, values: Mapping[str, Any]) -> Finding:  # noqa: ANN401 - the agent's JSON
    return Finding(f"doctor.{name}", severity, say(f"doctor.{name}", **values), None, dict(values))


def _sorted(found: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda finding: list(_MARKS).index(finding.severity)))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:2])


def _plain(value: Any) -> str:  # noqa: ANN401 - a JSON number
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _width(text: str) -> int:
    return sum(2 if ord(character) > 0x2E7F else 1 for character in text)
