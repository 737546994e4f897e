"""The configuration of the lab's sshd, and the keys on both sides."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path

from .tools import LabError, run

USER = "pi"
USER_ID = 54321
"""A user id that ordinary machines do not use, within the ids of a box."""
FOLDER = "etc/ssh/lab"
"""Folder on the device, relative to its root."""

_CONFIG = f"""\
Port 22
HostKey /{FOLDER}/host_key
AuthorizedKeysFile /{FOLDER}/authorized_keys
PidFile /run/sshd.pid
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
StrictModes no
MaxStartups 100:30:200
MaxSessions 100
Subsystem sftp internal-sftp
"""


def client_key(folder: Path) -> Path:
    """Make the key that logs in to every device of a lab; returns the private half."""
    return _key(folder / "client_key")


def set_up(root: Path, public_key: Path, environment: Mapping[str, str]) -> str:
    """Write configuration and keys under a device's root; returns type and key of the host key."""
    folder = root / FOLDER
    folder.mkdir(parents=True)
    host_key = _key(folder / "host_key")
    (folder / "authorized_keys").write_text(public_key.read_text())
    (folder / "sshd_config").write_text(
        _CONFIG + "".join(f"SetEnv {name}={value}\n" for name, value in environment.items())
    )
    return " ".join(host_key.with_suffix(".pub").read_text().split()[:2])


def command(root: str = "/") -> list[str]:
    """Return the command that starts the server; `root` is the path of the device's root."""
    server = ["/usr/sbin/sshd", "-D", "-e", "-f", f"/{FOLDER}/sshd_config"]
    return server if root == "/" else ["chroot", root, *server]


def wait_for(address: str, seconds: float) -> None:
    """Wait until a server greets at port 22; raises LabError past the deadline."""
    deadline, patience = time.monotonic() + seconds, 1.0
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((address, 22), min(patience, left)) as probe:
                if probe.recv(4) == b"SSH-":
                    return
        except TimeoutError:
            # Short attempts overload a slow machine, so attempts become longer.
            patience *= 2
        except OSError:
            time.sleep(0.02)
    raise LabError(f"no sshd answers at {address} within {seconds:g} s")


def _key(path: Path) -> Path:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(path)])
    return path
