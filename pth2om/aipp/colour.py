"""Whether a colour conversion keeps grey grey: black, mid grey and white put through matrix and biases.

Every conversion of the ATC guide maps grey to grey, black to black and white to white, whatever its standard, because
each of its matrices belongs to one range (narrow: Y of 16 to 235, wide: 0 to 255) and to the biases of that range. A
matrix of one range with biases of the other gives darker, brighter or coloured pictures; the OM runs all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from pth2om.aipp.config import AippOp
from pth2om.aipp.csc import AippSettings
from pth2om.evidence import Finding
from pth2om.language import say

Triple = tuple[int, int, int]

_TOLERANCE = 4
"""Grey levels that a conversion may be off: the matrices of the guide are off by 2 at most, by their rounding."""

_YUV_RANGES = {"narrow": (16, 126, 235), "wide": (0, 128, 255)}
"""Y of black, mid grey and white."""


def findings(op: AippOp, wanted: AippSettings) -> Iterator[Finding]:
    """A finding when neither range of the input gives black, grey and white on the other side.

    Args:
        op: the operator, for the line of its matrix.
        wanted: its settings, defaults filled in.
    """
    if wanted.csc is None or wanted.input_format == "YUV400_U8":
        return
    if wanted.input_format == "YUV420SP_U8":
        scales = [[(y, 128, 128) for y in levels] for levels in _YUV_RANGES.values()]
    else:
        scales = [[(level, level, level) for level in (0, 128, 255)]]
    results = [[_converted(pixel, wanted) for pixel in scale] for scale in scales]
    if any(_is_grey_scale(result) for result in results):
        return
    # The range that comes closest to what the matrix was made for: the one of fewer and smaller errors.
    nearest = min(results, key=_error)
    black, grey, white = (_shown(pixel) for pixel in nearest)
    lines = [op.lines[name] for name in op.lines if name.startswith(("matrix_", "input_bias", "output_bias"))]
    line = min(lines, default=op.lines.get("csc_switch", op.line))
    message = say("aipp.colour-shift", black=black, grey=grey, white=white)
    yield Finding(
        "aipp.colour-shift",
        "warning",
        message,
        f"aipp_op[{op.rank}]",
        {"line": line, "black": black, "grey": grey, "white": white},
    )


def _converted(pixel: Triple, wanted: AippSettings) -> tuple[int, ...]:
    """One pixel through the conversion, not clipped: what is cut off later is an error already."""
    assert wanted.csc is not None
    rows = wanted.csc[:1] if wanted.grey else wanted.csc
    centred = [value - bias for value, bias in zip(pixel, wanted.input_bias, strict=True)]
    sums = (sum(weight * value for weight, value in zip(row, centred, strict=True)) >> 8 for row in rows)
    return tuple(total + bias for total, bias in zip(sums, wanted.output_bias, strict=False))


def _targets(count: int) -> Iterator[list[tuple[int, ...]]]:
    """What black, grey and white may become: RGB or grey of the whole range, or YUV of either range."""
    yield [(level,) * count for level in (0, 128, 255)]
    for levels in _YUV_RANGES.values():
        yield [(level, 128, 128)[:count] for level in levels]


def _error(result: list[tuple[int, ...]]) -> int:
    """The largest distance of black or white from the nearest target; grey lies between them."""
    ends = [value for pixel in result[::2] for value in pixel]
    goals = ([value for pixel in target[::2] for value in pixel] for target in _targets(len(result[0])))
    return min(max(abs(a - b) for a, b in zip(ends, goal, strict=True)) for goal in goals)


def _is_grey_scale(result: list[tuple[int, ...]]) -> bool:
    return _error(result) <= _TOLERANCE


def _shown(pixel: tuple[int, ...]) -> str:
    clipped = [str(min(max(value, 0), 255)) for value in pixel]
    return clipped[0] if len(clipped) == 1 else f"({', '.join(clipped)})"
