"""The socket to the first host: by TCP, or to a `ProxyCommand` of ssh_config."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress

from harness.devices.transports.ssh.settings import HostSettings

_SHOWN = 300
_END_SECONDS = 2.0


class FirstSocket:
    """The socket to the first host on the way, and the proxy command that serves it, if any."""

    def __init__(self, settings: HostSettings, timeout_seconds: float) -> None:
        """Connect; raises OSError."""
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = None
        if settings.proxy_command is None:
            self.sock = open_socket(settings, timeout_seconds)
            return
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self.sock, theirs = socket.socketpair()
        # As ssh does: the user's shell reads the command, so pipes and quotes work.
        shell = os.environ.get("SHELL") or "/bin/sh"
        try:
            self._process = subprocess.Popen(
                [shell, "-c", f"exec {settings.proxy_command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._errors,
                start_new_session=True,
            )
        except OSError:
            self.sock.close()
            raise
        finally:
            theirs.close()

    def errors(self) -> str:
        """Return the end of what the proxy command printed on stderr."""
        if self._errors is None:
            return ""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip()[-_SHOWN:]

    def close(self) -> None:
        """Close the socket, and end the proxy command with its children; never raises."""
        self.sock.close()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
            with suppress(ProcessLookupError, PermissionError):
                if self._process.poll() is None:
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._errors is not None:
            self._errors.close()


def open_socket(settings: HostSettings, timeout_seconds: float) -> socket.socket:
    """Connect with TCP_NODELAY: without it, an exec waits 40 ms for a delayed acknowledgement."""
    source = (settings.bind_address, 0) if settings.bind_address else None
    failed: OSError | None = None
    found = socket.getaddrinfo(
        settings.host, settings.port, settings.family, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(timeout_seconds)
            if source:
                sock.bind(source)
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failed = error
        else:
            return sock
    raise failed or OSError(f"{settings.host} has no address")
