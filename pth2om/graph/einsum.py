"""Einsum as Transpose, Reshape and MatMul."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pth2om.graph.building import Builder
from pth2om.onnxfile.walking import Sizes, text

if TYPE_CHECKING:
    from onnx import NodeProto


def decompose_einsum(build: Builder, node: NodeProto, sizes: Sequence[Sizes | None]) -> list[NodeProto] | None:
    """Nodes that compute an Einsum of one or two operands.

    Args:
        build: makes the nodes.
        node: the Einsum.
        sizes: of its operands.

    Returns:
        The nodes; None for an ellipsis, a letter twice in one operand, three operands, or sizes that are not known
        where letters have to be folded together.
    """
    parsed = _parse(text(node, "equation", ""), len(node.input))
    if parsed is None:
        return None
    terms, result = parsed
    if any(known is None or len(known) != len(term) for term, known in zip(terms, sizes, strict=True)):
        return None
    extents = {
        letter: size
        for term, known in zip(terms, sizes, strict=True)
        for letter, size in zip(term, known or (), strict=True)
    }
    if len(terms) == 1:
        tensor, letters = _summed(build, node.input[0], terms[0], result)
        _ordered(build, tensor, letters, result, node.output[0])
        return build.nodes
    broadcast = any(
        sizes[0][terms[0].index(letter)] != sizes[1][terms[1].index(letter)]  # type: ignore[index]  # known by now
        for letter in set(terms[0]) & set(terms[1])
    )
    if broadcast:
        return None  # a size of one against another, or an unknown one: MatMul and Einsum would not read it alike
    left, right = terms
    first, left = _summed(build, node.input[0], left, right + result)
    second, right = _summed(build, node.input[1], right, left + result)
    return _product(build, (first, left), (second, right), result, extents, node.output[0])


def _parse(equation: str, operands: int) -> tuple[list[str], str] | None:
    """The operands' letters and the result's; without an arrow the letters that stand once, sorted (ONNX Einsum)."""
    equation = equation.replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if len(terms) != operands or operands not in (1, 2) or not all(term.isalpha() for term in terms):
        return None
    if any(len(set(term)) != len(term) for term in terms):
        return None
    letters = "".join(terms)
    if not arrow:
        result = "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    if len(set(result)) != len(result) or set(result) - set(letters):
        return None
    return terms, result


def _summed(build: Builder, tensor: str, letters: str, needed: str) -> tuple[str, str]:
    """Sum over letters that nobody else needs."""
    axes = [place for place, letter in enumerate(letters) if letter not in needed]
    if not axes:
        return tensor, letters
    kept = "".join(letter for letter in letters if letter in needed)
    return build.reduce("ReduceSum", tensor, axes, keepdims=0), kept


def _ordered(build: Builder, tensor: str, letters: str, wanted: str, output: str | None = None) -> str:
    """Transpose to the wanted order of letters."""
    if letters == wanted:
        return build.add("Identity", [tensor], output) if output else tensor
    return build.add("Transpose", [tensor], output, perm=[letters.index(letter) for letter in wanted])


def _product(
    build: Builder,
    first: tuple[str, str],
    second: tuple[str, str],
    result: str,
    extents: dict[str, int],
    output: str,
) -> list[NodeProto] | None:
    """Batch letters stand in both and in the result, contracted ones in both only."""
    left, right = first[1], second[1]
    batch = [letter for letter in result if letter in left and letter in right]
    inner = [letter for letter in left if letter in right and letter not in result]
    rows = [letter for letter in result if letter in left and letter not in right]
    columns = [letter for letter in result if letter in right and letter not in left]
    a = _matrix(build, first, [batch, rows, inner], len(batch), extents)
    b = _matrix(build, second, [batch, inner, columns], len(batch), extents)
    if a is None or b is None:
        return None
    order = "".join((*batch, *rows, *columns))
    plain = len(rows) == len(columns) == 1
    last = output if plain and order == result else None
    made = build.add("MatMul", [a, b], last)
    if not plain:
        shape = _shape([[letter] for letter in order], extents)
        if shape is None:
            return None
        made = build.add("Reshape", [made, build.whole(shape)], output if order == result else None)
    if order != result:
        _ordered(build, made, order, result, output)
    return build.nodes


def _matrix(
    build: Builder, operand: tuple[str, str], groups: list[list[str]], batch: int, extents: dict[str, int]
) -> str | None:
    """The operand with its letters in order, the last two groups folded into one axis each."""
    tensor, letters = operand
    wanted = "".join(letter for group in groups for letter in group)
    tensor = _ordered(build, tensor, letters, wanted)
    if len(groups[1]) == len(groups[2]) == 1:
        return tensor
    shape = _shape([*([letter] for letter in groups[0][:batch]), groups[1], groups[2]], extents)
    return None if shape is None else build.add("Reshape", [tensor, build.whole(shape)])


def _shape(groups: list[list[str]], extents: dict[str, int]) -> list[int] | None:
    """Sizes of the folded axes; one unknown becomes -1, a second one (or a size of zero) is too many."""
    shape = []
    for group in groups:
        size = 1
        for letter in group:
            if extents[letter] < 0:
                size = -1
                break
            size *= extents[letter]
        shape.append(size)
    return None if shape.count(-1) > 1 or 0 in shape else shape
