"""The float network, its chosen layers and their parameters: everything between calibration and files."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.language import Message, joined, say
from pth2om.quantize import batches, ranges
from pth2om.quantize.balance import Balance, balance, channel_magnitudes, depthwise, equalize
from pth2om.quantize.calibrate import Calibration, Feeds, Progress, calibrate
from pth2om.quantize.deploy import build_deploy
from pth2om.quantize.effects import Search
from pth2om.quantize.layers import Layer, Selection, select
from pth2om.quantize.network import Network, fitting
from pth2om.quantize.prepare import prepare
from pth2om.quantize.settings import LayerReport, QuantizeSettings
from pth2om.quantize.weights import Quantized, bias_shift, correct_bias, quantize_layer

_BALANCE_BATCHES = 8
"""Batches looked at beforehand, to see whether channels differ much; their number does not grow with the data."""
_BALANCE_BYTES = 64 << 20


@dataclass
class Plan:
    """A calibrated network; deploy models of any subset of its layers can be made from it.

    Attributes:
        network: the float network that the layers are in (BatchNorm folded, equalized).
        selection: all candidate layers.
        calibration: what was observed.
        quantized: layer name -> its integers, for every layer that can be INT8.
        balances: layer name -> how its input was scaled against its weight.
        findings: what was noticed on the way.
        search: of an accuracy-aware search, what it found.
        given: a deploy model that another tool made; its layers are then those of `quantized` and `untraced`.
        untraced: INT8 layers of ``given`` that have no counterpart in the float network.
        renamed: layer -> its output in ``given``, where it is not the float network's.
    """

    network: Network
    selection: Selection
    calibration: Calibration
    settings: QuantizeSettings
    quantized: dict[str, Quantized] = field(default_factory=dict)
    balances: dict[str, list[Balance]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    search: Search | None = None
    given: onnx.ModelProto | None = field(default=None, repr=False)
    untraced: tuple[LayerReport, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> onnx.ModelProto:
        """The float network as a model; made when asked for."""
        return self.network.finish()

    def deploy(self, names: Iterable[str] | None = None) -> onnx.ModelProto:
        """The deploy model with INT8 in ``names`` (default: in every layer that can be)."""
        if self.given is not None and names is None:
            return self.given
        wanted = set(self.quantized if names is None else names)
        return build_deploy(self.network, [layer for name, layer in self.quantized.items() if name in wanted])


def make_plan(
    model: onnx.ModelProto,
    feeds: Iterable[Feeds],
    settings: QuantizeSettings,
    *,
    where: str = "",
    state: Path | None = None,
    key: str = "",
    progress: Progress | None = None,
) -> Plan:
    """Prepare, select, calibrate and choose the parameters of a float model.

    Args:
        model: a float ONNX model.
        feeds: calibration batches.
        settings: how.
        where: the model's name, for messages.
        state: see `calibrate`.
        key: digest of the model's file, so that a state is not taken for another model's.
        progress: told after each batch.

    Raises:
        QuantizeError: nothing can be quantized, the model is quantized already, or the feeds do not fit.
    """
    network, findings = prepare(model, where)

    def chosen() -> Selection:
        return select(
            network,
            skip=settings.skip,
            only=settings.only,
            small_channels=settings.small_channels,
            skip_types=settings.skip_types,
            mentioned=[pattern for override in settings.overrides for pattern in override.layers],
            where=where,
        )

    selection = chosen()
    total = operator.length_hint(feeds) or None
    stream = fitting(network.model, feeds)
    # Looked at twice, so kept meanwhile; where there is nothing to balance every batch is let go at once.
    first = (
        batches.first(stream, _BALANCE_BATCHES, _BALANCE_BYTES)
        if settings.balance != "off" and depthwise(selection.chosen)
        else []
    )
    balances = _balance(network, selection, first, settings, findings)
    if balances:
        selection = chosen()
    tensors: dict[str, int | None] = {}
    for layer in selection.chosen:
        axis = None if layer.weight is None else (1 if layer.per_channel else -1)
        tensors[layer.input] = axis if tensors.get(layer.input) is None else tensors[layer.input]
    state_key = f"{key}/{settings.equalize}/{settings.balance}"
    calibration = calibrate(
        network.finish(),
        tensors,
        itertools.chain(first, stream),
        total=total,
        state=state,
        key=state_key,
        memory=settings.memory,
        progress=progress,
    )
    plan = Plan(network, selection, calibration, settings, balances=balances, findings=findings)
    _examine_activations(plan)
    choose_parameters(plan)
    plan.findings += selection.findings
    return plan


def _balance(
    network: Network, selection: Selection, first: Sequence[Feeds], settings: QuantizeSettings, findings: list[Finding]
) -> dict[str, list[Balance]]:
    """Equalize and balance as the settings ask; what was done, by layer."""
    done: dict[str, list[Balance]] = {}
    if settings.equalize:
        equalized, said = equalize(network, selection.chosen)
        findings += said
        for name, entry in equalized.items():
            done.setdefault(name, []).append(entry)
    wanted = depthwise(selection.chosen)
    if settings.balance != "off" and wanted and first:
        names = list(dict.fromkeys(layer.input for layer in wanted))
        magnitudes = channel_magnitudes(network.finish(), names, first, settings.memory)
        balanced, said = balance(network, wanted, magnitudes, insert=settings.balance == "insert")
        findings += said
        for name, entry in balanced.items():
            done.setdefault(name, []).append(entry)
    return done


def _examine_activations(plan: Plan) -> None:
    """Layers whose input is dead, constant or not finite stay in floating point, and are named."""
    for layer in plan.selection.chosen:
        histogram = plan.calibration.histograms[layer.input]
        if histogram.not_finite is not None:
            message = say("quantize.not-finite", tensor=layer.input, image=histogram.not_finite)
            _leave(plan, layer, message, "error")
        elif histogram.total == 0 or histogram.lowest == histogram.highest == 0:
            _leave(plan, layer, say("quantize.dead", tensor=layer.input), "warning")
        elif max(histogram.highest, 0) - min(histogram.lowest, 0) < 255 * ranges.SMALLEST_SCALE:
            largest = max(histogram.highest, -histogram.lowest)
            _leave(plan, layer, say("quantize.tiny", tensor=layer.input, largest=f"{largest:.3g}"), "warning")
        elif histogram.lowest == histogram.highest:
            message = say("quantize.constant-activation", tensor=layer.input, value=histogram.lowest)
            plan.findings.append(Finding("quantize.constant-activation", "warning", message, node=layer.name))
        if histogram.overflow:
            message = say("quantize.fp16-overflow", tensor=layer.input, count=histogram.overflow)
            plan.findings.append(Finding("quantize.fp16-overflow", "warning", message, node=layer.name))


def _leave(plan: Plan, layer: Layer, message: Message, severity: str) -> None:
    layer.reason = message
    plan.findings.append(Finding(message.key, severity, message, node=layer.name))  # type: ignore[arg-type]  # one of the three severities


def choose_parameters(plan: Plan) -> None:
    """Ranges, weight integers and corrected biases of all chosen layers; deterministic."""
    chosen: dict[tuple[object, ...], ranges.Range] = {}
    for layer in plan.selection.chosen:
        settings = plan.settings.of(layer.name, layer.kind)
        # Layers that read one tensor share its range, unless they are asked to search it differently.
        key = (
            layer.input,
            settings.activations,
            settings.asymmetric,
            settings.percentile,
            settings.ifmr,
            settings.bins,
        )
        if key not in chosen:
            chosen[key] = ranges.search(
                plan.calibration.histograms[layer.input],
                settings.activations,
                asymmetric=settings.asymmetric,
                percentile=settings.percentile,
                ifmr=settings.ifmr,
                bins=settings.bins,
            )
        try:
            plan.quantized[layer.name] = _integers(plan, layer, chosen[key], settings)
        except QuantizeError as error:
            _leave(plan, layer, error.message, "warning")
    if not plan.quantized:
        reasons = joined((joined((layer.name, str(layer.reason)), ": ") for layer in plan.selection.layers[:5]), "; ")
        raise QuantizeError("quantize.nothing-left", count=len(plan.selection.layers), reasons=reasons)
    _name_dead_channels(plan)


def _integers(plan: Plan, layer: Layer, activation: ranges.Range, settings: QuantizeSettings) -> Quantized:
    per_channel = layer.per_channel and settings.per_channel
    quantized = quantize_layer(plan.network, layer, activation, settings.weights, per_channel=per_channel)
    mean = plan.calibration.histograms[layer.input].channel_mean
    if settings.bias_correction and layer.weight is not None and mean is not None and mean.size == layer.channels_in:
        correct_bias(quantized, bias_shift(plan.network, layer, quantized, mean))
    return quantized


def _name_dead_channels(plan: Plan) -> None:
    """Channels whose weights are all zero are constant; they are told, not quantized away."""
    for quantized in plan.quantized.values():
        weight = quantized.float_weight
        if weight is None:
            continue
        rows = quantized.layer.rows(weight)
        dead = np.flatnonzero(~rows.any(axis=1))
        if dead.size:
            message = say("quantize.constant-channels", count=int(dead.size), first=int(dead[0]))
            plan.findings.append(Finding("quantize.constant-channels", "info", message, node=quantized.layer.name))
