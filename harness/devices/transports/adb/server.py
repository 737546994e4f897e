"""Ask the adb server of this host: its version, its devices, a connection to a phone.

adbutils speaks the server's protocol. Its reads and writes have no common deadline, so a watchdog
closes the socket when the time is over. It never starts a server here: it would start one on the
default port. Nor does `adb` run for a request, because it restarts a server of another version, which
cuts the connections of every other program.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import adbutils

from harness import spawning
from harness.devices.transports.time_limit import TimeLimit
from harness.errors import TransportError, Unreachable

ASK_SECONDS = 5.0
START_SECONDS = 20.0
MIN_VERSION = 39
"""Servers from 2017 on; an older one lists no transport ids."""

INSTALL = "sudo apt-get install adb"
_BROKEN = (OSError, EOFError, ValueError, adbutils.AdbError)
"""Errors of adbutils for a broken connection and for an answer that is not adb's."""


class Refused(TransportError):
    """The server answered a request with a reason why not."""


class _Connection(adbutils.AdbConnection):  # type: ignore[misc]  # the library has no types
    """A connection that starts no server of its own."""

    def __init__(self, host: str, port: int) -> None:
        """Connect; raises OSError."""
        self._place = (host, port)
        super().__init__(host, port)

    def _safe_connect(self) -> socket.socket:
        made = socket.create_connection(self._place, ASK_SECONDS)
        # From here on the watchdog is the only time limit.
        made.settimeout(None)
        return made


class Watchdog(TimeLimit):
    """A time limit that ends a socket when it passes, whatever the thread that uses it waits for."""

    def __init__(self, seconds: float, sock: socket.socket) -> None:
        """The time starts when the block is entered."""
        super().__init__(seconds, self._shut)
        self._sock = sock

    def _shut(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


class Server:
    """The adb server at one address."""

    def __init__(self, host: str, port: int) -> None:
        """Nothing is sent yet."""
        self.host = host
        self.port = port

    @property
    def name(self) -> str:
        """Return its address, for messages."""
        return f"{self.host}:{self.port}"

    def command(self, *arguments: str) -> str:
        """Return the command line of `adb` for this server, for messages."""
        import shlex

        chosen = ["-H", self.host] if not self._is_local else []
        # As adb itself does without the option.
        chosen += ["-P", str(self.port)] if self.port != adbutils.AdbClient().port else []
        return shlex.join(["adb", *chosen, *arguments])

    @property
    def _is_local(self) -> bool:
        return self.host in {"127.0.0.1", "localhost", "::1"}

    def ask(self, service: str, seconds: float = ASK_SECONDS) -> str:
        """Send a request of the host and return the answer, at most 64 KiB.

        Raises Refused with the server's reason, and Unreachable.
        """
        with self._asking(seconds, service) as connection:
            connection.send_command(service)
            _check_okay(connection)
            answer: str = connection.read_string_block()
        return answer

    def stream(self, transport: int, service: bytes, seconds: float) -> socket.socket:
        """Open a service of a phone (`sync:`, `shell:...`); returns the socket to it.

        Raises Refused, and Unreachable if the phone does not answer in time.
        """
        with self._asking(seconds, f"transport {transport}") as connection:
            sock: socket.socket = connection.conn
            connection.send_command(f"host:transport-id:{transport}")
            try:
                _check_okay(connection)
            except Refused as error:
                raise Unreachable(f"the adb server says: {error}") from error
            sock.sendall(b"%04x" % len(service) + service)
            _check_okay(connection)
            # The caller closes its own copy.
            kept = sock.dup()
        kept.settimeout(0.0)
        return kept

    def start(self) -> None:
        """Start the server if none runs on this machine; raises Unreachable.

        A server that runs is used as it is, whatever its version.
        """
        if not self._listens():
            self._start()
        try:
            version = self.version()
        except TransportError as error:
            raise Unreachable(
                f"{self.name}: a program listens there, but it is no adb server ({error}); set "
                "`adb_server` in the farm file to another port"
            ) from error
        if version < MIN_VERSION:
            raise Unreachable(
                f"{self.name}: the adb server is too old (version {version}, {MIN_VERSION} or newer is "
                f"needed); `{self.command('kill-server')}` ends it, and with it the connections of "
                "other programs; or set `adb_server` in the farm file to a port of its own"
            )

    def version(self) -> int:
        """Return the version of the server's protocol (41 since 2018)."""
        answer = self.ask("host:version")
        try:
            return int(answer, 16)
        except ValueError as error:
            raise Unreachable(f"its answer to host:version is {answer[:40]!r}") from error

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection((self.host, self.port), ASK_SECONDS):
            return True
        return False

    def _start(self) -> None:
        if not self._is_local:
            raise Unreachable(
                f"no adb server answers at {self.name}; start one on that host with "
                f"`adb -a -P {self.port} start-server`"
            )
        program = adb_program()
        if program is None:
            raise Unreachable(
                f"no adb server runs at {self.name} and there is no `adb` on this machine to start it: "
                f"`{INSTALL}` installs it (docs/phone.md)"
            )
        argv = [program, "-P", str(self.port), "start-server"]
        try:
            # No pipes: the server inherits them, and reading them would wait for its end.
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=spawning.environment(),
                timeout=START_SECONDS,
                check=False,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unreachable(f"`{self.command('start-server')}` failed: {error}") from error
        if done.returncode and not self._listens():
            raise Unreachable(
                f"`{self.command('start-server')}` ended with {done.returncode}; run it to see why"
            )

    @contextmanager
    def _asking(self, seconds: float, what: str) -> Iterator[_Connection]:
        """Connect for one request; turns errors of the library into ours."""
        try:
            connection = _Connection(self.host, self.port)
        except _BROKEN as error:
            raise Unreachable(f"no adb server answers at {self.name} ({error})") from error
        sock: socket.socket = connection.conn
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        guard = Watchdog(seconds, sock)
        try:
            with guard:
                yield connection
        except TransportError:
            raise
        except _BROKEN as error:
            if guard.over:
                raise Unreachable(f"no answer to {what} within {seconds:.0f} s") from error
            reason = f"the adb server at {self.name} gave no valid answer to {what} ({error})"
            raise Unreachable(reason) from error
        finally:
            # Not its close(), which waits.
            sock.close()


def _check_okay(connection: _Connection) -> None:
    """Read the status of a request; raises Refused with the reason of a FAIL."""
    status = connection.read_exact(4)
    if status == b"FAIL":
        raise Refused(connection.read_string_block().strip())
    if status != b"OKAY":
        raise ValueError(f"{status[:4]!r} is no status of adb")


def adb_program() -> str | None:
    """Return the `adb` on PATH, else the one that adbutils brings for some systems; None if neither."""
    try:
        found: str = adbutils.adb_path()
    except adbutils.AdbError:
        return None
    return found
