"""Messages of other rooms as a verb shows them: what they advise with options of pytest, it advises with its own."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pth2om.language import Language, Message, catalogue, say

_SHORT: dict[str, tuple[tuple[re.Pattern[str], str], ...]] = {
    "convert": (),
    "offline": tuple(
        (re.compile(pattern), short)
        for pattern, short in (
            # One model and one dataset, so neither is named before its file.
            (r"--om-dataset [\w.\-]+=", "--datasets-path "),
            (r"--om-dataset [\w.\-]+", "--datasets-path"),
            (r"--om-weights [\w.\-]+=", "--weights "),
            (r"--om-weights\b", "--weights"),
            (r"--om-data-dir\b", "--data-dir"),
            (r"--om-subset\b", "--images"),
            (r"--om-toolchain\b", "--toolchain"),
        )
    ),
}
"""Room of the verb -> what its options are called instead, the first first."""


@dataclass(frozen=True)
class OwnWords(Message):
    """A message that names the options of one verb; in a record it is the same as any other.

    Attributes:
        room: whose catalogue holds what the verb advises instead, under ``[instead-<room>-<entry>]``.
    """

    room: str = ""

    def render(self, to: Language | None = None) -> str:
        """See `Message.render`."""
        return _shortened(super().render(to), self.room)

    def fix(self, to: Language | None = None) -> str | None:
        """See `Message.fix`."""
        own = _instead(self, self.room)
        if own is not None:
            return say(own, **self.values).render(to)
        fix = super().fix(to)
        return None if fix is None else _shortened(fix, self.room)


def in_own_words(message: Message, room: str) -> Message:
    """The message as a verb shows it.

    Args:
        message: of any room.
        room: ``convert`` or ``offline`` (of ``pth2om evaluate``): whose options are named, by the catalogue's entries
            ``[instead-<room>-<entry>]``, and option by option.
    """
    if _SHORT[room] or _instead(message, room) is not None:
        return OwnWords(message.key, message.values, room)
    return message


def _shortened(text: str, room: str) -> str:
    for pattern, short in _SHORT[room]:
        text = pattern.sub(short, text)
    return text


def _instead(message: Message, room: str) -> str | None:
    """The key of what is advised instead; None where nothing is."""
    name = message.key.replace(".", "-")
    key = {"convert": f"convert.instead-{name}", "offline": f"offline.instead-{name}"}[room]
    return key if key.partition(".")[2] in catalogue(room) else None
