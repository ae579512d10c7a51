"""AIPP: configurations parsed, checked, derived and computed exactly, without CANN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pth2om.aipp.arithmetic import apply
from pth2om.aipp.config import AippConfig, AippOp, parse_config, read_config, save_config, write_config
from pth2om.aipp.derive import derive, error_bound
from pth2om.aipp.diagnose import diagnose
from pth2om.aipp.rules import Refusal, findings, refusals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType


def emulate_graph(
    model: Path,
    config: AippConfig,
    destination: Path,
    *,
    soc: str | None = None,
    shapes: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> None:
    """`pth2om.aipp.emulate.emulate_graph`, which imports onnx, when it is called."""
    from pth2om.aipp.emulate import emulate_graph as write

    write(model, config, destination, soc=soc, shapes=shapes)


__all__ = [
    "AippConfig",
    "AippOp",
    "Refusal",
    "apply",
    "derive",
    "diagnose",
    "emulate_graph",
    "error_bound",
    "findings",
    "parse_config",
    "read_config",
    "refusals",
    "save_config",
    "write_config",
]
