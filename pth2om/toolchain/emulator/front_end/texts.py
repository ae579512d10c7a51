"""What ``atc`` prints when it refuses: codes, titles and templates of three generations of CANN.

The texts are ATC's own (identifiers that logs are searched for) and stay English. Sources: error registry of the CANN
graph engine (``error_registry.cc``, 9.2 development) for CANN 9; its older form, arguments in square brackets, from the
metadef error tables and from users' logs for CANN 7 and 8.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass

from pth2om.ascend.versions import generation
from pth2om.language import Message, say

BANNER = "ATC start working now, please wait for a moment."
SUCCESS = "ATC run success, welcome to the next use."
FAILURE = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"
UNKNOWN = "An unknown error occurred. Please check the log."
STATUS_FAILED = 255
"""``atc`` ends with -1, which a shell sees as 255."""

_GENERIC = "Invalid_Argument"
_SHAPE = "Invalid_Argument_Tensor_Input_Shape"
_GEARS = "Invalid_Argument_Tensor_Dynamic_Shape"
_ONNX = "Invalid_Argument_ONNX_Model_Data"
_PARSE = "File_Operation_Error_Parse"
_PROFILES = "--dynamic_batch_size, --dynamic_image_size, or --dynamic_dims"

TEXTS: dict[str, tuple[str, str]] = {
    "E10001": (_GENERIC, "Value %s for parameter %s is invalid. Reason: %s"),
    "E10002": (
        _SHAPE,
        "Value %s for parameter --input_shape is invalid. Reason: %s. The value must be formatted as %s.",
    ),
    "E10003": (_GENERIC, "Value %s for parameter --%s is invalid. Reason: %s"),
    "E10004": (_GENERIC, "Value for --%s is empty."),
    "E10005": (_GENERIC, "Value %s for parameter --%s is invalid. The value must be either true or false."),
    "E10006": (_GENERIC, "Value %s for parameter --%s is invalid. The value must be either 1 or 0."),
    "E10007": (_GENERIC, "--%s is required. The value must be %s."),
    "E10008": (_GENERIC, "--weight must not be empty when --framework is set to 0 (Caffe)."),
    "E10009": (
        _GEARS,
        "--dynamic_batch_size, --dynamic_image_size, --input_shape_range, and --dynamic_dims are mutually exclusive.",
    ),
    "E10010": (_GENERIC, "Value %s for parameter --log is invalid."),
    "E10011": (
        _SHAPE,
        (
            "Value %s for parameter --input_shape is invalid. Shape values must be positive integers. "
            "The error value in the shape is %s."
        ),
    ),
    "E10012": (
        _SHAPE,
        (
            "--dynamic_batch_size is included, but the dimension count of the dynamic-shape input "
            "configured in --input_shape is less than 1."
        ),
    ),
    "E10013": (_GENERIC, "Value %s for --%s is out of range."),
    "E10014": (_GENERIC, "Value %s for parameter --%s is invalid."),
    "E10016": (
        "Invalid_Argument_Operator_Name",
        (
            "Op name %s specified in --%s is not found in the model. Confirm whether this node name exists, "
            "or whether the node is not split with the specified delimiter ';'."
        ),
    ),
    "E10017": (_GENERIC, "Input Op %s specified in --%s is invalid. The Op type must be Data."),
    "E10018": (
        _GEARS,
        (
            "Value %s for shape %s is invalid. When --dynamic_batch_size is included, "
            "only batch size N can be -1 in --input_shape."
        ),
    ),
    "E10019": (
        _SHAPE,
        "When --dynamic_image_size is included, only the height and width axes can be -1 in --input_shape.",
    ),
    "E10020": (_GENERIC, "Value %s for parameter --dynamic_image_size is invalid."),
    "E10021": (_GENERIC, "Path for parameter --%s is too long. Keep the length within %s."),
    "E10022": (_GENERIC, "Path %s for parameter --%s does not include the file name."),
    "E10023": (_GENERIC, "Value %s for parameter --singleop is invalid."),
    "E10024": (_GENERIC, "Failed to open file %s specified by --singleop."),
    "E10025": (_GENERIC, "File %s specified by --singleop is not a valid JSON file. Reason: %s."),
    "E10026": (_GENERIC, "The Op name is empty in the file specified by --singleop."),
    "E10031": (
        _SHAPE,
        (
            "--dynamic_batch_size is included, but none of the nodes specified in --input_shape "
            "has a batch size equaling -1."
        ),
    ),
    "E10032": (_PARSE, "Failed to parse JSON file %s. Reason: %s."),
    "E10034": (_GENERIC, "Nodes (for example, %s) connected to AIPP must not be of type FP16."),
    "E10035": (_GEARS, _PROFILES + " has %s profiles, which is less than the minimum %s."),
    "E10037": (
        _GEARS,
        "The profiles configured in "
        + _PROFILES
        + " have inconsistent dimension counts. A profile has %s dimensions while another has %s dimensions.",
    ),
    "E10038": (_GEARS, "Dimension size %s is invalid. The value must be greater than 0."),
    "E10039": (_GEARS, "The " + _PROFILES + " argument has duplicate profiles."),
    "E10040": (
        _SHAPE,
        "As the "
        + _PROFILES
        + " argument is included, the corresponding nodes specified in --input_shape must have -1 axes "
        "and cannot have '~'.",
    ),
    "E10041": ("Invalid_Argument_Model", "Failed to load the model from %s."),
    "E10047": (_GENERIC, "--%s and --%s are mutually exclusive."),
    "E10048": (
        _GENERIC,
        (
            "Value %s for parameter --input_shape_range or dynamic_inputs_shape_range is invalid. Reason: %s. "
            "The value must be formatted as %s."
        ),
    ),
    "E10049": (
        _SHAPE,
        "Dimension count %s configured in --input_shape does not match dimension count %s of the node.",
    ),
    "E10050": (
        "Invalid_Argument_Tensor_Input_Shape_Range",
        "Current dimension size %s is not in the range of %s-%s specified by --input_shape.",
    ),
    "E10052": (_GENERIC, "AIPP configuration is invalid. Reason: %s."),
    "E10054": (
        _GENERIC,
        (
            "The required parameter %s for ATC is empty. Another possible reason is that the values of some parameters "
            'are not enclosed by quotation marks ("").'
        ),
    ),
    "E10055": ("Not_Supported", "The operation is not supported. Reason: %s."),
    "E10056": (_GENERIC, "Cannot configure both parameters %s and %s simultaneously."),
    "E10057": (_GENERIC, "--%s and --%s can only be used together."),
    "E10058": (_GENERIC, "Parameter %s is not configured or is empty."),
    "E10059": (_GENERIC, "%s failed. Reason: %s."),
    "E10410": ("File_Operation_Error_File_Not_Exist", "File %s does not exist."),
    "E10501": ("Not_Supported_Operator", "IR for Op %s with optype %s is not registered."),
    "E13001": ("File_Operation_Error_Open", "Failed to open file %s. Reason: %s."),
    "E13005": (_PARSE, "Failed to parse file %s."),
    "E13009": (
        "Invalid_Argument_Operator_Name",
        "Operator %s already exists in the graph. Ensure that operator names are unique.",
    ),
    "E13010": ("Not_Supported_Operator", "No operator plugin is registered for Op: %s, optype: %s."),
    "E13014": (_GENERIC, "Value %s of parameter %s for Op %s is invalid. Reason: %s."),
    "E13015": (
        "File_Operation_Error_Invalid_File_Size",
        "File %s has a size of %s, which is out of valid range (0, %s].",
    ),
    "E13026": ("File_Operation_Error_Invalid_Path", "Input path %s is invalid. Reason: %s"),
    "E16001": (_ONNX, "The model has no %s node."),
    "E16004": (_ONNX, "ONNX model has no graph."),
    "E16005": (_ONNX, "The model has %s --domain_version fields, but only one is allowed."),
    "E19999": ("Inner_Error", "%s"),
    "E20101": (_GENERIC, "Value %s for parameter %s is invalid. Reason: %s."),
    "E20103": (_GENERIC, "Value %s for parameter %s is invalid. The value must be in the range of (0, %s]."),
    "E21001": ("File_Operation_Error_Open", "Failed to open file %s."),
    "E21002": (_PARSE, "Failed to parse file %s. Reason: %s."),
    "E70014": (
        "Invalid_Argument_Operator_Shape",
        (
            "In op[aipp], aipp output H and W should be equal to data's H and W, but actually aipp output H is [%s], "
            "W is [%s], data's H is [%s], W is [%s]."
        ),
    ),
    "EE1011": (_GENERIC, "rtSetSocVersion failed. Value %s for parameter ver is invalid. Reason: %s"),
}
"""Code to (title, template) of CANN 9. E19999 stands for the inner errors, whose text is their only argument."""

_OLDER: dict[str, tuple[str, str]] = {
    "E10052": ("E19021", "AIPP configuration is invalid. Reason: %s."),
    "E10501": ("EZ0501", "IR for Op [%s, optype [%s]], is not registered."),
    "E13009": ("E19009", "Operator [%s] already exists in the graph. Ensure that operator names are unique."),
    "E13010": ("E19010", "No parser is registered for Op [%s, optype [%s]]."),
    "E16005": ("E16005", "The model has [%s] [--domain_version] fields, but only one is allowed."),
    "EE1011": ("EE1001", "The argument is invalid.Reason: SoC version [%s] is invalid."),
}
"""Codes and texts of CANN 7 and 8 that differ from CANN 9's by more than brackets."""


