"""The identity of a device: its name and id, and the login user with an empty home."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from .ssh_server import USER, USER_ID

_OPAQUE = "trusted.overlay.opaque"


def set_up(layer: Path, tree: Path, hostname: str) -> None:
    """Write name, accounts and home into a layer that will be mounted over `tree`."""
    etc = layer / "etc"
    etc.mkdir(parents=True, exist_ok=True)
    (etc / "hostname").write_text(f"{hostname}\n")
    (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
    passwd, group = ((tree / "etc" / name).read_text() for name in ("passwd", "group"))
    passwd += f"{USER}:*:{USER_ID}:{USER_ID}:{USER}:/home/{USER}:/bin/sh\n"
    if "\nsshd:" not in passwd:
        passwd += "sshd:*:54320:65534::/run/sshd:/usr/sbin/nologin\n"
    (etc / "passwd").write_text(passwd)
    (etc / "group").write_text(f"{group}{USER}:x:{USER_ID}:\n")
    empty(layer / "home")
    home = layer / "home" / USER
    home.mkdir()
    os.chown(home, USER_ID, USER_ID)
    empty(layer / "var" / "tmp").chmod(0o1777)


def empty(folder: Path) -> Path:
    """Make a folder of a layer that hides the same folder of the tree below."""
    folder.mkdir(parents=True)
    os.setxattr(folder, _OPAQUE, b"y")
    return folder
