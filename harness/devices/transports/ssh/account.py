"""Tell what sort of account does not run our commands, and the way out of it.

OpenSSH gives no error for any of these: the login succeeds, and something else runs.
"""

from __future__ import annotations

import paramiko

from harness.devices.transports.ssh.bounds import NONSENSE, BoundedSftp, Within
from harness.errors import TransportError

_SECONDS = 10.0
_SHOWN = 200
_NO_LOGIN = (b"account is currently not available", b"account is not available")
"""What nologin of util-linux, of the BSDs and of busybox prints."""

_ONLY_SFTP = b"This service allows sftp connections only"
"""What OpenSSH's `ForceCommand internal-sftp` prints."""

_BROKEN = (paramiko.SSHException, paramiko.SFTPError, OSError, EOFError, *NONSENSE)


class NoShell(TransportError):
    """The account lets us in and runs no commands of ours."""

    kind = "no_shell"


def refusal(transport: paramiko.Transport, where: str, command: str, said: bytes) -> NoShell:
    """Put into words why a command was not run, given what came instead of it."""
    if any(words in said for words in _NO_LOGIN):
        return NoShell(
            f"{where}: the account has no login shell, so no command runs there; give it one "
            "(`sudo usermod -s /bin/sh USER` on the device), or log in as another user"
        )
    only_sftp = _ONLY_SFTP in said or (not said.strip() and _has_sftp(transport))
    if only_sftp:
        return NoShell(
            f"{where}: the account may only transfer files (SFTP) and runs no commands; log in as "
            "another user, or have `ForceCommand internal-sftp` taken from this one in "
            "/etc/ssh/sshd_config there (its `Match` block) and sshd reloaded"
        )
    if said.strip():
        answered = said[:_SHOWN].decode(errors="replace")
        return NoShell(
            f"{where}: it did not run {command} but answered {answered!r}: a forced command or a "
            'login script is in the way; log in with another key, or remove `command="..."` from '
            "this one's line in ~/.ssh/authorized_keys there, or `ForceCommand` in its sshd_config"
        )
    return NoShell(
        f"{where}: it did not run {command} and said nothing: the account's shell is /bin/false or "
        "the like, or a forced command is in the way; give it a shell (`sudo usermod -s /bin/sh "
        "USER` on the device), or log in as another user"
    )


def _has_sftp(transport: paramiko.Transport) -> bool:
    try:
        channel = transport.open_session(timeout=_SECONDS)
        try:
            with Within(_SECONDS, channel):
                channel.settimeout(_SECONDS)
                channel.invoke_subsystem("sftp")
                BoundedSftp(channel).stat("/")
        finally:
            channel.close()
    except _BROKEN:
        return False
    return True
