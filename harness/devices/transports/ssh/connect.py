"""Open a connection: address, jump hosts, host keys, authentication.

:mod:`.settings` resolves the address by ssh_config. This module makes the sockets, checks the host key of
every hop and chooses the ciphers; fabric opens the hops.
"""

from __future__ import annotations

import logging
import socket
from contextlib import ExitStack
from typing import Any

import fabric
import paramiko

from harness.devices.transports.ssh import settings as ssh_config
from harness.devices.transports.ssh.auth import LoginRefused, OfferedKeys
from harness.devices.transports.ssh.bounds import NONSENSE, BoundedPackets, BoundedTransport
from harness.devices.transports.ssh.certificates import SUFFIX
from harness.devices.transports.ssh.keys import HostKey, KeySeen, KnownHosts, KnownHostsPolicy
from harness.devices.transports.ssh.options import SshOptions
from harness.devices.transports.ssh.proxy import FirstSocket
from harness.devices.transports.ssh.pulse import Pulse, WatchedSocket
from harness.devices.transports.ssh.settings import HostSettings
from harness.errors import HarnessError, HostKeyUnknown, LoginFailed, Unreachable
from harness.types import Device

CONNECT_SECONDS = 10.0
AUTH_SECONDS = 15.0
CHANNEL_SECONDS = 15.0
# AES-GCM encrypts and authenticates in one pass: a third faster than paramiko's first choice.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_HINT = "check that the device is on, on the network and that its sshd runs"


class Connection:
    """An open connection with its hops; if one fails, the others are closed."""

    def __init__(self, device: Device, *, probe: bool = False) -> None:
        """Connect; raises Unreachable, HostKeyUnknown or ConfigError (KeySeen for a probe)."""
        # paramiko logs every refused key and broken link; our errors already report them.
        logging.getLogger("paramiko").addHandler(logging.NullHandler())
        logging.getLogger("paramiko").propagate = False
        self._device = device
        route = ssh_config.route(device, ssh_config.parse(device))
        self._pulses: list[Pulse] = []
        self._hops: list[fabric.Connection] = []
        self._first: FirstSocket | None = None
        self.unused = tuple(dict.fromkeys(text for hop in route for text in hop.unused))
        """Settings of ssh_config that this transport does not honour."""
        with ExitStack() as opened:
            opened.callback(self.close)
            for hop in route:
                self._open(hop, probe=probe, jump=hop is not route[-1])
            opened.pop_all()
        self.transport: paramiko.Transport = self._hops[-1].transport
        self.label = route[-1].label

    def close(self) -> None:
        """Close every hop, the target first; never raises."""
        for hop in reversed(self._hops):
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

    def _open(self, settings: HostSettings, *, probe: bool, jump: bool) -> None:
        device = self._device
        known = KnownHosts(device, settings)
        identity = SshOptions.of(device).identity
        keys = OfferedKeys(settings, identity.expanduser() if identity else None)
        seconds = settings.connect_timeout_seconds or CONNECT_SECONDS
        where = f"{device.name}: {settings.label}" + " (jump host)" * jump
        hop = _hop(settings, keys, self._hops[-1] if self._hops else None)
        hop.client.set_missing_host_key_policy(
            KnownHostsPolicy(known, device.address, jump=jump, probe=probe)
        )
        hop.connect_kwargs = {
            # Shorter than connect_timeout: when that passes, paramiko continues as if connected.
            "banner_timeout": 0.8 * seconds,
            "auth_timeout": AUTH_SECONDS,
            "channel_timeout": CHANNEL_SECONDS,
            "transport_factory": _transport_factory(known),
        }
        hop.connect_timeout = seconds
        self._hops.append(hop)
        try:
            if self._first is None:
                self._first = FirstSocket(settings, seconds)
                hop.connect_kwargs["sock"] = self._first.sock
            hop.open()
            if not hop.transport.is_authenticated():
                message = f"{where} asks for a second factor; only keys are offered"
                raise LoginFailed(message + self._unused_note())
        except HostKeyUnknown as error:
            raise HostKeyUnknown(f"{error}{self._unused_note()}") from None
        except (HarnessError, KeySeen):
            raise
        except LoginRefused as error:
            message = (
                f"{where} refused the login of {error.user}; {error.keys}; install a key "
                "there with `ssh-copy-id`, or set `identity` in the farm file to the right key"
            )
            raise LoginFailed(message + self._unused_note()) from error
        except (paramiko.SSHException, OSError, EOFError, *NONSENSE) as error:
            reason = self._proxy_reason(settings) or _reason(error, seconds)
            message = f"{where}: {reason}; {_HINT}{self._unused_note()}"
            raise Unreachable(message) from error
        self._pulses.append(Pulse(hop.transport))

    def _unused_note(self) -> str:
        """Return a note for an error about settings that `ssh` would have used."""
        if not self.unused:
            return ""
        return f". Not used of ssh_config: {'; '.join(self.unused)} (docs/ssh.md)"

    def _proxy_reason(self, settings: HostSettings) -> str:
        """Return the reason of a failure through a proxy command; empty if there is none."""
        if settings.proxy_command is None:
            return ""
        errors = self._first.errors() if self._first else ""
        shown = f", which printed: {errors}" if errors else ""
        return f"no SSH server answered through ProxyCommand `{settings.proxy_command}`{shown}"


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


def _hop(
    settings: HostSettings, keys: OfferedKeys, gateway: fabric.Connection | None
) -> fabric.Connection:
    """Make fabric's connection to one host; it must not read any configuration itself."""
    config = fabric.Config(lazy=True, ssh_config=paramiko.SSHConfig())
    config.authentication.strategy_class = keys.for_fabric
    return fabric.Connection(
        host=settings.host,
        user=settings.user,
        port=settings.port,
        config=config,
        gateway=gateway or False,
    )


def _transport_factory(known: KnownHosts) -> Any:  # noqa: ANN401 - a callable as SSHClient.connect takes
    def make(sock: Any, disabled_algorithms: Any = None) -> paramiko.Transport:  # noqa: ANN401
        """Make the transport over `sock`, as SSHClient.connect asks for it."""
        transport = BoundedTransport(
            WatchedSocket(sock),  # anything with recv, send, close
            disabled_algorithms=disabled_algorithms,
            packetizer_class=BoundedPackets,
        )
        options = transport.get_security_options()
        offered = tuple(options.ciphers)
        first = tuple(cipher for cipher in _CIPHERS if cipher in offered)
        options.ciphers = first + tuple(cipher for cipher in offered if cipher not in first)
        wanted, types = known.types(), tuple(options.key_types)
        first_types = tuple(name for name in wanted if name.removesuffix(SUFFIX) in types)
        transport.host_key_algorithms = tuple(dict.fromkeys((*first_types, *types)))
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
