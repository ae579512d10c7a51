"""Messages of other rooms as `convert` shows them: what they advise with options of pytest, it advises with its own."""

from __future__ import annotations

from pth2om.language import Language, Message, catalogue, say


class OwnWords(Message):
    """A message whose fix names the options of `convert`; in a record it is the same as any other."""

    def fix(self, to: Language | None = None) -> str | None:
        """See `Message.fix`."""
        return say(f"convert.{_entry(self)}", **self.values).render(to)


def in_own_words(message: Message) -> Message:
    """The message, with the fix of ``[instead-<room>-<entry>]`` of this room's catalogue where there is one."""
    return OwnWords(message.key, message.values) if _entry(message) in catalogue("convert") else message


def _entry(message: Message) -> str:
    return f"instead-{message.key.replace('.', '-')}"
