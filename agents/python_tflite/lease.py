"""One user of a device at a time: a file that every user of the machine sees, whatever their workdir.

`<identity>.lease` in /var/lock/edge-harness, else `edge-harness-<identity>.lease` in /tmp; one line:

    1 EPOCH BOOT_ID UNTIL_MS PID START TOKEN HOLDER...

EPOCH rises with every grant; UNTIL_MS is on CLOCK_BOOTTIME, which counts a suspended device's time
too; PID and START (field 22 of /proc/PID/stat, `@`, the pid namespace) are the agent's; TOKEN is the controller's. A lease of
another boot, or past its time, is nobody's. Words a shell can `read`, so that a phone without Python
keeps the same file. Every change is made under flock.
"""

import fcntl
import os
import re
import signal
import stat
import time
from contextlib import contextmanager, suppress
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import sysfs
from wire import AgentFault

LIFE_SECONDS = 30.0
FOLDER_VARIABLE = "EDGE_HARNESS_LEASES"
CHECK_SECONDS = 1.0
"""How often an agent whose launch is under way looks whether it still has the device."""

_SHARED, _FALLBACK = "/var/lock/edge-harness", "/tmp"  # noqa: S108 - sticky, and for every user
_VERSION = "1"
_FIELDS = 8
_START = 19
_MOST_BYTES = 512
_LOCK_TRIES = 200
_LOCK_PAUSE_SECONDS = 0.01


class Entry(NamedTuple):
    """What the file says."""

    epoch: int
    boot: str
    until_ms: int
    pid: int
    start: str
    token: str
    holder: str

    def seconds(self) -> float:
        """Return how long it still holds; 0 where it is nobody's."""
        if self.boot != _boot() or _is_gone(self):
            return 0.0
        return max(0.0, (self.until_ms - _now_ms()) / 1e3)


