"""Explain why an account did not run a command, and how to fix it.

OpenSSH reports no error in these cases: the login succeeds, and another program runs.
"""

from __future__ import annotations

import paramiko

from harness.devices.transports.ssh.bounds import NONSENSE, BoundedSftp, ChannelTimeLimit
from harness.errors import TransportError

_SECONDS = 10.0
_SHOWN = 200
_NO_LOGIN = (b"account is currently not available", b"account is not available")
"""The output of nologin of util-linux, of the BSDs and of busybox."""

_ONLY_SFTP = b"This service allows sftp connections only"
"""The output of OpenSSH's `ForceCommand internal-sftp`."""

_BROKEN = (paramiko.SSHException, paramiko.SFTPError, OSError, EOFError, *NONSENSE)


class NoShell(TransportError):
    """The login succeeds, but the account does not run the command."""

    kind = "no_shell"


def refusal(transport: paramiko.Transport, where: str, command: str, output: bytes) -> NoShell:
    """Return the error for a command that did not run, given the output that came instead."""
    if any(notice in output for notice in _NO_LOGIN):
        return NoShell(
            f"{where}: the account has no login shell, so it runs no command; give it one "
            "(`sudo usermod -s /bin/sh USER` on the device), or log in as another user"
        )
    only_sftp = _ONLY_SFTP in output or (not output.strip() and _has_sftp(transport))
    if only_sftp:
        return NoShell(
            f"{where}: the account may only transfer files (SFTP) and runs no commands; log in as "
            "another user, or remove `ForceCommand internal-sftp` for this one from its `Match` block "
            "in /etc/ssh/sshd_config there, check the file with `sudo sshd -t`, and reload sshd"
        )
    if output.strip():
        answered = output[:_SHOWN].decode(errors="replace")
        return NoShell(
            f"{where}: the account did not run {command} but answered {answered!r}: a forced command "
            "or a login script runs instead; log in with another key, or remove "
            '`command="..."` from the line of this key in ~/.ssh/authorized_keys there, or '
            "`ForceCommand` from its sshd_config (check it with `sudo sshd -t` before you reload sshd)"
        )
    return NoShell(
        f"{where}: the account did not run {command} and printed nothing: its shell is /bin/false or "
        "the like, or a forced command runs instead; give it a shell (`sudo usermod -s /bin/sh "
        "USER` on the device), or log in as another user"
    )


def _has_sftp(transport: paramiko.Transport) -> bool:
    try:
        channel = transport.open_session(timeout=_SECONDS)
        try:
            with ChannelTimeLimit(_SECONDS, channel):
                channel.settimeout(_SECONDS)
                channel.invoke_subsystem("sftp")
                BoundedSftp(channel).stat("/")
        finally:
            channel.close()
    except _BROKEN:
        return False
    return True
