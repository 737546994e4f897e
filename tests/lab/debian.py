"""Trees of Debian's packages for another architecture: extracted only, without running their programs."""

from __future__ import annotations

import shutil
from pathlib import Path

from . import cache
from .tools import run

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
PYTHON = "3.11"
"""The suite's."""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
TOOLS = ("mmdebstrap",)

_PACKAGES = (
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "findutils", "grep", "gzip"),
    *("hostname", "libc-bin", "libstdc++6", "mount", "openssh-server", "openssh-sftp-server"),
    *("procps", "python3", "sed", "tar"),
)
_UNREAD = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/i18n", "var/lib/apt")


def tree(architecture: str, *more: str) -> Path:
    """Return a tree of `architecture` (Debian's name) with these packages too; made once.

    Raises LabError if it cannot be made.
    """
    packages = ",".join(sorted({*_PACKAGES, *more}))
    recipe = f"{SUITE} {architecture} {packages} {MIRROR} 1"
    return cache.made(
        f"tree-{architecture}", recipe, lambda folder: _extract(folder, architecture, packages)
    )


def _extract(folder: Path, architecture: str, packages: str) -> None:
    run(
        [
            *("mmdebstrap", "--quiet", "--variant=extract", "--mode=root"),
            *(f"--architectures={architecture}", f"--include={packages}"),
            *("--skip=check/qemu", SUITE, str(folder), MIRROR),
        ],
        timeout_seconds=900,
    )
    for unread in _UNREAD:
        shutil.rmtree(folder / unread, ignore_errors=True)
    # The work of the packages' scripts.
    for name in ("passwd", "group"):
        master = folder / "usr" / "share" / "base-passwd" / f"{name}.master"
        shutil.copyfile(master, folder / "etc" / name)
    (folder / "root").mkdir(mode=0o700, exist_ok=True)
