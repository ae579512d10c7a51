"""A real sshd on loopback, with its own configuration and keys: a board for the tests."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
needs_sshd = pytest.mark.skipif(
    not (Path(SSHD).is_file() and shutil.which("ssh") and shutil.which("ssh-keygen")),
    reason="OpenSSH's client and server are not installed (Debian: openssh-server)",
)


@dataclass
class Sshd:
    """One server; each `environment` it is started with is another board."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    def start(self, environment: dict[str, str], command: str = "") -> None:
        variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
        config = self.folder / f"sshd-{self.port}"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder / 'host'}\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder / 'user.pub'}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            f"PermitRootLogin prohibit-password\nPrintMotd no\nSetEnv {variables}\n"
            + (f"ForceCommand {command}\n" if command else "")
        )
        Path("/run/sshd").mkdir(exist_ok=True) if os.getuid() == 0 else None
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stderr=subprocess.DEVNULL)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as link:
                link.recv(16)
                return
            time.sleep(0.05)
        pytest.fail("sshd does not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def make_keys(folder: Path) -> Path:
    """Keys of the host and of the user in ``folder``."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    return folder


def know(keys: Path, server: Sshd) -> Path:
    """Let a client know the server; returns the configuration for it, with an unusable shared connection in it."""
    host = (keys / "host.pub").read_text().rsplit(" ", 1)[0]
    with (keys / "known").open("a") as file:
        file.write(f"[127.0.0.1]:{server.port} {host}\n")
    (keys / "config").write_text(
        f"Host *\n  IdentityFile {keys / 'user'}\n  IdentitiesOnly yes\n  UserKnownHostsFile {keys / 'known'}\n"
        f"  ControlPath {keys / 'shared'}\n  ControlMaster auto\n"
    )
    return keys / "config"
