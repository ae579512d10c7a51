"""The custom operators that are known: those that come with pth2om, and those that a model declares.

What a model declares holds inside ``with operators.known():`` only, as ``ASCEND_CUSTOM_OPP_PATH`` holds for a process:
then ATC's parser is taken to register them, and the chip families that they name to have their kernels. Where the
operator package itself can be read, its word counts instead.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pth2om.ascend.operator_package import OperatorPackage
from pth2om.errors import SpecError
from pth2om.spec.custom_ops import CustomOp, bind, evaluate, sizes

STANDARD = ("", "ai.onnx")


@dataclass(frozen=True)
class Operators:
    """The custom operators of one model.

    Attributes:
        declared: complete declarations.
        packages: label of an operator -> its package, where it was read.
    """

    declared: tuple[CustomOp, ...] = ()
    packages: Mapping[str, OperatorPackage] = field(default_factory=dict)

    @classmethod
    def of(
        cls, declared: Sequence[CustomOp], packages: Mapping[str, OperatorPackage] | None = None, where: str = ""
    ) -> Operators:
        """Declarations completed by those that come with pth2om.

        Raises:
            SpecError: one names no inputs, and none of its name comes with pth2om.
        """
        return cls(tuple(_completed(entry, where) for entry in declared), dict(packages or {}))

    @contextlib.contextmanager
    def known(self) -> Iterator[None]:
        """Inside the block these operators are declared, and no others."""
        before = _SCOPE.set(self)
        try:
            yield
        finally:
            _SCOPE.reset(before)

    @property
    def digest(self) -> str:
        """sha256 of the declarations and packages; ``""`` without any."""
        if not self.declared:
            return ""
        facts = [[entry.model_dump(mode="json", exclude={"package", "origin"}) for entry in self.declared]]
        text = json.dumps([facts, {name: found.digest for name, found in self.packages.items()}], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def keys(self) -> frozenset[str]:
        """The ``domain::opset::Type`` that their plug-ins register: by the package where it was read."""
        found: set[str] = set()
        for entry in self.declared:
            package = self.packages.get(entry.label)
            found |= entry.keys if package is None else entry.keys & package.keys
        return frozenset(found)

    def kernels(self, family: str) -> dict[str, frozenset[str] | None]:
        """Operator -> dtypes of its inputs, of those with a kernel on a chip family."""
        found: dict[str, frozenset[str] | None] = {}
        for entry in self.declared:
            package = self.packages.get(entry.label)
            if package is not None:
                packaged = package.operators.get(family, {}).get(entry.op_type)
                if packaged is not None:
                    found[entry.op_type] = frozenset(kind for port in packaged.inputs for kind in port.dtypes) or None
            elif family in entry.families:
                found[entry.op_type] = frozenset(kind for port in entry.inputs for kind in port.dtypes)
        return found


_NONE = Operators()
_SCOPE: contextvars.ContextVar[Operators] = contextvars.ContextVar("pth2om_custom_ops", default=_NONE)


def current() -> Operators:
    """Those that are declared here."""
    return _SCOPE.get()


@functools.cache
def built_in() -> tuple[CustomOp, ...]:
    """The operators that come with pth2om, from ``custom_ops.toml``."""
    with Path(__file__).with_name("custom_ops.toml").open("rb") as file:
        return tuple(CustomOp.model_validate(entry) for entry in tomllib.load(file)["custom_ops"])


def find(domain: str, op_type: str) -> CustomOp | None:
    """The declaration behind a node, or that which comes with pth2om; None for any other operator.

    Args:
        domain: of the node; in the standard domain only operators that may be merged into it are found.
        op_type: of the node.
    """
    for entry in (*current().declared, *built_in()):
        standard = domain in STANDARD and entry.standard_opsets is not None
        if entry.op_type == op_type and (entry.domain == domain or standard):
            return entry
    return None


def output_shapes(
    operator: CustomOp, shapes: Sequence[Sequence[int] | None]
) -> tuple[list[tuple[int, ...] | None], list[str]]:
    """What shape inference gives for a node of the operator.

    Args:
        operator: its declaration.
        shapes: of the node's inputs; None unknown, -1 for an unknown size.

    Returns:
        The shapes of the outputs (-1 for a size that is not known), and what does not agree among the inputs.
    """
    found, wrong = bind([port.shape for port in operator.inputs], shapes)
    outputs: list[tuple[int, ...] | None] = []
    for entry in operator.outputs:
        values = [evaluate(word, found) for word in sizes(entry.shape)]
        outputs.append(tuple(-1 if value is None or value < 0 else value for value in values))
    return outputs, wrong


def broken_limits(operator: CustomOp, shapes: Sequence[Sequence[int] | None]) -> list[tuple[str, int, str]]:
    """The limits that a node exceeds: expression, its value, the limit as text.

    Args:
        operator: its declaration.
        shapes: of the node's inputs, as for `output_shapes`.
    """
    found, _ = bind([port.shape for port in operator.inputs], shapes)
    broken = []
    for limit in operator.limits:
        value = evaluate(limit.of, found)
        if value is not None and not limit.holds(value):
            broken.append((limit.of, value, limit.text))
    return broken


def _completed(entry: CustomOp, where: str) -> CustomOp:
    if entry.inputs:
        return entry
    known = next((other for other in built_in() if other.label == entry.label), None)
    if known is None:
        names = ", ".join(other.label for other in built_in())
        raise SpecError("spec.custom-op-unknown", where=where or None, label=entry.label, known=names)
    given = {name: getattr(entry, name) for name in entry.model_fields_set}
    return known.model_copy(update=given)
