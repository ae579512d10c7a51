"""The errors that are shown to users.

::

    Pth2omError                 what is wrong, where, what to do
    ├── SpecError               a model.toml or dataset.toml
    ├── CheckpointError         a .pth/.pt file or its net
    ├── ExportError             torch -> ONNX
    ├── GraphError              an ONNX file or a graph pass
    ├── DataError               datasets, labels, images, .bin files
    ├── StoreError              the artifact store (disk full, permissions)
    ├── ToolchainError          compiling or running an OM
    │   ├── AtcError            what atc would print, with its code
    │   ├── LostError           a lost link, or an answer that never came: tried again at once
    │   └── CrashError          a crash, a hang or an error of the device while an OM ran: the test that met it fails
    ├── AippError               an AIPP configuration
    ├── OmFileError             reading an .om file
    ├── QuantizeError           calibration and quantization
    ├── ConvertError            options of a conversion, or files in its way
    ├── SignoffError            a release cannot be signed, or a statement is not to be trusted
    └── Absent                  weights, data or a SoC that the user has to provide: not a failure, "not measured"

Each carries a `Message` (so it reads in either language) and, when the catalogue has one, the next thing to do. The
faces (pytest plugin, CLI, GUI) print ``str(error)`` and never a traceback for these.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from typing import ClassVar

from pth2om.escaping import visible
from pth2om.language import Language, Message, Value, joined

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_STATUS = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
# File and line of ONNX Runtime's C++ source and, before the sentence, the function's signature.
_PLACE = re.compile(
    r"(?:\b[A-Za-z]:(?=\\))?[\\/]\S*onnxruntime\S*:\d+ (?:\S.*?\)(?: const)?(?: \[with [^\]]*\])? )?(?=\S)"
)


def first_line(said: BaseException | str, most: int = 300) -> str:
    """What an exception or a tool says, on one line: what the ``reason`` of a sentence is.

    The first line that is not empty, without terminal colours, ONNX Runtime's status and the place in its source; with
    the next line behind a headline that ends in a colon. TorchScript says where first and what last: its last line.

    Args:
        said: an exception, or text.
        most: characters that are kept.

    Returns:
        The line; the exception's class where it says nothing, for text nothing.
    """
    lines = [line.strip() for line in _COLOURS.sub("", str(said)).splitlines() if line.strip()]
    if not lines:
        return type(said).__name__ if isinstance(said, BaseException) else ""
    line = lines[-1] if "TorchScript" in lines[0] else lines[0]
    if line is lines[0] and line.endswith(":") and len(lines) > 1:
        line = f"{line} {lines[1]}"
    line = _PLACE.sub("", _STATUS.sub("", line))
    return line if len(line) <= most else line[: most - 3] + "..."


def reason_of(error: OSError) -> str:
    """Why a file could not be read or written, in the system's words; of a copied folder, the first file's reason."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        return first_line(str(error.args[0][0][-1]).rpartition("] ")[2])
    return error.strerror or first_line(error)


def causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it was made of, the latest first; also behind ``from None``."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: BaseException) -> bool:
    """Whether a disk or a quota was full, or a file grew beyond what the system allows: that is no model's fault."""
    return any(isinstance(each, OSError) and each.errno in _FULL for each in causes(error))


class Pth2omError(Exception):
    """An error that the user can understand and correct.

    Args:
        key: catalogue key ``room.entry`` of what is wrong.
        where: file, ``file:line``, node or layer it concerns; printed first.
        **values: the sentence's values.

    Attributes:
        transient: whether the same may succeed when it is tried again, because not the model but the machine, the link
            or a missing file is the cause. Only other failures are remembered as a stage's.
    """

    transient: ClassVar[bool] = False

    def __init__(self, key: str, /, *, where: str | None = None, **values: Value) -> None:
        self.message = Message(key, values)
        self.where = where
        super().__init__(key, where, values)

    def render(self, to: Language | None = None) -> str:
        """The place, the problem, and on the next line what to do, in language ``to`` (default: the reader's)."""
        return joined((visible(self.where or ""), self.message.with_fix(to)), ": ", to)

    def __str__(self) -> str:
        return self.render()

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, and errors cross process borders.
        return _rebuild, (type(self), self.message.key, self.where, dict(self.message.values))


def _rebuild(kind: type[Pth2omError], key: str, where: str | None, values: dict[str, Value]) -> Pth2omError:
    return kind(key, where=where, **values)


class SpecError(Pth2omError):
    """A spec (model.toml) or dataset manifest is wrong."""


class CheckpointError(Pth2omError):
    """A checkpoint cannot be read or does not fit its net."""


class ExportError(Pth2omError):
    """PyTorch could not be exported to an ONNX file that ATC accepts."""


class GraphError(Pth2omError):
    """An ONNX file cannot be read, or a graph pass failed."""


class DataError(Pth2omError):
    """A dataset, label file, image or .bin batch is missing or wrong."""


class StoreError(Pth2omError):
    """The artifact store cannot be read or written."""

    transient = True


class ToolchainError(Pth2omError):
    """An OM could not be compiled or run."""


class LostError(ToolchainError):
    """The computing side is lost: a link broke, or an answer never came."""

    transient = True


class CrashError(ToolchainError):
    """What ran or compiled an OM ended by a signal, by a time limit, or with an error of the device.

    The test that met it fails; the next one gets a new process. It is not remembered as the model's failure.
    """

    transient = True


class AtcError(ToolchainError):
    """A refusal of atc, with its code and text."""


class AippError(Pth2omError):
    """An AIPP configuration is wrong or cannot express the request."""


class OmFileError(Pth2omError):
    """A file is not an .om, or is damaged."""


class QuantizeError(Pth2omError):
    """Calibration or quantization is not possible as requested."""


class ConvertError(Pth2omError):
    """The options of a conversion contradict each other, or its files cannot be written."""


class SignoffError(Pth2omError):
    """A release cannot be signed as asked, or a statement is not to be trusted."""


class Absent(Pth2omError):  # noqa: N818 - absence is no mistake
    """Something that the user must provide is missing (weights, data, a SoC): what needs it is *not measured*."""

    transient = True
