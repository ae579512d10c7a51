"""AMCT's own configurations: the simplified ``.cfg`` (protobuf text) and the full ``config.json``, read and written.

Both are kept completely (`AmctConfig.data`), so unused entries survive reading and writing; the used ones are available
as `QuantizeSettings`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.quantize.record import Message, parse, read_text, render
from pth2om.quantize.settings import Ifmr, Override, QuantizeSettings, matches

_MOST_STEPS = 10_000
_DEEPEST = 32  # objects within one another; AMCT writes four
_HFMG_BINS = (1024, 2048, 4096, 8192)
_TOP_LEVEL = frozenset(
    {"common_config", "override_layer_types", "override_layer_configs", "nuq_config", "fakequant_precision_mode"}
    | {"version", "batch_num", "activation_offset", "joint_quant", "do_fusion", "skip_fusion_layers", "tensor_quantize"}
    | {"group_size", "data_dump", "skip_layers", "skip_layer_types"}
)


_ONNX_TYPES = {
    **dict.fromkeys(("Conv", "Conv1d", "Conv2d", "Conv3d", "Convolution", "Conv2D"), ("Conv",)),
    **dict.fromkeys(("ConvTranspose", "ConvTranspose2d", "Deconvolution"), ("ConvTranspose",)),
    **dict.fromkeys(("Linear", "InnerProduct"), ("Gemm", "MatMul")),
    **dict.fromkeys(("AveragePool", "AvgPool2d", "AvgPool", "Pooling"), ("AveragePool",)),
    "DepthwiseConv2dNative": ("Conv",),
    "Gemm": ("Gemm",),
    "MatMul": ("MatMul",),
}
"""Names of the layers in AMCT's other front ends (torch, Caffe, TensorFlow)."""

_IFMR_FIELDS = {
    "search_range_start": "start",
    "search_range_end": "end",
    "search_step": "step",
    "max_percentile": "max_percentile",
    "min_percentile": "min_percentile",
}
_INNER = frozenset({*_IFMR_FIELDS, "search_range", "act_algo", "num_of_bins", "asymmetric"})
"""The keys that are read from an activation's table."""
_WEIGHT = frozenset({"channel_wise", "wts_algo"})
_BITS = ("dst_type", "num_bits", "quant_bits")
_UNSUPPORTED = ("nuq_config", "joint_quant", "tensor_quantize", "fakequant_precision_mode", "skip_fusion_layers")


@dataclass(frozen=True)
class AmctConfig:
    """One configuration file.

    Attributes:
        form: which of the two formats.
        data: its complete content: nested pairs of a ``.cfg``, the object of a ``config.json``.
        batch_num: number of calibration batches; None if not given.
        asymmetric: ``activation_offset``.
        skip: layers it leaves in floating point.
        skip_types: operator types it leaves in floating point, under AMCT's names.
        common: fields of `QuantizeSettings` that its common part sets.
        overrides: the same for some layers only; types before names, as AMCT ranks them.
        ignored: entries that have no equivalent here.
    """

    form: Literal["cfg", "json"]
    data: Any = field(repr=False)
    batch_num: int | None = None
    asymmetric: bool = True
    skip: tuple[str, ...] = ()
    skip_types: tuple[str, ...] = ()
    common: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[Override, ...] = ()
    ignored: tuple[str, ...] = ()

    def settings(self) -> tuple[QuantizeSettings, list[Finding]]:
        """The same as our settings, with a finding for every entry that has no equivalent."""
        findings = [
            Finding("quantize.cfg-ignored", "warning", say("quantize.cfg-ignored", name=name)) for name in self.ignored
        ]
        plain = QuantizeSettings(
            activations="ifmr",
            weights="arq",
            asymmetric=self.asymmetric,
            skip=self.skip,
            skip_types=tuple(kind for name in self.skip_types for kind in _ONNX_TYPES.get(name, (name,))),
            overrides=self.overrides,
            bias_correction=False,
            balance="off",
        )
        return replace(plain, **self.common), findings

    def render(self) -> str:
        """The file's text."""
        if self.form == "json":
            return json.dumps(self.data, indent=4, ensure_ascii=False) + "\n"
        return render(cast("Message", self.data))


def read_config(path: Path) -> AmctConfig:
    """Read a ``.cfg`` or a ``config.json``; the content decides which one it is.

    Raises:
        QuantizeError: it is neither, or a value has the wrong type.
    """
    text = read_text(path)
    if text.lstrip().startswith("{"):
        return _from_json(text, str(path))
    return _from_text(parse(text, str(path)), str(path))


