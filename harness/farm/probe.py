"""Probe a device's Python without an agent: a short script prints one JSON line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from harness.devices.dialects.python_agent.options import AgentOptions
from harness.errors import AgentError
from harness.protocols import Commands
from harness.types import Device

T = TypeVar("T")

_SECONDS = 60.0
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_.+ -]{0,80}")
_MARK = b"edge-harness-probe "
_MAX_INTEGER = 1 << 63

# Every Python, 2 included, must be able to run it: an old one reports its version too.
_SCRIPT = r"""
import sys, os, json
found = {"version": list(sys.version_info[:3]), "bits": 64 if sys.maxsize > 2**32 else 32}
found["machine"] = os.uname()[4]
path = sys.argv[1]
while path != os.path.dirname(path) and not os.path.isdir(path):
    path = os.path.dirname(path)
try:
    disk = os.statvfs(path)
    found["free_bytes"] = disk.f_bavail * disk.f_frsize
    found["noexec"] = bool(disk.f_flag & 8)
except (AttributeError, OSError):
    pass
try:
    found["libc"] = os.confstr("CS_GNU_LIBC_VERSION")
except (AttributeError, ValueError, OSError):
    pass
try:
    import sysconfig
    found["implementation"] = sys.implementation.name
    found["free_threaded"] = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    from importlib.metadata import version
    found["numpy"] = version("numpy")
except Exception:
    pass
print("edge-harness-probe " + json.dumps(found))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The answer of the script: the device's Python and machine."""

    version: tuple[int, ...]
    bits: int
    free_bytes: int | None
    """On the file system of the work folder."""
    noexec: bool | None
    """Whether that file system is mounted noexec, so that no library loads from it."""
    machine: str = ""
    """`uname -m`."""
    libc: str | None = None
    """`glibc 2.36`; None for another C library."""
    implementation: str = "cpython"
    free_threaded: bool = False
    numpy: str | None = None
    """The installed version; the script does not import it."""


class NoPython(AgentError):
    """The device's `python` does not run."""

    kind = "no_runtime"


def probe_python(transport: Commands, device: Device) -> Probe:
    """Run the script on the device; raises NoPython with the error output if it does not run."""
    agent = AgentOptions.of(device)
    reply = transport.run(agent.script(_SCRIPT, agent.workdir), _SECONDS)
    lines = [line for line in reply.stdout.splitlines() if line.startswith(_MARK)]
    if reply.exit_code != 0 or not lines:
        errors = reply.stderr.decode(errors="replace").strip()[-300:]
        raise NoPython(f"{agent.python} ends with {reply.exit_code}: {errors or 'no message'}")
    try:
        return read(lines[-1][len(_MARK) :])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        answer = lines[-1].decode(errors="replace")[:300]
        raise NoPython(f"{agent.python} gives an invalid answer: {answer}") from error


def read(line: bytes) -> Probe:
    """Parse the answer; raises ValueError, KeyError, TypeError or RecursionError if it is invalid."""
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise TypeError(line)
    major, minor, micro = map(_whole, answer["version"])
    return Probe(
        version=(major, minor, micro),
        bits=_whole(answer["bits"]),
        machine=_text(answer["machine"]),
        free_bytes=_or_none(_whole, answer.get("free_bytes")),
        noexec=_or_none(bool, answer.get("noexec")),
        libc=_or_none(_text, answer.get("libc")),
        implementation=_text(answer.get("implementation", "cpython")),
        free_threaded=bool(answer.get("free_threaded")),
        numpy=_or_none(_text, answer.get("numpy")),
    )


def _or_none(kind: Callable[[object], T], value: object) -> T | None:
    return None if value is None else kind(value)


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < _MAX_INTEGER:
        raise TypeError(str(value)[:80])
    return value


def _text(value: object) -> str:
    """Check a name or a version: plain text without control characters."""
    if not isinstance(value, str) or _PLAIN_TEXT.fullmatch(value) is None:
        raise TypeError(value)
    return value
