"""What a run was asked for, besides the specs."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pth2om.toolchain import Access

if TYPE_CHECKING:
    from pth2om.ascend.target import Target


@dataclass(frozen=True)
class RunSettings:
    """What a run was asked for, besides the specs.

    Attributes:
        models: the folder of specs.
        calib: the folder of datasets.
        data_roots: further places where weights and datasets may lie.
        soc: ``Ascend310B1``...; None: nothing is compiled.
        toolchain: name of a registered toolchain, see `pth2om.toolchain.choosing`.
        cann: whose rules hold: ``7.0``, ``8.0``, ``9.x``, or what the board has.
        access: the machines of a toolchain that needs real ones.
        weights: model name -> file, given by the user.
        datasets: dataset name -> folder, given by the user.
        trust: models whose pickled architecture may run.
        subset: at most that many labelled images.
        threads: of PyTorch and ONNX Runtime.
        providers: of ONNX Runtime.
        seed: of random samples and seeded weights.
        run: names the run, the same in all its processes; what cannot be kept for the next run is kept under it.
    """

    models: Path
    calib: Path
    data_roots: tuple[Path, ...] = ()
    soc: str | None = None
    toolchain: str = "emulator"
    cann: str = "9.x"
    access: Access = field(default_factory=Access)
    weights: Mapping[str, Path] = field(default_factory=dict)
    datasets: Mapping[str, Path] = field(default_factory=dict)
    trust: frozenset[str] = frozenset()
    subset: int | None = None
    threads: int | None = None
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    seed: int = 0
    run: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)

    @functools.cached_property
    def target(self) -> Target:
        """SoC, CANN and operator packages, read once.

        Raises:
            ToolchainError: there is no such SoC or CANN version.
        """
        from pth2om.ascend.target import Target

        return Target.of(self.soc, self.cann)
