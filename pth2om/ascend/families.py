"""What all SoCs of one family have in common: one row a family, read by everything that asks.

A SoC's family is the ``family`` of its row in the table of `pth2om.ascend.socs`, which is also the key of the kernel
table. Sources: "CANN platform_config ini files" (``mmad_types``, ``AIC_version``), "CANN API reference"
(``aclrtFloatOverflowMode``, ``INF_NAN_MODE_ENABLE``), "ATC guide, AIPP" and the operator's tiling sources, CANN
``ops-nn`` (AscendDequant). A family that they do not name takes the rule of its generation (``AIC_version``), and its
`Family.evidence` says ``inferred``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pth2om.ascend import socs
from pth2om.errors import ToolchainError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Overflow = Literal["saturate", "infinity"]
Scale = Literal["float32", "float16", "s19"]
"""How a chip keeps the scale of AscendDequant; ``s19``: sign, exponent and 10 bits of mantissa, the rest cut off."""

_S19_MASK = 0xFFFFE000


@dataclass(frozen=True)
class Aipp:
    """The AIPP unit of a family.

    Attributes:
        widest_padded: most pixels in a row of the result when padding is on.
        rounds_to_nearest: whether its colour conversion rounds to nearest; the others cut off.
        odd_crop: whether a crop of YUV420SP may begin at an odd row or column.
        strict: whether its tiling refuses pictures of one row, and ax_swap beside other formats than XRGB8888.
    """

    widest_padded: int = 4096
    rounds_to_nearest: bool = False
    odd_crop: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Family:
    """The rules of one SoC family.

    Attributes:
        key: of the kernel table and of the ``family`` column of the SoC table: ``ascend310p``.
        name: as the guides write it: ``Ascend310P``.
        overflow: what a result beyond +-65504 becomes in float16.
        evidence: whether the vendor's documents name the family's overflow (``documented``), or it was taken from its
            generation (``inferred``).
        cube_fp32: whether the matrix unit multiplies float32; None where the platform file does not say.
        cube_bf16: the same for bfloat16.
        scale: how the dequantization scale is kept.
        aipp: its AIPP unit; None where it has none.
        ranges: the first CANN (major, minor) whose pages list shape ranges (``1~8`` or -1 without gears) for it; None
            where none does. The pages of 7.0 to 9.1 deny Ascend310B what 9.2.0 beta1 lists.
        nano: compiled with ``--mode=30`` and only so.
        kernels_public: whether its operator library was public when the kernel table was made. Where it was not, an
            operator with only an AI CPU definition may have an AI Core kernel too.
        peak_confirmed: whether a published peak agrees with the one derived from the platform file.
    """

    key: str
    name: str
    overflow: Overflow
    evidence: Literal["documented", "inferred"]
    cube_fp32: bool | None
    cube_bf16: bool | None
    scale: Scale
    aipp: Aipp | None = Aipp()
    ranges: tuple[int, int] | None = (0, 0)
    nano: bool = False
    kernels_public: bool = True
    peak_confirmed: bool = True

    def kept_scale(self, scale: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Dequantization scales as the chip keeps them.

        Args:
            scale: float32, any shape.

        Returns:
            float32, the same shape.
        """
        import numpy as np

        if self.scale == "s19":
            return (scale.view(np.uint32) & np.uint32(_S19_MASK)).view(np.float32)
        if self.scale == "float16":
            return scale.astype(np.float16).astype(np.float32)
        return scale


_NARROW = Aipp(widest_padded=1080)
# Ascend950's tiling refuses rows of more than 1080 pixels when padding is on, whatever its guide says.
_ASCEND_C = Aipp(widest_padded=1080, rounds_to_nearest=True, odd_crop=True, strict=True)

_ROWS = (
    # key, name, overflow, evidence, cube_fp32, cube_bf16, scale
    Family("ascend031", "Ascend031", "saturate", "inferred", True, True, "s19"),
    Family("ascend035", "Ascend035", "saturate", "inferred", None, None, "float32", aipp=None, nano=True),
    Family("ascend310", "Ascend310", "saturate", "inferred", False, False, "float16", ranges=None),
    Family("ascend310b", "Ascend310B", "saturate", "documented", True, True, "s19", ranges=(9, 2)),
    Family("ascend310p", "Ascend310P", "saturate", "documented", False, False, "float32", aipp=_NARROW),
    Family("ascend610", "Ascend610", "saturate", "inferred", False, False, "float32"),
    Family("ascend910", "Ascend910", "saturate", "documented", False, False, "float32", aipp=_NARROW),
    Family("ascend910b", "Ascend910B", "infinity", "documented", True, True, "s19", peak_confirmed=False),
    Family("ascend910_55", "Ascend910_55", "infinity", "inferred", True, True, "s19"),
    Family("ascend910_93", "Ascend910_93", "infinity", "documented", True, True, "s19", kernels_public=False),
    Family("ascend950", "Ascend950", "infinity", "documented", True, True, "s19", aipp=_ASCEND_C),
)

FAMILIES: dict[str, Family] = {row.key: row for row in _ROWS}
"""Every family by its key."""


def find(soc: str | None) -> Family | None:
    """The family of a SoC; None for None and for a name that the table of SoCs does not have."""
    chip = socs.find(soc) if soc else None
    return None if chip is None else FAMILIES[chip.family]


def family(soc: str) -> Family:
    """The family of a SoC.

    Raises:
        ToolchainError: the table of SoCs does not have that name.
    """
    found = find(soc)
    if found is None:
        known = ", ".join(row.name for row in _ROWS)
        raise ToolchainError("ascend.no-family", soc=soc, families=known)
    return found
