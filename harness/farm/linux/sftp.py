"""What gives a device's SSH server the SFTP that it lacks.

A stock sshd_config has a `Subsystem sftp` line, whose program may be missing; a second line makes
the file invalid, and so does one below `Match`. So the line is put first, those there are left out,
and the server gets the new file only after `sshd -t` has accepted it.
"""

from __future__ import annotations

import shlex

from harness.farm.checks import Fix, FixKind
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.linux import packages
from harness.farm.linux.survey import Server

LINE = "Subsystem sftp internal-sftp"
_CONFIG = "/etc/ssh/sshd_config"

SSHD_SFTP = FixKind(id="sshd-sftp", does="Give OpenSSH's sshd its built-in SFTP")
INSTALL_SFTP = FixKind(id="install-sftp", does="Install the SFTP server that dropbear starts")
ADD_SFTP = FixKind(
    id="any-sftp",
    does="Have the SSH server offer SFTP",
    by_hand="the SSH server is none that doctor knows how to configure",
)
SILENCE = FixKind(id="silence-login", does="Take away what prints before the SFTP server speaks")

FIXES = (SSHD_SFTP, INSTALL_SFTP, ADD_SFTP, SILENCE)


def fix(dut: DeviceUnderTest, *, noise: bool) -> Fix:
    """Choose what gives the device SFTP; `noise` says that something prints in its place."""
    system = dut.system
    server = system.server if system else None
    if noise and system and system.is_forced:
        advice = (
            "a forced command prints there: have it print nothing if SSH_ORIGINAL_COMMAND names the "
            f"SFTP server (it also takes the place of `{LINE}`)"
        )
        return dut.by_hand(SILENCE, advice)
    if server and server.name == "sshd" and server.program:
        return dut.as_root(SSHD_SFTP, _edit(server, server.program))
    if server and server.name == "dropbear":
        install = packages.install(system, "sftp")
        if install:
            return dut.as_root(INSTALL_SFTP, install)
        advice = "the program sftp-server of OpenSSH at the place where dropbear looks for it"
        return dut.by_hand(ADD_SFTP, advice)
    advice = f"an SSH server with SFTP; OpenSSH's needs the line `{LINE}` once in {_CONFIG}"
    return dut.by_hand(ADD_SFTP, advice)


def _edit(server: Server, sshd: str) -> str:
    path = server.config or _CONFIG
    script = (
        f'f={shlex.quote(path)}; {{ echo {LINE}; grep -iv "^[[:space:]]*subsystem[[:space:]]*sftp" "$f"; '
        f'test $? -le 1; }} > "$f.new" && {sshd} -t -f "$f.new" && cp "$f.new" "$f" '
        f'&& rm "$f.new" && kill -HUP {server.pid}'
    )
    return f"{{sudo}}sh -c {shlex.quote(script)}"
