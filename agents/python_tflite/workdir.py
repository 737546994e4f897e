"""The agent's folder on the device: agents/, blobs/<sha256>, incoming/*.part, out/.

`commit` answers only after the file is on disk: it is checked, fsynced and renamed, and its folder is
fsynced.
"""

import errno
import os
import stat
import sys
import time
from contextlib import suppress
from typing import Any, List, Optional, Set, Tuple

import digests
import disk
import unpack
from wire import AgentFault

BLOB_CAP_BYTES = 10**9
OLD_SECONDS = 86_400.0
"""Parts and outputs of this age are left over and are removed."""

_MODE = 0o700
_FOLDERS = ("agents", "blobs", "incoming", "out")


class Workdir:
    """The folder, private to its user (0700, files 0600)."""

    def __init__(self, root: str) -> None:
        """Make the folders; raises AgentFault if they belong to another user."""
        self.root = root
        self._in_use: Set[str] = set()
        os.umask(0o077)
        for folder in ("", *_FOLDERS):
            path = os.path.join(root, folder)
            os.makedirs(path, mode=_MODE, exist_ok=True)
            facts = os.lstat(path)
            if not stat.S_ISDIR(facts.st_mode):
                reason = "{} is a link or not a folder; set another workdir for this device"
                raise AgentFault("workdir", reason.format(path))
            if facts.st_uid != os.geteuid():
                reason = "{} belongs to another user (uid {}); set another workdir for this device"
                raise AgentFault("workdir", reason.format(path, facts.st_uid))
            if stat.S_IMODE(facts.st_mode) != _MODE:
                os.chmod(path, _MODE)

    def blob(self, digest: str) -> str:
        """Return the path of the blob of this digest, existing or not."""
        return os.path.join(self.root, "blobs", digest)

    def out(self, digest: str) -> str:
        """Return the path of the output of this digest, existing or not."""
        return os.path.join(self.root, "out", digest)

    def has(self, digest: str) -> bool:
        """Return whether a blob exists, and mark it as used now.

        What is no readable file is removed, so that the blob can be sent again.
        """
        path = self.blob(digest)
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode) or not os.access(path, os.R_OK):
                _clear(path)
                return False
            os.utime(path)
        except OSError:
            return False
        self._in_use.add(digest)
        return True

    def arrived(self, part: Any) -> int:
        """Return the size of incoming/`part` in bytes; 0 if it is missing."""
        try:
            return os.stat(self._incoming(part)).st_size
        except OSError:
            return 0

    def commit(
        self, digest: str, part: Any, codec: Optional[str], promised: int
    ) -> Tuple[int, int]:
        """Move incoming/`part` to the blob `digest`; returns the blob's size and the part's, bytes.

        With a codec the part is unpacked first, to at most `promised` bytes. Raises AgentFault
        (transfer_failed) if the part is missing or has another digest; then it is deleted.
        """
        source = self._incoming(part)
        try:
            arrived = os.stat(source).st_size
            if codec is not None:
                unpack.to_file(codec, source, source + ".unpacked", promised)
                os.unlink(source)
                source += ".unpacked"
            found = digests.of_arrival(source)
            size = os.stat(source).st_size
            if found != digest:
                os.unlink(source)
                reason = "incoming/{} arrived as {} bytes with sha256 {}, not {}; it was deleted"
                raise AgentFault("transfer_failed", reason.format(part, size, found, digest))
            os.chmod(source, 0o600)
            _sync(source)
            if os.path.isdir(self.blob(digest)):
                _clear(self.blob(digest))
            os.replace(source, self.blob(digest))
            _sync(os.path.join(self.root, "blobs"))
        except OSError as error:
            fault = self.fault(error, "incoming/{} cannot be kept".format(part))
            if fault.kind != "no_space":
                fault = AgentFault("transfer_failed", fault.reason)
            for path in (source, self._incoming(part)):
                _remove(path)
            raise fault from error
        self._in_use.add(digest)
        self._evict()
        # Removes the leftovers of broken connections and power cuts.
        self.clean([], OLD_SECONDS)
        return size, arrived

    def clean(self, outputs: List[str], older_seconds: float) -> int:
        """Remove these outputs, and all parts and outputs older than that; returns their number."""
        removed = sum(_remove(self.out(digest)) for digest in outputs)
        limit = time.time() - older_seconds
        for folder, ending in (("agents", ".part"), ("incoming", ""), ("out", "")):
            for entry in os.scandir(os.path.join(self.root, folder)):
                with suppress(FileNotFoundError):
                    old = entry.stat(follow_symlinks=False).st_mtime < limit
                    removed += old and entry.name.endswith(ending) and _remove(entry.path)
        return removed

    def fault(self, error: OSError, doing: str) -> AgentFault:
        """Return the fault for an error of the operating system: full, gone, or another one."""
        return self._missing(doing) or disk.fault(error, doing, self.root)

    def explained(self, fault: AgentFault, digest: Optional[str]) -> AgentFault:
        """Return a launch's fault, or its cause: something that it needs was removed meanwhile."""
        if fault.kind not in ("agent", "crashed", "rejected"):
            return fault
        doing = "the launch ended ({})".format(fault.reason)
        found = self._missing(doing)
        if found is None and digest is not None:
            found = self._unsound(digest, doing)
        if found is None and os.strerror(errno.ENOSPC) in fault.reason:
            found = disk.full(doing, self.root)
        return found or fault

    def _unsound(self, digest: str, doing: str) -> Optional[AgentFault]:
        """Return the fault if a blob is gone or changed, which kills the process that maps it."""
        if not self.has(digest):
            return AgentFault("transfer_failed", doing + ": its file is gone from the device")
        with suppress(OSError):
            if digests.of_file(self.blob(digest)) == digest:
                return None
        _remove(self.blob(digest))
        return AgentFault(
            "transfer_failed", doing + ": its file was damaged on the device meanwhile"
        )

    def _missing(self, doing: str) -> Optional[AgentFault]:
        """Return the fault if Python, the agent or a folder of ours is gone."""
        if sys.executable and not os.path.exists(sys.executable):
            reason = "{}: the device's Python {} is gone; install it again, or set another `python`"
            return AgentFault("no_runtime", reason.format(doing, sys.executable))
        for folder in ("", *_FOLDERS):
            path = os.path.join(self.root, folder).rstrip("/")
            if not os.path.isdir(path):
                return disk.gone(doing, path)
        if not os.path.exists(sys.argv[0]):
            reason = "{}: the agent {} is gone from the device"
            return AgentFault("transfer_failed", reason.format(doing, sys.argv[0]))
        return None

    def free_bytes(self) -> int:
        """Return the disk space that this user may still use here, bytes."""
        facts = os.statvfs(self.root)
        return facts.f_bavail * facts.f_frsize

    def _incoming(self, part: Any) -> str:
        if not isinstance(part, str) or part != os.path.basename(part) or part[:1] in ("", "."):
            raise AgentFault("protocol", "part must be the name of a file in incoming/")
        return os.path.join(self.root, "incoming", part)

    def _evict(self) -> None:
        """Remove the least recently used blobs over the cap, except those in use by this agent."""
        blobs = [(entry.stat(), entry) for entry in os.scandir(os.path.join(self.root, "blobs"))]
        total = sum(facts.st_size for facts, _ in blobs)
        for facts, entry in sorted(blobs, key=lambda blob: blob[0].st_mtime):
            if total <= BLOB_CAP_BYTES:
                return
            if entry.name not in self._in_use:
                total -= facts.st_size * _remove(entry.path)


def _remove(path: str) -> int:
    try:
        os.unlink(path)
    except OSError:
        return 0
    return 1


def _clear(path: str) -> None:
    """Remove a file, a link, or a folder with everything in it."""
    if not os.path.isdir(path) or os.path.islink(path):
        _remove(path)
        return
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
