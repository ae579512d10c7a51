"""The rules of the pre-flight, one small function each: a context in, findings out."""

from __future__ import annotations

from pth2om.preflight.context import Rule


def all_rules() -> tuple[Rule, ...]:
    """Every rule, in the order in which a reader wants the findings."""
    from pth2om.preflight.rules.custom_ops import RULES as CUSTOM_OPS
    from pth2om.preflight.rules.kernels import RULES as KERNELS
    from pth2om.preflight.rules.numerics import RULES as NUMERICS
    from pth2om.preflight.rules.operators import RULES as OPERATORS
    from pth2om.preflight.rules.parser import RULES as PARSER
    from pth2om.preflight.rules.resources import RULES as RESOURCES
    from pth2om.preflight.rules.shapes import RULES as SHAPES

    return (*PARSER, *CUSTOM_OPS, *KERNELS, *OPERATORS, *SHAPES, *NUMERICS, *RESOURCES)
