"""The keys offered to an SSH server, in OpenSSH's order and without a prompt."""

from __future__ import annotations

import base64
import os
import shlex
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.agent import AgentKey, AgentSSH
from paramiko.auth_strategy import InMemoryPrivateKey, SourceResult
from paramiko.message import Message
from paramiko.pkey import PublicBlob, UnknownKeyType

from harness.devices.transports.ssh.bounds import NONSENSE
from harness.devices.transports.ssh.certificates import Certificate
from harness.devices.transports.ssh.settings import HostSettings

_AGENT_SECONDS = 60.0
"""How long the SSH agent may take to answer; a security key waits for a touch."""

_PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----"
_MAX_KEY_BYTES = 1 << 16
_UNREADABLE = (
    paramiko.SSHException,
    UnknownKeyType,
    OSError,
    ValueError,
    UnsupportedAlgorithm,
    TypeError,
)


class UnixAgent(AgentSSH):
    """The SSH agent behind a socket; paramiko's own class reads only SSH_AUTH_SOCK."""

    def __init__(self, path: Path) -> None:
        """Connect and list its keys; raises OSError or SSHException."""
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(_AGENT_SECONDS)
            self._socket.connect(os.fspath(path))
            self._connect(self._socket)  # type: ignore[attr-defined]  # for its subclasses
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Close the connection; its keys no longer sign."""
        self._socket.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A key that can be offered."""

    label: str
    key: paramiko.PKey


class OfferedKeys:
    """The keys to offer to one host.

    OpenSSH's order: the agent's keys that `IdentityFile` names, its other keys unless
    `IdentitiesOnly` is set, then the key files. A device's own `identity` replaces `IdentityFile` and
    sets `IdentitiesOnly`, so that other keys do not use up the server's MaxAuthTries.
    """

    def __init__(self, settings: HostSettings, identity: Path | None) -> None:
        """Keep what the settings of the host say about keys."""
        self._settings = settings
        self._files = (identity,) if identity else settings.identities
        self._only = bool(identity) or settings.identities_only
        self._reports_missing = bool(identity) or not settings.has_default_identities
        self._agent: UnixAgent | None = None
        self.offered: list[str] = []
        """The keys that the server was asked about."""
        self.not_offered: list[str] = []
        """The other keys, each with the reason."""

    def for_fabric(self, **_: object) -> OfferedKeys:
        """Return itself: fabric makes the strategy from its own configuration."""
        return self

    def authenticate(self, transport: paramiko.Transport) -> list[SourceResult]:
        """Offer each key; raises LoginRefused if the server accepts none."""
        offers = iter(self._offers())
        try:
            for offer in offers:
                if not transport.is_active():
                    self._skip(offer, offers)
                    break
                if result := self._try(transport, offer):
                    return result
        finally:
            if self._agent is not None:
                self._agent.close()
        ended = not transport.is_active()
        raise LoginRefused(
            self._settings.user, tuple(self.offered), tuple(self.not_offered), ended=ended
        )

    def _try(self, transport: paramiko.Transport, offer: Offer) -> list[SourceResult]:
        """Offer one key; returns an empty list if the server does not accept it."""
        source = InMemoryPrivateKey(self._settings.user, offer.key)
        try:
            result = source.authenticate(transport)
        except paramiko.AuthenticationException:
            self.offered.append(offer.label)
        except (paramiko.SSHException, OSError, EOFError, *NONSENSE) as error:
            if not transport.is_active():
                self.offered.append(offer.label)
            else:
                # The agent refused to sign, or both sides know no common algorithm.
                self.not_offered.append(f"{offer.label} ({error})")
        else:
            self.offered.append(offer.label)
            return [SourceResult(source, result)]
        return []

    def _skip(self, first: Offer, others: Iterable[Offer]) -> None:
        reason = "the server had closed the connection"
        self.not_offered += [f"{one.label} ({reason})" for one in (first, *others)]

    def _offers(self) -> Iterator[Offer]:
        public = {path: _public_blob(path) for path in self._files}
        agent_keys = self._agent_keys()
        named = [key for key in agent_keys if key.asbytes() in public.values()]
        others = [] if self._only else [key for key in agent_keys if key not in named]
        for key in (*named, *others):
            yield Offer(label=f"agent key {key.comment or key.get_name()}", key=key)
        in_agent = {key.asbytes() for key in agent_keys}
        is_locked = False
        for path in self._files:
            if public[path] in in_agent:
                continue
            loaded = self._load(path)
            if loaded is None:
                is_locked = is_locked or path.exists()
                continue
            yield from self._with_certificates(path, loaded)
        if is_locked and self._only:
            # Which key an encrypted file of another format has is not known.
            for key in agent_keys:
                if key not in named:
                    yield Offer(label=f"agent key {key.comment or key.get_name()}", key=key)

    def _with_certificates(self, path: Path, key: paramiko.PKey) -> Iterator[Offer]:
        """Yield a key file with each certificate that is for it, then the key alone."""
        beside = Path(f"{path}-cert.pub")
        for place in dict.fromkeys((beside, *self._settings.certificates)):
            certified = _certified(place)
            if certified is None or certified.key_blob != key.asbytes():
                continue
            with suppress(*_UNREADABLE):
                other = paramiko.PKey.from_path(path)
                other.load_certificate(str(place))
                yield Offer(label=f"{path} with {place}", key=other)
        key.public_blob = None
        yield Offer(label=str(path), key=key)

    def _agent_keys(self) -> tuple[AgentKey, ...]:
        path = self._settings.agent
        if path is None:
            return ()
        try:
            self._agent = UnixAgent(path)
        except (paramiko.SSHException, OSError, *NONSENSE) as error:
            self.not_offered.append(f"the keys of the agent at {path} ({error})")
            return ()
        return self._agent.get_keys()

    def _load(self, path: Path) -> paramiko.PKey | None:
        try:
            return paramiko.PKey.from_path(path)
        except FileNotFoundError:
            if self._reports_missing:
                self.not_offered.append(f"{path} (missing)")
        except (paramiko.PasswordRequiredException, TypeError):
            self.not_offered.append(f"{path} (encrypted: `ssh-add {shlex.quote(str(path))}`)")
        except _UNREADABLE as error:
            self.not_offered.append(f"{path} (unreadable: {error})")
        return None


