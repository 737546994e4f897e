"""ARM boards: Debian's programs for the board's processor, run by qemu's user emulation.

qemu is registered in the board's own user namespace; the machine itself has no such entry.
/proc/cpuinfo and /sys are a board's, as plain files: without them the runtime's own look at the
processor fails, and XNNPACK is silently omitted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from . import debian, identity, runtimes
from .rooted import Rooted
from .tools import found

PYTHON = "/usr/bin/python3"
TOOLS = ("ip", "nsenter", "nft", "tc", "ss", "ssh-keygen", "chroot", *debian.TOOLS)
_CPUINFO = "etc/lab-cpuinfo"

# The fields of an ELF header that identify a program's platform: class, byte order, machine.
_ELF_MASK = r"\xff" * 7 + r"\x00" * 9 + r"\xfe\xff\xff\xff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of board."""

    profile: str
    architecture: str
    """Debian's name of the architecture."""
    qemu: str
    """The emulator of programs; QEMU_CPU chooses the processor."""
    cpu: str
    elf: str
    """ELF class and machine of its programs, for the kernel's binfmt_misc."""
    wheels: runtimes.Wheels
    packages: tuple[str, ...] = ()
    libraries: Mapping[str, str] | None = None
    """Links that Debian's alternatives would have made."""
    cores: int = 4
    core: str = ""
    """The entry of /proc/cpuinfo for each core."""
    model: str = ""
    max_khz: int

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of every program of the board."""
        return {"QEMU_CPU": self.cpu}


PI_4 = Kind(
    profile="raspberry_pi_4",
    architecture="arm64",
    qemu="qemu-aarch64-static",
    cpu="cortex-a72",
    elf=r"\x02\x01\x01" + r"\x00" * 9 + r"\x02\x00\xb7\x00",
    wheels=runtimes.LITERT_ARM64,
    core="""\
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3
""",
    model="Raspberry Pi 4 Model B Rev 1.4",
    max_khz=1_800_000,
)

PI_3_32_BIT = Kind(
    profile="raspberry_pi_3",
    architecture="armhf",
    qemu="qemu-arm-static",
    cpu="cortex-a7",
    elf=r"\x01\x01\x01" + r"\x00" * 9 + r"\x02\x00\x28\x00",
    wheels=runtimes.TFLITE_ARMV7,
    packages=("python3-numpy",),
    libraries={
        "usr/lib/arm-linux-gnueabihf/libblas.so.3": "blas/libblas.so.3",
        "usr/lib/arm-linux-gnueabihf/liblapack.so.3": "lapack/liblapack.so.3",
    },
    core="""\
model name\t: ARMv7 Processor rev 4 (v7l)
BogoMIPS\t: 38.40
Features\t: half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm crc32
CPU implementer\t: 0x41
CPU architecture: 7
CPU variant\t: 0x0
CPU part\t: 0xd03
CPU revision\t: 4
""",
    model="Raspberry Pi 3 Model B Plus Rev 1.3",
    max_khz=1_400_000,
)


def tools(kind: Kind) -> tuple[str, ...]:
    """Return the programs that a board of this kind needs."""
    return (*TOOLS, kind.qemu)


def rooted(folder: Path, hostname: str, kind: Kind, *, runtime: bool) -> Rooted:
    """Lay out a board's own files over Debian's, with the kind's TFLite runtime or without."""
    tree = debian.tree(kind.architecture, *kind.packages)
    made = Rooted(folder, [*([runtimes.layer(kind.wheels)] if runtime else []), tree])
    made.make()
    layer = made.layer
    identity.set_up(layer, tree, hostname)
    serial = hashlib.sha256(hostname.encode()).hexdigest()[:16]
    written = {
        _CPUINFO: _cpuinfo(kind, serial),
        **_sysfs(kind),
    }
    for name, text in written.items():
        path = layer / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, target in (kind.libraries or {}).items():
        link = layer / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    return made


def inside(kind: Kind) -> str:
    """Return the script that lets the kernel run the board's programs, and names its processor."""
    line = f":{kind.qemu}:M::\\x7fELF{kind.elf}:{_ELF_MASK}:{found(kind.qemu)}:POF"
    return f"""\
mount --bind "$ROOT/{_CPUINFO}" "$ROOT/proc/cpuinfo"
mount -t binfmt_misc binfmt_misc "$ROOT/proc/sys/fs/binfmt_misc"
printf %s {quote(line)} > "$ROOT/proc/sys/fs/binfmt_misc/register"
export QEMU_CPU={kind.cpu}
"""


def _cpuinfo(kind: Kind, serial: str) -> str:
    cores = "".join(f"processor\t: {core}\n{kind.core}\n" for core in range(kind.cores))
    return f"{cores}Hardware\t: BCM2835\nSerial\t\t: {serial}\nModel\t\t: {kind.model}\n"


def _sysfs(kind: Kind) -> dict[str, str]:
    """Return the board's files of processors, clocks and temperature in /sys."""
    cpu = "sys/devices/system/cpu"
    all_cores = f"0-{kind.cores - 1}\n"
    files = {
        **{f"{cpu}/{name}": all_cores for name in ("present", "possible", "online")},
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "48312\n",
    }
    for core in range(kind.cores):
        clock = f"{cpu}/cpu{core}/cpufreq"
        files |= {
            f"{clock}/scaling_governor": "ondemand\n",
            f"{clock}/scaling_available_governors": "ondemand performance powersave\n",
            f"{clock}/scaling_cur_freq": "600000\n",
            f"{clock}/cpuinfo_max_freq": f"{kind.max_khz}\n",
            f"{clock}/stats/time_in_state": f"600000 2089\n{kind.max_khz} 311\n",
        }
    return files
