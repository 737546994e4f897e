"""Files of ours on the device: sent under their digest, checked there, renamed into place."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from harness.errors import HarnessError, TransferFailed
from harness.protocols import Commands, Files, Reply
from harness.types import Push

_COMMAND_SECONDS = 60.0
_MIN_DISK_BYTES_PER_SECOND = 1e6

_DIGESTS = r"""
cd "$1" 2>/dev/null || exit 0
shift
for one; do [ -f "$one" ] && sha256sum "$one"; done
exit 0
"""
_COMMIT = r"""
umask 077
part=$1 digest=$2 final=$3 mode=$4
found=$(sha256sum < "$part") || exit 1
[ "${found%% *}" = "$digest" ] || { echo "differs ${found%% *}"; rm -f "$part"; exit 0; }
chmod "$mode" "$part" && { sync "$part" 2>/dev/null || sync; } && mv -f "$part" "$final" && echo committed
"""


class RunnerFiles:
    """The work folder of one device."""

    def __init__(self, files: Files, commands: Commands, device: str, workdir: str) -> None:
        """Send nothing yet."""
        self._files = files
        self._commands = commands
        self._device = device
        self._workdir = workdir

    def push(self, source: Path, final: str, digest: str, mode: str = "600") -> Push:
        """Copy a file to a `.part`, check its digest there, and rename it to `final`."""
        began, size = time.monotonic(), source.stat().st_size
        part = f"{final}.{secrets.token_hex(4)}.part"
        try:
            self._files.put(source, part)
            seconds = _COMMAND_SECONDS + size / _MIN_DISK_BYTES_PER_SECOND
            reply = self._commands.run(
                ["sh", "-c", _COMMIT, "sh", part, digest, final, mode], seconds
            )
            self._raise_unless_committed(reply, source, final)
        except TransferFailed:
            # Usually the storage is full, and a partial file would keep it full.
            with suppress(HarnessError):
                self._commands.run(["rm", "-f", part], _COMMAND_SECONDS)
            raise
        return Push(
            digest=digest,
            file_bytes=size,
            travelled_bytes=size,
            codec=None,
            seconds=time.monotonic() - began,
        )

    def _raise_unless_committed(self, reply: Reply, source: Path, final: str) -> None:
        if b"committed" in reply.stdout.split():
            return
        text = (reply.stdout + reply.stderr).decode("utf-8", "replace").strip()[-300:]
        raise TransferFailed(
            f"{self._device}: {source.name} did not arrive whole at {final}: "
            f"{text or 'no answer'}; check the connection and the device's free space"
        )

    def present(self, folder: str, names: Mapping[str, object] | Sequence[str]) -> dict[str, str]:
        """Return the digests of these files of a folder of the work folder, by name."""
        argv = ["sh", "-c", _DIGESTS, "sh", f"{self._workdir}/{folder}", *names]
        reply = self._commands.run(argv, _COMMAND_SECONDS + 10.0 * len(argv))
        found = {}
        for line in reply.stdout.decode("utf-8", "replace").splitlines():
            digest, _, name = line.partition(" ")
            found[name.strip().lstrip("*")] = digest.strip()
        return found
