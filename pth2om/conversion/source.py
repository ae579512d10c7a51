"""Where a model comes from: its checkpoint or ONNX file, its net, and the module that these make."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.checkpoint.reads import Reads
from pth2om.checkpoint.watching import Noted
from pth2om.conversion import net_reads
from pth2om.conversion.settings import RunSettings
from pth2om.conversion.stage import Shown, Work
from pth2om.errors import Absent, CheckpointError, Pth2omError
from pth2om.evidence import Finding
from pth2om.files import is_file, is_there
from pth2om.language import say
from pth2om.session import Provenance
from pth2om.spec import Spec
from pth2om.store import Artifact, Store, version_of

if TYPE_CHECKING:
    import torch

    from pth2om.ascend.target import Target
    from pth2om.checkpoint.nets import Net
    from pth2om.custom_ops.bodies import Bodies


_MOST_COPIED = 256 << 20  # bytes of weights


class Source:
    """Checkpoint, net and module of one model.

    Args:
        spec: the model.
        settings: the run.
        store: remembers digests.
    """

    def __init__(self, spec: Spec, settings: RunSettings, store: Store) -> None:
        self.spec = spec
        self.settings = settings
        self.store = store
        self._module: torch.nn.Module | None = None
        self._loaded: Loaded | None = None
        self._spare: tuple[Net | None, torch.nn.Module | None] = (None, None)
        self._noted = Noted()
        self._declared: Reads | None = None
        self._dry = False

    @functools.cached_property
    def weights(self) -> Path | None:
        """The checkpoint (or ONNX) file; None where it is absent."""
        from pth2om.checkpoint import find_weights

        return find_weights(self.spec, overrides=self.settings.weights, data_roots=self.settings.data_roots)

    @property
    def seeded(self) -> bool:
        """Whether the weights are random stand-ins because the file is absent."""
        return self.weights is None and self.spec.source.seeded

    @functools.cached_property
    def net(self) -> Path | None:
        """The net's Python file; None where the checkpoint brings its own architecture."""
        if self.spec.source.net is not None:
            return (self.spec.folder / self.spec.source.net).resolve()
        own = self.spec.folder / "net.py"
        return own if is_file(own) else None

    @property
    def weightless(self) -> bool:
        """Whether the spec names no file of weights: the net has none."""
        return self.spec.source.checkpoint is None and self.spec.source.onnx is None

    @functools.cached_property
    def target(self) -> Target:
        """The run's target, with the custom operators that the spec declares and their packages.

        Raises:
            ToolchainError: see `RunSettings.target`; or an operator package that is here cannot be read.
            SpecError: an operator is declared incompletely.
        """
        target = self.settings.target
        if not self.spec.custom_ops:
            return target
        from pth2om.ascend.custom_ops import Operators
        from pth2om.ascend.operator_package import read_package
        from pth2om.checkpoint.search import candidates

        packages = {}
        for entry in self.spec.custom_ops:
            places = (
                candidates(self.spec.folder, entry.package, self.spec.name, self.settings.data_roots)
                if (entry.package)
                else ()
            )
            path = next((place for place in places if is_there(place)), None)
            if path is not None:
                packages[entry.label] = read_package(path)
        operators = Operators.of(self.spec.custom_ops, packages, str(self.spec.folder / "model.toml"))
        return replace(target, operators=operators)

    @functools.cached_property
    def bodies(self) -> Bodies:
        """The host bodies of the spec's custom operators.

        Raises:
            ExportError: one is not there.
        """
        if not self.spec.custom_ops:
            return {}
        from pth2om.custom_ops.bodies import load_bodies

        with self.watching():
            return load_bodies(self.target.operators.declared, self.spec.folder)

    @property
    def has_torch(self) -> bool:
        """Whether there is a PyTorch side at all (an ONNX source has none)."""
        return self.spec.source.onnx is None

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of what the model is made of: ``checkpoint`` (or ``onnx``), and the files that make its net.

        These are what the net imports, what lies in the model's folder, and whatever else its code reads while it runs:
        to know that, the model is loaded, once for these files. See `pth2om.conversion.net_reads`.

        Raises:
            Absent: the weights are not here and the spec does not allow seeded ones.
        """
        if self._dry and not net_reads.is_known(self):
            return self.written
        return {**self.written, **self._read}

    @contextlib.contextmanager
    def dry(self) -> Iterator[None]:
        """Inside the block nothing is loaded: `digests` may lack files that only a loaded net is known to open."""
        self._dry = True
        try:
            yield
        finally:
            self._dry = False

    @functools.cached_property
    def written(self) -> dict[str, str]:
        """As `digests`, as far as it is known without loading the model.

        Raises:
            Absent: the weights are not here and the spec does not allow seeded ones.
        """
        role = "onnx" if self.spec.source.onnx else "checkpoint"
        if self.weights is not None:
            digests = {role: self.store.digest(self.weights)}
        elif self.spec.source.seeded:
            from pth2om.checkpoint import seeding

            digests = {role: f"seeded-{seeding.VERSION}-{self.settings.seed}"}
        elif self.weightless:
            digests = {}
        else:
            raise self.absent()
        if self.net is not None:
            from pth2om.checkpoint import net_files
            from pth2om.checkpoint.reads import folder_files

            files = [*net_files(self.net)]
            if self.net.is_relative_to(self.spec.folder.resolve()):
                files += folder_files(self.spec.folder)
            digests |= {self.role(file): self.store.digest(file) for file in files if not self._is_weights(file)}
        for name in (entry.body for entry in self.spec.custom_ops if entry.body):
            from pth2om.checkpoint import net_files

            body = self.spec.folder / name.rpartition(":")[0]
            digests |= {self.role(file): self.store.digest(file) for file in net_files(body)}
        return digests

    @property
    def digest(self) -> str:
        """What evidence names as the checkpoint: the weights' sha256, the spec's ONNX, or the seed.

        Raises:
            Absent: see `written`.
        """
        return next(iter(self.written.values()), "")

    @functools.cached_property
    def _read(self) -> dict[str, str]:
        if not self.runs_code:
            return {}
        try:
            self._declared = net_reads.known(self)
        except Pth2omError:
            return {}  # the stage that needs the model fails the same, and reports it
        return net_reads.state(self, self._declared) | (
            {f"unseen/{kind}": self.settings.run for kind, _ in self._declared.unseen}
        )

    @property
    def runs_code(self) -> bool:
        """Whether loading the model runs a user's code: a net's, or that of pickled classes which are trusted."""
        return self.has_torch and (self.net is not None or self.spec.name in self.settings.trust)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Note what the user's code reads inside the block; what no key names yet is in those of the next run."""
        if not self.runs_code:
            yield
            return
        import torch  # noqa: F401 - now: none of its thousand files is the user's, and each would be looked at

        from pth2om.checkpoint.watching import watched

        before = self._noted.size()
        try:
            with watched(self._noted):
                yield
        finally:
            if self._declared is not None and self._noted.size() != before:
                read = self.read()
                if not self._declared.covers(read):
                    self._declared |= read
                    self.store.undeclared += 1
                    net_reads.keep(self, self._declared)

    def read(self) -> Reads:
        """What the user's code has read so far; what `written` holds is left out, and the weights."""
        from pth2om.checkpoint.reads import counted

        found = counted(self._noted)
        files = (
            name for name in found.files if self.role(Path(name)) not in self.written and not self._is_weights(name)
        )
        return dataclasses.replace(found, files=frozenset(files))

    def role(self, file: Path) -> str:
        """What a file of the net is called in keys: its place as seen from the net's folder, wherever that lies."""
        start = self.net.parent.resolve() if self.net is not None else self.spec.folder
        try:
            return f"net/{Path(os.path.relpath(file.resolve(), start)).as_posix()}"
        except ValueError:  # on another drive
            return f"net/{file}"

    def _is_weights(self, file: Path | str) -> bool:
        return self.weights is not None and Path(file).resolve() == self.weights.resolve()

    def options(self) -> dict[str, Any]:
        """What the spec asks of the checkpoint and the net, as a part of keys."""
        source = self.spec.source
        return {
            "num_classes": source.num_classes,
            "arguments": source.arguments,
            "trust": self.spec.name in self.settings.trust,
        }

    def inputs(self) -> list[dict[str, Any]]:
        """The spec's inputs, as a part of keys."""
        return [entry.model_dump(mode="json") for entry in self.spec.inputs]

    def absent(self) -> Absent:
        """The error that names the missing file and how to get it."""
        name = self.spec.source.checkpoint or self.spec.source.onnx or ""
        key = "pipeline.weights-absent-fetch" if self.spec.source.fetch else "pipeline.weights-absent"
        return Absent(key, where=self.spec.name, file=name, model=self.spec.name, fetch=self.spec.source.fetch or "")

    def given_onnx(self) -> Path:
        """The ONNX file that the model starts from.

        Raises:
            Absent: it is not here.
        """
        if self.weights is None:
            raise self.absent()
        return self.weights

    def stand_ins(self) -> list[Finding]:
        """The findings that weights are random (of the ONNX too), and that code does what cannot be followed."""
        message = say("pipeline.seeded", file=self.spec.source.checkpoint, model=self.spec.name)
        found = [Finding("checkpoint.seeded", "warning", message)] if self.seeded else []
        for kind, what in self._declared.unseen if self._declared is not None else ():
            said = say(f"pipeline.unseen-{kind}", model=self.spec.name, what=what)
            found.append(Finding("checkpoint.unseen", "info", said))
        return found

    def module(self) -> torch.nn.Module:
        """The module with its weights: float32, eval mode; kept until `close`.

        Raises:
            CheckpointError: it does not fit its net.
            Absent: the weights are not here.
        """
        if self._module is None:
            self.load()
        assert self._module is not None
        return self._module

    def deployed(self) -> torch.nn.Module:
        """The module as it is exported, see `Net.deployed`; another one each time, for some keep parts of a trace.

        Where there are several batch sizes, a copy waits for the second: making it anew takes five times as long.

        Raises:
            CheckpointError: the net's code fails.
            Absent: the weights are not here.
        """
        from pth2om import checkpoint

        module = self.module()
        if self.net is None:
            return module
        net = checkpoint.load_net(self.net)
        (maker, spare), self._spare = self._spare, (None, None)
        if spare is None or maker is not net:
            made = net.deployed(module)
            if made is not module and len(self.spec.batches) > 1:
                self._spare = net, _copy(made)
            return made
        return spare

    def use_bodies(self, module: torch.nn.Module) -> None:
        """Let a module's custom operators run on the host.

        Raises:
            ExportError: see `pth2om.custom_ops.bodies.use`.
        """
        if self.spec.custom_ops:
            from pth2om.custom_ops.bodies import use

            use(module, self.target.operators.declared, self.bodies)

    def load(self) -> Loaded:
        """Load the module, and tell what was found; once until `close`."""
        if self._loaded is None:
            with self.watching():
                self._loaded = self._load()
            if self._module is not None:
                self.use_bodies(self._module)
        return self._loaded

    def _load(self) -> Loaded:
        from pth2om import checkpoint
        from pth2om.export_probe import example

        if self.weights is not None:
            loaded = checkpoint.load_module(
                self.spec, self.weights, trust=self.spec.name in self.settings.trust, net=self.net
            )
            self._module = loaded.module
            return Loaded(tuple(loaded.findings), dict(loaded.details))
        if self.net is None:
            raise self.absent()
        import torch

        net = checkpoint.load_net(self.net)
        module = net.build(self.spec.source.num_classes, **self.spec.source.arguments)
        if self.weightless:
            names = [name for name, _ in module.named_parameters()]
            if names:
                raise CheckpointError(
                    "checkpoint.weights-unnamed", where=self.spec.name, names=", ".join(names[:3]), count=len(names)
                )
            self._module = module.float().eval()
            return Loaded((), {"kind": "no weights", "template": net.name})
        feeds = example(self.spec.inputs, 2, self.settings.seed)
        examples = [torch.from_numpy(feeds[entry.name]) for entry in self.spec.inputs]
        checkpoint.seed_module(module, examples, seed=self.settings.seed)
        self._module = module.float().eval()
        return Loaded((), {"kind": "seeded", "template": net.name})

    def close(self) -> None:
        """Drop the module."""
        self._module = self._loaded = None
        self._spare = (None, None)


