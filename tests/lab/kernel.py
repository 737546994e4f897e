"""Debian's kernel for virtual machines, and a first root that mounts the real one.

Debian makes its first root with programs that would have to run emulated. So this module makes its
own: a static busybox, the modules for disks and network, and a script of a few lines.
"""

from __future__ import annotations

import gzip
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from . import cache, debian
from .tools import LabError, run

ARCHITECTURE = "arm64"
_PACKAGE = "linux-image-cloud-arm64"
_MODULES = (  # in the order they need each other
    *("virtio", "virtio_ring", "virtio_mmio", "virtio_blk", "failover", "net_failover"),
    *("virtio_net", "overlay"),
)
# The tree is shared and read-only; what a machine writes is on a disk of its own.
_FIRST_PROGRAM = f"""\
#!/bin/busybox sh
PATH=/bin
for name in {" ".join(_MODULES)}; do busybox insmod "/modules/$name.ko"; done
busybox mount -t devtmpfs dev /dev
until TREE=$(busybox findfs LABEL=tree) && OWN=$(busybox findfs LABEL=own); do
    busybox usleep 20000
done 2>/dev/null
busybox mount -t ext4 -o ro "$TREE" /tree
busybox mount -t ext4 "$OWN" /own
busybox mount -t overlay -o lowerdir=/tree,upperdir=/own/layer,workdir=/own/work overlay /root
busybox mount --move /dev /root/dev
exec busybox switch_root /root /sbin/init
"""


def made() -> Path:
    """Return a folder with `kernel`, `first_root` and `busybox`; made once. Raises LabError."""
    recipe = f"{debian.SUITE} {_PACKAGE} {_FIRST_PROGRAM} 1"
    return cache.made("kernel-arm64", recipe, _make)


def _make(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as kept:
        tree = Path(kept) / "tree"
        for package in _download(Path(kept)):
            run(["dpkg-deb", "-x", str(package), str(tree)])
        busybox = tree / "bin" / "busybox"
        (kernel,) = (tree / "boot").glob("vmlinuz-*")
        (modules,) = (tree / "lib" / "modules").iterdir()
        (folder / "kernel").write_bytes(kernel.read_bytes())
        (folder / "busybox").write_bytes(busybox.read_bytes())
        (folder / "busybox").chmod(0o755)
        files = {"init": _FIRST_PROGRAM.encode(), "bin/busybox": busybox.read_bytes()}
        for name in _MODULES:
            for path in modules.rglob(f"{name}.ko"):  # one that is built in has no file
                files[f"modules/{name}.ko"] = path.read_bytes()
        folders = ("bin", "modules", "dev", "tree", "own", "root")
        (folder / "first_root").write_bytes(gzip.compress(b"".join(_archive(folders, files))))


def _download(folder: Path) -> list[Path]:
    """Fetch the kernel and busybox with a separate apt; the machine's own stays unchanged."""
    for name in ("lists/partial", "archives/partial", "debs"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(
        f"deb [signed-by={debian.KEYRING}] {debian.MIRROR} {debian.SUITE} main\n"
    )
    settings = {
        "APT::Architecture": ARCHITECTURE,
        "APT::Architectures": ARCHITECTURE,
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Dir::Cache": str(folder),
        "Dir::Etc::SourceList": str(folder / "sources.list"),
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": str(folder),
        "Dir::State::Lists": str(folder / "lists"),
        "Dir::State::Status": str(folder / "status"),
    }
    options = [f"-o{name}={value}" for name, value in settings.items()]
    run(["apt-get", *options, "-qq", "update"])
    shown = run(["apt-cache", *options, "show", _PACKAGE])
    image = re.search(r"^Depends: (\S+)", shown, re.MULTILINE)
    if image is None:
        raise LabError(f"{_PACKAGE} does not name its kernel")
    download = ["apt-get", *options, "-qq", "download", image[1], "busybox-static"]
    run(["sh", "-c", 'cd "$0" && exec "$@"', str(folder / "debs"), *download])
    return sorted((folder / "debs").glob("*.deb"))


def _archive(folders: tuple[str, ...], files: dict[str, bytes]) -> Iterator[bytes]:
    """Write a cpio archive in the form `newc` that the kernel unpacks (cpio(5))."""
    entries = [
        *((name, 0o040755, b"") for name in folders),
        *((name, 0o100755, data) for name, data in files.items()),
        ("TRAILER!!!", 0, b""),
    ]
    for number, (name, mode, data) in enumerate(entries, 1):
        fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        head = "070701" + "".join(f"{field:08x}" for field in fields) + name + "\0"
        yield _padded(head.encode())
        yield _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
