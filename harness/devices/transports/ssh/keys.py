"""Host keys: find the known ones, refuse the others, and trust a new one.

If the device has `known_hosts`, only this file is read. Otherwise the known hosts come from our own
store (`known_hosts` in our configuration folder) and from the files of ssh_config
(`UserKnownHostsFile`, `GlobalKnownHostsFile`). Connecting never adds a key.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko

from harness import assets
from harness.devices.transports.ssh import known_hosts
from harness.devices.transports.ssh.certificates import SUFFIX, Certificate
from harness.devices.transports.ssh.known_hosts import AUTHORITY, REVOKED, HostNames, KnownKey
from harness.devices.transports.ssh.options import SshOptions
from harness.devices.transports.ssh.settings import HostSettings
from harness.errors import ConfigError, HostKeyUnknown
from harness.types import Device

_KEYGEN_SECONDS = 10.0
_MAX_DAMAGED = 3
_KRL_MAGIC = b"SSHKRL\n\0"
_CERTIFIED = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
"""Keys whose certificates are accepted, in OpenSSH's order."""

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


def files_of(device: Device, settings: HostSettings) -> tuple[Path, ...]:
    """List the known_hosts files that apply to this device, existing or not."""
    given = SshOptions.of(device).known_hosts
    return (given.expanduser(),) if given else (own_store(), *settings.known_hosts)


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
    """What the known_hosts files say about one host."""

    def __init__(self, device: Device, settings: HostSettings) -> None:
        """Read the files; a missing file counts as empty.

        Raises ConfigError if the device's own file cannot be read; like OpenSSH, the others are then
        left out, and an error about the host's key names them.
        """
        self.settings = settings
        self.names = HostNames.of(settings.host, settings.port, settings.host_key_alias)
        self.files = files_of(device, settings)
        self.unread: list[str] = []
        """Files and lines (`FILE:LINE`) that cannot be read."""
        found: list[KnownKey] = []
        for path in self.files:
            try:
                keys, damaged = known_hosts.read(path, self.names)
            except OSError as error:
                if SshOptions.of(device).known_hosts:
                    message = f"{path}: the known hosts cannot be read: {error.strerror or error}"
                    raise ConfigError(message) from error
                self.unread.append(f"{path} ({error.strerror or error})")
            else:
                found += keys
                self.unread += [f"{path}:{number}" for number in damaged]
        self.keys = [one for one in found if not one.marker]
        self.authorities = [one for one in found if one.marker == AUTHORITY]
        self.revoked = [one for one in found if one.marker == REVOKED]

    def types(self) -> tuple[str, ...]:
        """List the signature algorithms of the known keys, so that the server shows one of these keys."""
        wanted = [name + SUFFIX for name in _CERTIFIED] if self.authorities else []
        # The keys under the exact name first.
        for one in sorted(self.keys, key=lambda one: not one.is_exact):
            is_rsa = one.type == "ssh-rsa"
            wanted += ["rsa-sha2-512", "rsa-sha2-256"] if is_rsa else [one.type]
        return tuple(dict.fromkeys(wanted))

    def holds(self, blob: bytes) -> bool:
        """Return whether exactly this key is known."""
        return any(one.blob == blob for one in self.keys)

    def other(self) -> KnownKey | None:
        """Return a key under the exact name; None if no key has that name."""
        return next((one for one in self.keys if one.is_exact), None)

    def certifies(self, certificate: Certificate) -> str | None:
        """Return why a certificate is not accepted; None if it is."""
        blob = certificate.authority_blob
        if not any(one.blob == blob for one in self.authorities):
            return f"no {AUTHORITY} line for this host has its authority {fingerprint(blob)}"
        return certificate.fault(self.names.plain)

    def revocation(self, blobs: tuple[bytes, ...]) -> str | None:
        """Return where a key, or the authority of its certificate, is revoked; None if it is not.

        Raises ConfigError if `RevokedHostKeys` cannot be checked: then no key is accepted.
        """
        for one in self.revoked:
            if one.blob in blobs:
                return f"{one.where} ({REVOKED})"
        path = self.settings.revoked_host_keys
        if path is not None and any(_is_in_revocation_list(path, blob) for blob in blobs):
            return f"{path} (RevokedHostKeys)"
        return None


