"""The board agent as one file: ``python3 board_agent.pyz VERB``.

The same modules give the same bytes on every machine (nothing is compressed, no dates, sorted names), so the file can
be named by its sha256 and is sent to a board only once.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from importlib import resources

from pth2om.language import catalogue

PACKAGE = "board_agent"
_MAIN = f"import sys\nfrom {PACKAGE}.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"


@dataclass(frozen=True)
class Shipment:
    """The agent's file.

    Attributes:
        data: its bytes.
        digest: their sha256.
    """

    data: bytes
    digest: str


@functools.cache
def agent() -> Shipment:
    """The agent of this release."""
    folder = resources.files(f"{__package__}.agent")
    sources = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.endswith(".py")}
    # The doctor prints sentences also where pth2om is not.
    sources["texts.json"] = json.dumps(catalogue("doctor"), ensure_ascii=False, sort_keys=True).encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        files = {f"{PACKAGE}/{name}": data.replace(b"\r\n", b"\n") for name, data in sources.items()}
        for name, data in sorted({**files, "__main__.py": _MAIN.encode()}.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, data)
    data = written.getvalue()
    return Shipment(data, hashlib.sha256(data).hexdigest())
