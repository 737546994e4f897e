"""Choose the fix for an SSH server without SFTP.

A stock sshd_config has a `Subsystem sftp` line, but its program may be missing. A second such line
makes the file invalid, and so does one below `Match`. So the fix removes the existing lines, also from
the files that it includes, puts one line first, and keeps the change only if `sshd -t` accepts it.
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
SILENCE = FixKind(id="silence-login", does="Silence the output before the SFTP server starts")

FIXES = (SSHD_SFTP, INSTALL_SFTP, SILENCE)


def fix(dut: DeviceUnderTest, *, has_noise: bool) -> Fix | None:
    """Choose the fix for missing SFTP; None if doctor knows none for this server.

    `has_noise` means that other output replaces the protocol.
    """
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
    install = packages.install(system, "sftp") if server and server.name == "dropbear" else None
    return dut.as_root(INSTALL_SFTP, install) if install else None


# Included files are edited in place, because only there `sshd -t` sees them; if it refuses, `undo` puts
# them back, and the file itself was not touched yet.
_EDIT = (
    'f={config}; s="^[[:space:]]*subsystem[[:space:]]*sftp"; e=',
    'undo() {{ for o in $e; do cat "$o.old" > "$o"; rm "$o.old"; done; rm -f "$f.new"; exit 1; }}',
    "cd /etc/ssh",
    'for o in $(sed -n "s/^[[:space:]]*[Ii][Nn][Cc][Ll][Uu][Dd][Ee][[:space:]]*//p" "$f")',
    'do if [ -f "$o" ] && grep -iq "$s" "$o"',
    'then cp -p "$o" "$o.old" && e="$e $o" && {{ grep -iv "$s" "$o.old" > "$o"',
    "test $? -le 1; }} || undo; fi; done",
    '{{ echo {line}; grep -iv "$s" "$f"',
    'test $? -le 1; }} > "$f.new" && {sshd} -t -f "$f.new" && cat "$f.new" > "$f" || undo',
    'for o in $e; do rm "$o.old"; done; rm "$f.new"; kill -HUP {pid}',
)


def _edit_config(server: SshServer, sshd: str) -> str:
    script = "; ".join(_EDIT).format(
        config=shlex.quote(server.config or _CONFIG),
        line=LINE,
        sshd=shlex.quote(sshd),
        pid=server.pid,
    )
    return f"{{sudo}}sh -c {shlex.quote(script)}"