class LoginRefused(Exception):
    """The server accepted none of the keys."""

    def __init__(
        self, user: str, offered: tuple[str, ...], not_offered: tuple[str, ...], *, ended: bool
    ) -> None:
        """Keep the user, the keys, and whether the server closed the connection."""
        super().__init__(user)
        self.user = user
        self.offered = offered
        self.not_offered = not_offered
        self.ended = ended

    @property
    def keys(self) -> str:
        """Which keys were offered and which were not."""
        text = f"keys tried: {', '.join(self.offered) or 'none'}"
        if self.not_offered:
            text += f"; not tried: {', '.join(self.not_offered)}"
        if self.ended:
            text += (
                "; the server closed the connection, as after too many keys (MaxAuthTries): set "
                "`identity` in the farm file"
            )
        return text


def _public_blob(path: Path) -> bytes | None:
    """Return the public key of an identity: of `PATH.pub`, or of PATH itself; None if it has none.

    OpenSSH's private keys have it in front, in plain text even if they are encrypted.
    """
    for place in (Path(f"{path}.pub"), path):
        with suppress(*_UNREADABLE, *NONSENSE):
            if place.stat().st_size > _MAX_KEY_BYTES:
                continue
            text = place.read_text(encoding="utf-8")
            if text.startswith(_PRIVATE):
                return _public_part(text)
            fields = text.split(None, 2)
            return bytes(PublicBlob.from_string(" ".join(fields[:2])).key_blob)
    return None


def _public_part(text: str) -> bytes:
    """Read the public key of a private key in OpenSSH's format (PROTOCOL.key)."""
    body = base64.b64decode("".join(text.split("-----")[2].split()))
    message = Message(body.removeprefix(b"openssh-key-v1\0"))
    for _ in ("cipher", "derivation", "its options"):
        message.get_binary()
    message.get_int()  # the number of keys
    return bytes(message.get_binary())


def _certified(path: Path) -> Certificate | None:
    with suppress(*_UNREADABLE, *NONSENSE):
        return Certificate.read(PublicBlob.from_file(str(path)).key_blob)
    return None
