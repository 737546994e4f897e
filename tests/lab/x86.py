"""x86 hosts: this machine's programs and Python, with their own layer and network."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from shlex import quote

from . import identity
from .rooted import Rooted

PROFILE = "linux_x86_64"
TOOLS = ("ip", "nsenter", "nft", "tc", "ss", "sshd", "ssh-keygen", "chroot")
PYTHON = sys.executable


def rooted(folder: Path, hostname: str) -> Rooted:
    """Lay out a host's own files."""
    made = Rooted(folder, [Path("/")])
    made.make()
    identity.set_up(made.layer, Path("/"), hostname)
    for prefix in _python():
        _let_pass(made.layer, prefix)
    return made


def outside() -> str:
    """Return the script that shows the device the kernel's /sys and this Python."""
    lines = ['mount --rbind /sys "$ROOT/sys"\n']
    # It is on another file system, or hidden by a folder of the device.
    lines += [
        f'[ -e "$ROOT"{quote(str(prefix))} ] || '
        f'{{ mkdir -p "$ROOT"{quote(str(prefix))}; '
        f'mount --bind {quote(str(prefix))} "$ROOT"{quote(str(prefix))}; }}\n'
        for prefix in _python()
    ]
    return "".join(lines)


def _python() -> list[Path]:
    return sorted({Path(sys.prefix), Path(sys.base_prefix)})


def _let_pass(layer: Path, prefix: Path) -> None:
    """Make the folders above accessible to all users of the device; one may be a private home."""
    for folder in reversed(prefix.parents):
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            inside = layer / folder.relative_to("/")
            inside.mkdir(parents=True, exist_ok=True)
            inside.chmod(mode | stat.S_IXOTH)
