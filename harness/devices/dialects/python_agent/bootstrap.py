"""Bring the agent's zip to a device that has nothing of ours yet, only Python."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path

from harness.devices.dialects.python_agent.options import AgentOptions
from harness.errors import AgentError, RuntimeMissing, TransferFailed
from harness.protocols import Commands, FullTransport, Reply
from harness.types import Device

LEAST_PYTHON = (3, 9)
_SECONDS = 60.0
_MARK = b"edge-harness "
_MOST = 1000
_SHOWN = 500
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126

# Any Python, 2 included, must be able to read this far and say what it is. Who can write into the
# folder, or replace it, decides what is run from it: /var/tmp and /tmp are everybody's.
_LOOK = """\
import sys, os, stat, hashlib, json
path = sys.argv[1]
agents = os.path.dirname(path)
root = os.path.dirname(agents)
me = os.geteuid()
os.umask(63)
try:
    if not os.path.islink(root):
        os.makedirs(agents)
except (IOError, OSError):
    pass
trouble = None
trusted = (me, 0, os.stat("/").st_uid)
above = os.path.dirname(os.path.realpath(root))
while trouble is None:
    facts = os.stat(above)
    if facts.st_uid not in trusted:
        trouble = "%s belongs to another user (uid %d)" % (above, facts.st_uid)
    elif facts.st_mode & 2 and not facts.st_mode & stat.S_ISVTX:
        trouble = "everybody may replace what is in %s" % above
    if above == os.path.dirname(above):
        break
    above = os.path.dirname(above)
for name in ("", "agents", "blobs", "incoming", "out", "runtimes"):
    folder = os.path.join(root, name)
    try:
        facts = os.lstat(folder.rstrip("/"))
    except (IOError, OSError):
        continue
    if stat.S_ISLNK(facts.st_mode):
        trouble = "%s is a symbolic link" % folder
    elif not stat.S_ISDIR(facts.st_mode):
        trouble = "%s is no folder" % folder
    elif facts.st_uid != me:
        trouble = "%s belongs to another user (uid %d)" % (folder, facts.st_uid)
    elif facts.st_mode & 63:
        os.chmod(folder, 448)
try:
    with open(path, "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
except (IOError, OSError):
    found = None
said = {"python": list(sys.version_info[:3]), "sha256": found, "trouble": trouble}
print("edge-harness " + json.dumps(said))
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


class WorkdirRefused(AgentError):
    """Somebody else could change what is in the work folder."""

    kind = "workdir"


def bring(transport: FullTransport, device: Device, archive: Path, digest: str) -> str:
    """Make sure the agent is on the device; returns its path there.

    One command where it is there already. Raises RuntimeMissing where its `python` is missing
    or too old, WorkdirRefused where others could change what is in its `workdir`,
    TransferFailed where the zip does not arrive whole.
    """
    agent = AgentOptions.of(device)
    path = f"{agent.workdir}/agents/{digest}.zip"
    wanted = hashlib.sha256(archive.read_bytes()).hexdigest()
    if _look(transport, device, path) == wanted:
        return path
    part = f"{path}.{secrets.token_hex(4)}.part"
    transport.put(archive, part)
    reply = transport.run([agent.python, "-c", _FINISH, part, path, wanted], _SECONDS)
    if reply.exit_code != 0 or b"edge-harness done" not in reply.stdout:
        message = f"{device.name}: the agent did not arrive whole at {path}: {_words(reply)}"
        raise TransferFailed(message)
    return path


def _look(transport: Commands, device: Device, path: str) -> str | None:
    """Return the sha256 of what is at `path` on the device; checks its Python on the way."""
    python = AgentOptions.of(device).python
    reply = transport.run([python, "-c", _LOOK, path], _SECONDS)
    if reply.exit_code in {_NOT_FOUND, _NOT_EXECUTABLE}:
        message = (
            f'{device.name}: no Python on the device: tried "{python}" ({_words(reply)}); '
            f"install Python {_dotted(LEAST_PYTHON)} or newer there, or set the key `python` of "
            f"[device.{device.name}] in farm.toml to where it is"
        )
        raise RuntimeMissing(message)
    said = _read(reply.stdout)
    if said is None:
        message = (
            f'{device.name}: "{python}" on the device is not a Python that works: '
            f"{_words(reply)}; set the key `python` of [device.{device.name}] in farm.toml"
        )
        raise RuntimeMissing(message)
    version, found, trouble = said
    if version < LEAST_PYTHON:
        message = (
            f'{device.name}: "{python}" on the device is Python {_dotted(version)}, the '
            f"agent needs {_dotted(LEAST_PYTHON)} or newer; set the key `python` of "
            f"[device.{device.name}] in farm.toml to a newer one"
        )
        raise RuntimeMissing(message)
    if trouble is not None:
        raise WorkdirRefused(
            f"{device.name}: {trouble}, so nothing is put there and nothing run from there; set "
            f"another `workdir` in [device.{device.name}] of farm.toml, one that is this user's own"
        )
    return found


def _read(stdout: bytes) -> tuple[tuple[int, int, int], str | None, str | None] | None:
    """Read what _LOOK printed: the version, the digest, what is wrong; None where it is none."""
    # A login shell may print before; ours is the line with the mark.
    marked = [line for line in stdout.splitlines() if line.startswith(_MARK)]
    try:
        answer = json.loads(marked[-1].removeprefix(_MARK))
        major, minor, micro = (_small(part) for part in answer["python"])
        return (major, minor, micro), _text(answer["sha256"]), _text(answer.get("trouble"))
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _small(value: object) -> int:
    if type(value) is not int or not 0 <= value < _MOST:
        raise TypeError(type(value))
    return value


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(type(value))
    return value if value is None else value[:_SHOWN]


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _words(reply: Reply) -> str:
    text = (reply.stderr or reply.stdout).decode(errors="replace").strip()[-_SHOWN:]
    return f"exit code {reply.exit_code}" + (f": {text}" if text else "")
