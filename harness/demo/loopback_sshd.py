"""Start a temporary OpenSSH server on loopback as an ordinary user.

    with loopback_sshd(folder) as server:
        device = Device(name="loopback", profile="linux_x86_64", address=server.uri,
                        transport_options={"identity": str(server.identity), "known_hosts": str(server.known_hosts)})

Its host key, client key and configuration are in `folder`; the machine's SSH configuration is not
read or changed. Only the user who starts it can log in.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError

_PATHS = ("/usr/sbin/sshd", "/usr/local/sbin/sshd", "/opt/homebrew/sbin/sshd")
_START_SECONDS = 10.0
_PASSED = ("EDGE_HARNESS_LEASES",)
_START_TRIES = 5
SFTP = "Subsystem sftp internal-sftp"
INSTALL = "sshd or ssh-keygen is not installed: `sudo apt-get install openssh-server`"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopbackSshd:
    """A running server, and what a client needs to log in."""

    port: int
    user: str
    uri: str
    identity: Path
    known_hosts: Path
    host_key_public: str
    """Type and base64 of the host key."""
    folder: Path
    pid: int


def sshd_path() -> str | None:
    """Return the absolute path of sshd (it must be started with one), or None."""
    return next((path for path in _PATHS if os.access(path, os.X_OK)), shutil.which("sshd"))


def available() -> bool:
    """Whether a server can be started on this machine."""
    return sshd_path() is not None and shutil.which("ssh-keygen") is not None


@contextmanager
def loopback_sshd(folder: Path, extra: str = SFTP) -> Iterator[LoopbackSshd]:
    """Start a server on a free port of 127.0.0.1; it stops at the end of the block.

    `extra` is the start of its configuration, in which the first value of a keyword is used.
    Without the SFTP line the server has no SFTP. Raises HarnessError if sshd is missing or does not
    start.
    """
    sshd = sshd_path()
    if sshd is None or not available():
        raise HarnessError(INSTALL)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() == 0:
        # sshd refuses to start as root without this folder, which Debian's init script makes too.
        Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)
    host_key, identity = folder / "host_key", folder / "client_key"
    for key in (host_key, identity):
        if not key.exists():
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "loopback", "-f", str(key)]
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    public = " ".join((folder / "host_key.pub").read_text().split()[:2])
    process, port = _start(sshd, folder, extra)
    try:
        known_hosts = folder / "known_hosts"
        known_hosts.write_text(f"[127.0.0.1]:{port} {public}\n")
        user = getpass.getuser()
        yield LoopbackSshd(
            port=port,
            user=user,
            uri=f"ssh://{user}@127.0.0.1:{port}",
            identity=identity,
            known_hosts=known_hosts,
            host_key_public=public,
            folder=folder,
            pid=process.pid,
        )
    finally:
        _stop(process)


def _start(sshd: str, folder: Path, extra: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start sshd; if another process took the free port meanwhile, try another port."""
    log = folder / "sshd.log"
    for _ in range(_START_TRIES):
        port = _free_port()
        config = folder / "sshd_config"
        config.write_text(_config(folder, port, extra))
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sshd, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        if _starts(process, port):
            return process, port
        _stop(process)
    message = log.read_text(errors="replace").strip()[-500:]
    raise HarnessError(f"sshd does not start on 127.0.0.1 ({sshd}): {message or 'no message'}")


def _config(folder: Path, port: int, extra: str) -> str:
    lines = (
        extra,
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f'HostKey "{folder / "host_key"}"',
        f'AuthorizedKeysFile "{folder / "client_key.pub"}"',
        f'PidFile "{folder / "sshd.pid"}"',
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "UsePAM no",
        "StrictModes no",  # the folder may be under a world-writable /tmp
        "PermitRootLogin prohibit-password",
        "MaxStartups 100:30:200",
        "MaxSessions 100",
        "PrintMotd no",
        # bash reads .bashrc for every command of sshd unless SHLVL says it is an inner shell; on a
        # developer's machine that can take hundreds of milliseconds.
        # A test can set the folder of its devices' leases, to separate them from this machine's.
        " ".join(["SetEnv SHLVL=1", *(f"{n}={os.environ[n]}" for n in _PASSED if n in os.environ)]),
        "UseDNS no",
    )
    return "\n".join(line for line in lines if line) + "\n"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _starts(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0) as probe:
            if probe.recv(4) == b"SSH-":
                return True
        time.sleep(0.01)
    return False


def sessions(pid: int) -> list[int]:
    """List the server's child processes, one or more per connection (empty except on Linux)."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in text.split()]
    return []


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the server's connections, which would continue without it, then the server."""
    deadline = time.monotonic() + 2.0
    while process.poll() is None and (left := sessions(process.pid)):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
