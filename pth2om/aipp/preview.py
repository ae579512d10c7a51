"""What a model gets of an image through an AIPP configuration, as a picture."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pth2om.aipp.arithmetic import apply
from pth2om.aipp.config import AippConfig
from pth2om.aipp.csc import RGB_TO_YUV, YUV_TO_BGR, YUV_TO_RGB, AippSettings, settings
from pth2om.errors import AippError
from pth2om.files import write_bytes

_GAP = 8
_TALLEST = 640
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Previewed:
    """A preview.

    Attributes:
        low: smallest value that the model gets.
        high: largest.
        shape: (channels, height, width) of what it gets.
        standard: by which RGB was made YUV; empty for other formats.
    """

    low: float
    high: float
    shape: tuple[int, int, int]
    standard: str


def write_preview(
    config: AippConfig,
    image: Path,
    destination: Path,
    model_hw: tuple[int, int] | None = None,
    *,
    soc: str | None = None,
) -> Previewed:
    """Write a PNG: the picture as it is fed, beside what the model gets of it.

    The values of the model's input are stretched from their smallest to their largest; channel 0 is drawn red.

    Args:
        config: its first operator is used.
        image: any image file; it is resized to the configuration's source size.
        destination: the PNG.
        model_hw: height and width of the model's input; None: what the configuration makes of its source size.
        soc: decides the rounding of the colour conversion.

    Raises:
        DataError: the image cannot be read.
        AippError: the configuration has no source size and no ``model_hw`` is given, its geometry does not fit, or the
            file cannot be written.
    """
    from PIL import Image

    from pth2om.data.image import decode

    op = config.op(0)
    sized = op.integer("src_image_size_h"), op.integer("src_image_size_w")
    if model_hw is None:
        if not all(sized):
            raise AippError("aipp.preview-size")
        model_hw = settings(op, sized).output_hw
    wanted = settings(op, model_hw)
    height, width = wanted.source
    rgb = np.asarray(Image.fromarray(decode(image)).resize((width, height), Image.Resampling.BILINEAR))
    standard = _standard(wanted)
    seen = np.asarray(apply(op, frame(rgb, wanted, standard), model_hw, soc=soc)[0], np.float64)
    finite = seen[np.isfinite(seen)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    grey = np.nan_to_num((seen - low) / ((high - low) or 1.0) * 255.0).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    result = np.repeat(grey[:, :, :1], 3, axis=2) if grey.shape[2] != 3 else grey
    _write(Image.fromarray(rgb), Image.fromarray(np.ascontiguousarray(result)), destination)
    channels, rows, columns = seen.shape
    return Previewed(low, high, (channels, rows, columns), standard)


def frame(rgb: Bytes, wanted: AippSettings, standard: str) -> Bytes:
    """The bytes that a camera of the configuration's format delivers of a picture.

    Args:
        rgb: (height, width, 3), of even sides for YUV420SP.
        wanted: the settings.
        standard: of `RGB_TO_YUV`, for YUV formats. A swap of the chroma is taken for a camera of NV21.
    """
    if wanted.input_format == "RGB888_U8":
        return rgb
    if wanted.input_format == "XRGB8888_U8":
        unused = np.zeros_like(rgb[:, :, :1])
        return np.concatenate([unused, rgb] if wanted.swap_ax else [rgb, unused], axis=2)
    conversion = RGB_TO_YUV[standard or "601-narrow"]
    matrix, bias = np.array(conversion.matrix), np.array(conversion.bias)
    yuv = np.clip(np.rint(rgb.astype(np.float64) @ matrix.T / 256.0) + bias, 0, 255)
    luma: Bytes = yuv[:, :, 0].astype(np.uint8)
    if wanted.input_format == "YUV400_U8":
        return luma
    rows, columns = luma.shape[0] // 2, luma.shape[1] // 2
    chroma = yuv[: rows * 2, : columns * 2, 1:].reshape(rows, 2, columns, 2, 2).mean(axis=(1, 3))
    if wanted.swap:
        chroma = chroma[:, :, ::-1]
    return np.concatenate([luma.reshape(-1), np.rint(chroma).astype(np.uint8).reshape(-1)])


def _standard(wanted: AippSettings) -> str:
    """The standard whose matrix the configuration has; the guide's usual one where it is none of them."""
    if not wanted.input_format.startswith("YUV"):
        return ""
    for table in (YUV_TO_RGB, YUV_TO_BGR):
        for name, one in table.items():
            if one.matrix == wanted.csc:
                return name
    return "601-narrow"


def _write(left: object, right: object, destination: Path) -> None:
    from PIL import Image

    pictures = []
    for one in (left, right):
        assert isinstance(one, Image.Image)
        factor = min(1.0, _TALLEST / one.height)
        pictures.append(one.resize((max(1, round(one.width * factor)), max(1, round(one.height * factor)))))
    wide = sum(one.width for one in pictures) + _GAP
    sheet = Image.new("RGB", (wide, max(one.height for one in pictures)), "white")
    sheet.paste(pictures[0], (0, 0))
    sheet.paste(pictures[1], (pictures[0].width + _GAP, 0))
    data = io.BytesIO()
    sheet.save(data, "PNG")
    try:
        write_bytes(destination, data.getvalue())
    except OSError as error:
        raise AippError("aipp.not-written", where=str(destination), reason=error.strerror or str(error)) from None
