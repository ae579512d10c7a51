"""``--insert_op_conf`` against the model: what ATC checks of an AIPP configuration before kernels are compiled."""

from __future__ import annotations

from pathlib import Path

from pth2om.errors import AippError, first_line
from pth2om.language import Message, joined, say
from pth2om.toolchain.emulator.front_end.flags import Flags
from pth2om.toolchain.emulator.front_end.onnx_model import ParsedModel
from pth2om.toolchain.emulator.front_end.shapes import InputShapes
from pth2om.toolchain.emulator.front_end.texts import AtcRefusedError, failure


def check_configuration(flags: Flags, path: Path, parsed: ParsedModel, shapes: InputShapes) -> list[Message]:
    """The configuration's own rules, and which input each of its operators goes to.

    Args:
        flags: the command line.
        path: of the configuration.
        parsed: the model.
        shapes: of the command line; they replace the model's.

    Returns:
        What is suspicious and ATC passes over.

    Raises:
        AtcRefusedError: E13005 when the text cannot be parsed, else the first refusal.
    """
    from pth2om import aipp

    cann = flags.cann
    try:
        config = aipp.read_config(path)
    except AippError as error:
        reason = f"{first_line(error)} {error.message.fix() or ''}".strip()
        raise AtcRefusedError(failure("E13005", path, cann=cann, advice=say("atc.aipp-file", reason=reason))) from None
    refusals = aipp.refusals(
        config,
        inputs=[(name, _sizes(name, sizes, shapes)) for name, (_, sizes) in parsed.inputs.items()],
        input_format=flags["input_format"],
        dynamic_image_size=flags["dynamic_image_size"],
        dynamic_dims=flags["dynamic_dims"],
        input_fp16_nodes=[name for name in flags["input_fp16_nodes"].split(";") if name],
        soc=flags["soc_version"],
    )
    for item in refusals:
        advice = item.advice
        if item.line:
            place = f"{path.name}:{item.line}"
            if advice is None:  # ATC's own Reason says it all but the place
                advice = say("atc.aipp-place", place=place)
            else:
                advice = say("atc.aipp-line", reason=joined((place, advice.render()), ": "))
        raise AtcRefusedError(failure(item.code, *item.arguments, cann=cann, advice=advice))
    return [finding.message for finding in aipp.findings(config, soc=flags["soc_version"])]


def _sizes(name: str, sizes: tuple[int, ...], shapes: InputShapes) -> tuple[int, ...]:
    if name in shapes.static:
        return shapes.static[name]
    if name in shapes.ranges:
        return tuple(low if low == high else -1 for low, high in shapes.ranges[name])
    return sizes
