"""The lease of a device: a file shared by all users of the machine, whatever their workdir.

`<identity>.lease` in /var/lock/edge-harness, else `edge-harness-<identity>.lease` in /tmp; one line:

    1 EPOCH BOOT_ID UNTIL_MS PID START TOKEN HOLDER...

EPOCH rises with every grant. UNTIL_MS is on CLOCK_BOOTTIME, which also counts while the device is
suspended. PID and START (field 22 of /proc/PID/stat, `@`, the pid namespace) are the agent's. TOKEN is
the controller's. A lease of another boot, or past its time, is free. A shell can `read` the fields, so
that a phone without Python can use the same file. Every change is made under flock.
"""

import fcntl
import os
import re
import signal
import stat
import time
from contextlib import contextmanager, suppress
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import disk
import sysfs
from wire import AgentFault

LIFE_SECONDS = 30.0
FOLDER_VARIABLE = "EDGE_HARNESS_LEASES"
CHECK_SECONDS = 1.0
"""How often an agent checks during a launch that it still holds the lease."""

_SHARED, _FALLBACK = "/var/lock/edge-harness", "/tmp"  # noqa: S108 - sticky, and for every user
_VERSION = "1"
_FIELDS = 8
_START = 19
_MAX_BYTES = 512
_LOCK_TRIES = 200
_LOCK_PAUSE_SECONDS = 0.01


class Entry(NamedTuple):
    """The fields of a lease file."""

    epoch: int
    boot: str
    until_ms: int
    pid: int
    start: str
    token: str
    holder: str

    def seconds(self) -> float:
        """Return the seconds until the lease ends; 0 if it is free."""
        if self.boot != _boot() or _is_gone(self):
            return 0.0
        return max(0.0, (self.until_ms - _now_ms()) / 1e3)