_UNADVISED = frozenset(
    {
        "E10017",
        "E10022",
        "E10054",
        "E10056",
        "E10059",
        "E10410",
        "E10501",
        "E13005",
        "E13009",
        "E13010",
        "E13014",
        "E13026",
        "E16001",
        "E16005",
        "E19999",
        "EE1011",
    }
)
"""Codes without a general sentence of advice: those who raise them know better, or nobody raises them."""


@dataclass(frozen=True)
class AtcFailure:
    """One message of ATC.

    Attributes:
        code: as that CANN prints it, e.g. ``E10001``; ``E19999`` for inner errors.
        text: the message without code, process number and time.
        arguments: what stands in for the template's places.
        node: the ONNX node it is about, when it is about one.
        inner: whether it is an inner error, which never becomes the headline while another message exists.
        hidden: ATC fails here without any text of its own (an unregistered code); only `advice` tells why.
        advice: what pth2om adds: reason and remedy.
    """

    code: str
    text: str
    arguments: tuple[str, ...] = ()
    node: str | None = None
    inner: bool = False
    hidden: bool = False
    advice: Message | None = None


class AtcRefusedError(Exception):
    """ATC stops here, with these messages."""

    def __init__(self, *failures: AtcFailure) -> None:
        super().__init__(*(failure.code for failure in failures))
        self.failures = failures


