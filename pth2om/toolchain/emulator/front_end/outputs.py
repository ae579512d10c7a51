"""``--out_nodes``, ``--output_type``, ``--input_fp16_nodes`` and the layout lists, against the parsed graph.

Rules of ``omg.cc`` and ``onnx_parser.cc`` SetOutputsInfo (CANN GE sources).
"""

from __future__ import annotations

from dataclasses import dataclass

from pth2om.ascend.atc_options import shape_example
from pth2om.language import say
from pth2om.toolchain.emulator.front_end.flags import Flags
from pth2om.toolchain.emulator.front_end.onnx_model import ParsedModel
from pth2om.toolchain.emulator.front_end.shapes import InputShapes
from pth2om.toolchain.emulator.front_end.texts import AtcRefusedError, failure

OUTPUT_TYPES = ("FP32", "FP16", "UINT8", "INT8", "HIF8", "HIF4", "FP8E5M2", "FP8E4M3FN")
"""What ``--output_type`` takes; the guide lists more, the code's table does not."""

_TYPE_REASON = (
    "The value must be FP32, FP16, UINT8, INT8. A node can only have one type. "
    "The correct example is: --output_type=FP32."
)


@dataclass(frozen=True)
class OutNodes:
    """``--out_nodes``: by node and index, or by the tensor names of graph outputs."""

    nodes: tuple[tuple[str, int], ...] = ()
    tensors: tuple[str, ...] = ()


def read_out_nodes(flags: Flags) -> OutNodes:
    """The syntax of ``--out_nodes``; entries split at ``;`` and at every ``:``.

    Raises:
        AtcRefusedError: E10001.
    """
    text, cann = flags["out_nodes"], flags.cann
    if not text:
        return OutNodes()
    nodes: list[tuple[str, int]] = []
    tensors: list[str] = []
    for entry in text.split(";"):
        parts = entry.split(":")
        if len(parts) > 2 or not parts[0]:
            reason = f'The parameter format is invalid. Valid format "opname:index" or "tensor", not \'{entry}\'.'
            raise AtcRefusedError(failure("E10001", text, "--out_nodes", reason, cann=cann))
        if len(parts) == 2:
            if not (parts[1].isascii() and parts[1].isdigit() and len(parts[1]) < 10):
                problem = failure("E10001", text, "--out_nodes", "The index is not a positive integer.", cann=cann)
                raise AtcRefusedError(problem)
            nodes.append((parts[0], int(parts[1])))
        else:
            tensors.append(entry)
    if nodes and tensors:
        reason = "Only one of index, top_name and output_name can be used."
        raise AtcRefusedError(failure("E10001", text, "--out_nodes", reason, cann=cann))
    return OutNodes(tuple(nodes), tuple(tensors))


def check_layouts(flags: Flags) -> None:
    """The lists of ``true|false`` beside ``--input_fp16_nodes`` and ``--out_nodes``.

    Raises:
        AtcRefusedError: E10005.
    """
    for name in ("is_input_adjust_hw_layout", "is_output_adjust_hw_layout"):
        if flags[name] and any(word not in ("true", "false") for word in flags[name].split(",")):
            raise AtcRefusedError(failure("E10005", flags[name], name, cann=flags.cann))


