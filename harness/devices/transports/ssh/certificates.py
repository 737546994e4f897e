"""Check the certificate of a host by OpenSSH's rules (PROTOCOL.certkeys).

A certificate is a host's key, signed by an authority. paramiko reads only the key in it, and the server
proves that it has this key; whether the certificate is valid for the host is checked here.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import Self

import paramiko
from paramiko.message import Message
from paramiko.pkey import UnknownKeyType

from harness.devices.transports.ssh.bounds import NONSENSE

SUFFIX = "-cert-v01@openssh.com"
_HOST = 2
"""The certificate's type; 1 is a user's."""

_KEY_FIELDS = {
    "ssh-ed25519": 1,
    "ssh-rsa": 2,
    "ecdsa-sha2-nistp256": 2,
    "ecdsa-sha2-nistp384": 2,
    "ecdsa-sha2-nistp521": 2,
}
"""Fields of the public key in the certificate, by its type."""

_WEAK_SIGNATURES = frozenset({"ssh-rsa", "ssh-dss"})
"""Signatures with SHA-1, which OpenSSH refuses from an authority."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The fields of a certificate that decide whether it is valid for a host."""

    key_blob: bytes
    """The certified public key, in wire format."""
    type: int
    key_id: str
    principals: tuple[str, ...]
    """Host names; none means every host."""
    valid_after: int
    """Seconds since 1970, as `valid_before`."""
    valid_before: int
    critical_options: bytes
    authority_blob: bytes
    """The public key of the authority, in wire format."""
    signature: bytes
    signed: bytes
    """What the authority signed."""

    @classmethod
    def read(cls, blob: bytes) -> Self:
        """Parse a certificate in wire format; raises ValueError if it is damaged."""
        try:
            return cls._read(blob)
        except (struct.error, paramiko.SSHException, *NONSENSE) as error:
            raise ValueError(f"the certificate is damaged: {error}") from error

    @classmethod
    def _read(cls, blob: bytes) -> Self:
        message = Message(blob)
        kind = message.get_text()
        plain = kind.removesuffix(SUFFIX)
        if plain == kind or plain not in _KEY_FIELDS:
            raise ValueError(f"its type is {kind}")
        message.get_binary()  # the nonce
        key = Message()
        key.add_string(plain.encode())
        for _ in range(_KEY_FIELDS[plain]):
            key.add_string(message.get_binary())
        message.get_int64()  # the serial number
        certified = message.get_int()
        key_id = message.get_binary().decode("utf-8", "replace")
        principals = _strings(message.get_binary())
        after, before = message.get_int64(), message.get_int64()
        critical = message.get_binary()
        message.get_binary()  # extensions: a host's certificate has none
        message.get_binary()  # reserved
        authority = message.get_binary()
        signed = blob[: len(blob) - len(message.get_remainder())]
        signature = message.get_binary()
        if message.get_remainder():
            raise ValueError("it has more than its signature")
        return cls(
            key_blob=key.asbytes(),
            type=certified,
            key_id=key_id,
            principals=principals,
            valid_after=after,
            valid_before=before,
            critical_options=critical,
            authority_blob=authority,
            signature=signature,
            signed=signed,
        )

    def fault(self, host: str, now: float | None = None) -> str | None:
        """Return why the certificate is not valid for a host; None if it is.

        The caller decides whether to trust the authority.
        """
        seconds = time.time() if now is None else now
        if self.type != _HOST:
            return "it is a user's certificate"
        if self.critical_options:
            return "it has critical options that are not known"
        if seconds < self.valid_after:
            return "it is not valid yet"
        if seconds >= self.valid_before:
            return "it has expired"
        if self.principals and host not in self.principals:
            return f"it is for {', '.join(self.principals)}, not for {host}"
        return None if self._is_signed() else "its signature is wrong"

    def _is_signed(self) -> bool:
        try:
            if Message(self.signature).get_text() in _WEAK_SIGNATURES:
                return False
            kind = Message(self.authority_blob).get_text()
            key = paramiko.PKey.from_type_string(kind, self.authority_blob)
            return bool(key.verify_ssh_sig(self.signed, Message(self.signature)))
        except (paramiko.SSHException, UnknownKeyType, *NONSENSE):
            return False


def _strings(blob: bytes) -> tuple[str, ...]:
    message, found = Message(blob), []
    while message.get_remainder():
        found.append(message.get_binary().decode("utf-8", "replace"))
    return tuple(found)
