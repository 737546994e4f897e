"""Copy the agent's zip to a device that has only Python."""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
from pathlib import Path

from harness.devices.dialects.python_agent import transfer
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.errors import AgentError, RuntimeMissing, TransferFailed, Unreachable
from harness.protocols import Commands, FullTransport, Reply
from harness.types import Device

MIN_PYTHON = (3, 9)
_SECONDS = 60.0
_MARK = b"edge-harness "
_MAX_VERSION_PART = 1000
_SHOWN = 500
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126
_KILLED = frozenset({129, 137, 143})
"""Exit codes of SIGHUP, SIGKILL and SIGTERM."""

# Every Python, even Python 2, must be able to run this script and print its version. Whoever can write
# to the folder, or replace it, controls what runs from it, and every user can write to /var/tmp and /tmp.
_INSPECT = """\
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
        trouble = "every user may replace files in %s" % above
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
        trouble = "%s is not a folder" % folder
    elif facts.st_uid != me:
        trouble = "%s belongs to another user (uid %d)" % (folder, facts.st_uid)
    elif facts.st_mode & 63:
        os.chmod(folder, 448)
found = None
try:
    # Reading a pipe in its place would wait without end.
    if os.path.isfile(path):
        with open(path, "rb") as file:
            found = hashlib.sha256(file.read()).hexdigest()
except (IOError, OSError):
    pass
answer = {"python": list(sys.version_info[:3]), "sha256": found, "trouble": trouble}
print("edge-harness " + json.dumps(answer))
"""

# The zip under its final name is always whole: check, flush, rename, flush the folder.
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
if os.path.isdir(path) and not os.path.islink(path):
    import shutil
    shutil.rmtree(path)
os.replace(part, path)
folder = os.open(os.path.dirname(path), os.O_RDONLY)
os.fsync(folder)
print("edge-harness done")
"""


class WorkdirRefused(AgentError):
    """Another user could change files in the work folder."""

    kind = "workdir"


def install(transport: FullTransport, device: Device, archive: Path, digest: str) -> str:
    """Copy the agent to the device unless it is there; returns its path on the device.

    If it is there, this takes one command. Raises RuntimeMissing if the device's `python` is missing
    or too old, WorkdirRefused if other users could change files in its `workdir`, NoSpace if its disk
    is full, TransferFailed if the zip does not arrive whole.
    """
    agent = AgentOptions.of(device)
    path = f"{agent.workdir}/agents/{digest}.zip"
    wanted = hashlib.sha256(archive.read_bytes()).hexdigest()
    if _inspect(transport, device, path) == wanted:
        return path
    part = f"{path}.{secrets.token_hex(4)}.part"
    transfer.put(transport, device, archive, part)
    reply = transport.run(agent.script(_FINISH, part, path, wanted), _SECONDS)
    if reply.exit_code != 0 or b"edge-harness done" not in reply.stdout:
        message = f"{device.name}: the agent did not arrive whole at {path}: {_failure_text(reply)}"
        raise TransferFailed(message)
    return path


def _inspect(transport: Commands, device: Device, path: str) -> str | None:
    """Return the sha256 of the file at `path` on the device, after checking its Python."""
    agent = AgentOptions.of(device)
    python = agent.python
    reply = transport.run(agent.script(_INSPECT, path), _SECONDS)
    if reply.exit_code in _KILLED:
        raise Unreachable(f"{device.name}: {python} was killed; the device may be shutting down")
    if reply.exit_code in {_NOT_FOUND, _NOT_EXECUTABLE}:
        message = (
            f'{device.name}: no Python on the device: tried "{python}" ({_failure_text(reply)}); '
            f"install Python {_dotted(MIN_PYTHON)} or newer there, or set the key `python` of "
            f"[device.{device.name}] in farm.toml to its path"
        )
        raise RuntimeMissing(message)
    answer = _read(reply.stdout)
    if answer is None:
        message = (
            f'{device.name}: "{python}" on the device is not a working Python: '
            f"{_failure_text(reply)}; set the key `python` of [device.{device.name}] in farm.toml"
        )
        raise RuntimeMissing(message)
    version, found, trouble = answer
    if version < MIN_PYTHON:
        message = (
            f'{device.name}: "{python}" on the device is Python {_dotted(version)}, the '
            f"agent needs {_dotted(MIN_PYTHON)} or newer; set the key `python` of "
            f"[device.{device.name}] in farm.toml to a newer one"
        )
        raise RuntimeMissing(message)
    if trouble is not None:
        is_file = trouble == f"{agent.workdir}/ is not a folder"
        remove = f"remove it there (`rm {shlex.quote(agent.workdir)}`), or " if is_file else ""
        raise WorkdirRefused(
            f"{device.name}: {trouble}, so no file is copied there and none is run from there; "
            f"{remove}set another `workdir` in [device.{device.name}] of farm.toml: a folder of "
            "this user"
        )
    return found


def _read(stdout: bytes) -> tuple[tuple[int, int, int], str | None, str | None] | None:
    """Read the output of _INSPECT: version, digest and fault; None if it has no such answer."""
    # A login shell may print first; the answer is the line with the mark.
    marked = [line for line in stdout.splitlines() if line.startswith(_MARK)]
    try:
        answer = json.loads(marked[-1].removeprefix(_MARK))
        major, minor, micro = (_small(part) for part in answer["python"])
        return (major, minor, micro), _text(answer["sha256"]), _text(answer.get("trouble"))
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _small(value: object) -> int:
    if type(value) is not int or not 0 <= value < _MAX_VERSION_PART:
        raise TypeError(type(value))
    return value


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(type(value))
    return value if value is None else value[:_SHOWN]


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _failure_text(reply: Reply) -> str:
    text = (reply.stderr or reply.stdout).decode(errors="replace").strip()[-_SHOWN:]
    return f"exit code {reply.exit_code}" + (f": {text}" if text else "")
