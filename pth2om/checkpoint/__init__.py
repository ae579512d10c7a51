"""Checkpoint intake: any file that is called a checkpoint becomes a module with its weights, or a clear error.

Nothing a file names is imported or called, except by `load_module` with ``trust=True``. Importing this package does not
import torch, and its modules come with the first name that needs them: a run that finds all in the store reads none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pth2om import on_demand

if TYPE_CHECKING:
    from pth2om.checkpoint.fitting import Fit, fit
    from pth2om.checkpoint.formats import Kind, kind_of
    from pth2om.checkpoint.loading import LoadedModel, load_module
    from pth2om.checkpoint.nets import Net, load_net, net_files
    from pth2om.checkpoint.reading import Checkpoint, read
    from pth2om.checkpoint.search import find_weights
    from pth2om.checkpoint.seeding import seed_module

__all__ = [
    "Checkpoint",
    "Fit",
    "Kind",
    "LoadedModel",
    "Net",
    "find_weights",
    "fit",
    "kind_of",
    "load_module",
    "load_net",
    "net_files",
    "read",
    "seed_module",
]

__getattr__ = on_demand.names(
    __name__,
    {
        "fitting": ("Fit", "fit"),
        "formats": ("Kind", "kind_of"),
        "loading": ("LoadedModel", "load_module"),
        "nets": ("Net", "load_net", "net_files"),
        "reading": ("Checkpoint", "read"),
        "search": ("find_weights",),
        "seeding": ("seed_module",),
    },
)
