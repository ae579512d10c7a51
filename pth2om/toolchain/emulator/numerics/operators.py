"""What the emulator knows about ONNX operators: which compute on the cube, which only move values, and so on."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CUBE = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "DeformConv"})
"""Operators of the matrix unit: float16 in, float32 accumulation ("ATC guide, precision_mode": matrix operators)."""

MOVEMENT = _words(
    """
    Abs ArrayFeatureExtractor Ceil Clip Compress Concat ConcatFromSequence DepthToSpace Dropout Expand Flatten
    Floor Gather GatherElements GatherND GlobalMaxPool Hardmax Identity Max MaxPool MaxRoiPool MaxUnpool Min Neg
    NonZero OneHot Pad ReduceMax ReduceMin Relu Reshape ReverseSequence Round SequenceAt Sign Slice SpaceToDepth
    Split Squeeze ThresholdedRelu Tile TopK Transpose Trilu Unique Unsqueeze Where
    """
)
"""Operators whose float outputs are values of their float inputs (or their negative, magnitude, integer part): float16
values stay float16 values, so no rounding is written behind them."""

SCATTERS = frozenset({"ScatterND", "ScatterElements", "Scatter"})
"""`MOVEMENT` where their ``reduction`` is ``none``."""

PARAMETER_INPUTS: dict[str, frozenset[int]] = {
    "Resize": frozenset({1, 2}),
    "Upsample": frozenset({1}),
    "NonMaxSuppression": frozenset({3, 4}),
    "Dropout": frozenset({1, 2}),
    "Range": frozenset({0, 1, 2}),
}
"""Float inputs that are parameters (scales, thresholds), which ATC reads on the host and never rounds to float16."""

SHAPE = frozenset({"Shape", "Size"})
"""Operators whose results ATC knows while compiling a graph of static shapes."""

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Never folded on the host."""

ACTIVATIONS = _words(
    """
    Relu LeakyRelu PRelu Clip Sigmoid Tanh HardSigmoid HardSwish Mish Elu Selu Celu Softplus Softsign
    ThresholdedRelu
    """
)
"""What the fused band joins to the convolution or matrix product before it."""

GATES = frozenset({"Sigmoid", "HardSigmoid"})
"""x * gate(x) is one activation (SiLU, HardSwish)."""

BOUNDED = frozenset({"Sigmoid", "Tanh", "HardSigmoid", "Softmax", "Softsign", "Erf", "Sin", "Cos", "Hardmax"})
"""Operators whose results cannot leave float16's range."""

NAN_MAKERS = frozenset(
    {"Div", "Sqrt", "Log", "Pow", "Acos", "Asin", "Acosh", "Atanh", "Mod", "ReduceLogSum", "LpNormalization"}
)
"""Operators that make NaN of finite inputs."""

DTYPE_ATTRIBUTES: dict[str, str] = {
    "Cast": "to",
    "EyeLike": "dtype",
    "RandomNormal": "dtype",
    "RandomNormalLike": "dtype",
    "RandomUniform": "dtype",
    "RandomUniformLike": "dtype",
    "Bernoulli": "dtype",
    "SequenceEmpty": "dtype",
}
"""Attributes that name an element type."""


def preserves(op_type: str, attributes: dict[str, object]) -> bool:
    """Whether float16 values in mean float16 values out (see `MOVEMENT`).

    Args:
        op_type: a standard operator.
        attributes: those that matter, decoded.
    """
    if op_type in SCATTERS:
        return attributes.get("reduction", b"none") == b"none"
    if op_type == "Resize" or op_type == "Upsample":
        return attributes.get("mode", b"nearest") == b"nearest"
    return op_type in MOVEMENT