def _copy(module: torch.nn.Module) -> torch.nn.Module | None:
    """A copy of a module; None of a large one, or where its code does not let itself be copied."""
    held = (*module.parameters(), *module.buffers())
    if sum(tensor.numel() * tensor.element_size() for tensor in held) > _MOST_COPIED:
        return None
    try:
        return copy.deepcopy(module)
    except Exception:  # noqa: BLE001 - the net's own code may raise anything
        return None


@dataclass(frozen=True)
class Loaded:
    """What reading a checkpoint found.

    Attributes:
        findings: what was noticed.
        details: kind of the file, numbers of tensors and parameters.
    """

    findings: tuple[Finding, ...]
    details: Mapping[str, Any]

    def to_json(self) -> Any:  # noqa: ANN401 - JSON
        """As plain JSON values."""
        return {"findings": [finding.to_json() for finding in self.findings], "details": dict(self.details)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Loaded:
        """From what `to_json` gave."""
        return cls(tuple(Finding.from_json(entry) for entry in data["findings"]), data["details"])


@dataclass(frozen=True)
class CheckpointStage:
    """Read the checkpoint, fit it to its net, and tell what was found."""

    source: Source
    name = "checkpoint"
    version = 2
    variant = ""

    @property
    def libraries(self) -> tuple[str, ...]:
        """See `Stage.libraries`."""
        return ("pth2om", "torch", "numpy")

    @property
    def label(self) -> str:
        """See `Stage.label`."""
        return self.source.spec.name

    def inputs(self) -> Mapping[str, str]:
        """See `Stage.inputs`."""
        return self.source.digests

    def options(self) -> Mapping[str, Any]:
        """See `Stage.options`."""
        return {**self.source.options(), "inputs": self.source.inputs()}

    def build(self, work: Work) -> Loaded:  # noqa: ARG002 - a Stage's
        """See `Stage.build`."""
        return self.source.load() if self.source.has_torch else Loaded((), {"kind": "onnx"})

    def restored(self, value: Any) -> Loaded:  # noqa: ANN401 - JSON
        """See `Stage.restored`."""
        return Loaded.from_json(value)

    def shown(self, result: Loaded, artifact: Artifact) -> Shown:
        """See `Conversion.shown`."""
        source = self.source
        file = source.weights or artifact.file("result.json")
        fetch = source.spec.source.fetch
        return Shown(
            file,
            source.digest,
            Provenance("torch", version_of("torch"), "host"),
            [*source.stand_ins(), *result.findings],
            {**result.details, "file": file.name, "bytes": file.stat().st_size, "seeded": source.seeded}
            | ({"fetch": fetch} if fetch else {}),
        )