def failure(
    code: str, *arguments: object, cann: str = "9.x", node: str | None = None, advice: Message | None = None
) -> AtcFailure:
    """The message of a CANN 9 code, in the code and words of `cann`.

    Args:
        code: a key of `TEXTS`.
        arguments: what stands in for ``%s``.
        cann: whose text.
        node: the ONNX node concerned.
        advice: what pth2om adds to it.
    """
    words = tuple(_one_line(str(argument)) for argument in arguments)
    template = TEXTS[code][1]
    printed = code
    if generation(cann) < 9:
        if code in _OLDER:
            printed, template = _OLDER[code]
        elif "[%s]" not in template:
            template = _bracketed(template)
    given = words[: template.count("%s")]
    text = template
    for word in given:
        head, _, tail = text.partition("%s")
        text = f"{head}{word.replace('%', chr(0))}{tail}"
    if advice is None and code not in _UNADVISED:
        advice = say(f"atc.{code}")
    return AtcFailure(printed, text.replace(chr(0), "%"), words, node, code == "E19999", False, advice)


def hidden(node: str | None, advice: Message) -> AtcFailure:
    """A failure of which ATC prints nothing but that it failed."""
    return AtcFailure("E19999", UNKNOWN, node=node, inner=True, hidden=True, advice=advice)


def block(failures: Sequence[AtcFailure], cann: str = "9.x", moment: datetime.datetime | None = None) -> str:
    """The error block that follows the verdict on ATC's standard output.

    The first message that is not an inner error is the headline; the others follow under ``TraceBack``.

    Args:
        failures: what was reported, in order.
        cann: whose form: bare (7), with process and time (8), or process, time and title (9).
        moment: the time to print; default now.
    """
    shown = [item for item in failures if not item.hidden]
    if not shown:
        return f"E19999: Inner Error!\n        {UNKNOWN}"
    coded = [item for item in shown if not item.inner]
    if coded:
        lines = [_headline(coded[0].code, coded[0].text, cann, moment)]
        rest = [item for item in shown if item is not coded[0]]
    else:
        lines = [f"{'EZ9999' if generation(cann) == 9 else 'E19999'}: Inner Error!"]
        rest = list(shown)
    if rest:
        lines.append("        TraceBack (most recent call last):")
        lines += [f"        {item.text}" for item in rest]
    return "\n".join(lines)


def _headline(code: str, text: str, cann: str, moment: datetime.datetime | None) -> str:
    release = generation(cann)
    if release == 7:
        return f"{code}: {text}"
    now = moment or datetime.datetime.now()
    stamp = f"[PID: {os.getpid()}] {now:%Y-%m-%d-%H:%M:%S}.{now.microsecond // 1000:03d}.{now.microsecond % 1000:03d}"
    if release == 8:
        return f"{code}: {stamp} {text}"
    title = TEXTS.get(code, ("Inner_Error", ""))[0]
    return f"{stamp} {title}({code}): {text}"


def _bracketed(template: str) -> str:
    """The template with its arguments in square brackets, as CANN 7 and 8 print them; a free reason has none."""
    if template == "%s":
        return template
    head, mark, tail = template.partition("Reason: %s")
    return _brackets(head) + mark + _brackets(tail)


def _brackets(text: str) -> str:
    return text.replace("--%s", "\x00").replace("%s", "[%s]").replace("\x00", "[--%s]")


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")
