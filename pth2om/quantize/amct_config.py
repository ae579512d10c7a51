"""AMCT's own configurations: the simplified ``.cfg`` (protobuf text) and the full ``config.json``, read and written.

Both are kept whole (`AmctConfig.data`), so what we do not use survives a round trip; what we use is offered as
`Settings`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.quantize.record import Message, Word, parse, read_text, render
from pth2om.quantize.settings import Activations, LayerReport, Settings

_TOP_LEVEL = frozenset(
    {"version", "batch_num", "activation_offset", "joint_quant", "do_fusion", "skip_fusion_layers", "tensor_quantize"}
    | {"group_size", "data_dump", "skip_layers", "skip_layer_types"}
)


@dataclass(frozen=True)
class AmctConfig:
    """One configuration file.

    Attributes:
        form: which of the two.
        data: its whole content: nested pairs of a ``.cfg``, the object of a ``config.json``.
        batch_num: calibration batches it asks for.
        asymmetric: ``activation_offset``.
        skip: layers it leaves in floating point.
        skip_types: operator types it leaves in floating point.
        algorithm: activation algorithm of its common part: ``ifmr`` or ``hfmg``.
    """

    form: Literal["cfg", "json"]
    data: Any = field(repr=False)
    batch_num: int = 1
    asymmetric: bool = True
    skip: tuple[str, ...] = ()
    skip_types: tuple[str, ...] = ()
    algorithm: str = "ifmr"

    def settings(self) -> tuple[Settings, list[Finding]]:
        """The nearest of our settings, with a finding for every wish that has no counterpart."""
        findings = []
        activations: Activations = "ifmr"
        if self.algorithm != "ifmr":
            activations = "mse"
            message = say("quantize.cfg-algorithm", name=self.algorithm)
            findings.append(Finding("quantize.cfg-algorithm", "warning", message))
        for name in ("nuq_config", "joint_quant", "tensor_quantize", "fakequant_precision_mode"):
            present = name in self.data if self.form == "json" else any(label == name for label, _ in self.data)
            if present:
                findings.append(Finding("quantize.cfg-ignored", "warning", say("quantize.cfg-ignored", name=name)))
        settings = Settings(
            activations=activations,
            weights="arq",
            asymmetric=self.asymmetric,
            skip=self.skip,
            bias_correction=False,
            balance="off",
        )
        return settings, findings

    def render(self) -> str:
        """The file's text."""
        if self.form == "json":
            return json.dumps(self.data, indent=4, ensure_ascii=False) + "\n"
        return render(cast("Message", self.data))


def read_config(path: Path) -> AmctConfig:
    """Read a ``.cfg`` or a ``config.json``; told apart by content.

    Raises:
        QuantizeError: it is neither, or a value has the wrong type.
    """
    text = read_text(path)
    if text.lstrip().startswith("{"):
        return _from_json(text, str(path))
    return _from_text(parse(text, str(path)), str(path))


def _from_json(text: str, where: str) -> AmctConfig:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise QuantizeError("quantize.not-json", where=where, reason=str(error)) from None
    if not isinstance(data, dict):
        raise QuantizeError("quantize.not-json", where=where, reason="not an object")
    layers = {name: value for name, value in data.items() if name not in _TOP_LEVEL and isinstance(value, dict)}
    skip = [name for name, value in layers.items() if value.get("quant_enable") is False]
    algorithms = {
        str(value.get("activation_quant_params", {}).get("act_algo", "ifmr"))
        for value in layers.values()
        if isinstance(value.get("activation_quant_params", {}), dict)
    }
    return AmctConfig(
        "json",
        data,
        batch_num=_whole(data.get("batch_num", 1), "batch_num", where),
        asymmetric=bool(data.get("activation_offset", True)),
        skip=tuple(skip),
        algorithm="hfmg" if algorithms == {"hfmg"} else "ifmr",
    )


def _from_text(message: Message, where: str) -> AmctConfig:
    top = dict(message)
    common = top.get("common_config")
    hfmg = isinstance(common, list) and any(name == "hfmg_quantize" for name, _ in common)
    offset = top.get("activation_offset", True)
    if not isinstance(offset, bool):
        raise QuantizeError("quantize.cfg-value", where=where, name="activation_offset", value=str(offset))
    return AmctConfig(
        "cfg",
        message,
        batch_num=_whole(top.get("batch_num", 1), "batch_num", where),
        asymmetric=offset,
        skip=tuple(str(value) for name, value in message if name == "skip_layers"),
        skip_types=tuple(str(value) for name, value in message if name == "skip_layer_types"),
        algorithm="hfmg" if hfmg else "ifmr",
    )


def _whole(value: object, name: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise QuantizeError("quantize.cfg-value", where=where, name=name, value=str(value)[:40])
    return value


def config_text(settings: Settings, batch_num: int) -> str:
    """A ``.cfg`` that asks amct_onnx for what ``settings`` ask of us, as near as it can."""
    message: Message = [("batch_num", batch_num), ("activation_offset", settings.asymmetric)]
    message += [("skip_layers", name) for name in settings.skip]
    search: Message = [
        ("search_range_start", 0.7),
        ("search_range_end", 1.3),
        ("search_step", 0.01),
        ("max_percentile", 0.999999),
        ("min_percentile", 0.999999),
    ]
    message.append(("common_config", [("ifmr_quantize", search)]))
    return render(message)


def config_json(layers: tuple[LayerReport, ...], settings: Settings, batch_num: int) -> dict[str, Any]:
    """A full ``config.json`` for the given layers."""
    data: dict[str, Any] = {
        "version": 1,
        "batch_num": batch_num,
        "activation_offset": settings.asymmetric,
        "do_fusion": True,
        "skip_fusion_layers": [],
    }
    for layer in layers:
        data[layer.name] = {
            "quant_enable": layer.int8,
            "activation_quant_params": {
                "num_bits": 8,
                "max_percentile": 0.999999,
                "min_percentile": 0.999999,
                "search_range": [0.7, 1.3],
                "search_step": 0.01,
                "act_algo": "ifmr",
                "asymmetric": settings.asymmetric,
            },
            "weight_quant_params": {
                "num_bits": 8,
                "channel_wise": layer.kind in ("Conv", "ConvTranspose"),
                "wts_algo": "arq_quantize",
            },
        }
    return data


__all__ = ["AmctConfig", "Word", "config_json", "config_text", "read_config"]
