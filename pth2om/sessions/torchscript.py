"""A TorchScript program as a session."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pth2om.errors import CheckpointError, first_line
from pth2om.session import Provenance
from pth2om.sessions.torch import TorchSession
from pth2om.spec import Input
from pth2om.store import version_of

if TYPE_CHECKING:
    import torch


def load_program(file: Path) -> torch.nn.Module:
    """A TorchScript file that this project wrote or has looked through, in eval mode on this CPU.

    Raises:
        CheckpointError: PyTorch does not read it.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: torch.nn.Module = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]  # torch
    except Exception as error:  # PyTorch raises RuntimeError for most, not for all
        raise CheckpointError("checkpoint.script-broken", where=str(file), reason=first_line(error)) from error
    return program.eval()


def torchscript_session(
    file: Path, inputs: Sequence[Input], outputs: Sequence[str], *, digest: str, threads: int | None = None
) -> TorchSession:
    """Runs a TorchScript file on this CPU; what evidence calls it is ``torchscript``.

    Args:
        file: the program.
        inputs: of the spec.
        outputs: names of the outputs.
        digest: of the file.
        threads: see `TorchSession`.
    """
    return TorchSession(
        lambda: load_program(file),
        inputs,
        outputs,
        digest=f"torchscript-{digest}-{version_of('torch')}",
        threads=threads,
        provenance=Provenance("torchscript", version_of("torch"), "host"),
    )
