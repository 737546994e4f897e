"""The agent's folder on the device: agents/, blobs/<sha256>, incoming/*.part, out/.

What has not been flushed to disk has not been acknowledged: a file is checked, fsynced and renamed,
and its folder fsynced, before `commit` answers.
"""

import os
import stat
import time
from contextlib import suppress
from typing import Any, List, Optional, Set, Tuple

import digests
import unpack
from wire import AgentFault

BLOB_CAP_BYTES = 10**9
OLD_SECONDS = 86_400.0
"""Parts and outputs of this age belong to nobody any more."""

_MODE = 0o700
_FOLDERS = ("agents", "blobs", "incoming", "out")


class Workdir:
    """The folder, private to its user (0700, files 0600)."""

    def __init__(self, root: str) -> None:
        """Make the folders; raises AgentFault where they belong to somebody else."""
        self.root = root
        self._in_use: Set[str] = set()
        os.umask(0o077)
        for folder in ("", *_FOLDERS):
            path = os.path.join(root, folder)
            os.makedirs(path, mode=_MODE, exist_ok=True)
            facts = os.lstat(path)
            if not stat.S_ISDIR(facts.st_mode):
                reason = "{} is a link or no folder; set another workdir for this device"
                raise AgentFault("workdir", reason.format(path))
            if facts.st_uid != os.geteuid():
                reason = "{} belongs to another user (uid {}); set another workdir for this device"
                raise AgentFault("workdir", reason.format(path, facts.st_uid))
            if stat.S_IMODE(facts.st_mode) != _MODE:
                os.chmod(path, _MODE)

    def blob(self, digest: str) -> str:
        """Return where the blob of this digest is or will be."""
        return os.path.join(self.root, "blobs", digest)

    def out(self, digest: str) -> str:
        """Return where the output of this digest is or will be."""
        return os.path.join(self.root, "out", digest)

    def has(self, digest: str) -> bool:
        """Tell whether a blob is there, and mark it as used now."""
        try:
            os.utime(self.blob(digest))
        except OSError:
            return False
        self._in_use.add(digest)
        return True

    def arrived(self, part: Any) -> int:
        """Return how many bytes of incoming/`part` are there."""
        try:
            return os.stat(self._incoming(part)).st_size
        except OSError:
            return 0

    def commit(
        self, digest: str, part: Any, codec: Optional[str], promised: int
    ) -> Tuple[int, int]:
        """Make incoming/`part` the blob `digest`; returns its size and how many bytes arrived.

        With a codec the part is unpacked first, to at most `promised` bytes. Raises AgentFault
        (transfer_failed): the part is missing, or it is not what was sent, and then it is deleted.
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
            os.replace(source, self.blob(digest))
            _sync(os.path.join(self.root, "blobs"))
        except OSError as error:
            reason = "incoming/{} cannot be kept: {}".format(part, error)
            raise AgentFault("transfer_failed", reason) from error
        self._in_use.add(digest)
        self._evict()
        # What a broken connection or a power cut left behind.
        self.clean([], OLD_SECONDS)
        return size, arrived

    def clean(self, outputs: List[str], older_seconds: float) -> int:
        """Remove these outputs, and parts and outputs older than that; returns how many."""
        removed = sum(_remove(self.out(digest)) for digest in outputs)
        limit = time.time() - older_seconds
        for folder, ending in (("agents", ".part"), ("incoming", ""), ("out", "")):
            for entry in os.scandir(os.path.join(self.root, folder)):
                with suppress(FileNotFoundError):
                    old = entry.stat(follow_symlinks=False).st_mtime < limit
                    removed += old and entry.name.endswith(ending) and _remove(entry.path)
        return removed

    def free_bytes(self) -> int:
        """Return what this user may still write here."""
        facts = os.statvfs(self.root)
        return facts.f_bavail * facts.f_frsize

    def _incoming(self, part: Any) -> str:
        if not isinstance(part, str) or part != os.path.basename(part) or part[:1] in ("", "."):
            raise AgentFault("protocol", "part must be the name of a file in incoming/")
        return os.path.join(self.root, "incoming", part)

    def _evict(self) -> None:
        """Drop the least recently used blobs over the cap, never one this host asked about."""
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


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
