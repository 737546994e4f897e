"""Host keys: find the known ones, refuse the others, and trust a new one.

If the device has `known_hosts`, only this file is read. Otherwise the known hosts come from our own
store (`known_hosts` in our configuration folder) and from the files of ssh_config
(`UserKnownHostsFile`), or from `~/.ssh/known_hosts`. Connecting never adds a key.
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
    """The key that a host showed, and whether it is known."""

    host: str
    """In the form of known_hosts: `name`, or `[name]:port`."""
    type: str
    base64: str
    known: bool = False
    jump: bool = False
    """True for the key of a jump host, which must be trusted before the target's."""

    @property
    def fingerprint(self) -> str:
        """SHA256 fingerprint, as `ssh-keygen -lf` prints it."""
        return fingerprint(base64.b64decode(self.base64))

    @property
    def label(self) -> str:
        """Fingerprint and type, as `ssh-keygen -lf` prints them."""
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
    """Return a key type as `ssh-keygen -l` prints it: ED25519, RSA, ECDSA."""
    return _SHORT.get(name, "ECDSA" if name.startswith("ecdsa") else name)


def own_store() -> Path:
    """Return the known_hosts file to which `edge-harness add` writes."""
    return assets.config_folder() / "known_hosts"


def store_of(device: Device) -> Path:
    """Return the file `trust` appends to for this device."""
    given = SshOptions.of(device).known_hosts
    return given.expanduser() if given else own_store()


def files_of(device: Device, ssh_config: Mapping[str, Any]) -> tuple[Path, ...]:
    """List the known_hosts files that apply to this device, existing or not."""
    given = SshOptions.of(device).known_hosts
    if given:
        return (given.expanduser(),)
    user = str(ssh_config.get("userknownhostsfile", "~/.ssh/known_hosts")).split()
    return (own_store(), *(Path(name.strip('"')).expanduser() for name in user))


def trust(device: Device, key: HostKey) -> Path:
    """Append a host key to the device's store (0600) and return the file.

    Call it only after a person, or a fingerprint on the command line, confirmed the key. Raises
    ConfigError if the file cannot be written.
    """
    path = store_of(device)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lacks_newline = path.is_file() and path.read_bytes()[-1:] not in {b"", b"\n"}
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(("\n" if lacks_newline else "") + key.line + "\n")
    except OSError as error:
        message = f"{path}: the host key cannot be written: {error.strerror or error}"
        raise ConfigError(message) from error
    return path


class KnownHosts:
    """The known keys of one host, each with its file."""

    def __init__(self, host: str, port: int, files: tuple[Path, ...]) -> None:
        """Read the files; a missing file counts as empty.

        Raises ConfigError if one cannot be read.
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
        """List the signature algorithms of the known keys, so that the server shows one of these keys."""
        wanted: list[str] = []
        for _, key in self.keys:
            name = key.get_name()
            wanted += ["rsa-sha2-512", "rsa-sha2-256"] if name == "ssh-rsa" else [name]
        return tuple(dict.fromkeys(wanted))

    def holds(self, key: paramiko.PKey) -> bool:
        """Return whether exactly this key is known."""
        return any(known.asbytes() == key.asbytes() for _, known in self.keys)


class KnownHostsPolicy(paramiko.MissingHostKeyPolicy):
    """A policy that accepts known keys; an error about another names the file and the fingerprint.

    paramiko's own store of keys stays empty, so that paramiko asks this policy about every key.
    """

    def __init__(self, known: KnownHosts, uri: str, *, jump: bool, probe: bool) -> None:
        """Check keys against `known`; with `probe`, raise KeySeen at the target's key."""
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
        """Check the key that the server showed."""
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
            f"`edge-harness add {self.uri}` shows it and asks whether to trust it"
        )

    def _changed(self, shown: HostKey) -> str:
        path, old = self.known.keys[0]
        label = f"{fingerprint(old.asbytes())} ({short_type(old.get_name())})"
        what = "jump host" if self.jump else "host"
        return (
            f"{shown.host}: the {what} key has CHANGED: {path} has {label}, the host shows "
            f"{shown.label}. An attacker may be intercepting the connection; if the host was set up "
            f"again, remove the old line with `ssh-keygen -R '{shown.host}' -f '{path}'`, then "
            f"`edge-harness add {self.uri}`"
        )


class KeySeen(Exception):
    """Raised by a probe with the key that the server showed."""

    def __init__(self, key: HostKey) -> None:
        """Keep the key."""
        super().__init__(key.label)
        self.key = key
