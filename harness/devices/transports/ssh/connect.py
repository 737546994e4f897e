"""Open a connection: address, ssh_config, jump hosts, host keys, authentication.

fabric resolves names, users, ports, identities and jump hosts from ssh_config. This module makes the
sockets, checks the host key of every hop and chooses the ciphers.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import fabric
import paramiko
from paramiko.config import SSHConfig

from harness.addresses import without_password
from harness.devices.transports.ssh.auth import LoginRefused, OfferedKeys
from harness.devices.transports.ssh.bounds import NONSENSE, BoundedPackets, BoundedTransport
from harness.devices.transports.ssh.keys import (
    HostKey,
    KeySeen,
    KnownHosts,
    KnownHostsPolicy,
    files_of,
)
from harness.devices.transports.ssh.options import SshOptions
from harness.devices.transports.ssh.pulse import Pulse, WatchedSocket, open_socket
from harness.errors import ConfigError, HarnessError, Unreachable
from harness.types import Device

CONNECT_SECONDS = 10.0
AUTH_SECONDS = 15.0
CHANNEL_SECONDS = 15.0
# AES-GCM encrypts and authenticates in one pass: a third faster than paramiko's first choice.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_HINT = "check that the device is on, on the network and that its sshd runs"


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of `ssh://user@host:port`; ssh_config may give the missing ones."""

    host: str
    user: str | None
    port: int | None


def parse(address: str, name: str) -> Address:
    """Read an address; raises ConfigError with the device and the expected form."""
    form = "ssh://user@host:port"
    shown = without_password(address)
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        # The message of urlsplit may contain part of a password with a slash or a colon.
        raise ConfigError(f'{name}: address "{shown}": no port or host; write {form}') from None
    if parts.scheme != "ssh" or not parts.hostname:
        raise ConfigError(f'{name}: address "{shown}" is not of the form {form}')
    if parts.password is not None:
        message = f"{name}: no password in an address; run `ssh-copy-id` once, then write {form}"
        raise ConfigError(message)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(f'{name}: address "{shown}" has more than {form}')
    host = parts.netloc.rpartition("@")[2]
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return Address(unquote(host), unquote(parts.username) if parts.username else None, port)


class Connection:
    """An open connection with its hops; if one fails, the others are closed."""

    def __init__(self, device: Device, *, probe: bool = False) -> None:
        """Connect; raises Unreachable, HostKeyUnknown or ConfigError (KeySeen for a probe)."""
        # paramiko logs every refused key and broken link; our errors already report them.
        logging.getLogger("paramiko").addHandler(logging.NullHandler())
        logging.getLogger("paramiko").propagate = False
        self._device = device
        self._target = _resolve(device)
        self._pulses: list[Pulse] = []
        self._first: socket.socket | None = None
        try:
            hops = list(_hops(self._target))
            for hop in hops:
                self._open(hop, device, probe=probe, jump=hop is not hops[-1])
        except BaseException:
            self.close()
            raise
        self.transport: paramiko.Transport = self._target.transport
        self.label = f"{self._target.user}@{self._target.host}:{self._target.port}"

    def close(self) -> None:
        """Close every hop, the target first; never raises."""
        for hop in reversed(list(_hops(self._target))):
            # Not hop.close(): it leaves the thread of a broken connection running.
            transport = hop.client.get_transport()
            hop.client.close()
            if transport is not None and transport.is_alive():
                transport.join(2.0)
        if self._first is not None:
            self._first.close()
        for pulse in self._pulses:
            pulse.end()
        self._pulses.clear()

    def _open(self, hop: Any, device: Device, *, probe: bool, jump: bool) -> None:  # noqa: ANN401
        known = KnownHosts(hop.host, int(hop.port), files_of(device, hop.ssh_config))
        policy = KnownHostsPolicy(known, device.address, jump=jump, probe=probe)
        hop.client.set_missing_host_key_policy(policy)
        # ConnectTimeout of ssh_config, if it is set.
        seconds = float(hop.connect_timeout or CONNECT_SECONDS)
        hop.connect_kwargs = {
            # Shorter than connect_timeout: when that passes, paramiko continues as if connected.
            "banner_timeout": 0.8 * seconds,
            "auth_timeout": AUTH_SECONDS,
            "channel_timeout": CHANNEL_SECONDS,
            "transport_factory": _transport_factory(known),
        }
        hop.connect_timeout = seconds
        where = f"{device.name}: {hop.user}@{hop.host}:{hop.port}"
        if jump:
            where += " (jump host)"
        try:
            if not hop.gateway:
                self._first = open_socket(hop.host, int(hop.port), seconds)
                hop.connect_kwargs["sock"] = self._first
            hop.open()
            if not hop.transport.is_authenticated():
                message = f"{where} asks for a second factor; only keys are offered"
                raise Unreachable(message)
        except (HarnessError, KeySeen):
            raise
        except LoginRefused as error:
            tried = ", ".join(error.tried) or "none found"
            message = (
                f"{where} refused the login of {error.user}; keys tried: {tried}; install a key "
                "there with `ssh-copy-id`, or set `identity` in the farm file to the right key"
            )
            raise Unreachable(message) from error
        except (paramiko.SSHException, OSError, EOFError, *NONSENSE) as error:
            raise Unreachable(f"{where}: {_reason(error, seconds)}; {_HINT}") from error
        self._pulses.append(Pulse(hop.transport))