def _is_in_revocation_list(path: Path, blob: bytes) -> bool:
    """Return whether a file of RevokedHostKeys has a key: one public key per line, or a KRL."""
    try:
        data = path.read_bytes()
    except OSError as error:
        message = f"{path}: RevokedHostKeys cannot be checked: {error.strerror or error}"
        raise ConfigError(message) from error
    if data.startswith(_KRL_MAGIC):
        return _is_in_krl(path, blob)
    lines = data.decode("utf-8-sig", "replace").splitlines()
    key = base64.b64encode(blob).decode()
    return any(key in line.split() for line in lines if not line.lstrip().startswith("#"))


def _is_in_krl(path: Path, blob: bytes) -> bool:
    """Ask ssh-keygen; raises ConfigError if it does not answer."""
    keygen = shutil.which("ssh-keygen")
    kind = blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("ascii", "replace")
    if keygen is None:
        raise ConfigError(
            f"{path}: RevokedHostKeys of ssh_config is checked with ssh-keygen, which is not "
            "installed on this host: `sudo apt-get install openssh-client`"
        )
    with tempfile.NamedTemporaryFile("w", suffix=".pub") as file:
        file.write(f"{kind} {base64.b64encode(blob).decode()}\n")
        file.flush()
        argv = [keygen, "-Q", "-f", str(path), file.name]
        reply = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_KEYGEN_SECONDS,
            check=False,
        )
    output = (reply.stdout + reply.stderr).decode(errors="replace")
    if reply.returncode and "REVOKED" not in output.upper():
        raise ConfigError(f"{path}: RevokedHostKeys cannot be checked: {output.strip()[-200:]}")
    return bool(reply.returncode)


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
        blob = key.asbytes()
        held = self.known.holds(blob)
        shown = HostKey(
            host=self.known.names.exact,
            type=key.get_name(),
            base64=base64.b64encode(blob).decode(),
            known=held,
            jump=self.jump,
        )
        authority, fault = self._certificate(key)
        if where := self.known.revocation((blob, *authority)):
            raise HostKeyUnknown(self._revoked(shown, where))
        held = held or (bool(authority) and fault is None)
        old = self.known.other()
        if not held and old is not None:
            raise HostKeyUnknown(self._changed(shown, old))
        if self.probe and not (held and self.jump):
            raise KeySeen(replace(shown, known=held))
        if not held:
            raise HostKeyUnknown(self._unknown(shown, fault))

    def _certificate(self, key: paramiko.PKey) -> tuple[tuple[bytes, ...], str | None]:
        """Return the authority of the key's certificate, and why the certificate is not accepted."""
        public = getattr(key, "public_blob", None)
        if public is None:
            return (), None
        try:
            certificate = Certificate.read(public.key_blob)
        except ValueError as error:
            return (), str(error)
        if certificate.key_blob != key.asbytes():
            return (), "the certificate is for another key"
        return (certificate.authority_blob,), self.known.certifies(certificate)

    def _what(self) -> str:
        return "jump host" if self.jump else "host"

    def _unknown(self, shown: HostKey, fault: str | None) -> str:
        files = " or ".join(str(path) for path in self.known.files)
        certificate = f" and its certificate is not accepted: {fault}" if fault else ""
        unread = self.known.unread
        more = f" and {len(unread) - _MAX_DAMAGED} more" * (len(unread) > _MAX_DAMAGED)
        damaged = f" (not readable: {', '.join(unread[:_MAX_DAMAGED])}{more})" if unread else ""
        return (
            f"{shown.host}: the {self._what()} key {shown.label} is not in {files}{damaged}"
            f"{certificate}; "
            f"`edge-harness add {shlex.quote(self.uri)}` shows it and asks whether to trust it"
        )

    def _changed(self, shown: HostKey, old: KnownKey) -> str:
        label = f"{fingerprint(old.blob)} ({short_type(old.type)})"
        sudo = [] if os.access(old.path, os.W_OK) else ["sudo"]
        argv = [*sudo, "ssh-keygen", "-R", shown.host, "-f", str(old.path)]
        return (
            f"{shown.host}: the {self._what()} key has CHANGED: {old.where} has {label}, the host "
            f"shows {shown.label}. An attacker may be intercepting the connection; if the host was "
            f"set up again, remove the old line with `{shlex.join(argv)}`, then "
            f"`edge-harness add {shlex.quote(self.uri)}`"
        )

    def _revoked(self, shown: HostKey, where: str) -> str:
        return (
            f"{shown.host}: the {self._what()} key {shown.label} is REVOKED by {where}: whoever has "
            "this key may pretend to be the host. Ask who keeps that file; the host needs a new key"
        )


class KeySeen(Exception):
    """Raised by a probe with the key that the server showed."""

    def __init__(self, key: HostKey) -> None:
        """Keep the key."""
        super().__init__(key.label)
        self.key = key
