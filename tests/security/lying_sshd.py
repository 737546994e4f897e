"""An SSH server that accepts the login and lies: commands really run, but a test sets the answers.

with lying_sshd(folder, Lies(exec=my_exec)) as device:
    open_ssh(device)
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
from paramiko.common import cMSG_CHANNEL_FAILURE, cMSG_CHANNEL_SUCCESS

from harness.types import Device

Exec = Callable[[paramiko.Channel, str], None]
_ANSWERS = (cMSG_CHANNEL_SUCCESS, cMSG_CHANNEL_FAILURE)


def honest(channel: paramiko.Channel, command: str) -> None:
    """Run a command; its streams are the channel's."""
    process = subprocess.Popen(
        ["sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None

    def pump(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
        with suppress(OSError):
            while data := read(1 << 16):
                write(data)

    def feed() -> None:
        pump(channel.recv, process.stdin.write)
        with suppress(OSError):
            process.stdin.close()

    threading.Thread(target=feed, daemon=True).start()
    errors = threading.Thread(target=pump, args=(process.stderr.read, channel.sendall_stderr))
    errors.start()
    pump(process.stdout.read, channel.sendall)
    errors.join()
    process.stdout.close()
    process.stderr.close()
    channel.send_exit_status(process.wait())


def marked(then: Exec) -> Exec:
    """Print the marked line of our shell, then call `then`."""

    def answer(channel: paramiko.Channel, command: str) -> None:
        channel.sendall(b"edge-harness-pid 4194000\n")
        then(channel, command)

    return answer


@dataclass
class Lies:
    """The differences between this server and a real one."""

    exec: Exec = honest
    sftp: type[paramiko.SFTPServerInterface] | None = None
    subsystem: Exec | None = None
    """A handler in place of an SFTP server."""
    answers_requests: bool = True
    threads: list[threading.Thread] = field(default_factory=list)


class Files(paramiko.SFTPServerInterface):
    """The real files of this machine."""

    def stat(self, path: str) -> Any:
        try:
            return paramiko.SFTPAttributes.from_stat(Path(path).stat())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    lstat = stat

    def mkdir(self, path: str, attr: paramiko.SFTPAttributes) -> Any:
        Path(path).mkdir(mode=0o700)
        return paramiko.SFTP_OK

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> Any:
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        writing = flags & (os.O_WRONLY | os.O_RDWR)
        handle = paramiko.SFTPHandle(flags)
        file = os.fdopen(descriptor, "wb" if writing else "rb")
        handle.filename, handle.readfile, handle.writefile = path, file, file
        return handle


class _Server(paramiko.ServerInterface):
    def __init__(self, lies: Lies) -> None:
        self.lies = lies

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._start(channel, self.lies.exec, command.decode())
        return True

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        if self.lies.subsystem is None:
            return super().check_channel_subsystem_request(channel, name)
        self._start(channel, self.lies.subsystem, name)
        return True

    def _start(self, channel: paramiko.Channel, what: Exec, command: str) -> None:
        def run() -> None:
            # paramiko grants the request after this thread was started.
            time.sleep(0.05)
            with suppress(OSError, EOFError, paramiko.SSHException):
                what(channel, command)
            with suppress(OSError, EOFError, paramiko.SSHException):
                channel.close()

        thread = threading.Thread(target=run, daemon=True)
        self.lies.threads.append(thread)
        thread.start()


class _Mute(paramiko.Transport):
    """Never answers a channel's request."""

    def _send_user_message(self, data: paramiko.Message) -> None:
        if data.asbytes()[:1] not in _ANSWERS:
            super()._send_user_message(data)


@contextmanager
def lying_sshd(folder: Path, lies: Lies) -> Iterator[Device]:
    """Start it on loopback until the block ends; yields a device that knows its host key."""
    folder.mkdir(parents=True, exist_ok=True)
    key = paramiko.Ed25519Key.from_private_key_file(_key(folder / "host"))
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    transports: list[paramiko.Transport] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                make = paramiko.Transport if lies.answers_requests else _Mute
                transport = make(client)
                transports.append(transport)
                transport.add_server_key(key)
                if lies.sftp is not None:
                    transport.set_subsystem_handler("sftp", paramiko.SFTPServer, lies.sftp)
                with suppress(paramiko.SSHException, EOFError):
                    transport.start_server(event=threading.Event(), server=_Server(lies))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {key.get_name()} {key.get_base64()}\n")
    try:
        yield Device(
            name="liar",
            profile="linux_x86_64",
            address=f"ssh://pi@127.0.0.1:{port}",
            transport_options={"identity": _key(folder / "client"), "known_hosts": str(known)},
            dialect_options={"workdir": str(folder / "work")},
        )
    finally:
        # Only shutdown ends a blocked accept().
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for transport in transports:
            transport.close()
        thread.join(5)
        for one in lies.threads:
            one.join(5)


def _key(path: Path) -> str:
    if not path.exists():
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return str(path)
