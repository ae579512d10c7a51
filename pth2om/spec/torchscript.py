"""The table of a spec that puts a TorchScript program between PyTorch and ONNX."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pth2om.spec.tables import Table


class TorchScript(Table):
    """``[torchscript]``: PyTorch -> TorchScript -> ONNX; without this table ONNX is exported from PyTorch itself.

    Attributes:
        method: ``trace`` records one run, ``script`` compiles the source; ``auto`` traces, and scripts a net whose
            trace has frozen control flow. A checkpoint that is TorchScript already is taken as it is.
        inputs: how many random inputs the program is compared on with PyTorch, besides their mirror images and zeros.
        mean_error: largest mean absolute difference from PyTorch on any of them.
        twin: whether the same net is put through ``torch.export`` too and compared, because PyTorch has deprecated
            TorchScript since 2.11.
    """

    method: Literal["auto", "trace", "script"] = "auto"
    inputs: Annotated[int, Field(ge=1, le=64)] = 3
    mean_error: Annotated[float, Field(gt=0)] = 1e-3
    twin: bool = True
