"""A box with its own root: a writable layer over shared, read-only trees."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from . import ssh_server
from .box import Spec

_DEVICES = "null:3 zero:5 full:7 random:8 urandom:9"


@dataclass(frozen=True, slots=True)
class Rooted:
    """The folders of such a box."""

    folder: Path
    lower: Sequence[Path]
    """Trees, the upper ones first."""

    @property
    def layer(self) -> Path:
        """The files that the box has written, and its initial files."""
        return self.folder / "layer"

    @property
    def root(self) -> Path:
        """The mount point of the root, visible only in the box's mounts."""
        return self.folder / "root"

    def make(self) -> None:
        """Make the folders."""
        for name in ("layer", "work", "root"):
            (self.folder / name).mkdir(parents=True)

    def new_boot_id(self) -> None:
        """Change /proc/sys/kernel/random/boot_id, so that the next start looks like another boot."""
        self._boot_id.write_text(f"{uuid.uuid4()}\n")

    def spec(
        self,
        hostname: str,
        *,
        outside: str = "",
        inside: str = "",
        program: Sequence[str] | None = None,
    ) -> Spec:
        """Return the box that runs a program on this root, an sshd unless another is given.

        The scripts find the root in $ROOT.
        """
        root = f"ROOT={quote(str(self.root))}\n"
        return Spec(
            hostname=hostname,
            program=["chroot", str(self.root), *program]
            if program
            else ssh_server.command(str(self.root)),
            outside=root + self._mounts() + outside,
            inside=root + self._mounts_inside() + inside,
        )

    @property
    def _boot_id(self) -> Path:
        return self.folder / "boot_id"

    def _mounts(self) -> str:
        lower = ":".join(str(tree) for tree in self.lower)
        options = f"lowerdir={lower},upperdir={self.layer},workdir={self.folder / 'work'}"
        return f"""\
mount -t overlay overlay -o {quote(options)} "$ROOT"
mount -t tmpfs -o mode=755 tmpfs "$ROOT/dev"
for device in {_DEVICES}; do
    mknod -m 666 "$ROOT/dev/${{device%:*}}" c 1 "${{device#*:}}"
done
mknod -m 666 "$ROOT/dev/tty" c 5 0
mkdir -m 1777 "$ROOT/dev/shm"
mkdir "$ROOT/dev/pts"
ln -s pts/ptmx "$ROOT/dev/ptmx"
ln -s /proc/self/fd "$ROOT/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$ROOT/run"
mkdir -m 755 "$ROOT/run/sshd"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
"""

    def _mounts_inside(self) -> str:
        return f"""\
mount -t proc proc "$ROOT/proc"
mount --bind {quote(str(self._boot_id))} "$ROOT/proc/sys/kernel/random/boot_id"
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$ROOT/dev/pts"
"""
