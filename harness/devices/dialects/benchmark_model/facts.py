"""Turn the survey script's output into the facts of a device."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from harness.devices.by_shell import android
from harness.devices.dialects.benchmark_model import bundle as bundles
from harness.devices.dialects.benchmark_model.bundle import RunnerBundle
from harness.devices.dialects.benchmark_model.scripts import ScriptOutput
from harness.errors import AgentError
from harness.types import DeviceFacts, Runtime

_MAX_CORES = 1 << 12
_TEXT = 300
_INTEGER = re.compile(r"\d{1,15}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyedDevice:
    """What a device reports about itself, and what it has of ours."""

    facts: DeviceFacts
    bundles: tuple[RunnerBundle, ...]
    """The default bundle is the first."""
    page_bytes: int | None
    api: int | None
    """The Android API level; None on Linux."""
    has_taskset: bool


def read(found: ScriptOutput, device: str) -> SurveyedDevice:
    """Read a survey; raises AgentError if it is not complete."""
    if not found.complete:
        raise AgentError(
            f"{device}: the survey of the device ended early; it has no POSIX shell with the usual tools"
        )
    installed = _bundles(found)
    processors = _processors(found)
    memory = _integer(found.text("memory_kb"))
    name = found.text("prop.ro.product.model")
    release = found.text("prop.ro.build.version.release")
    facts = DeviceFacts(
        identity=_identity(found),
        hostname=_clipped(found.text("hostname")),
        system=f"Android {release}"[:_TEXT] if release else _clipped(found.text("system")),
        kernel=_clipped(found.text("kernel")),
        machine=_clipped(found.text("machine")),
        chip=_clipped(found.text("prop.ro.soc.model") or found.text("prop.ro.board.platform")),
        board=_clipped(f"{found.text('prop.ro.product.manufacturer') or ''} {name}".strip())
        if name
        else None,
        cores=len(found.values.get("cpu", ())) or None,
        memory_total_bytes=memory * 1024 if memory else None,
        libc="bionic" if release else None,
        runtimes=tuple(Runtime(name=one.name, version=one.full_version) for one in installed),
        boot_id=_clipped(found.text("boot_id")),
        governor=_clipped(found.text("governor")),
        free_bytes=_free_bytes(found.text("free_kb")),
        usable_cores=len(processors) or None,
        processors=processors,
    )
    return SurveyedDevice(
        facts=facts,
        bundles=installed,
        page_bytes=_integer(found.text("page_size")),
        api=_integer(found.text("prop.ro.build.version.sdk")),
        has_taskset=found.text("taskset") == "yes",
    )


def _bundles(found: ScriptOutput) -> tuple[RunnerBundle, ...]:
    """Return the bundles with a readable manifest, the default one first."""
    made = [bundles.of_manifest(data) for data in found.files.get("bundle", ())]
    known = {one.folder: one for one in made if one is not None}
    default = known.get(found.text("default") or "")
    rest = sorted((one for one in known.values() if one is not default), key=lambda one: one.folder)
    return (default, *rest) if default else tuple(rest)


def _identity(found: ScriptOutput) -> str:
    """Return a phone's identity, or the hash that the Python agent reports for the same board.

    Two devices of a farm with the same identity are never measured at the same time.
    """
    serial = found.text("prop.ro.serialno") or found.text("prop.ro.boot.serialno")
    if serial:
        return android.identity_of(serial)
    source = ""
    for key in ("serial-number", "machine-id"):
        value = found.text(key)
        if not source and value and value != "uninitialized":
            source = f"{key}:{value}"
    source += f"\nhostname:{found.text('hostname') or ''}"
    return hashlib.sha256(b"edge-harness device\n" + source.encode()).hexdigest()[:32]


def _processors(found: ScriptOutput) -> tuple[int, ...]:
    """Return the usable processors, the fastest first, by frequency, else by the kernel's capacity."""
    allowed = _allowed(found.text("allowed"))
    entries: list[tuple[int, int, int]] = []
    for line in found.values.get("cpu", ())[:_MAX_CORES]:
        words = line.split()
        if len(words) != 3 or not _INTEGER.fullmatch(words[0]):  # noqa: PLR2004 - number, kHz, capacity
            continue
        number = int(words[0])
        khz, capacity = (_integer(word) or 0 for word in words[1:])
        if number < _MAX_CORES and (not allowed or number in allowed):
            entries.append((number, capacity, khz))
    if not any(khz or capacity for _, capacity, khz in entries):
        return tuple(number for number, _, _ in entries)
    return tuple(
        number for number, _, _ in sorted(entries, key=lambda one: (-one[2], -one[1], one[0]))
    )


def _allowed(text: str | None) -> set[int]:
    """Read the kernel's list of processors, `0-3,7`."""
    found: set[int] = set()
    for part in (text or "").split(",")[:_MAX_CORES]:
        first, _, last = part.partition("-")
        low, high = _integer(first), _integer(last or first)
        if low is not None and high is not None and low <= high < _MAX_CORES:
            found |= set(range(low, high + 1))
    return found


def _free_bytes(text: str | None) -> int | None:
    """Read the last line of `df -k`: the fourth number is free, whatever stands before it."""
    words = (text or "").split()
    numbers = [word for word in words if _INTEGER.fullmatch(word)]
    return int(numbers[2]) * 1024 if len(numbers) > 2 else None  # noqa: PLR2004 - size, used, free


def _integer(text: str | None) -> int | None:
    return int(text) if text and _INTEGER.fullmatch(text) else None


def _clipped(text: str | None) -> str | None:
    return text[:_TEXT] if text else None
