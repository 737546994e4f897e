"""Host keys: which are known, what to say of one that is not, and how one is trusted.

Known hosts are read from the device's `known_hosts` alone where it is given; else from our own store
(`known_hosts` in our configuration folder) and from what ssh_config names (`UserKnownHostsFile`),
or `~/.ssh/known_hosts`. Nothing is ever added by connecting.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko
from paramiko.hostkeys import HostKeys, InvalidHostKey

from harness import assets
from harness.devices.transports.ssh.options import SshOptions
from harness.errors import ConfigError, HostKeyUnknown
from harness.types import Device

_DEFAULT_PORT = 22
_SHORT = {"ssh-ed25519": "ED25519", "ssh-rsa": "RSA"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """The key a host showed, and whether it is the one we know."""

    host: str
    """As known_hosts writes it: `name`, or `[name]:port`."""
    type: str
    base64: str
    known: bool = False
    jump: bool = False
    """It is the key of a jump host on the way, which has to be trusted first."""

    @property
    def fingerprint(self) -> str:
        """SHA256 fingerprint as `ssh-keygen -lf` prints it."""
        return fingerprint(base64.b64decode(self.base64))

    @property
    def label(self) -> str:
        """Fingerprint and type, as `ssh-keygen -lf` words them."""
        return f"{self.fingerprint} ({short_type(self.type)})"

    @property
    def line(self) -> str:
        """The line for a known_hosts file."""
        return f"{self.host} {self.type} {self.base64}"


def fingerprint(blob: bytes) -> str:
    """Return `SHA256:...` of a public key in wire format."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def short_type(name: str) -> str:
    """Word a key type as `ssh-keygen -l` does: ED25519, RSA, ECDSA."""
    return _SHORT.get(name, "ECDSA" if name.startswith("ecdsa") else name)


def own_store() -> Path:
    """Return the known_hosts file that `add` writes."""
    return assets.config_folder() / "known_hosts"


def store_of(device: Device) -> Path:
    """Return the file `trust` appends to for this device."""
    given = SshOptions.of(device).known_hosts
    return given.expanduser() if given else own_store()


def files_of(device: Device, ssh_config: Mapping[str, Any]) -> tuple[Path, ...]:
    """List the known_hosts files that count for this device, existing or not."""
    given = SshOptions.of(device).known_hosts
    if given:
        return (given.expanduser(),)
    user = str(ssh_config.get("userknownhostsfile", "~/.ssh/known_hosts")).split()
    return (own_store(), *(Path(name.strip('"')).expanduser() for name in user))


def trust(device: Device, key: HostKey) -> Path:
    """Append a host key to the device's store (0600) and return the file.

    Only after a person, or a fingerprint given on the command line, said so. Raises ConfigError
    where the file cannot be written.
    """
    path = store_of(device)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        ends_open = path.is_file() and path.read_bytes()[-1:] not in {b"", b"\n"}
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(("\n" if ends_open else "") + key.line + "\n")
    except OSError as error:
        message = f"{path}: the host key cannot be written: {error.strerror or error}"
        raise ConfigError(message) from error
    return path


class KnownHosts:
    """The keys known for one host, and the file each came from."""

    def __init__(self, host: str, port: int, files: tuple[Path, ...]) -> None:
        """Read the files; one that is not there is an empty one.

        Raises ConfigError where one cannot be read.
        """
        self.name = host if port == _DEFAULT_PORT else f"[{host}]:{port}"
        self.files = files
        self.keys: list[tuple[Path, paramiko.PKey]] = []
        for path in files:
            hosts = HostKeys()
            try:
                with suppress(FileNotFoundError):
                    hosts.load(str(path))
            except (OSError, UnicodeDecodeError, InvalidHostKey) as error:
                message = f"{path}: the known hosts cannot be read: {error}"
                raise ConfigError(message) from error
            found = hosts.lookup(self.name)
            if found is not None:
                self.keys += [(path, key) for key in found.values()]

    def types(self) -> tuple[str, ...]:
        """List signature algorithms of the known keys, so that the server shows one of them."""
        wanted: list[str] = []
        for _, key in self.keys:
            name = key.get_name()
            wanted += ["rsa-sha2-512", "rsa-sha2-256"] if name == "ssh-rsa" else [name]
        return tuple(dict.fromkeys(wanted))

    def holds(self, key: paramiko.PKey) -> bool:
        """Say whether this very key is known."""
        return any(known.asbytes() == key.asbytes() for _, known in self.keys)


class KnownOnly(paramiko.MissingHostKeyPolicy):
    """Accept a key that is known; refuse every other with the file and the fingerprint.

    paramiko's own store of keys stays empty, so that every key comes by here.
    """

    def __init__(self, known: KnownHosts, uri: str, *, jump: bool, probe: bool) -> None:
        """Check against `known`; with `probe`, end the connection at the target's key."""
        self.known = known
        self.uri = uri
        self.jump = jump
        self.probe = probe

    def missing_host_key(
        self,
        client: paramiko.SSHClient,  # noqa: ARG002 - paramiko's signature
        hostname: str,  # noqa: ARG002
        key: paramiko.PKey,
    ) -> None:
        """Judge the key the server showed."""
        held = self.known.holds(key)
        shown = HostKey(
            host=self.known.name,
            type=key.get_name(),
            base64=base64.b64encode(key.asbytes()).decode(),
            known=held,
            jump=self.jump,
        )
        if not held and self.known.keys:
            raise HostKeyUnknown(self._changed(shown))
        if self.probe and not (held and self.jump):
            raise KeySeen(shown)
        if not held:
            raise HostKeyUnknown(self._unknown(shown))

    def _unknown(self, shown: HostKey) -> str:
        what = "jump host" if self.jump else "host"
        files = " or ".join(str(path) for path in self.known.files)
        return (
            f"{shown.host}: the {what} key {shown.label} is not in {files}; "
            f"`edge-harness add {self.uri}` shows it and asks"
        )

    def _changed(self, shown: HostKey) -> str:
        path, old = self.known.keys[0]
        label = f"{fingerprint(old.asbytes())} ({short_type(old.get_name())})"
        what = "jump host" if self.jump else "host"
        return (
            f"{shown.host}: the {what} key has CHANGED: {path} has {label}, the host shows "
            f"{shown.label}. Somebody may be in between; if the host was set up again, remove the "
            f"old line with `ssh-keygen -R '{shown.host}' -f '{path}'`, then "
            f"`edge-harness add {self.uri}`"
        )


class KeySeen(Exception):
    """The key a probe was after."""

    def __init__(self, key: HostKey) -> None:
        """Carry the key."""
        super().__init__(key.label)
        self.key = key
