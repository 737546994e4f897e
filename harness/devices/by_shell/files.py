"""Files on a device without Python: `blobs/<sha256>` of the work folder, and others with a digest.

    folder = ShellFolder(files, commands, device.name, workdir)
    folder.deploy({digest: path})
    folder.path_of(digest)

A file arrives in `incoming/`, is compared with its digest there, and then gets its name. A file that has the
name already is compared too before it is used: its name is only a claim.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from harness.errors import AgentError, HarnessError, TransferFailed
from harness.protocols import Commands, Files
from harness.types import Push

_SECONDS = 60.0
_BYTES_PER_SECOND = 5e6
"""The speed at which a slow phone reads a file and computes its digest."""

_AT_ONCE = 100
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LINE = re.compile(rb"^\\?([0-9a-f]{64}) [ *]([^\n]{1,300})$", re.MULTILINE)
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
mkdir -p "${2%/*}" && chmod "$4" "$1" && { sync "$1" 2>/dev/null || sync; } && mv -f "$1" "$2" && echo edge-harness-adopted
"""


class ShellFolder:
    """The work folder of one device."""

    def __init__(self, files: Files, commands: Commands, device: str, workdir: str) -> None:
        """Nothing is sent yet; `device` is its name for messages."""
        self._files = files
        self._commands = commands
        self._device = device
        self._workdir = workdir

    def path_of(self, digest: str) -> str:
        """Return the path of a deployed file on the device."""
        return f"{self._workdir}/blobs/{digest}"

    def present(self, digests: Collection[str]) -> set[str]:
        """Return those of the digests whose file is on the device, unchanged."""
        found = self.digests("blobs", sorted(digests))
        return {one for one in digests if found.get(one) == one}

    def digests(self, folder: str, names: Sequence[str]) -> Mapping[str, str]:
        """Return the digests of regular files in a folder of the work folder, by name.

        Raises AgentError if the device cannot compute them.
        """
        found: dict[str, str] = {}
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            # 1 GiB of files is compared at most in this time.
            argv = ["sh", "-c", _LIST, "sh", f"{self._workdir}/{folder}", *some]
            reply = self._commands.run(argv, 4 * _SECONDS)
            if b"sha256sum" in reply.stderr and b"not found" in reply.stderr:
                raise AgentError(f"{self._device}: the device has no sha256sum, which checks files")
            found |= listed(reply.stdout, some)
        return found

    def deploy(self, files: Mapping[str, Path]) -> tuple[Push, ...]:
        """Send these files (by sha256), except those already there; returns the transfers.

        Raises TransferFailed if a file does not arrive whole, and what the transport raises.
        """
        missing = sorted(set(files) - self.present(files.keys()))
        return tuple(self.push(files[one], self.path_of(one), one) for one in missing)

    def push(self, source: Path, final: str, digest: str, mode: str = "700") -> Push:
        """Send a file to `incoming/`, check its digest there, and rename it to `final`."""
        if _DIGEST.fullmatch(digest) is None:
            raise TransferFailed(f"{source}: {digest[:80]!r} is not a sha256")
        started = time.monotonic()
        part = f"{self._workdir}/incoming/{digest}.{secrets.token_hex(4)}.part"
        try:
            size = source.stat().st_size
            self._files.put(source, part)
            seconds = _SECONDS + size / _BYTES_PER_SECOND
            argv = ["sh", "-c", _ADOPT, "sh", part, final, digest, mode]
            reply = self._commands.run(argv, seconds)
        except TransferFailed:
            # Usually the storage is full, and a partial file would keep it full.
            self._remove(part)
            raise
        except OSError as error:
            if isinstance(error, HarnessError):
                raise
            raise TransferFailed(f"{source}: not sent to {self._device}: {error}") from error
        if reply.exit_code or b"edge-harness-adopted" not in reply.stdout.split():
            self._remove(part)
            reason = reply.stderr.decode(errors="replace").strip()[-_SHOWN:]
            raise TransferFailed(
                f"{source}: it did not arrive whole on {self._device} ({final}): "
                f"{reason or f'exit code {reply.exit_code}'}; check its free space"
            )
        return Push(
            digest=digest,
            file_bytes=size,
            travelled_bytes=size,
            codec=None,
            seconds=time.monotonic() - started,
        )

    def _remove(self, part: str) -> None:
        with suppress(HarnessError):
            self._commands.run(["rm", "-f", part], _SECONDS)


def listed(output: bytes, names: Iterable[str]) -> Mapping[str, str]:
    """Return the digests that the output of sha256sum has for these names."""
    known = set(names)
    found = {
        name.decode(errors="replace"): digest.decode() for digest, name in _LINE.findall(output)
    }
    return {name: digest for name, digest in found.items() if name in known}
