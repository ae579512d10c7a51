"""The settings and the result of a quantization; no heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.evidence import Finding
from pth2om.spec.tables import Activations, Balancing, Weights

if TYPE_CHECKING:
    from pth2om import spec

VERSION = 3
"""Version of a quantization's result; raised when the result changes."""


@dataclass(frozen=True)
class Ifmr:
    """AMCT's ``ifmr_quantize``; the defaults are AMCT's.

    Attributes:
        start, end, step: the upper end of the range is multiplied by ``arange(start, end, step)``.
        max_percentile, min_percentile: shares of the values for the initial range, at each end.
    """

    start: float = 0.7
    end: float = 1.3
    step: float = 0.01
    max_percentile: float = 0.999999
    min_percentile: float = 0.999999


@dataclass(frozen=True)
class Override:
    """Settings for some layers only.

    Attributes:
        changes: fields of `QuantizeSettings` and their values for these layers.
        layers: node names or `fnmatch` patterns.
        kinds: operator types.
    """

    changes: Mapping[str, Any]
    layers: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()

    def concerns(self, name: str, kind: str) -> bool:
        """Whether it applies to the layer ``name`` of operator ``kind``."""
        return kind in self.kinds or any(matches(name, pattern) for pattern in self.layers)


def matches(name: str, pattern: str) -> bool:
    """Whether a node matches: by its complete name, which may contain brackets, or by an `fnmatch` pattern."""
    return name == pattern or fnmatchcase(name, pattern)


@dataclass(frozen=True)
class QuantizeSettings:
    """How a model is quantized.

    Attributes:
        activations: algorithm for activation ranges.
        weights: algorithm for weight scales.
        asymmetric: whether activations have an offset.
        per_channel: whether a convolution's weight has one scale per output channel.
        percentile: share of the values that ``percentile`` keeps.
        ifmr: parameters of ``ifmr``.
        bins: of the histogram that ``hfmg`` searches on.
        overrides: other values for some layers; later ones take precedence.
        skip: node names or `fnmatch` patterns that stay in floating point.
        skip_types: operator types that stay in floating point.
        only: patterns; if given, nothing else is quantized.
        bias_correction: add to each bias the mean output that is lost by quantizing its layer.
        equalize: cross-layer equalization of weight ranges before calibration.
        balance: balance the input channels of depth-wise convolutions: ``fold`` where this costs nothing at run time,
            ``insert`` also where it requires a Mul in the graph, ``off`` never.
        small_channels: quantize layers of at most 16 input channels too, for ``--enable_small_channel=1``.
        memory: bytes of activations that one inference may return.
    """

    activations: Activations = "mse"
    weights: Weights = "mse"
    asymmetric: bool = True
    per_channel: bool = True
    percentile: float = 0.9999
    ifmr: Ifmr = Ifmr()
    bins: int = 4096
    overrides: tuple[Override, ...] = ()
    skip: tuple[str, ...] = ()
    skip_types: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    bias_correction: bool = True
    equalize: bool = False
    balance: Balancing = "insert"
    small_channels: bool = False
    memory: int = 256 << 20

    @classmethod
    def from_spec(cls, table: spec.Quantize, start: QuantizeSettings | None = None) -> QuantizeSettings:
        """The settings of a spec's ``[quantize]``.

        Args:
            table: the spec's.
            start: the settings of an AMCT configuration, used where the spec has none. Layers skipped by either are
                skipped.
        """
        # What has the same name in both is the same option, but for a spec's `bins`, which are files and not bars.
        names = [entry.name for entry in fields(cls) if entry.name in type(table).model_fields and entry.name != "bins"]
        given = {name: getattr(table, name) for name in names if start is None or name in table.model_fields_set}
        if start is None:
            return cls(**given)
        return start.ruled(**{**given, "skip": (*start.skip, *table.skip)})

    def ruled(self, **given: Any) -> QuantizeSettings:  # noqa: ANN401 - fields of this class
        """These settings with changes that apply to every layer and replace the overrides of those fields."""
        overrides = (
            replace(one, changes={name: value for name, value in one.changes.items() if name not in given})
            for one in self.overrides
        )
        return replace(self, **given, overrides=tuple(overrides))

    def of(self, name: str, kind: str) -> QuantizeSettings:
        """The settings of one layer: these, with its overrides."""
        found = self
        for override in self.overrides:
            if override.concerns(name, kind):
                found = replace(found, **override.changes)
        return found

    def to_json(self) -> dict[str, Any]:
        """JSON values, for a store key or a report."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class LayerReport:
    """One candidate layer, for a table.

    Attributes:
        name: node name.
        kind: operator.
        int8: whether it is INT8 in the deploy model.
        reason: key of the message why not; "" if it is INT8.
        values: the message's values.
        scale, offset: of its input; None if not quantized.
        low, high: exact smallest and largest input value over the calibration images.
        clipped: share of its input's values outside the chosen range, by more than half a step.
        weight_sqnr_db, input_sqnr_db: signal to quantization noise of its weight and of its input alone.
        exact: whether FP32 arithmetic equals integer arithmetic in this layer for every input.
        rolls_back: whether ATC compiles it in FP16 anyway.
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
    """The result of `quantize`.

    Attributes:
        files: role -> path: ``deploy``, ``fake_quant``, ``qdq``, ``quant_json``, ``record``, ``report``.
        layers: every candidate layer, in graph order.
        findings: about the model and the data.
        details: JSON values: settings, images, calibration digest, whether the data were random, counts.
    """

    files: Mapping[str, Path]
    layers: tuple[LayerReport, ...]
    findings: tuple[Finding, ...]
    details: Mapping[str, Any]


def file_names(prefix: str) -> dict[str, str]:
    """The usual names of the files of a quantized model, by role; those of weights beside it are not among them."""
    return {
        "deploy": f"{prefix}_deploy_model.onnx",
        "fake_quant": f"{prefix}_fake_quant_model.onnx",
        "qdq": f"{prefix}_qdq_model.onnx",
        "quant_json": f"{prefix}_quant.json",
        "record": f"{prefix}_record.txt",
        "report": f"{prefix}_quantize.json",
    }
