"""Who we say we are: the keys offered to an SSH server, in OpenSSH's order, never a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.auth_strategy import (
    AuthFailure,
    AuthSource,
    AuthStrategy,
    InMemoryPrivateKey,
    OnDiskPrivateKey,
    SourceResult,
)

_DEFAULTS = ("id_rsa", "id_ecdsa", "id_ed25519")


class Keys(AuthStrategy):
    """Offer the agent's keys and the key files; fabric makes one for each hop.

    `fabric_config.authentication.identities` is the device's own `identity`; where it is given,
    or ssh_config says `IdentitiesOnly`, only key files are offered, so that a server's
    MaxAuthTries is not spent on others.
    """

    def __init__(self, ssh_config: Any, fabric_config: Any, username: str) -> None:  # noqa: ANN401
        """Take what fabric resolved for this hop."""
        super().__init__(ssh_config=ssh_config)
        self._said: Mapping[str, Any] = ssh_config
        self._username = username
        self._identities = [str(path) for path in fabric_config.authentication.identities]
        self.tried: list[str] = []

    def get_sources(self) -> Iterator[AuthSource]:
        """Yield the keys in the order they are offered."""
        only = self._said.get("identitiesonly", "no") == "yes"
        if not self._identities and not only:
            yield from self._agent()
        named = [*self._identities, *self._said.get("identityfile", [])]
        defaults = [f"~/.ssh/{name}" for name in _DEFAULTS]
        unreadable = False
        for name in named or defaults:
            path = Path(name).expanduser()
            key = self._load(path, missing_matters=bool(named))
            if key is None:
                unreadable = unreadable or path.exists()
                continue
            self.tried.append(str(path))
            yield OnDiskPrivateKey(self._username, "python-config", path, key)
        if unreadable and (self._identities or only):
            # An encrypted key file is offered by the agent that holds it unlocked.
            yield from self._agent()

    def authenticate(self, transport: paramiko.Transport) -> list[SourceResult]:
        """Offer each key; raises AuthFailure when none is taken."""
        try:
            return super().authenticate(transport)
        except AuthFailure as error:
            raise Refused(self._username, tuple(self.tried)) from error

    def _agent(self) -> Iterator[AuthSource]:
        agent = paramiko.Agent()
        try:
            for key in agent.get_keys():
                self.tried.append(f"agent key {key.comment or key.get_name()}")
                yield InMemoryPrivateKey(self._username, key)
        finally:
            agent.close()

    def _load(self, path: Path, *, missing_matters: bool) -> paramiko.PKey | None:
        try:
            return paramiko.PKey.from_path(path)
        except FileNotFoundError:
            if missing_matters:
                self.tried.append(f"{path} (not there)")
        except (paramiko.PasswordRequiredException, TypeError):
            self.tried.append(f"{path} (encrypted: `ssh-add {path}`)")
        except (paramiko.SSHException, OSError, ValueError, UnsupportedAlgorithm) as error:
            self.tried.append(f"{path} (unreadable: {error})")
        return None


class Refused(Exception):
    """The server took none of the keys."""

    def __init__(self, user: str, tried: tuple[str, ...]) -> None:
        """Carry who asked with what."""
        super().__init__(user)
        self.user = user
        self.tried = tried