class Lease:
    """This agent's lease of the device."""

    def __init__(self, identity: str) -> None:
        """Hold no lease yet; `identity` is the device's, as in `hello`."""
        self._identity = identity
        self._path: Optional[str] = None
        self._token = ""
        self._holder = ""
        self._until_ms = 0
        self._is_new = False
        self._note: Optional[str] = None
        self.epoch = 0
        """The epoch of the held lease; 0 without a lease."""

    def look(self, token: str) -> Dict[str, Any]:
        """Return the holder, the remaining seconds, and whether `token` is the holder's."""
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
        """Take the lease for LIFE_SECONDS; raises AgentFault (busy) while another user holds it.

        If another agent holds it for the same controller, its connection broke: it is killed.
        """
        with self._opened() as descriptor:
            last, current = _read(descriptor), self._current()
            if current is not None and current.token != token:
                raise AgentFault("busy", _describe(current))
            self._token, self._holder = token, holder
            # An old epoch must not return, not even after an unreadable file.
            self.epoch = max(last.epoch + 1 if last else 0, _now_ms())
            self._write(descriptor, LIFE_SECONDS)
        if last is not None:
            _supersede(last, token)
        return {"epoch": self.epoch, "seconds": LIFE_SECONDS}

    def take_note(self) -> Optional[str]:
        """Return what happened to the lease file since the last call; None if nothing did."""
        note, self._note = self._note, None
        return note

    def renew(self, seconds: float = LIFE_SECONDS) -> None:
        """Extend the lease to `seconds` from now, even an expired one if it is still free."""
        if not self.epoch:
            return
        with suppress(AgentFault), self._opened() as descriptor:
            if self._is_ours(self._read(descriptor)):
                self._write(descriptor, seconds)

    def drop(self) -> None:
        """Release the lease; never raises."""
        if not self.epoch:
            return
        with suppress(AgentFault, OSError), self._opened() as descriptor:
            if self._is_ours(_read(descriptor)):
                self._write(descriptor, 0.0)
        self.epoch = 0

    def check(self, epoch: object) -> None:
        """Raise AgentFault (busy) unless this epoch holds the lease now."""
        if not self.epoch:
            raise AgentFault("busy", "this request needs the device's lease; take it first")
        if epoch != self.epoch:
            reason = "the request has epoch {!r:.40}, the lease has {}"
            raise AgentFault("busy", reason.format(epoch, self.epoch))
        self.confirm()

    def confirm(self) -> None:
        """Raise AgentFault if this agent held a lease and lost it; see `lost`."""
        fault = self.lost()
        if fault is not None:
            raise fault

    def lost(self) -> Optional[AgentFault]:
        """Return why this agent lost its lease; None if it still holds it, or held none.

        It is `busy` if another user has the lease or it was not renewed, `lease_file` if the file
        cannot be read or written any more. A file that was deleted or damaged is written again.
        """
        if not self.epoch:
            return None
        try:
            with self._opened() as descriptor:
                entry = self._read(descriptor)
        except AgentFault as fault:
            return AgentFault(fault.kind, "the lease was lost: " + fault.reason)
        if self._is_ours(entry) and entry is not None and entry.seconds() > 0:
            return None
        if entry is not None and entry.epoch != self.epoch:
            return AgentFault("busy", "the lease was lost: " + _describe(entry))
        reason = "the lease was lost: it was not renewed for {:.0f} s".format(LIFE_SECONDS)
        return AgentFault("busy", reason)

    def _read(self, descriptor: int) -> Optional[Entry]:
        """Return the entry; if the file was deleted or damaged, write it again first.

        Nobody else took the lease then: a grant would be in the file.
        """
        entry = _read(descriptor)
        left_ms = self._until_ms - _now_ms()
        if entry is not None or left_ms <= 0:
            return entry
        is_empty = not os.fstat(descriptor).st_size
        what = "deleted" if self._is_new else "emptied" if is_empty else "damaged"
        self._write(descriptor, left_ms / 1e3)
        self._note = "the lease file {} was {} on the device; the lease was taken again".format(
            self._path, what
        )
        return _read(descriptor)

    def _is_ours(self, entry: Optional[Entry]) -> bool:
        mine = (self.epoch, self._token, os.getpid(), _boot())
        return entry is not None and (entry.epoch, entry.token, entry.pid, entry.boot) == mine

    def _write(self, descriptor: int, seconds: float) -> None:
        until_ms = _now_ms() + int(seconds * 1e3) if seconds else 0
        fields = [_VERSION, self.epoch, _boot(), until_ms, os.getpid()]
        fields += [start(os.getpid()), self._token, self._holder]
        text = " ".join(map(str, fields)).replace("\n", "?")
        line = text.encode("ascii", "replace")[: _MAX_BYTES - 1] + b"\n"
        # One write, then the length: a reader without the lock sees the old or the new line.
        os.pwrite(descriptor, line, 0)
        os.ftruncate(descriptor, len(line))
        self._until_ms = until_ms

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Open and lock the file; raises AgentFault (lease_file) if it cannot be kept, and `busy`."""
        try:
            descriptor = self._open()
        except OSError as error:
            raise self._unusable(error) from error
        try:
            for _ in range(_LOCK_TRIES):
                with suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(_LOCK_PAUSE_SECONDS)
            else:
                raise AgentFault("busy", "{} stays locked by another process".format(self._path))
            yield descriptor
        except OSError as error:
            raise self._unusable(error) from error
        finally:
            os.close(descriptor)

    def _unusable(self, error: OSError) -> AgentFault:
        """Return the fault for a lease file that cannot be opened or written."""
        path = self._path or self._places()[0]
        doing = "no lease can be kept on this device"
        fault = disk.fault(error, doing, os.path.dirname(path))
        if fault.kind == "no_space":
            return fault
        advice = "make {} a folder that every user may write to (mode 1777)"
        place = os.path.dirname(path)
        if os.path.lexists(path):
            advice, place = "remove {} there", path
        reason = "{}: {}; {}".format(doing, error, advice.format(place))
        return AgentFault("lease_file", reason)

    def _open(self) -> int:
        failure: OSError = FileNotFoundError("no folder for the lease file")
        # The place in use first; another one only if that has become unusable.
        known = [self._path] if self._path else []
        for path in [*known, *(one for one in self._places() if one not in known)]:
            try:
                descriptor, self._is_new = _open(path)
            except OSError as error:
                failure = error
                continue
            self._path = path
            return descriptor
        raise failure

    def _places(self) -> List[str]:
        own = os.environ.get(FOLDER_VARIABLE)
        name = self._identity + ".lease"
        if own:
            return [os.path.join(own, name)]
        return [os.path.join(_SHARED, name), os.path.join(_FALLBACK, "edge-harness-" + name)]


def _open(path: str) -> Tuple[int, bool]:
    """Open a lease file, and make it if it is missing; only a plain file without links is valid.

    Returns the descriptor, and whether the file was made.
    """
    folder = os.path.dirname(path)
    with suppress(OSError):
        os.mkdir(folder)
        os.chmod(folder, 0o1777)  # noqa: S103 - sticky, as /tmp
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    is_new = False
    try:
        # Without O_CREAT: in a sticky folder the kernel refuses it for another user's file.
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            os.fchmod(descriptor, 0o666)
            is_new = True
        except FileExistsError:
            descriptor = os.open(path, flags)
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
        os.close(descriptor)
        raise PermissionError("{} is not a plain file".format(path))
    return descriptor, is_new


def _read(descriptor: int) -> Optional[Entry]:
    """Return the fields of the file; None if it is not a lease."""
    line = os.pread(descriptor, _MAX_BYTES, 0).decode("ascii", "replace").split("\n")[0]
    fields = line.split(" ", _FIELDS - 1)
    if len(fields) != _FIELDS or fields[0] != _VERSION:
        return None
    epoch, until_ms, pid = (sysfs.whole(fields[place]) for place in (1, 3, 4))
    if epoch is None or until_ms is None or pid is None:
        return None
    holder = "".join(letter if letter.isprintable() else "?" for letter in fields[7])
    # No lease is longer than an hour, whatever the file contains.
    until_ms = min(until_ms, _now_ms() + 3_600_000)
    return Entry(epoch, fields[2], until_ms, pid, fields[5], fields[6], holder)


def _describe(entry: Entry) -> str:
    left = entry.seconds()
    if not left:
        return "{} took it meanwhile".format(entry.holder)
    return "{} has this device, for {:.0f} s more unless renewed".format(entry.holder, left)


def _supersede(last: Entry, token: str) -> None:
    """Make sure that the last holder's agent makes no more launches."""
    if not last.until_ms or last.pid == os.getpid() or last.boot != _boot():
        return
    if last.token == token and _is_agent(last):
        with suppress(OSError):
            os.kill(last.pid, signal.SIGKILL)
    deadline = time.monotonic() + 2 * CHECK_SECONDS
    while _is_running(last) and time.monotonic() < deadline:
        time.sleep(_LOCK_PAUSE_SECONDS)


