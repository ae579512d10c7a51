"""What a quantization is asked to be, and what it came to; no heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pth2om.evidence import Finding

if TYPE_CHECKING:
    from pth2om import spec

VERSION = 2
"""Of what a quantization makes; raised when it makes something else."""

Activations = Literal["minmax", "percentile", "entropy", "mse", "ifmr"]
Weights = Literal["arq", "mse"]


@dataclass(frozen=True)
class Settings:
    """How a model is quantized.

    Attributes:
        activations: algorithm for activation ranges.
        weights: algorithm for weight scales.
        asymmetric: whether activations have an offset.
        percentile: share of the values that ``percentile`` keeps.
        skip: node names or `fnmatch` patterns that stay in floating point.
        only: patterns; when given, nothing else is quantized.
        bias_correction: add to each bias the mean output that quantizing its layer takes away.
        equalize: cross-layer equalization of weight ranges before calibration.
        balance: even out the input channels of depth-wise convolutions: ``fold`` where that costs nothing at run
            time, ``insert`` also where it takes a Mul in the graph, ``off`` never.
        small_channels: quantize layers of at most 16 input channels too, for ``--enable_small_channel=1``.
        average_pool: quantize AveragePool.
        memory: bytes of activations that one inference may hand back.
    """

    activations: Activations = "mse"
    weights: Weights = "mse"
    asymmetric: bool = True
    percentile: float = 0.9999
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    bias_correction: bool = True
    equalize: bool = False
    balance: Literal["off", "fold", "insert"] = "insert"
    small_channels: bool = False
    average_pool: bool = True
    memory: int = 256 << 20

    @classmethod
    def from_spec(cls, table: spec.Quantize) -> Settings:
        """The settings of a spec's ``[quantize]``."""
        return cls(
            activations=table.activations,
            weights=table.weights,
            asymmetric=table.asymmetric,
            skip=table.skip,
            only=table.only,
            bias_correction=table.bias_correction,
            equalize=table.equalize,
            balance=table.balance,
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values, for a store key or a report."""
        data = asdict(self)
        data["skip"], data["only"] = list(self.skip), list(self.only)
        return data


@dataclass(frozen=True)
class LayerReport:
    """One candidate layer, for a table.

    Attributes:
        name: node name.
        kind: operator.
        int8: whether it is INT8 in the deploy model.
        reason: key of the message why not, "" when it is.
        values: the message's values.
        scale, offset: of its input; None when not quantized.
        low, high: exact extremes of its input over the calibration images.
        clipped: share of its input's values outside the chosen range.
        weight_sqnr_db, input_sqnr_db: signal to quantization noise of its weight and of its input alone.
        exact: whether FP32 arithmetic equals integer arithmetic for it whatever the input.
        rolls_back: whether ATC compiles it in FP16 nevertheless.
    """

    name: str
    kind: str
    int8: bool
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    scale: float | None = None
    offset: int | None = None
    low: float | None = None
    high: float | None = None
    clipped: float | None = None
    weight_sqnr_db: float | None = None
    input_sqnr_db: float | None = None
    exact: bool | None = None
    rolls_back: bool = False


@dataclass(frozen=True)
class QuantizeResult:
    """What `quantize` made.

    Attributes:
        files: role -> path: ``deploy``, ``fake_quant``, ``qdq``, ``quant_json``, ``record``, ``report``.
        layers: every candidate layer, in graph order.
        findings: what was noticed.
        details: JSON values: settings, images, calibration digest, whether the data were random, counts.
    """

    files: Mapping[str, Path]
    layers: tuple[LayerReport, ...]
    findings: tuple[Finding, ...]
    details: Mapping[str, Any]
