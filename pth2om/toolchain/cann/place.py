"""Where an agent runs: on this machine, or on a board behind ``ssh://user@host:port``."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass

from pth2om.errors import ToolchainError

SSH_CONFIG = "PTH2OM_SSH_CONFIG"
"""A configuration file for ssh other than the user's own: keys, known hosts, jump hosts."""

_URL = re.compile(
    r"ssh://(?:(?P<user>[\w.][\w.-]{0,63})@)?(?P<host>[\w.][\w.-]{0,252}|\[[0-9A-Fa-f:.%\w]{1,64}\])"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)
_SHOWN = 200
_PASSWORD = re.compile(r"^(\s*(?:\w+://)?[^/@:]*):[^/]*@", re.DOTALL)
_START = "import sys;exec(sys.stdin.buffer.readline())"


@dataclass(frozen=True)
class Place:
    """One machine with an agent.

    Attributes:
        url: ``ssh://root@192.0.2.7:22``; empty: this machine.
    """

    url: str = ""

    @classmethod
    def of(cls, url: str) -> Place:
        """The board behind ``url``.

        Raises:
            ToolchainError: that is no ``ssh://user@host:port``.
        """
        found = _URL.fullmatch(url)
        if not found or not 0 < int(found["port"] or 22) < 65536:
            hidden = _PASSWORD.sub(r"\1:***@", url)
            key = "cann.board-url" if hidden == url else "cann.board-password"
            raise ToolchainError(key, url=hidden[:_SHOWN] or "''")
        return cls(url.rstrip("/"))

    @property
    def is_here(self) -> bool:
        """Whether it is this machine."""
        return not self.url

    @property
    def name(self) -> str:
        """For people: ``root@192.0.2.7``, or the name of this machine."""
        return self.url.removeprefix("ssh://") or "localhost"

    def command(self) -> list[str]:
        """What starts a Python there that runs the line it reads from stdin.

        Connections are not shared: Win32-OpenSSH cannot, and a ``ControlPath`` in the user's own configuration makes it
        fail. Nothing is asked on a terminal; a host whose key is not known is refused.
        """
        if self.is_here:
            return [sys.executable, "-I", "-c", _START]
        found = _URL.fullmatch(self.url)
        assert found is not None
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "ControlMaster": "no",
            "ControlPath": "none",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "ConnectTimeout": "10",
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
        }
        words = ["ssh", "-T", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
        if os.environ.get(SSH_CONFIG):
            words += ["-F", os.environ[SSH_CONFIG]]
        if found["port"]:
            words += ["-p", found["port"]]
        if found["user"]:
            words += ["-l", found["user"]]
        return [*words, "--", found["host"].strip("[]"), f"exec python3 -c '{_START}'"]
