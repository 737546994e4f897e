"""Content-addressed files on a device without Python: `blobs/<sha256>` of the work folder.

    blobs = BlobFolder(transport, device.name, workdir)
    blobs.deploy({digest: path})
    blobs.path_of(digest)

A file arrives in `incoming/`, is compared with its digest there, and then gets its name. A file that has the
name already is compared too before it is used, once per connection: its name is only a claim.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from harness.errors import AgentError, HarnessError, TransferFailed
from harness.protocols import FullTransport
from harness.types import Push

_SECONDS = 60.0
_BYTES_PER_SECOND = 5e6
"""The speed at which a slow phone reads a file and computes its digest."""

_AT_ONCE = 100
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LINE = re.compile(rb"^\\?([0-9a-f]{64}) [ *](?:[^\n]*/)?([0-9a-f]{64})$", re.MULTILINE)
_SHOWN = 300

_LIST = """
cd -- "$1" 2>/dev/null || exit 0
shift
for one; do [ -f "$one" ] && [ ! -h "$one" ] && sha256sum "$one"; done
exit 0
"""
# Renamed last, so that a name always means the whole file.
_ADOPT = """
umask 077
found=$(sha256sum < "$1") || exit 1
found=${found%% *}
if [ "$found" != "$3" ]; then rm -f "$1"; echo "its sha256 is $found there" >&2; exit 1; fi
mkdir -p "${2%/*}" && chmod 700 "$1" && sync && mv -f "$1" "$2" && echo edge-harness-adopted
"""


class BlobFolder:
    """The files of one device."""

    def __init__(self, transport: FullTransport, device: str, workdir: str) -> None:
        """Nothing is sent yet; `device` is its name for messages."""
        self._transport = transport
        self._device = device
        self._workdir = workdir
        self._verified: set[str] = set()

    def path_of(self, digest: str) -> str:
        """Return the path of a deployed file on the device."""
        return f"{self._workdir}/blobs/{digest}"

    def present(self, digests: Collection[str]) -> set[str]:
        """Return those of the digests whose file is on the device, unchanged."""
        unknown = sorted(set(digests) - self._verified)
        for start in range(0, len(unknown), _AT_ONCE):
            some = unknown[start : start + _AT_ONCE]
            folder = f"{self._workdir}/blobs"
            # 1 GiB of files is compared at most in this time.
            reply = self._transport.run(["sh", "-c", _LIST, "sh", folder, *some], 4 * _SECONDS)
            if b"sha256sum" in reply.stderr and b"not found" in reply.stderr:
                raise AgentError(f"{self._device}: the device has no sha256sum, which checks files")
            self._verified |= unchanged(reply.stdout, some)
        return set(digests) & self._verified

    def deploy(self, files: Mapping[str, Path]) -> tuple[Push, ...]:
        """Send these files (by sha256), except those already there; returns the transfers.

        Raises TransferFailed if a file does not arrive whole, and what the transport raises.
        """
        missing = sorted(set(files) - self.present(files.keys()))
        return tuple(self._send(digest, files[digest]) for digest in missing)

    def _send(self, digest: str, source: Path) -> Push:
        if _DIGEST.fullmatch(digest) is None:
            raise TransferFailed(f"{source}: {digest[:80]!r} is not a sha256")
        started = time.monotonic()
        part = f"{self._workdir}/incoming/{digest}.{secrets.token_hex(4)}.part"
        try:
            size = source.stat().st_size
            self._transport.put(source, part)
            seconds = _SECONDS + size / _BYTES_PER_SECOND
            argv = ["sh", "-c", _ADOPT, "sh", part, self.path_of(digest), digest]
            reply = self._transport.run(argv, seconds)
        except OSError as error:
            if isinstance(error, HarnessError):
                raise
            raise TransferFailed(f"{source}: not sent to {self._device}: {error}") from error
        if reply.exit_code or b"edge-harness-adopted" not in reply.stdout:
            with suppress(HarnessError):
                self._transport.run(["rm", "-f", part], _SECONDS)
            reason = reply.stderr.decode(errors="replace").strip()[-_SHOWN:]
            raise TransferFailed(
                f"{source}: it did not arrive whole on {self._device} ({self.path_of(digest)}): "
                f"{reason or f'exit code {reply.exit_code}'}"
            )
        self._verified.add(digest)
        return Push(
            digest=digest,
            file_bytes=size,
            travelled_bytes=size,
            codec=None,
            seconds=time.monotonic() - started,
        )


def unchanged(listed: bytes, digests: Iterable[str]) -> set[str]:
    """Return those of the digests that the output of sha256sum has for the file of that name."""
    found = {name.decode() for digest, name in _LINE.findall(listed) if digest == name}
    return found & set(digests)
