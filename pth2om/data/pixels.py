"""A session that turns normalized values back into pixels, for an OM with AIPP: its reference takes the values."""

from __future__ import annotations

import functools
import itertools
from types import TracebackType

import numpy as np
import numpy.typing as npt

from pth2om.errors import Absent
from pth2om.session import Array, Feeds, Provenance, Session, TensorSpec
from pth2om.spec import Preprocess

_AT_ONCE = 1 << 18
"""Values that are turned at once: two megabytes of memory at most."""


def unnormalized(values: Array, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """The pixels that a preprocessing made values of, in the channel order of the values.

    Args:
        values: (N, C, H, W), as the net is fed, without an appended channel.
        preprocess: how they were made.

    Returns:
        uint8 of the same shape: ``round((value * std + mean) * scale)``, clipped to 0..255.
    """
    count, channels, height, width = values.shape
    pixels = np.empty((count, height, width, channels), np.uint8)
    rows = max(_AT_ONCE // max(channels * width, 1), 1)
    mean, std = (np.reshape(part, (-1, 1, 1)) for part in (preprocess.mean, preprocess.std))
    for image, top in itertools.product(range(count), range(0, height, rows)):
        wide = values[image, :, top : top + rows].astype(np.float64)
        if preprocess.mean:
            wide *= std
            wide += mean
        wide *= preprocess.scale
        np.rint(wide, out=wide)
        np.clip(wide, 0, 255, out=wide)
        pixels[image, top : top + rows] = wide.transpose(1, 2, 0)
    # As bytes lie in a picture: that is how they are wanted next.
    return pixels.transpose(0, 3, 1, 2)


class PixelFed:
    """Feeds a session that takes uint8 NHWC pixels from the normalized NCHW values of a spec's ``[preprocess]``.

    See `unnormalized`: exact for values that were made from pixels. A value between two pixels (a random sample) is
    rounded to the nearer one, so it moves by at most half a grey level. Who has the pixels may feed them as they are,
    where `takes_pixels`.

    Args:
        session: takes pixels.
        preprocess: how the values were made from pixels.
        name: the input that takes the image.
        input_format: of AIPP: ``RGB888_U8``, ``XRGB8888_U8`` or ``YUV400_U8``.
        x_first: whether an XRGB8888 pixel begins with X.

    Raises:
        Absent: the pixels of that format cannot be made of such values: YUV420SP has one colour for four pixels.
    """

    def __init__(
        self,
        session: Session,
        preprocess: Preprocess,
        name: str,
        input_format: str = "RGB888_U8",
        *,
        x_first: bool = False,
    ) -> None:
        if input_format == "YUV420SP_U8":
            raise Absent("data.no-yuv-pixels")
        self._format, self._x_first = input_format, x_first
        self._session = session
        self._name = name
        self._preprocess = preprocess
        self._channels = 1 if preprocess.color == "GRAY" else 3
        self._swapped = preprocess.color == "BGR"

    @property
    def inner(self) -> Session:
        """The session that is fed."""
        return self._session

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs of the model without AIPP: float32 NCHW."""
        return tuple(self._before(spec) for spec in self._session.inputs)

    def _before(self, spec: TensorSpec) -> TensorSpec:
        if spec.name != self._name:
            return spec
        batch, height, width, _ = spec.shape
        return TensorSpec(spec.name, (batch, self._channels, height, width), np.dtype(np.float32))

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The session's."""
        return self._session.outputs

    @property
    def digest(self) -> str:
        """The session's: pixels are made from values in one way only."""
        return f"{self._session.digest}-pixels"

    @property
    def provenance(self) -> Provenance:
        """The session's."""
        return self._session.provenance

    @functools.cached_property
    def takes_pixels(self) -> bool:
        """Whether RGB pixels, uint8 (N, H, W, 3), are taken in the place of the values that are made of them.

        They are where every one of the 256 levels of each channel comes back from its value.
        """
        from pth2om.data.preprocess import Preprocessor

        if self._channels == 1 or self._preprocess.extra != "none":
            return False
        levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
        values = Preprocessor(self._preprocess).normalize(levels)
        return bool((unnormalized(values[None], self._preprocess) == levels.transpose(2, 0, 1)).all())

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """See `Session.run`; the image's values, or its pixels where `takes_pixels`."""
        fed = feeds[self._name]
        pixels = self._formatted(fed) if fed.dtype == np.uint8 else self.pixels(fed)
        return self._session.run({**feeds, self._name: pixels})

    def pixels(self, values: Array) -> Array:
        """Values (N, C, H, W) as pixels, uint8 (N, H, W, bytes of a pixel): RGB, with X where the format has it."""
        pixels = unnormalized(values, self._preprocess).transpose(0, 2, 3, 1)
        return self._formatted(pixels[..., ::-1] if self._swapped else pixels)

    def _formatted(self, pixels: Array) -> Array:
        if self._format != "YUV400_U8" and pixels.shape[3] == 1:
            pixels = np.repeat(pixels, 3, axis=3)
        if self._format == "XRGB8888_U8":
            unused = np.zeros((*pixels.shape[:3], 1), np.uint8)
            pixels = np.concatenate([unused, pixels] if self._x_first else [pixels, unused], axis=3)
        return np.ascontiguousarray(pixels)

    def close(self) -> None:
        """Close the session."""
        self._session.close()

    def __enter__(self) -> PixelFed:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