class Lease:
    """This agent's hold of the device."""

    def __init__(self, identity: str) -> None:
        """Nothing is held yet; `identity` is the device's, of `hello`."""
        self._identity = identity
        self._path: Optional[str] = None
        self._token = ""
        self._holder = ""
        self.epoch = 0
        """Of the lease that is held; 0 where none is."""

    def look(self, token: str) -> Dict[str, Any]:
        """Say who has the device, and whether that is the one who asks."""
        entry = self._current()
        if entry is None:
            return {"holder": None, "seconds": 0.0, "yours": False}
        return {"holder": entry.holder, "seconds": entry.seconds(), "yours": entry.token == token}

    def _current(self) -> Optional[Entry]:
        for path in self._places():
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    entry = _read(descriptor)
                finally:
                    os.close(descriptor)
                if entry is not None and entry.seconds() > 0:
                    return entry
        return None

    def take(self, token: str, holder: str) -> Dict[str, Any]:
        """Take the device for LIFE_SECONDS; raises AgentFault (busy) while somebody else has it.

        An agent that has it for the same controller is of a connection that broke: it is ended.
        """
        with self._opened() as descriptor:
            last, current = _read(descriptor), self._current()
            if current is not None and current.token != token:
                raise AgentFault("busy", _has(current))
            self._token, self._holder = token, holder
            # After an unreadable file too, an older epoch must not come again.
            self.epoch = max(last.epoch + 1 if last else 0, _now_ms())
            self._write(descriptor, LIFE_SECONDS)
        if last is not None:
            _supersede(last, token)
        return {"epoch": self.epoch, "seconds": LIFE_SECONDS}

    def renew(self, seconds: float = LIFE_SECONDS) -> None:
        """Hold it for so long from now, also past its time where nobody took it; else see `check`."""
        if not self.epoch:
            return
        with suppress(AgentFault), self._opened() as descriptor:
            if self._is_ours(_read(descriptor)):
                self._write(descriptor, seconds)

    def drop(self) -> None:
        """Let go of the device; never raises."""
        if not self.epoch:
            return
        with suppress(AgentFault, OSError), self._opened() as descriptor:
            if self._is_ours(_read(descriptor)):
                self._write(descriptor, 0.0)
        self.epoch = 0

    def check(self, epoch: object) -> None:
        """Raise AgentFault (busy) unless this epoch has the device now."""
        if not self.epoch:
            raise AgentFault("busy", "this needs the device's lease; take it first")
        if epoch != self.epoch:
            reason = "the request is of epoch {!r:.40}, the lease of {}"
            raise AgentFault("busy", reason.format(epoch, self.epoch))
        self.confirm()

    def confirm(self) -> None:
        """Raise AgentFault (busy) where a lease was had and is lost."""
        trouble = self.lost()
        if trouble:
            raise AgentFault("busy", trouble)

    def lost(self) -> Optional[str]:
        """Say why the device is no longer held by the epoch that had it; None where it is."""
        if not self.epoch:
            return None
        entry = None
        with suppress(OSError, AgentFault), self._opened() as descriptor:
            entry = _read(descriptor)
        if self._is_ours(entry) and entry is not None and entry.seconds() > 0:
            return None
        if entry is not None and entry.epoch != self.epoch:
            return "the lease was lost: " + _has(entry)
        return "the lease was lost: it was not renewed for {:.0f} s".format(LIFE_SECONDS)

    def _is_ours(self, entry: Optional[Entry]) -> bool:
        mine = (self.epoch, self._token, os.getpid(), _boot())
        return entry is not None and (entry.epoch, entry.token, entry.pid, entry.boot) == mine

    def _write(self, descriptor: int, seconds: float) -> None:
        until_ms = _now_ms() + int(seconds * 1e3) if seconds else 0
        words = [_VERSION, self.epoch, _boot(), until_ms, os.getpid()]
        words += [_start(os.getpid()), self._token, self._holder]
        text = " ".join(map(str, words)).replace("\n", "?")
        line = text.encode("ascii", "replace")[: _MOST_BYTES - 1] + b"\n"
        # One write, and the length after it: a reader without the lock sees the old or the new line.
        os.pwrite(descriptor, line, 0)
        os.ftruncate(descriptor, len(line))

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Open and lock the file; raises AgentFault (busy) where that cannot be done."""
        try:
            descriptor = self._open()
        except OSError as error:
            raise AgentFault(
                "busy", "no lease can be kept on this device: {}".format(error)
            ) from error
        try:
            for _ in range(_LOCK_TRIES):
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(_LOCK_PAUSE_SECONDS)
            else:
                raise AgentFault("busy", "{} is locked and stays so".format(self._path))
            yield descriptor
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        trouble: OSError = FileNotFoundError("no folder for it")
        for path in [self._path] if self._path else self._places():
            try:
                descriptor = _open(path)
            except OSError as error:
                trouble = error
                continue
            self._path = path
            return descriptor
        raise trouble

    def _places(self) -> List[str]:
        own = os.environ.get(FOLDER_VARIABLE)
        name = self._identity + ".lease"
        if own:
            return [os.path.join(own, name)]
        return [os.path.join(_SHARED, name), os.path.join(_FALLBACK, "edge-harness-" + name)]


def _open(path: str) -> int:
    """Open a lease, made where it is not there; anything but a plain file of one name is refused."""
    folder = os.path.dirname(path)
    with suppress(OSError):
        os.mkdir(folder)
        os.chmod(folder, 0o1777)  # noqa: S103 - sticky, as /tmp
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        # Without O_CREAT: in a sticky folder the kernel refuses it for somebody else's file.
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            os.fchmod(descriptor, 0o666)
        except FileExistsError:
            descriptor = os.open(path, flags)
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
        os.close(descriptor)
        raise PermissionError("{} is not a plain file".format(path))
    return descriptor


def _read(descriptor: int) -> Optional[Entry]:
    """Return what the file says; None for anything that is no lease."""
    line = os.pread(descriptor, _MOST_BYTES, 0).decode("ascii", "replace").split("\n")[0]
    words = line.split(" ", _FIELDS - 1)
    if len(words) != _FIELDS or words[0] != _VERSION:
        return None
    epoch, until_ms, pid = (sysfs.whole(words[place]) for place in (1, 3, 4))
    if epoch is None or until_ms is None or pid is None:
        return None
    holder = "".join(letter if letter.isprintable() else "?" for letter in words[7])
    # Nobody can hold it for longer than an hour, whatever the file says.
    until_ms = min(until_ms, _now_ms() + 3_600_000)
    return Entry(epoch, words[2], until_ms, pid, words[5], words[6], holder)


def _has(entry: Entry) -> str:
    left = entry.seconds()
    if not left:
        return "{} had it".format(entry.holder)
    return "{} has this device, for {:.0f} s more unless renewed".format(entry.holder, left)


def _supersede(last: Entry, token: str) -> None:
    """Make sure that the agent that had the lease makes no launch any more."""
    if not last.until_ms or last.pid == os.getpid() or last.boot != _boot():
        return
    if last.token == token and _is_agent(last):
        with suppress(OSError):
            os.kill(last.pid, signal.SIGKILL)
    deadline = time.monotonic() + 2 * CHECK_SECONDS
    while _is_running(last) and time.monotonic() < deadline:
        time.sleep(_LOCK_PAUSE_SECONDS)


def _is_gone(entry: Entry) -> bool:
    """Tell whether the agent surely ended: of our own pid namespace, and the kernel knows none.

    Not by /proc, which may hide the processes of other users.
    """
    if entry.pid <= 1 or entry.start.partition("@")[2] != _namespace():
        return False
    try:
        os.kill(entry.pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _is_running(last: Entry) -> bool:
    return last.pid > 1 and last.start != "-" and _start(last.pid) == last.start


def _is_agent(last: Entry) -> bool:
    """Tell whether a lease's process is an agent of this user: anybody can write the file.

    Else another user could have us end any process of ours, with -1 for a number all of them.
    """
    if not _is_running(last):
        return False
    folder = "/proc/{}".format(last.pid)
    words = (sysfs.text("/", folder + "/cmdline") or "").split(" ")
    try:
        own = os.stat(folder).st_uid == os.geteuid()
    except OSError:
        return False
    return own and any("/agents/" in word and word.endswith(".zip") for word in words)


def _now_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _boot() -> str:
    word = sysfs.text("/", "proc/sys/kernel/random/boot_id") or "-"
    return word.split()[0]


def _start(pid: int) -> str:
    """Return when a process started, in ticks since the boot; nothing where it is gone."""
    words = (sysfs.text("/", "proc/{}/stat".format(pid)) or "").rpartition(")")[2].split()
    if len(words) <= _START or words[0] in "ZX":
        return "-"
    return words[_START] + "@" + _namespace()


def _namespace() -> str:
    """Return which processes our numbers are of; containers may share the file and not the numbers."""
    try:
        return re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        return ""


def is_token(word: object) -> bool:
    """Tell whether a controller may call itself so: a blank would end the field."""
    return isinstance(word, str) and re.match("[0-9A-Za-z]{8,64}$", word) is not None
