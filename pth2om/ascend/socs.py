"""The names of ``--soc_version`` and the data of each chip.

From ``platform_config/*.ini`` of the public CANN runtime repository; which names an ``atc`` takes depends on its
release.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any, cast

from pth2om.ascend import TABLES
from pth2om.ascend.toolkit import toolkit
from pth2om.ascend.versions import generation


@dataclass(frozen=True)
class Soc:
    """One chip.

    Attributes:
        name: as ``--soc_version`` takes it.
        family: key of `pth2om.ascend.families.FAMILIES` and of the kernel table, ``ascend310b``.
        fp16_tflops: peak of the cube units, derived from core count, clock and tile; None when unknown.
        int8_tops: the same for INT8.
        memory_bytes: device memory of the platform file; None when unknown. On Ascend310B it is shared with Linux.
        bandwidth_gbs: published or derived memory bandwidth in GB/s; None when unknown.
        cube_cores: number of AI cores.
        vector_cores: number of vector cores; None when unknown.
        source: where the figures come from.
    """

    name: str
    family: str
    fp16_tflops: float | None
    int8_tops: float | None
    memory_bytes: int | None
    bandwidth_gbs: float | None
    cube_cores: int | None
    vector_cores: int | None
    source: str


OLD_NAMES = {"Ascend710": "Ascend310P3"}
"""Names of CANN 7 and older, and the chip whose figures stand for them."""


@functools.cache
def table() -> dict[str, Any]:
    """The packaged table ``socs.json``."""
    with (TABLES / "socs.json").open(encoding="utf-8") as file:
        return cast("dict[str, Any]", json.load(file))


@functools.cache
def find(name: str) -> Soc | None:
    """The chip of that name, of any release; None when no release is known to have it."""
    row = table()["socs"].get(table()["aliases"].get(name, OLD_NAMES.get(name, name)))
    if row is None:
        return None
    return Soc(
        name=name,
        family=row["family"],
        fp16_tflops=row.get("derived_fp16_tflops"),
        int8_tops=row.get("derived_int8_tops"),
        memory_bytes=row.get("device_memory_bytes"),
        bandwidth_gbs=next(
            (
                row[key]
                for key in ("published_memory_gbs", "derived_memory_gbs", "derived_from_card_memory_gbs")
                if key in row
            ),
            None,
        ),
        cube_cores=row.get("ai_core_count"),
        vector_cores=row.get("vector_core_count"),
        source=row["source"],
    )


@functools.cache
def names(cann: str = "9.x") -> tuple[str, ...]:
    """The names that an ``atc`` of that CANN takes, as far as the public platform files of its time tell."""
    release = generation(cann)
    found = [name for name, row in table()["socs"].items() if _taken(name, row, release)]
    found += [alias for alias in table()["aliases"] if table()["aliases"][alias] in found]
    return tuple(sorted(found))


def installed(name: str) -> bool:
    """Whether an installed CANN has a platform file of that name."""
    folder = toolkit()
    if folder is None or not name.replace("_", "").replace("-", "").isalnum():
        return False
    places = (f"*/data/platform_config/{name}.ini", f"data/platform_config/{name}.ini")
    return any(True for place in places for _ in folder.glob(place))


def suggestions(name: str, cann: str = "9.x") -> tuple[str, ...]:
    """Names close to a misspelled one, best first; at most three."""
    import difflib

    known = {known.lower(): known for known in names(cann)}
    return tuple(known[close] for close in difflib.get_close_matches(name.lower(), list(known), 3, 0.6))


def _taken(name: str, row: dict[str, Any], release: int) -> bool:
    releases = row.get("releases")
    if releases is None:
        return (name == "Ascend310" and release <= 8) or (name == "Ascend710" and release == 7)
    first, last = releases
    if release == 9:
        return str(last).startswith(("master", "v9"))
    # The oldest public platform files are of 8.5.0; what they have is taken to be in 7 and 8 too.
    return str(first).startswith("v8")