class _Wishes:
    """Collects the entries of one calibration table as fields of `QuantizeSettings`, and those without effect."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.ignored: dict[str, None] = {}

    def number(self, table: Mapping[str, Any], name: str, low: float, high: float) -> float:
        value = table[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
            raise QuantizeError("quantize.cfg-value", where=self.where, name=name, value=str(value)[:40])
        return float(value)

    def truth(self, table: Mapping[str, Any], name: str) -> bool:
        if not isinstance(table[name], bool):
            raise QuantizeError("quantize.cfg-value", where=self.where, name=name, value=str(table[name])[:40])
        return bool(table[name])

    def ifmr(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """``ifmr_quantize``."""
        ends = {"search_range_start": 10.0, "search_range_end": 10.0, "search_step": 10.0}
        given = {
            own: self.number(table, name, 0.0, ends.get(name, 1.0))
            for name, own in _IFMR_FIELDS.items()
            if name in table
        }
        chosen = Ifmr(**given)
        if chosen.start >= chosen.end or (chosen.end - chosen.start) / chosen.step > _MOST_STEPS:
            value = f"{chosen.start}..{chosen.end} / {chosen.step}"
            raise QuantizeError("quantize.cfg-value", where=self.where, name="search_range", value=value)
        return {"activations": "ifmr", "ifmr": chosen, **self._common(table)}

    def hfmg(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """``hfmg_quantize``."""
        found: dict[str, Any] = {"activations": "hfmg", **self._common(table)}
        if "num_of_bins" in table:
            found["bins"] = _whole(table["num_of_bins"], "num_of_bins", self.where)
            if found["bins"] not in _HFMG_BINS:
                raise QuantizeError(
                    "quantize.cfg-value", where=self.where, name="num_of_bins", value=str(found["bins"])
                )
        return found

    def _common(self, table: Mapping[str, Any]) -> dict[str, Any]:
        self._read(table, _INNER)
        return {"asymmetric": self.truth(table, "asymmetric")} if "asymmetric" in table else {}

    def weights(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """``arq_quantize``."""
        self._read(table, _WEIGHT)
        found: dict[str, Any] = {"weights": "arq"}
        if "channel_wise" in table:
            found["per_channel"] = self.truth(table, "channel_wise")
        return found

    def _read(self, table: Mapping[str, Any], known: frozenset[str]) -> None:
        """Entries of a table that are not used, including misspelt names, INT4 and INT16; each is reported once."""
        for name, value in table.items():
            if name in _BITS and value not in (8, "INT8"):
                self.ignored[f"{name}: {value}"] = None
            elif name not in known and name not in _BITS:
                self.ignored[name] = None


def _from_json(text: str, where: str) -> AmctConfig:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise QuantizeError("quantize.not-json", where=where, reason=str(error)) from None
    if _depth(data) > _DEEPEST:
        raise QuantizeError("quantize.not-json", where=where, reason="nested too deeply")
    if not isinstance(data, dict):
        raise QuantizeError("quantize.not-json", where=where, reason="not an object")
    wishes = _Wishes(where)
    overrides, skip = [], []
    for name, value in data.items():
        if name in _TOP_LEVEL:
            continue
        if not isinstance(value, dict) or "quant_enable" not in value:
            wishes.ignored[name] = None
            continue
        if not wishes.truth(value, "quant_enable"):
            skip.append(name)
            continue
        overrides.append(Override(_layer_wishes(value, wishes), layers=(name,)))
    for name in _UNSUPPORTED:
        if data.get(name):
            wishes.ignored[name] = None
    if data.get("do_fusion") is False:
        wishes.ignored["do_fusion: false"] = None
    return AmctConfig(
        "json",
        data,
        batch_num=_batches(data.get("batch_num"), where),
        asymmetric=wishes.truth(data, "activation_offset") if "activation_offset" in data else True,
        skip=tuple(skip),
        overrides=tuple(overrides),
        ignored=tuple(wishes.ignored),
    )


def _depth(data: object) -> int:
    """How many objects and lists lie within one another, at most one more than is allowed."""
    level: list[object] = [data]
    for depth in range(_DEEPEST + 1):
        inner = [list(value.values()) if isinstance(value, dict) else value for value in level]
        level = [each for value in inner if isinstance(value, list) for each in value]
        if not level:
            return depth
    return _DEEPEST + 1


def _layer_wishes(layer: Mapping[str, Any], wishes: _Wishes) -> dict[str, Any]:
    """One layer's table of a ``config.json``."""
    found: dict[str, Any] = {}
    activation, weight = layer.get("activation_quant_params", {}), layer.get("weight_quant_params", {})
    if isinstance(activation, dict):
        flat = dict(activation)
        span = flat.get("search_range")
        if isinstance(span, list) and len(span) == 2:
            flat["search_range_start"], flat["search_range_end"] = span
        found |= wishes.hfmg(flat) if flat.get("act_algo") == "hfmg" else wishes.ifmr(flat)
    if isinstance(weight, dict):
        if weight.get("wts_algo", "arq_quantize") != "arq_quantize":
            wishes.ignored[str(weight["wts_algo"])] = None
        found |= wishes.weights(weight)
    if "dmq_balancer_param" in layer:
        wishes.ignored["dmq_balancer"] = None
    return found