def host_key(device: Device) -> HostKey:
    """Read the host key without logging in.

    Returns the first unknown key on the path (a jump host's before the target's), else the target's
    key with `known` set. Raises HostKeyUnknown for a changed key, and Unreachable.
    """
    try:
        connection = Connection(device, probe=True)
    except KeySeen as seen:
        return seen.key
    connection.close()
    raise Unreachable(f"{device.name}: {device.address} showed no host key")


def _resolve(device: Device) -> Any:  # noqa: ANN401 - fabric has no types
    address = parse(device.address, device.name)
    # lazy: fabric's own configuration files (some of them Python) must not be read.
    config = fabric.Config(lazy=True)
    given = SshOptions.of(device)
    path = given.ssh_config.expanduser() if given.ssh_config else None
    if path is not None:
        config.set_runtime_ssh_path(str(path))
    try:
        config.load_ssh_config()
        config.authentication.strategy_class = OfferedKeys
        config.authentication.identities = [str(given.identity)] if given.identity else []
        ssh_config: SSHConfig = config.base_ssh_config
        jump = ssh_config.lookup(address.host).get("proxyjump", "")
        return fabric.Connection(
            host=address.host,
            user=address.user,
            port=address.port,
            config=config,
            gateway=False if jump.lower() == "none" else None,
        )
    except FileNotFoundError as error:
        raise ConfigError(f"{device.name}: ssh_config {path} does not exist") from error
    except (paramiko.SSHException, OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{device.name}: ssh_config cannot be read: {error}") from error
    except RecursionError as error:
        message = f"{device.name}: ssh_config has a circle of jump hosts for {address.host}"
        raise ConfigError(message) from error


def _hops(target: Any) -> Iterator[Any]:  # noqa: ANN401 - fabric.Connection
    """Yield the connections in the order they are opened: jump hosts first."""
    if isinstance(target.gateway, fabric.Connection):
        yield from _hops(target.gateway)
    yield target


def _transport_factory(known: KnownHosts) -> Any:  # noqa: ANN401 - a callable as SSHClient.connect takes
    def make(sock: Any, disabled_algorithms: Any = None) -> paramiko.Transport:  # noqa: ANN401
        transport = BoundedTransport(
            WatchedSocket(sock),  # type: ignore[arg-type]  # anything with recv, send, close
            disabled_algorithms=disabled_algorithms,
            packetizer_class=BoundedPackets,
        )
        options = transport.get_security_options()
        offered = tuple(options.ciphers)
        first = tuple(cipher for cipher in _CIPHERS if cipher in offered)
        options.ciphers = first + tuple(cipher for cipher in offered if cipher not in first)
        types = tuple(options.key_types)
        known_types = tuple(name for name in known.types() if name in types)
        options.key_types = known_types + tuple(n for n in types if n not in known_types)
        return transport

    return make


def _reason(error: BaseException, seconds: float) -> str:
    """Return the reason of a library's exception as text."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved ({error.strerror})"
    if isinstance(error, TimeoutError):
        return f"no answer within {seconds:.0f} s"
    if isinstance(error, paramiko.ChannelException):
        return f"the jump host could not reach it ({error.text})"
    if "banner" in str(error) or "No existing session" in str(error):
        return f"the port is open, but no SSH server answered within {seconds:.0f} s"
    return f"the connection failed ({str(error) or type(error).__name__})"
