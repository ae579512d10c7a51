"""The next command to type after a refusal or a failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.errors import Pth2omError
from pth2om.escaping import shell_line
from pth2om.onefile.options import Options
from pth2om.onefile.scoring import dataset_name

if TYPE_CHECKING:
    from pth2om.onefile.conversion import Conversion

_NET: dict[str, Any] = {"template": "NET.py", "templates": None}
_PIXELS: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_WITHOUT_PLANS: dict[str, Any] = {"size": (64, 64, 64), "configuration": None, "dataset": None}
_ELSEWHERE: dict[str, Any] = {"output": Path("OTHER_FOLDER")}
_EXPORTERS: dict[str, Any] = {"torchscript": "dynamo", "dynamo": "torchscript"}
_FINER: dict[str, Any] = {"fp16": "mixed", "mixed": "origin"}
"""The precision to try where an OM is too far from its reference."""
_WORDS: dict[str, dict[str, Any]] = {
    "checkpoint.needs-trust-or-net": _NET,
    "checkpoint.script-reaches-out": {"trust": True},
    "convert.whole-module": _NET,
    "convert.state-dict": _NET,
    "convert.no-template-file": _NET,
    "convert.no-template-fits": _NET,
    "convert.aipp-needs": _PIXELS,
    "convert.aipp-conversion": _PIXELS,
    "convert.images-need": _PIXELS,
    "convert.scores-task": {"task": None},
    "convert.volumes-need": {"dataset": None},
    "convert.no-calibration": {"calib": (Path("FOLDER"),)},
    "convert.in-the-way": _ELSEWHERE,
    "convert.is-source": _ELSEWHERE,
    "convert.not-writable": _ELSEWHERE,
    "convert.bad-name": {"name": "NAME"},
    "convert.no-templates": _NET,
    "convert.dynamo-torchscript": {"exporter": "torchscript"},
    "convert.needs-pytorch": {"torchscript": None},
    "convert.open-size": {"dynamic_batch_size": (1, 2, 4)},
    "convert.shape-twice": {"batch": None, "channels": None, "size": ()},
    "convert.images-feed-one": {"calib": (Path("FOLDER_OF_BINS"), Path("FOLDER_OF_BINS"))},
    "cann.board-url": {"boards": ("ssh://USER@HOST",)},
    "cann.nothing": {"toolchain": None, "boards": ()},
    "cann.no-program": {"toolchain": None, "boards": ()},
    "pipeline.no-toolchain": {"toolchain": None},
    "starter.exists": {"name": "OTHER_NAME"},
}
"""The options that the next command has, by the key of the error; they are examples to be filled in."""

_FIXED = ("export.fixed-shape", "export.fixed-axis")
"""An ONNX file has one shape, and another was asked for; no exporter helps there."""
_AS_IN_THE_FILE: dict[str, Any] = {
    "batch": None,
    "channels": None,
    "size": (),
    "input_shape": None,
    "dynamic_batch_size": (),
    "dynamic_image_size": (),
    "dynamic_dims": (),
}


def after_refusal(error: Pth2omError, file: Path, soc: str | None, options: Options | None = None) -> str:
    """The command to type after `convert` refused the file or the options, on one line.

    Args:
        error: what was raised.
        file: the source.
        soc: as given.
        options: as given; what the advice replaces is left out.
    """
    given = options or Options()
    key, values = error.message.key, error.message.values
    if key == "convert.templates-fit":
        first = str(values["names"]).split(", ")[0]
        plain = replace(given, template=first, templates=Path(str(values["folder"])))
        return _again(file, soc, plain)
    if key == "convert.no-such-template":
        first = str(values["names"]).split(", ")[0]
        return _again(file, soc, replace(given, template=first))
    if key == "checkpoint.folder":
        first = str(values["found"]).split(", ")[0]
        return _again(file / ("FILE" if first == "-" else first), soc, given)
    if key == "checkpoint.is-om":
        return shell_line(("pth2om", "inspect", str(file)))
    if key == "checkpoint.is-lfs-pointer":
        return shell_line(("git", "lfs", "pull", "--include", file.name))
    if key in ("checkpoint.is-zip", "checkpoint.is-archive"):
        return (
            shell_line(("python", "-m", "zipfile", "-l", str(file)))
            if key.endswith("zip")
            else _again(Path("FILE"), soc, given)
        )
    if key == "ascend.soc-close":
        return _again(file, str(values["close"]).split(", ")[0], given)
    if key.startswith("ascend."):
        return _again(file, "Ascend310B1", given)
    if key == "checkpoint.misfit-classes":
        return _again(file, soc, replace(given, num_classes=int(str(values["file_classes"]))))
    if key.startswith("checkpoint.") and given.template is not None and key not in _WORDS:
        return _again(file, soc, replace(given, template="NET.py"))
    if key in ("data.plans-several", "data.plans-no-configuration", "data.plans-cascade"):
        known = str(values.get("first", values.get("known", "NAME"))).split(", ")[0].split(" (")[0]
        return _again(file, soc, replace(given, configuration=known if known not in ("", "-") else "NAME"))
    if key.startswith(("data.plans", "data.json-", "data.dataset-json-")):
        # nnU-Net's files cannot be used: with a size they are not read, and the net itself can be converted.
        return _again(file, soc, replace(given, **_WITHOUT_PLANS))
    if key in _WORDS:
        return _again(file, soc, replace(given, **_WORDS[key]))
    if key.startswith("cann.") and given.boards:
        return shell_line(("pth2om", "doctor", *(word for board in given.boards for word in ("--board", board))))
    if key.startswith("starter.onnx") or key.partition("-")[0] in ("checkpoint.is", "checkpoint.missing"):
        return _again(Path("FILE"), soc, given)
    return "pth2om convert --help"


def after(done: Conversion) -> tuple[str, ...]:
    """The commands that go on from a conversion, each on one line."""
    if done.model:
        soc = ("--soc", done.soc) if done.soc else ()
        trust = ("--om-trust", done.name) if any("trusted" in one.rule for one in done.findings) else ()
        root = done.model[0].parent.parent.parent
        folder = () if root == Path.cwd() else ("--rootdir", str(root), str(root))
        given = done.options.dataset
        data = () if given is None else ("--om-dataset", f"{dataset_name(done.name)}={given.absolute()}")
        return (shell_line(("pytest", *folder, "-k", done.name, *soc, *trust, *data)),)
    onnx = done.files.get("onnx")
    refused = any(gate.verdict == "failed" and gate.question in ("export", "preflight") for gate in done.failed)
    if refused and onnx is not None and done.soc is not None:
        return (shell_line(("pth2om", "check", str(onnx), "--soc", done.soc)), shell_line(("pth2om", "fix", str(onnx))))
    # What was not made stopped what is behind it; its own sentence says why.
    stopped = any(gate.verdict == "not_reached" for gate in done.gates)
    unmade = [gate for gate in done.gates if stopped and gate.measured is None and gate.verdict != "not_reached"]
    options = done.options
    if any(gate.question == "quantization" for gate in unmade) and options.quantizer != "pth2om":
        return (_again(done.source, done.soc, replace(options, quantizer="pth2om")),)
    if any(gate.message is not None and gate.message.key in _FIXED for gate in unmade):
        return (_again(done.source, done.soc, replace(options, **_AS_IN_THE_FILE)),)
    if any(gate.check == "export/exporting" for gate in unmade) and options.torchscript is None:
        return (_again(done.source, done.soc, replace(options, exporter=_EXPORTERS[options.exporter])),)
    if unmade:
        return ("pth2om convert --help",)
    far = [gate.check.split("/")[0] for gate in done.failed if gate.question == "closeness"]
    if far and all(pair.endswith("~om") for pair in far) and options.precision in _FINER and not options.quantizes:
        return (_again(done.source, done.soc, replace(options, precision=_FINER[options.precision])),)
    if done.soc is None:
        return (_again(done.source, "Ascend310B1", done.options),)
    return (_again(done.source, done.soc, replace(done.options, save_spec=Path("models"))),)


def _again(file: Path, soc: str | None, options: Options) -> str:
    return shell_line(("pth2om", "convert", str(file), *(("--soc", soc) if soc else ()), *options.words()))
