"""Writes one file of each kind where no file may grow beyond `LIMIT` bytes, and prints what came of it as JSON.

Run in a process of its own (``python -m tests.full_disk FOLDER``): a limit of the system cannot be raised again. Where
the limit is met, a write fails as on a full disk, with the whole errors of the system and of the libraries.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT = 40_000


@dataclass(frozen=True)
class Step:
    """A stage that does what it is given."""

    build: Callable[[Any], Any]
    name = "step"
    version = 1
    libraries = ()
    label = "step"

    def inputs(self) -> dict[str, str]:
        return {}

    def options(self) -> dict[str, Any]:
        return {}

    def restored(self, value: Any) -> Any:
        return value


def store(folder: Path) -> None:
    from pth2om.conversion.stage import run
    from pth2om.errors import ExportError
    from pth2om.store import Store

    def large(work: Any) -> None:
        (work.folder / "small").write_text("x")
        (work.folder / "large").write_bytes(bytes(2 * LIMIT))

    def explained(work: Any) -> None:
        """A refusal in which a library wrapped the full disk."""
        try:
            large(work)
        except OSError:
            raise ExportError("export.no-opset", attempts="17: failed") from None

    kept = Store(folder / "store")
    for build in (large, explained):
        with contextlib.suppress(Exception):
            run(Step(build), kept)
        assert not kept.failures, "it is no failure of the model"
        assert not list(kept.entries())
        assert not list((folder / "store" / "building").iterdir())
    run(Step(large), kept)


def evidence(folder: Path) -> None:
    from pth2om.evidence import RunRecord
    from pth2om.evidence.file import EvidenceFile, read

    path = folder / "evidence.jsonl"
    file = EvidenceFile(path)
    run = RunRecord("r", "2026-01-01T00:00:00+00:00", ("pytest",), {})
    file.append([run])
    before = path.read_bytes()
    try:
        file.append([RunRecord("r", "2026-01-01T00:00:00+00:00", ("x" * 2 * LIMIT,), {})])
    finally:
        assert path.read_bytes() == before
        file.append([run])
        assert list(read(path)) == [run, run]


def model(folder: Path) -> None:
    from onnx import TensorProto, helper

    from pth2om.onnxfile import writing

    graph = helper.make_graph([], "g", [], [], [helper.make_tensor("w", TensorProto.FLOAT, [LIMIT], [0.0] * LIMIT)])
    writing.INLINE_LIMIT = 100
    writing.write_model(helper.make_model(graph), folder / "m.onnx")


def torchscript(folder: Path) -> None:
    import torch

    from pth2om import torchscript as scripts
    from pth2om.spec import Input
    from pth2om.spec.torchscript import TorchScript

    table = TorchScript(twin=False)
    scripts.make(torch.nn.Linear(150, 150).eval(), [Input(name="x", shape=(150,))], table, 1, folder / "m.pt")


def export(folder: Path) -> None:
    import torch

    from pth2om.export import export as to_onnx
    from pth2om.spec import Export, Input

    net = torch.nn.Linear(150, 150).eval()
    to_onnx(net, [Input(name="x", shape=(150,))], Export(exporter="torchscript"), 1, folder / "m.onnx")


def weights(folder: Path) -> None:
    import torch

    from pth2om.quantize.checkpoint_fp32 import _save

    _save({"w": torch.zeros(LIMIT)}, None, "zip", folder / "w.pth")


def session(folder: Path) -> None:
    from onnx import TensorProto, helper

    from pth2om.quantize.network import open_session

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [LIMIT])],
        [value("y", TensorProto.FLOAT, [LIMIT])],
        [helper.make_tensor("w", TensorProto.FLOAT, [LIMIT], [0.0] * LIMIT)],
    )
    open_session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))


def delivery(folder: Path) -> None:
    from pth2om.onefile.delivering import Names, deliver

    names = Names(folder / "out", "net", False)
    source = folder / "given"
    deliver({"om": (source, names.emulated)}, names, folder / "net.pth", force=False)


def command(folder: Path) -> None:
    """A command that no room foresaw: what the system says of an image is printed, and not its traceback."""
    from pth2om import cli
    from pth2om.cli import draw

    def fails(_: Any) -> int:
        (folder / "picture").write_bytes(bytes(2 * LIMIT))
        return 0

    draw.run = fails
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert cli.main(["draw", "m.onnx"]) == 1
    (folder / "picture").unlink()
    raise RuntimeError(said.getvalue())


KINDS = (store, evidence, model, torchscript, export, weights, session, delivery, command)


def main(root: Path) -> None:
    """Each kind in a folder of its own."""
    import resource

    for kind in KINDS:
        (root / kind.__name__).mkdir()
    given = root / "delivery" / "given"
    given.mkdir()
    (given / "a.json").write_text("{}")
    (given / "weights.data").write_bytes(bytes(2 * LIMIT))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    for kind in KINDS:
        folder = root / kind.__name__
        before = set(folder.rglob("*"))
        try:
            kind(folder)
            said = "", ""
        except Exception as error:  # noqa: BLE001 - whichever it is, the test looks at it
            said = type(error).__name__, str(error)
        left = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path not in before)
        print(json.dumps([kind.__name__, *said, left]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