def _is_gone(entry: Entry) -> bool:
    """Return whether the agent certainly ended: our pid namespace has no such process.

    /proc is not used, because it may hide the processes of other users.
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
    return last.pid > 1 and last.start != "-" and start(last.pid) == last.start


def _is_agent(last: Entry) -> bool:
    """Return whether a lease's process is an agent of this user; every user can write the file.

    Without this check another user could make us kill any of our processes; with the number -1, all.
    """
    if not _is_running(last):
        return False
    folder = "/proc/{}".format(last.pid)
    arguments = (sysfs.text("/", folder + "/cmdline") or "").split(" ")
    try:
        own = os.stat(folder).st_uid == os.geteuid()
    except OSError:
        return False
    return own and any("/agents/" in one and one.endswith(".zip") for one in arguments)


def _now_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _boot() -> str:
    boot_id = sysfs.text("/", "proc/sys/kernel/random/boot_id") or "-"
    return boot_id.split()[0]


def start(pid: int) -> str:
    """Return a process's start in ticks since boot, `@` and its pid namespace; `-` if it is gone."""
    fields = (sysfs.text("/", "proc/{}/stat".format(pid)) or "").rpartition(")")[2].split()
    if len(fields) <= _START or fields[0] in "ZX":
        return "-"
    return fields[_START] + "@" + _namespace()


def is_here(started: str) -> bool:
    """Return whether a start is of a process in our pid namespace."""
    return started.partition("@")[2] == _namespace()


def _namespace() -> str:
    """Return our pid namespace; containers may share the lease file and not the process numbers."""
    try:
        return re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        return ""


def is_token(value: object) -> bool:
    """Return whether a value is a valid token: a blank would end the field."""
    return isinstance(value, str) and re.match("[0-9A-Za-z]{8,64}$", value) is not None
