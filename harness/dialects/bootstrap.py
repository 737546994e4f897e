"""Bring the agent's zip to a device that has nothing of ours yet, only Python."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path

from harness.errors import AgentError, RuntimeMissing, TransferFailed
from harness.protocols import Reply, Transport
from harness.types import Device

LEAST_PYTHON = (3, 9)
_SECONDS = 60.0
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126

# Any Python, 2 included, must be able to read this far and say what it is.
_LOOK = """\
import sys, hashlib, json
path = sys.argv[1]
try:
    with open(path, "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
except (IOError, OSError):
    found = None
print("edge-harness " + json.dumps({"python": list(sys.version_info[:3]), "sha256": found}))
"""

# The zip is whole under its name, or not there: check, flush, rename, flush the folder.
_FINISH = """\
import sys, os, hashlib
part, path, wanted = sys.argv[1:4]
with open(part, "rb") as file:
    found = hashlib.sha256(file.read()).hexdigest()
    if found != wanted:
        os.unlink(part)
        sys.exit("sha256 is " + found)
    os.fsync(file.fileno())
os.chmod(part, 0o600)
os.replace(part, path)
folder = os.open(os.path.dirname(path), os.O_RDONLY)
os.fsync(folder)
print("edge-harness done")
"""


def bring(transport: Transport, device: Device, archive: Path, digest: str) -> str:
    """Make sure the agent is on the device; returns its path there.

    One command where it is there already. Raises RuntimeMissing where `device.python` is missing
    or too old, TransferFailed where the zip does not arrive whole.
    """
    path = f"{device.workdir}/agents/{digest}.zip"
    wanted = hashlib.sha256(archive.read_bytes()).hexdigest()
    if _look(transport, device, path) == wanted:
        return path
    part = f"{path}.{secrets.token_hex(4)}.part"
    transport.put(archive, part)
    reply = transport.run([device.python, "-c", _FINISH, part, path, wanted], _SECONDS)
    if reply.exit_code != 0 or b"edge-harness done" not in reply.stdout:
        message = f"{device.name}: the agent did not arrive whole at {path}: {_words(reply)}"
        raise TransferFailed(message)
    return path


def _look(transport: Transport, device: Device, path: str) -> str | None:
    """Return the sha256 of what is at `path` on the device; checks its Python on the way."""
    reply = transport.run([device.python, "-c", _LOOK, path], _SECONDS)
    if reply.exit_code in {_NOT_FOUND, _NOT_EXECUTABLE}:
        message = (
            f'{device.name}: no Python on the device: tried "{device.python}" ({_words(reply)}); '
            f"install Python {_dotted(LEAST_PYTHON)} or newer there, or set the key `python` of "
            f"[device.{device.name}] in farm.toml to where it is"
        )
        raise RuntimeMissing(message)
    # A login shell may print before; ours is the line with the mark.
    marked = [line for line in reply.stdout.splitlines() if line.startswith(b"edge-harness {")]
    try:
        answer = json.loads(marked[-1].partition(b" ")[2])
        version, found = tuple(answer["python"]), answer["sha256"]
    except (IndexError, ValueError, KeyError, TypeError) as error:
        message = (
            f'{device.name}: "{device.python}" on the device is not a Python that works: '
            f"{_words(reply)}; set the key `python` of [device.{device.name}] in farm.toml"
        )
        raise RuntimeMissing(message) from error
    if not all(isinstance(part, int) for part in version) or not isinstance(
        found, (str, type(None))
    ):
        raise AgentError(f"{device.name}: an answer that is none of ours: {_words(reply)}")
    if version < LEAST_PYTHON:
        message = (
            f'{device.name}: "{device.python}" on the device is Python {_dotted(version)}, the '
            f"agent needs {_dotted(LEAST_PYTHON)} or newer; set the key `python` of "
            f"[device.{device.name}] in farm.toml to a newer one"
        )
        raise RuntimeMissing(message)
    return found


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _words(reply: Reply) -> str:
    text = (reply.stderr or reply.stdout).decode(errors="replace").strip()[-500:]
    return f"exit code {reply.exit_code}" + (f": {text}" if text else "")
