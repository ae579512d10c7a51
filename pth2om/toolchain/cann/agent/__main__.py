"""``python3 board_agent.pyz VERB``: ``serve``, ``worker``, ``doctor``, ``selftest``, ``version``."""

from __future__ import annotations

import hashlib
import os
import sys
from typing import List, Tuple

from .frames import PROTOCOL


def main(arguments: List[str]) -> int:
    """Do what the first argument names."""
    verb = arguments[0] if arguments else ""
    program, digest = _own()
    if verb == "serve":
        from . import supervisor

        return supervisor.main(digest, program)
    if verb == "worker":
        from . import worker

        return worker.main()
    if verb == "doctor":
        from . import doctor

        return doctor.main(arguments[1:])
    if verb == "selftest":
        from . import selftest

        return selftest.main(arguments[1:], program)
    if verb == "version":
        print("pth2om board agent, protocol %d, %s" % (PROTOCOL, digest))
        return 0
    print("usage: board_agent.pyz serve | worker | doctor | selftest FOLDER | version", file=sys.stderr)
    return 2


_UTF8 = ("-X", "utf8")
"""Names of files are whatever the board's locale says they are: one of ASCII has no others."""


def _own() -> Tuple[List[str], str]:
    """The arguments that start this agent, for a Python to be put before them, and the sha256 of its file."""
    file = os.path.abspath(sys.argv[0])
    if not os.path.isfile(file) or file.endswith("__main__.py"):
        return [*_UTF8, "-m", str(__package__)], ""
    with open(file, "rb") as opened:
        return [*_UTF8, file], hashlib.sha256(opened.read()).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
