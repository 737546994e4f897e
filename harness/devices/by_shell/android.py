"""What an Android phone says about itself, by one script of its shell; this host parses the output.

    found = survey(transport, device.name, workdir)
    found.facts()                     # DeviceFacts, with the identity

Whatever a phone does not let the user `shell` read is None. Temperatures are those that
`dumpsys thermalservice` has from the hardware; the block of cached ones above them may be old. Types and
states are numbered as in android.os.Temperature and android.os.PowerManager.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.errors import AgentError
from harness.protocols import Commands
from harness.types import DeviceFacts

LIBC = "bionic"
"""The C library of Android."""

_SECONDS = 30.0
_MARK = "edge-harness-phone "
_MAX_TEXT = 200
_MAX_LINES = 400
_ABSENT_CELSIUS = -50.0
"""Sensors that are not there report -99.9 and the like."""

_PROPERTIES = (
    *("ro.serialno", "ro.boot.serialno", "ro.product.manufacturer", "ro.product.model"),
    *("ro.soc.model", "ro.board.platform", "ro.product.cpu.abi", "ro.product.cpu.abilist"),
    *("ro.build.version.sdk", "ro.build.version.release", "ro.build.fingerprint"),
    *("ro.build.version.security_patch", "ro.kernel.qemu"),
)
_SCRIPT = r"""
exec 2>/dev/null
section() { echo; echo "edge-harness-phone $1"; }
work=$1; shift
section properties
for one; do echo "$one=$(getprop "$one")"; done
section uname; uname -r; uname -m
section user; id -un
section page; getconf PAGE_SIZE
section boot; cat /proc/sys/kernel/random/boot_id
section cores; cat /sys/devices/system/cpu/possible
section memory; cat /proc/meminfo
section selinux; getenforce
while [ ! -d "$work" ]; do work=${work%/*}; [ -n "$work" ] || work=/; done
section space; df -Pk "$work"
section thermal; dumpsys thermalservice
section battery; dumpsys battery
section end
"""
_TEMPERATURE = re.compile(
    r"Temperature\{mValue=(-?\d{1,4}(?:\.\d{1,9})?), mType=(\d{1,3}), mName=([^,{}]{1,60}), mStatus=(\d)"
)
_DF = re.compile(r"\s\d+\s+\d+\s+(\d{1,15})\s+(?:-|\d+%)\s+/")
_CHARGING, _FULL = 2, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Temperature:
    """One sensor of the thermal service."""

    name: str
    type: int
    """0 processor, 1 GPU, 2 battery, 3 skin, 9 NPU."""
    celsius: float
    status: int
    """0 none, 1 light, 2 moderate, 3 severe, and worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Battery:
    """The state of the battery."""

    level: int
    """Percent."""
    celsius: float | None
    is_charging: bool | None
    is_plugged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Android:
    """The facts of one phone."""

    serial: str
    model: str
    manufacturer: str = ""
    soc: str = ""
    abis: tuple[str, ...] = ()
    """The first is the preferred one: `arm64-v8a`."""
    api_level: int | None = None
    release: str = ""
    fingerprint: str = ""
    kernel: str = ""
    machine: str = ""
    user: str = ""
    page_bytes: int | None = None
    boot_id: str | None = None
    cores: int | None = None
    memory_bytes: int | None = None
    free_bytes: int | None = None
    """On the file system of the work folder."""
    selinux: str = ""
    """`Enforcing` or `Permissive`."""
    thermal_status: int | None = None
    temperatures: tuple[Temperature, ...] = ()
    battery: Battery | None = None

    @property
    def identity(self) -> str:
        """Return what identifies the phone; see `identity_of`."""
        return identity_of(self.serial)

    def celsius(self, kind: int) -> float | None:
        """Return the highest temperature of a type; None if the phone reports none."""
        return max((one.celsius for one in self.temperatures if one.type == kind), default=None)

    def facts(self) -> DeviceFacts:
        """Return the facts of a device, as a dialect's `hello` does."""
        return DeviceFacts(
            identity=self.identity,
            hostname=self.model or None,
            system=f"Android {self.release}".strip(),
            kernel=self.kernel or None,
            machine=self.machine or None,
            chip=self.soc or None,
            board=f"{self.manufacturer} {self.model}".strip() or None,
            cores=self.cores,
            memory_total_bytes=self.memory_bytes,
            libc=LIBC,
            boot_id=self.boot_id,
            temperature_c=self.celsius(0),
            free_bytes=self.free_bytes,
        )


def identity_of(serial: str) -> str:
    """Return the hash of a serial number; a reboot or another address does not change it."""
    return hashlib.sha256(f"edge-harness device\nro.serialno:{serial}".encode()).hexdigest()[:32]


def survey(transport: Commands, device: str, workdir: str) -> Android:
    """Run the script on a phone; raises AgentError if it is no Android, or has no serial number."""
    reply = transport.run(["sh", "-c", _SCRIPT, "sh", workdir, *_PROPERTIES], _SECONDS)
    found = read(reply.stdout)
    if found is None:
        text = (reply.stderr or reply.stdout).decode(errors="replace").strip()[-_MAX_TEXT:]
        raise AgentError(f"{device}: it does not answer as an Android phone does: {text or '-'}")
    return found


def read(answer: bytes) -> Android | None:
    """Parse the output of the script; None if it is incomplete or of no Android."""
    sections = _sections(answer)
    given = dict(line.partition("=")[::2] for line in sections.get("properties", ()))
    properties = {key: _text(value) for key, value in given.items()}
    serial = properties.get("ro.serialno") or properties.get("ro.boot.serialno")
    if "end" not in sections or not serial:
        return None
    kernel, machine = (*map(_text, sections.get("uname", ())), "", "")[:2]
    space = _DF.search(" " + " ".join(sections.get("space", ())[-1:]))
    memory = re.search(
        r"^MemTotal:\s+(\d{1,12}) kB", "\n".join(sections.get("memory", ())), re.MULTILINE
    )
    abis = properties.get("ro.product.cpu.abilist") or properties.get("ro.product.cpu.abi", "")
    return Android(
        serial=serial,
        model=properties.get("ro.product.model", ""),
        manufacturer=properties.get("ro.product.manufacturer", ""),
        soc=properties.get("ro.soc.model") or properties.get("ro.board.platform", ""),
        abis=tuple(one for one in abis.split(",") if one)[:8],
        api_level=_whole(properties.get("ro.build.version.sdk", "")),
        release=properties.get("ro.build.version.release", ""),
        fingerprint=properties.get("ro.build.fingerprint", ""),
        kernel=kernel,
        machine=machine,
        user=_first(sections, "user"),
        page_bytes=_whole(_first(sections, "page")),
        boot_id=_first(sections, "boot") or None,
        cores=_cores(_first(sections, "cores")),
        memory_bytes=int(memory[1]) * 1024 if memory else None,
        free_bytes=int(space[1]) * 1024 if space else None,
        selinux=_first(sections, "selinux"),
        thermal_status=_thermal_status(sections.get("thermal", ())),
        temperatures=temperatures(sections.get("thermal", ())),
        battery=_battery(sections.get("battery", ())),
    )


def temperatures(lines: Sequence[str]) -> tuple[Temperature, ...]:
    """Return what `dumpsys thermalservice` has from the hardware now, without absent sensors."""
    found: list[Temperature] = []
    now = False
    for line in lines:
        if line.strip().endswith(":"):
            now = line.strip() == "Current temperatures from HAL:"
        elif now and (match := _TEMPERATURE.search(line)) and float(match[1]) > _ABSENT_CELSIUS:
            found.append(
                Temperature(
                    name=_text(match[3]),
                    type=int(match[2]),
                    celsius=float(match[1]),
                    status=int(match[4]),
                )
            )
    return tuple(found)


def _sections(answer: bytes) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in answer.decode(errors="replace").split("\n"):
        if line.startswith(_MARK):
            lines = found.setdefault(line.removeprefix(_MARK).strip(), [])
        elif line.strip() and len(lines) < _MAX_LINES:
            lines.append(line[:1000])
    return found


def _thermal_status(lines: Sequence[str]) -> int | None:
    found = re.search(r"^\s*Thermal Status: (\d)\s*$", "\n".join(lines), re.MULTILINE)
    return int(found[1]) if found else None


def _battery(lines: Sequence[str]) -> Battery | None:
    values = {
        key.strip().lower(): value.strip()
        for key, _, value in (line.partition(":") for line in lines)
    }
    level, status = _whole(values.get("level", "")), _whole(values.get("status", ""))
    if level is None:
        return None
    tenths = re.fullmatch(r"-?\d{1,4}", values.get("temperature", ""))
    return Battery(
        level=level,
        celsius=int(tenths[0]) / 10 if tenths else None,
        is_charging=None if status is None else status in {_CHARGING, _FULL},
        is_plugged=any(
            value == "true" for key, value in values.items() if key.endswith(" powered")
        ),
    )


def _cores(text: str) -> int | None:
    """Count the processors of a list such as `0-3,6`."""
    count = 0
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", part.strip())
        if found is None:
            return None
        count += int(found[2] or found[1]) - int(found[1]) + 1
    return count if count > 0 else None


def _first(sections: Mapping[str, Sequence[str]], name: str) -> str:
    return _text("".join(sections.get(name, ())[:1]))


def _text(line: str) -> str:
    return "".join(letter for letter in line.strip() if letter.isprintable())[:_MAX_TEXT]


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text.strip()) else None