def _from_text(message: Message, where: str) -> AmctConfig:
    top = dict(message)
    offset = top.get("activation_offset", True)
    if not isinstance(offset, bool):
        raise QuantizeError("quantize.cfg-value", where=where, name="activation_offset", value=str(offset))
    wishes = _Wishes(where)
    for name, value in message:
        if name not in _TOP_LEVEL or (name in _UNSUPPORTED and value is not False):
            wishes.ignored[str(name)] = None
    if top.get("do_fusion") is False:
        wishes.ignored["do_fusion: false"] = None
    by_type, by_name = [], []
    for name, value in message:
        if not isinstance(value, list) or not name.startswith("override_layer"):
            continue
        changes = _calibration_wishes(dict(value).get("calibration_config"), wishes)
        if name == "override_layer_types":
            types = [str(entry) for label, entry in value if label == "layer_type"]
            known = tuple(kind for one in types for kind in _ONNX_TYPES.get(one, ()))
            wishes.ignored |= {f"layer_type: {one}": None for one in types if one not in _ONNX_TYPES}
            by_type.append(Override(changes, kinds=known))
        else:
            by_name.append(Override(changes, layers=tuple(str(one) for label, one in value if label == "layer_name")))
    skip_types = tuple(str(value) for name, value in message if name == "skip_layer_types")
    wishes.ignored |= {f"skip_layer_types: {one}": None for one in skip_types if one not in _ONNX_TYPES}
    return AmctConfig(
        "cfg",
        message,
        batch_num=_batches(top.get("batch_num"), where),
        asymmetric=offset,
        skip=tuple(str(value) for name, value in message if name == "skip_layers"),
        skip_types=skip_types,
        common=_calibration_wishes(top.get("common_config"), wishes),
        overrides=(*by_type, *by_name),
        ignored=tuple(wishes.ignored),
    )


def _calibration_wishes(message: object, wishes: _Wishes) -> dict[str, Any]:
    """A ``CalibrationConfig`` of a ``.cfg``."""
    found: dict[str, Any] = {}
    for name, value in message if isinstance(message, list) else []:
        table = {str(label): entry for label, entry in value} if isinstance(value, list) else {}
        if name == "ifmr_quantize":
            found |= wishes.ifmr(table)
        elif name == "hfmg_quantize":
            found |= wishes.hfmg(table)
        elif name == "arq_quantize":
            found |= wishes.weights(table)
        else:
            wishes.ignored[str(name)] = None
    return found


def _batches(value: object, where: str) -> int | None:
    return None if value is None else _whole(value, "batch_num", where)


def _whole(value: object, name: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise QuantizeError("quantize.cfg-value", where=where, name=name, value=str(value)[:40])
    return value


def config_text(settings: QuantizeSettings, batch_num: int, layers: Sequence[tuple[str, str]] = ()) -> str:
    """A ``.cfg`` that sets amct_onnx as closely as possible to ``settings``.

    Args:
        settings: algorithms that AMCT does not have become its default, IFMR.
        batch_num: calibration batches.
        layers: name and operator type of the model's layers, for patterns: AMCT accepts complete names only.
    """
    skipped = [name for name in settings.skip if not layers] + [
        name
        for name, kind in layers
        if kind in settings.skip_types
        or any(matches(name, pattern) for pattern in settings.skip)
        or (settings.only and not any(matches(name, pattern) for pattern in settings.only))
    ]
    message: Message = [("batch_num", batch_num), ("activation_offset", settings.asymmetric)]
    message += [("skip_layers", name) for name in skipped]
    if settings.activations == "hfmg":
        message.append(("common_config", [("hfmg_quantize", [("num_of_bins", settings.bins)])]))
    else:
        search: Message = [(name, float(getattr(settings.ifmr, own))) for name, own in _IFMR_FIELDS.items()]
        message.append(("common_config", [("ifmr_quantize", search)]))
    return render(message)
