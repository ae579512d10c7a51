"""Precision modes: which nodes compute in float16 under one mode on one SoC."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pth2om.ascend.families import Family, family
from pth2om.errors import ToolchainError
from pth2om.toolchain.emulator.numerics.operators import CUBE

Scheme = Literal["force_fp16", "origin", "allow_fp32_to_fp16", "mixed", "cube_fp16"]

_SCHEMES: dict[str, Scheme] = {
    "force_fp16": "force_fp16",
    "fp16": "force_fp16",
    "must_keep_origin_dtype": "origin",
    "origin": "origin",
    "allow_fp32_to_fp16": "allow_fp32_to_fp16",
    "allow_mix_precision": "mixed",
    "allow_mix_precision_fp16": "mixed",
    "mixed_float16": "mixed",
    "force_fp32": "cube_fp16",
    "cube_fp16in_fp32out": "cube_fp16",
}
"""``--precision_mode`` and ``--precision_mode_v2`` values ("ATC guide, precision flags")."""

_NOT_EMULATED = {
    "allow_fp32_to_bf16": "bfloat16",
    "allow_mix_precision_bf16": "bfloat16",
    "mixed_bfloat16": "bfloat16",
    "cube_hif8": "hifloat8",
    "mixed_hif8": "hifloat8",
}


def scheme(mode: str) -> Scheme:
    """The rounding scheme of a precision mode; ``""`` is ATC's default.

    Raises:
        ToolchainError: the mode is unknown, or computes in a type that is not emulated.
    """
    found = _SCHEMES.get(mode or "force_fp16")
    if found is not None:
        return found
    if mode in _NOT_EMULATED:
        raise ToolchainError("emulator.mode-not-emulated", mode=mode, kind=_NOT_EMULATED[mode])
    raise ToolchainError("emulator.unknown-mode", mode=mode, modes=", ".join((*_SCHEMES, *_NOT_EMULATED)))


@dataclass(frozen=True)
class MixList:
    """Which operator types may (white), must not (black) drop to float16; all others follow their predecessor (grey).

    The built-in list is in the toolkit's own ``aic-<soc>-ops-info.json`` (``precision_reduce``) and differs by
    release; here the matrix operators are white (the ATC guide shows Conv2D so) and everything else is grey.
    """

    white: frozenset[str] = CUBE
    black: frozenset[str] = frozenset()

    def modified(self, lists: Mapping[str, Any]) -> MixList:
        """This list after ``--modify_mixlist``.

        Args:
            lists: ``{"white-list": {"to-add": [...], "to-remove": [...]}, "black-list": {...}}``, operator types as
                ONNX names or as the names of the operators ATC makes of them.

        Raises:
            ToolchainError: it has another form.
        """
        sides = {"white-list": set(self.white), "black-list": set(self.black)}
        if not isinstance(lists, Mapping):
            raise ToolchainError("emulator.mixlist", reason=type(lists).__name__)
        for side, changes in lists.items():
            if side not in sides or not isinstance(changes, Mapping) or set(changes) - {"to-add", "to-remove"}:
                raise ToolchainError("emulator.mixlist", reason=json.dumps({side: changes}, default=str)[:120])
            for change, names in changes.items():
                if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                    raise ToolchainError("emulator.mixlist", reason=f"{side}.{change}")
                types = {onnx_name for name in names for onnx_name in onnx_types(name)}
                if change == "to-remove":
                    sides[side] -= types
                    continue
                sides[side] |= types
                for other in sides:
                    if other != side:
                        sides[other] -= types
        return MixList(frozenset(sides["white-list"]), frozenset(sides["black-list"]))


_GE_TYPES: dict[str, tuple[str, ...]] = {
    "Conv2D": ("Conv",),
    "Conv3D": ("Conv",),
    "DepthwiseConv2D": ("Conv",),
    "Conv2DTranspose": ("ConvTranspose",),
    "Conv2DTransposeD": ("ConvTranspose",),
    "Deconvolution": ("ConvTranspose",),
    "MatMulV2": ("MatMul", "Gemm"),
    "BatchMatMul": ("MatMul",),
    "BatchMatMulV2": ("MatMul",),
    "GEMM": ("Gemm",),
    "SoftmaxV2": ("Softmax",),
    "LogSoftmaxV2": ("LogSoftmax",),
    "RealDiv": ("Div",),
    "Muls": ("Mul",),
    "Adds": ("Add",),
    "BatchNorm": ("BatchNormalization",),
    "BNInfer": ("BatchNormalization",),
    "InstanceNorm": ("InstanceNormalization",),
    "LayerNormV3": ("LayerNormalization",),
    "LayerNormV4": ("LayerNormalization",),
    "ReduceSumD": ("ReduceSum",),
    "ReduceMeanD": ("ReduceMean",),
    "GatherV2": ("Gather",),
    "ConcatD": ("Concat",),
    "ConcatV2": ("Concat",),
    "TransposeD": ("Transpose",),
    "SelectV2": ("Where",),
    "Maximum": ("Max",),
    "Minimum": ("Min",),
    "ClipByValue": ("Clip",),
}


def onnx_types(name: str) -> tuple[str, ...]:
    """The ONNX operator types behind an operator type of ATC's own (``Conv2D``), or the name itself."""
    return _GE_TYPES.get(name, (name,))


