"""Flags that the guide gives to some products only; ATC takes them everywhere and does nothing, or fails late."""

from __future__ import annotations

from collections.abc import Iterator

from pth2om.ascend import socs
from pth2om.ascend.families import FAMILIES
from pth2om.language import Message, say
from pth2om.toolchain.emulator.front_end.flags import DEFAULTS, Flags

_NOT_310B = ("deterministic", "enable_single_stream", "multi_stream_parallel_mode", "ac_parallel_enable")
_NEWER = ("ascend910b", "ascend910_93", "ascend950")
_BF16 = ("allow_mix_precision_bf16", "allow_fp32_to_bf16", "mixed_bfloat16")

ONLY: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("status_check", ("ascend310b", "ascend310p", "ascend910", "ascend035")),
    ("sparsity", ("ascend310b", *_NEWER)),
    ("aicore_num", _NEWER),
    ("allow_hf32", _NEWER),
)
"""Flags and the chip families the guide names for them ("ATC guide", product section of each flag)."""


def notes(flags: Flags) -> Iterator[Message]:
    """What the guide does not give to this chip, one sentence a flag."""
    name = flags["soc_version"]
    soc = socs.find(name)
    if soc is None:
        return
    for flag in _NOT_310B:
        if soc.family == "ascend310b" and flags[flag] not in ("", DEFAULTS.get(flag), "0", "false"):
            yield say("atc.not-for-product", flag=flag, soc=name)
    for flag, families in ONLY:
        if soc.family not in families and flags[flag] not in ("", "0", "false"):
            yield say("atc.not-for-product", flag=flag, soc=name)
    if flags["core_type"] == "VectorCore" and soc.family != "ascend310p":
        yield say("atc.not-for-product", flag="core_type", soc=name)
    mode = flags["precision_mode"] or flags["precision_mode_v2"]
    if (mode in _BF16 and FAMILIES[soc.family].cube_bf16 is False) or ("hif8" in mode and soc.family != "ascend950"):
        yield say("atc.mode-not-for-product", mode=mode, soc=name)
