"""What ends a connection to a board is in no entry of the knowledge base: nothing else is named as its cause."""

from __future__ import annotations

import re

import pytest

from pth2om.errors import LostError
from pth2om.explain import explain, explain_error
from pth2om.language import say

LINK = (
    "lost silent silent-start restarted not-loaded busy no-ssh garbage frame-garbage frame-length frame-header",
    "protocol other-agent old-python ssh-denied ssh-host-key ssh-host-changed ssh-no-host ssh-no-python ssh-refused",
    "ssh-unreachable busy-undated busy-unnamed",
)
SAID = (
    "[Errno 32] Broken pipe", "SIGKILL", "status 255", "status 137", "Killed by signal 15.", "ended: ", "cut: ",
    "Connection to 192.0.2.7 closed by remote host.", "client_loop: send disconnect: Broken pipe",
    "Connection reset by 192.0.2.7 port 22", "kex_exchange_identification: read: Connection reset by peer",
    "Timeout, server 192.0.2.7 not responding.", "packet_write_wait: Connection to 10.0.0.1 port 22: Broken pipe",
    "ssh: connect to host 192.0.2.7 port 22: Connection refused", "Permission denied (publickey,password).",
)  # fmt: skip
"""What is said of a connection that ended, by ssh and by Python."""


@pytest.mark.parametrize("key", " ".join(LINK).split())
def test_a_lost_connection_has_no_other_cause(key: str) -> None:
    """Whatever it was raised in: a broken pipe to a board says nothing of the compiler's memory."""
    places = set(re.findall(r"{(\w+)}", say(f"cann.{key}").render("en")))
    for number, said in enumerate(SAID):
        error = LostError(f"cann.{key}", where="board", **dict.fromkeys(places, said))
        pipe, reset = BrokenPipeError(32, "Broken pipe"), ConnectionResetError(104, "Connection reset by peer")
        error.__context__ = reset if number % 2 else pipe  # as `from None` leaves it
        assert explain_error(error, "om-run") == [], said


def test_what_ssh_prints_has_no_other_cause() -> None:
    for said in SAID:
        assert explain(f"{said}\n") == [], said
