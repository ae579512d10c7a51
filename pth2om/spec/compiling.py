"""The table of a spec that says how atc is run, beside its options."""

from __future__ import annotations

from pth2om.spec.tables import Table


class Compiling(Table):
    """``[compile]``: what happens around one run of atc.

    Attributes:
        precheck: ``atc --mode=3`` comes first; what it refuses ends the compile before the long part of it begins, with
            every node that it lists. The toolchain's own front end is asked where there is no atc.
    """

    precheck: bool = False
