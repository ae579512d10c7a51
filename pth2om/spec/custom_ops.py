"""``[[custom_ops]]``: operators that neither ONNX nor CANN itself has: their declaration, and how they run on the host.

Shapes and limits are written in sizes of the inputs: ``shape = "batch queries heads*embed"``.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pth2om.spec.tables import Name, Table

Dtype = Literal["float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]
AttributeValue = bool | int | float | str | tuple[int, ...] | tuple[float, ...]

_LONGEST = 200
_LARGEST = 2**48
_CALCULATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
_Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
_Domain = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,63}$")]


class Port(Table):
    """``[[custom_ops.inputs]]``: one input of the operator.

    Attributes:
        name: as the operator package calls it.
        dtypes: what its kernels take; anything else is cast to the first.
        shape: names of its sizes, or numbers, separated by blanks; ``"levels 2"``. None: any.
    """

    name: _Identifier
    dtypes: tuple[Dtype, ...] = Field(min_length=1)
    shape: str | None = None

    @model_validator(mode="after")
    def _readable(self) -> Port:
        for word in sizes(self.shape):
            if not (word.isidentifier() or word.isdecimal()):
                raise ValueError(f"the shape of input {self.name}: {word!r} is neither a name nor a number")
        return self


class Result(Table):
    """``[[custom_ops.outputs]]``: one output of the operator.

    Attributes:
        name: as the operator package calls it.
        dtype: what its kernels give.
        shape: one size each, in numbers and sizes of the inputs, separated by blanks; ``"batch queries heads*embed"``.
    """

    name: _Identifier
    dtype: Dtype
    shape: str


class Bound(Table):
    """``[[custom_ops.limits]]``: what the kernels of the operator can do.

    Attributes:
        of: a number made of sizes: ``"points*levels"``.
        most: its largest value.
        least: its smallest value.
        multiple: it is a multiple of this.
    """

    of: str
    most: Annotated[int, Field(ge=1)] | None = None
    least: Annotated[int, Field(ge=0)] | None = None
    multiple: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> Bound:
        if self.most is None and self.least is None and self.multiple is None:
            raise ValueError(f"the limit of {self.of} needs most, least or multiple")
        return self

    def holds(self, value: int) -> bool:
        """Whether a value is within the limit."""
        above = self.most is not None and value > self.most
        below = self.least is not None and value < self.least
        return not above and not below and (self.multiple is None or value % self.multiple == 0)

    @property
    def text(self) -> str:
        """The limit as people write it: ``<= 256, a multiple of 8`` without words."""
        parts = [f">= {self.least}"] if self.least is not None else []
        parts += [f"<= {self.most}"] if self.most is not None else []
        parts += [f"% {self.multiple} == 0"] if self.multiple is not None else []
        return ", ".join(parts)


class CustomOp(Table):
    """``[[custom_ops]]``: one operator.

    What is left out is taken from the entry of the same `domain` and `op_type` that comes with pth2om, where there is
    one.

    Attributes:
        domain: of the node in an ONNX file.
        op_type: of the node, and of the operator in the operator package.
        version: of the domain; an exported file imports it.
        standard_opsets: first and last opset at which the package's plug-in registers it in the standard domain too.
        symbol: the torch operator that the net calls: ``npu::multi_scale_deformable_attn`` is
            ``torch.ops.npu.multi_scale_deformable_attn``.
        body: file and function that compute it with PyTorch's own operators: ``body.py:multi_scale_deformable_attn``.
            Inputs come in order, attributes by name.
        package: the operator package: a wheel, or the folder that ``ASCEND_CUSTOM_OPP_PATH`` would name; searched like
            the checkpoint.
        origin: where it comes from, for messages.
        families: chip families with a kernel: ``ascend910b``; empty: not known.
        inputs: in order.
        attributes: name -> default value.
        outputs: in order.
        limits: of the kernels.
    """

    domain: _Domain
    op_type: _Identifier
    version: Annotated[int, Field(ge=1)] = 1
    standard_opsets: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    symbol: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*::[A-Za-z_]\w*$")] | None = None
    body: Annotated[str, Field(pattern=r"^.+\.py:[A-Za-z_]\w*$")] | None = None
    package: str | None = None
    origin: str = ""
    families: tuple[Name, ...] = ()
    inputs: tuple[Port, ...] = ()
    attributes: dict[_Identifier, AttributeValue] = Field(default_factory=dict)
    outputs: tuple[Result, ...] = ()
    limits: tuple[Bound, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> CustomOp:
        if self.domain == "ai.onnx":
            raise ValueError("the domain ai.onnx is the standard one; a custom operator has a domain of its own")
        if bool(self.inputs) != bool(self.outputs):
            raise ValueError(f"{self.label} needs both inputs and outputs")
        first, last = self.standard_opsets or (1, 1)
        if first > last:
            raise ValueError(f"standard_opsets of {self.label}: {first} is after {last}")
        known = {word for port in self.inputs for word in sizes(port.shape) if word.isidentifier()}
        texts = [(f"the shape of output {entry.name}", word) for entry in self.outputs for word in sizes(entry.shape)]
        texts += [("a limit", entry.of) for entry in self.limits] if self.inputs else []
        for what, text in texts:
            for name in names(text):
                if name not in known:
                    raise ValueError(f"{what} of {self.label} names {name!r}, which is no size of an input")
        return self

    @property
    def label(self) -> str:
        """``npu::MultiScaleDeformableAttn``."""
        return f"{self.domain}::{self.op_type}"

    @property
    def keys(self) -> frozenset[str]:
        """What its plug-in registers: ``domain::version::Type``, and the same in the standard domain."""
        first, last = self.standard_opsets or (1, 0)
        standard = {f"ai.onnx::{opset}::{self.op_type}" for opset in range(first, last + 1)}
        return frozenset({f"{self.domain}::{self.version}::{self.op_type}"} | standard)


def sizes(shape: str | None) -> list[str]:
    """The sizes of a written shape; none where there is none."""
    return (shape or "").split()


def names(text: str) -> Iterator[str]:
    """The names in an expression.

    Raises:
        ValueError: it is no sum, difference, product or whole quotient of names and numbers.
    """
    for node in ast.walk(_parsed(text)):
        if isinstance(node, ast.Name):
            yield node.id


def evaluate(text: str, values: Mapping[str, int]) -> int | None:
    """The value of an expression; None where a name has none, or a quotient is by zero.

    Args:
        text: as in `Result.shape` or `Bound.of`.
        values: name -> size.

    Raises:
        ValueError: as `names`.
    """

    def of(node: ast.expr) -> int | None:
        if isinstance(node, ast.Constant):
            return int(node.value) if isinstance(node.value, int) else None
        if isinstance(node, ast.Name):
            return values.get(node.id)
        assert isinstance(node, ast.BinOp)
        left, right = of(node.left), of(node.right)
        if left is None or right is None or max(abs(left), abs(right)) > _LARGEST:
            return None
        if isinstance(node.op, ast.FloorDiv) and right == 0:
            return None
        return _CALCULATIONS[type(node.op)](left, right)

    return of(_parsed(text))


def _parsed(text: str) -> ast.expr:
    """The expression's tree, of the allowed nodes only.

    Raises:
        ValueError: as `names`.
    """
    wrong = ValueError(f"{text[:_LONGEST]!r} is no size: write sums, differences, products and // of names and numbers")
    if len(text) > _LONGEST:
        raise wrong
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise wrong from None
    for node in ast.walk(tree):
        number = isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) <= _LARGEST
        calculation = isinstance(node, ast.BinOp) and type(node.op) in _CALCULATIONS
        if not (number or calculation or isinstance(node, (ast.Name, ast.Load, *_CALCULATIONS))):
            raise wrong
    return tree


def bind(shapes: Sequence[str | None], given: Sequence[Sequence[int] | None]) -> tuple[dict[str, int], list[str]]:
    """The sizes that are known from shapes, and what does not agree.

    Args:
        shapes: written shapes, one for each input.
        given: real shapes; None where not even the rank is known, -1 for an unknown size.

    Returns:
        Name -> size, and ``"place: written against given"`` of each input that contradicts its own or another's shape.
    """
    found: dict[str, int] = {}
    wrong: list[str] = []
    for place, (written, real) in enumerate(zip(shapes, given, strict=False)):
        words = sizes(written)
        if written is None or real is None:
            continue
        fits = len(words) == len(real)
        for word, size in zip(words, real, strict=False) if fits else ():
            if size < 0:
                continue
            expected = int(word) if word.isdecimal() else found.setdefault(word, size)
            fits &= expected == size
        if not fits:
            wrong.append(f"{place}: [{written}] / {list(real)}")
    return found, wrong