@dataclass(frozen=True)
class Policy:
    """Who computes in float16 under one mode on one SoC.

    Attributes:
        scheme: the mode's scheme.
        family: the SoC's rules.
        keep: node names and ONNX operator types of ``--keep_dtype``.
        lists: for the mixed modes.
        weight_clip: ``--is_weight_clip``.
    """

    scheme: Scheme
    family: Family
    keep_names: frozenset[str] = frozenset()
    keep_types: frozenset[str] = frozenset()
    lists: MixList = field(default_factory=MixList)
    weight_clip: bool = True

    @classmethod
    def of(
        cls,
        precision_mode: str,
        soc: str,
        keep_dtype: Collection[str] = (),
        modify_mixlist: Mapping[str, Any] | None = None,
        weight_clip: bool = True,
    ) -> Policy:
        """From ATC's own words; ``keep_dtype`` holds node names and ``OpType::Type`` entries.

        Raises:
            ToolchainError: a mode, SoC or mix list that is not known.
        """
        kinds = [entry.split("::", 1)[1] for entry in keep_dtype if entry.startswith("OpType::")]
        lists = MixList()
        return cls(
            scheme=scheme(precision_mode),
            family=family(soc),
            keep_names=frozenset(entry for entry in keep_dtype if not entry.startswith("OpType::")),
            keep_types=frozenset(kind for entry in kinds for kind in onnx_types(entry)),
            lists=lists.modified(modify_mixlist) if modify_mixlist is not None else lists,
            weight_clip=weight_clip,
        )

    def computes_in_half(self, op_type: str, name: str, *, source_half: bool, after_half: bool) -> bool:
        """Whether a node's kernel takes and gives float16.

        Args:
            op_type: ONNX type.
            name: node name.
            source_half: its float tensors are float16 in the ONNX file.
            after_half: its predecessors compute in float16 (grey operators follow them).
        """
        if self.scheme == "origin":
            return source_half
        if name in self.keep_names or op_type in self.keep_types:
            return source_half
        if self.scheme == "force_fp16":
            return True
        if self.scheme == "cube_fp16":
            return False
        if source_half:
            return True
        if self.scheme == "allow_fp32_to_fp16":
            return op_type in CUBE
        if op_type in self.lists.black:
            return False
        return op_type in self.lists.white or after_half

    def takes_half(self, op_type: str, name: str) -> bool:
        """Whether a node that gives float32 still takes float16 (cube: float16 in, float32 out)."""
        return (
            self.scheme == "cube_fp16"
            and op_type in CUBE
            and not (name in self.keep_names or op_type in self.keep_types)
        )