def check_names(flags: Flags, parsed: ParsedModel, shapes: InputShapes) -> None:
    """Names of inputs, ranges against the model, and inputs that nobody gave a shape.

    Raises:
        AtcRefusedError: E10016, E10017, E10049, E10050 or E10001.
    """
    cann = flags.cann
    for name in flags["input_fp16_nodes"].split(";") if flags["input_fp16_nodes"] else ():
        _check_input(name, "input_fp16_nodes", parsed, cann)
    for name in (*shapes.static, *shapes.ranges):
        _check_input(name, "input_shape", parsed, cann)
    for name, ranges in shapes.ranges.items():
        sizes = parsed.inputs[name][1]
        if len(sizes) != len(ranges):
            raise AtcRefusedError(failure("E10049", len(ranges), len(sizes), cann=cann, node=name))
        for size, (low, high) in zip(sizes, ranges, strict=True):
            if size >= 0 and not (low <= size and (high < 0 or size <= high)):
                raise AtcRefusedError(failure("E10050", size, low, high, cann=cann, node=name))
    if not shapes:
        dynamic = [name for name, (_, sizes) in parsed.inputs.items() if any(size < 0 for size in sizes)]
        if dynamic:
            reason = (
                "The shapes of inputs contain -1 in the model. You may need to set input shape to specify its shape."
            )
            example = shape_example({name: parsed.inputs[name][1] for name in dynamic})
            advice = say("atc.shape-needed", inputs=", ".join(dynamic), example=example)
            raise AtcRefusedError(failure("E10001", "NULL", "--input_shape", reason, cann=cann, advice=advice))


def check_out_nodes(flags: Flags, parsed: ParsedModel, wanted: OutNodes) -> None:
    """Whether the graph has what ``--out_nodes`` asks for.

    Raises:
        AtcRefusedError: E10016, E10003 or E19999.
    """
    cann, names = flags.cann, parsed.names
    for name, index in wanted.nodes:
        if name not in names:
            raise AtcRefusedError(failure("E10016", name, "out_nodes", cann=cann, node=name))
        if index >= names[name]:
            reason = f"The output index {index} of node {name} must be smaller than {names[name]}."
            raise AtcRefusedError(failure("E10003", f"{name}:{index}", "out_nodes", reason, cann=cann, node=name))
    for name in wanted.tensors:
        if name not in parsed.outputs:
            text = f"User specified tensor[{name}] is not output of graph."
            advice = say("atc.not-an-output", name=name, outputs=", ".join(parsed.outputs))
            raise AtcRefusedError(failure("E19999", text, cann=cann, node=name, advice=advice))


def check_output_type(flags: Flags, wanted: OutNodes) -> None:
    """``--output_type``: one type, or ``node:index:TYPE`` for nodes of ``--out_nodes``.

    Raises:
        AtcRefusedError: E10001, E10014 or E10013.
    """
    text, cann = flags["output_type"], flags.cann
    if not text or text in OUTPUT_TYPES:
        return
    if ":" not in text:
        raise AtcRefusedError(failure("E10001", text, "--output_type", _TYPE_REASON, cann=cann))
    for entry in text.split(";"):
        parts = entry.split(":")
        if len(parts) != 3:
            reason = 'The parameter is invalid. Valid format "opname:index:dtype".'
            raise AtcRefusedError(failure("E10001", entry, "--output_type", reason, cann=cann))
        name, index, kind = parts
        if not (index.isascii() and index.isdigit()):
            raise AtcRefusedError(failure("E10014", index, "output_type", cann=cann))
        if len(index) > 9:
            raise AtcRefusedError(failure("E10013", index, "output_type", cann=cann))
        if kind not in OUTPUT_TYPES:
            raise AtcRefusedError(failure("E10001", kind, "--output_type", _TYPE_REASON, cann=cann))
        if (name, int(index)) not in wanted.nodes:
            reason = (
                "In the mode of specified node, the correct example is: node1:0:FP16;node2:0:FP32. "
                f"{name}:{index} is not in --out_nodes."
            )
            raise AtcRefusedError(failure("E10001", entry, "--output_type", reason, cann=cann))


def _check_input(name: str, flag: str, parsed: ParsedModel, cann: str) -> None:
    if name in parsed.inputs:
        return
    advice = say("atc.no-such-input", name=name, inputs=", ".join(parsed.inputs))
    constants = {tensor.name for tensor in parsed.model.graph.initializer}
    code = "E10017" if name in parsed.names or name in constants else "E10016"
    raise AtcRefusedError(failure(code, name, flag, cann=cann, node=name, advice=advice))
