"""Choose the fix for an SSH server without SFTP.

A stock sshd_config has a `Subsystem sftp` line, but its program may be missing. A second such line
makes the file invalid, and so does one below `Match`. So the fix removes the existing lines, puts one
line first, and replaces the file only after `sshd -t` has accepted the new one.
"""

from __future__ import annotations

import shlex

from harness.farm.checks import Fix, FixKind
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.linux import packages
from harness.farm.linux.survey import SshServer

LINE = "Subsystem sftp internal-sftp"
_CONFIG = "/etc/ssh/sshd_config"

SSHD_SFTP = FixKind(id="sshd-sftp", does="Configure the built-in SFTP of OpenSSH's sshd")
INSTALL_SFTP = FixKind(id="install-sftp", does="Install the SFTP server that dropbear starts")
ADD_SFTP = FixKind(
    id="any-sftp",
    does="Configure SFTP in the SSH server",
    by_hand="doctor cannot configure this SSH server",
)
SILENCE = FixKind(id="silence-login", does="Silence the output before the SFTP server starts")

FIXES = (SSHD_SFTP, INSTALL_SFTP, ADD_SFTP, SILENCE)


def fix(dut: DeviceUnderTest, *, has_noise: bool) -> Fix:
    """Choose the fix for missing SFTP; `has_noise` means that other output replaces the protocol."""
    system = dut.system
    server = system.server if system else None
    if has_noise and system and system.is_forced:
        advice = (
            "a forced command prints text: change it to print nothing if SSH_ORIGINAL_COMMAND names the "
            f"SFTP server (it also overrides `{LINE}`)"
        )
        return dut.by_hand(SILENCE, advice)
    if server and server.name == "sshd" and server.program:
        return dut.as_root(SSHD_SFTP, _edit_config(server, server.program))
    if server and server.name == "dropbear":
        install = packages.install(system, "sftp")
        if install:
            return dut.as_root(INSTALL_SFTP, install)
        advice = "install OpenSSH's program sftp-server at the path where dropbear expects it"
        return dut.by_hand(ADD_SFTP, advice)
    advice = f"use an SSH server with SFTP; OpenSSH needs the line `{LINE}` once in {_CONFIG}"
    return dut.by_hand(ADD_SFTP, advice)


def _edit_config(server: SshServer, sshd: str) -> str:
    path = server.config or _CONFIG
    script = (
        f'f={shlex.quote(path)}; {{ echo {LINE}; grep -iv "^[[:space:]]*subsystem[[:space:]]*sftp" "$f"; '
        f'test $? -le 1; }} > "$f.new" && {sshd} -t -f "$f.new" && cp "$f.new" "$f" '
        f'&& rm "$f.new" && kill -HUP {server.pid}'
    )
    return f"{{sudo}}sh -c {shlex.quote(script)}"
