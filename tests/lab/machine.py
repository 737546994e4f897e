"""A whole machine: its own kernel that boots, its own disk that survives a power cut.

qemu runs in a box, so it has the same cable and faults as every device; the machine's port 22 is
that of the box.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from shlex import quote

from . import arm, cache, debian, identity, kernel, runtimes, ssh_server
from .box import Spec
from .device import LabDevice
from .tools import LabError, run

PROFILE = "linux_aarch64"
PYTHON = arm.PYTHON
TOOLS = (*arm.TOOLS, "qemu-system-aarch64", "mke2fs", "apt-get", "dpkg-deb")
_MEMORY_MB, _PROCESSORS = 1024, 2
_TREE_MB, _OWN_MB = 600, 2048

_START = """\
#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p /dev/pts /dev/shm /run/sshd
mount -t devpts -o ptmxmode=666,mode=620 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
hostname -F /etc/hostname
/sbin/busybox ip link set lo up
/sbin/busybox ip address add 10.0.2.15/24 dev eth0
/sbin/busybox ip link set eth0 up
/sbin/busybox ip route add default via 10.0.2.2
"""
_INITTAB = """\
::sysinit:/sbin/lab-start
::respawn:/usr/sbin/sshd -D -e -f /etc/ssh/lab/sshd_config
"""


@dataclass(frozen=True, slots=True)
class Disks:
    """The disks of a machine: a shared tree, and a disk for its own writes."""

    folder: Path
    layer: Path
    """The machine's initial files, over the tree."""

    @property
    def own(self) -> Path:
        """The image it writes to."""
        return self.folder / "own.ext4"

    def make(self) -> None:
        """Make the machine's own disk of the layer."""
        (self.layer.parent / "work").mkdir()
        source = str(self.layer.parent)
        make = ["mke2fs", "-q", "-t", "ext4", "-L", "own", "-d", source]
        run([*make, str(self.own), f"{_OWN_MB}M"])
        shutil.rmtree(self.layer.parent)


def disks(folder: Path, hostname: str) -> Disks:
    """Lay out a machine's own files."""
    made = Disks(folder, folder / "disk" / "layer")
    tree = debian.tree(kernel.ARCHITECTURE)
    made.layer.mkdir(parents=True)
    identity.set_up(made.layer, tree, hostname)
    sbin = made.layer / "sbin"
    sbin.mkdir()
    (made.layer / "etc" / "inittab").write_text(_INITTAB)
    (sbin / "lab-start").write_text(_START)
    (sbin / "lab-start").chmod(0o755)
    shutil.copy2(kernel.made() / "busybox", sbin / "busybox")
    (sbin / "init").symlink_to("busybox")
    return made


def spec(hostname: str, own: Path) -> Spec:
    """Return the box that is the machine."""
    boot = kernel.made()
    program = [
        *("qemu-system-aarch64", "-machine", "virt", "-cpu", "cortex-a72"),
        *("-smp", str(_PROCESSORS), "-m", str(_MEMORY_MB)),
        *("-accel", "tcg,thread=multi,tb-size=256", "-nographic", "-no-reboot", "-nodefaults"),
        *("-serial", "stdio", "-kernel", str(boot / "kernel"), "-initrd", str(boot / "first_root")),
        *("-append", "console=ttyAMA0 quiet panic=-1"),
        *_disk("a", _shared_tree(), "readonly=on"),
        *_disk("b", own, "cache=unsafe"),
        *("-netdev", "user,id=n,restrict=on,hostfwd=tcp::22-:22"),
        *("-device", "virtio-net-device,netdev=n"),
    ]
    return Spec(hostname=hostname, program=program)


def _disk(name: str, image: Path, option: str) -> list[str]:
    drive = f"file={image},if=none,id={name},format=raw,{option}"
    return ["-drive", drive, "-device", f"virtio-blk-device,drive={name}"]


def _shared_tree() -> Path:
    """Return the image of Debian's tree with the runtime; made once."""
    tree = debian.tree(kernel.ARCHITECTURE)
    layer = runtimes.layer(runtimes.LITERT_ARM64)

    def make(folder: Path) -> None:
        merged, image = folder / "merged", folder / "tree.ext4"
        merged.mkdir()
        lower, quoted = quote(f"lowerdir={layer}:{tree}"), quote(str(merged))
        script = (
            f"mount -t overlay overlay -o {lower} {quoted}\n"
            f"mke2fs -q -t ext4 -L tree -d {quoted} {quote(str(image))} {_TREE_MB}M\n"
        )
        run(["unshare", "--mount", "sh", "-euc", script])
        merged.rmdir()

    made = cache.made("image-arm64", f"{tree.name} {layer.name} {_TREE_MB} 1", make)
    return made / "tree.ext4"


@dataclass(slots=True)
class Machine(LabDevice):
    """A device with its own kernel; its processes are listed over its sshd."""

    def processes(self) -> dict[int, str]:
        """List its processes: its own process id to the name."""
        lines = self.as_root(["ps", "-e", "-o", "pid=,comm="]).splitlines()
        return {int(pid): name for pid, name in (line.split(None, 1) for line in lines)}

    def commands(self) -> dict[int, str]:
        """List its processes: its own process id to its command line."""
        lines = self.as_root(["ps", "-e", "-o", "pid=,args="]).splitlines()
        return {int(pid): command for pid, command in (line.split(None, 1) for line in lines)}

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a process of `commands`; no effect if it has ended."""
        with suppress(LabError):
            self.as_root(["kill", f"-{int(number)}", str(pid)])

    def files(self, folder: str) -> dict[str, bytes]:
        """Read every file under a folder, by its path in it; empty if there is no folder."""
        argv = [*self.ssh_command("root"), shlex.join(["tar", "-C", folder, "-cf", "-", "."])]
        sent = subprocess.run(argv, capture_output=True, check=False, timeout=60.0).stdout
        if not sent:
            return {}
        with tarfile.open(fileobj=BytesIO(sent)) as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
            opened = {member.name: archive.extractfile(member) for member in members}
            return {name[2:]: file.read() for name, file in opened.items() if file is not None}

    def of_user(self) -> set[str]:
        """List the files that belong to its user, by their absolute names."""
        tops = ["/var", "/home", "/root", "/tmp", "/run", "/dev/shm"]
        found = self.as_root(["find", *tops, "-type", "f", "-user", ssh_server.USER])
        return set(found.splitlines())

    def kill(self, name: str) -> int:
        """Kill every process of this name (SIGKILL); returns how many there were."""
        victims = [str(pid) for pid, called in self.processes().items() if called == name]
        if victims:
            with suppress(LabError):  # one of them may carry this command
                self.as_root(["kill", "-9", *victims])
        return len(victims)

    def sshd_start(self) -> None:
        """Wait for the SSH server, which the machine starts again by itself."""
        self.wait_for_ssh()

    def as_root(self, argv: Sequence[str]) -> str:
        """Run a command as root over SSH; returns what it printed, raises LabError."""
        return self.ssh(*argv, user="root")
