"""The keys offered to an SSH server, in OpenSSH's order and without a prompt."""

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


class OfferedKeys(AuthStrategy):
    """The SSH agent's keys and the key files to offer; fabric makes one instance per hop.

    `fabric_config.authentication.identities` is the device's own `identity`. If it is set, or if
    ssh_config has `IdentitiesOnly`, only key files are offered, so that other keys do not use up the
    server's MaxAuthTries.
    """

    def __init__(self, ssh_config: Any, fabric_config: Any, username: str) -> None:  # noqa: ANN401
        """Keep the configuration that fabric resolved for this hop."""
        super().__init__(ssh_config=ssh_config)
        self._ssh_config: Mapping[str, Any] = ssh_config
        self._username = username
        self._identities = [str(path) for path in fabric_config.authentication.identities]
        self.tried: list[str] = []

    def get_sources(self) -> Iterator[AuthSource]:
        """Yield the keys in the order of the offers."""
        only = self._ssh_config.get("identitiesonly", "no") == "yes"
        if not self._identities and not only:
            yield from self._agent()
        named = [*self._identities, *self._ssh_config.get("identityfile", [])]
        defaults = [f"~/.ssh/{name}" for name in _DEFAULTS]
        unreadable = False
        for name in named or defaults:
            path = Path(name).expanduser()
            key = self._load(path, report_missing=bool(named))
            if key is None:
                unreadable = unreadable or path.exists()
                continue
            self.tried.append(str(path))
            yield OnDiskPrivateKey(self._username, "python-config", path, key)
        if unreadable and (self._identities or only):
            # The SSH agent may hold an encrypted key file unlocked.
            yield from self._agent()

    def authenticate(self, transport: paramiko.Transport) -> list[SourceResult]:
        """Offer each key; raises LoginRefused if the server accepts none."""
        try:
            return super().authenticate(transport)
        except AuthFailure as error:
            raise LoginRefused(self._username, tuple(self.tried)) from error

    def _agent(self) -> Iterator[AuthSource]:
        agent = paramiko.Agent()
        try:
            for key in agent.get_keys():
                self.tried.append(f"agent key {key.comment or key.get_name()}")
                yield InMemoryPrivateKey(self._username, key)
        finally:
            agent.close()

    def _load(self, path: Path, *, report_missing: bool) -> paramiko.PKey | None:
        try:
            return paramiko.PKey.from_path(path)
        except FileNotFoundError:
            if report_missing:
                self.tried.append(f"{path} (missing)")
        except (paramiko.PasswordRequiredException, TypeError):
            self.tried.append(f"{path} (encrypted: `ssh-add {path}`)")
        except (paramiko.SSHException, OSError, ValueError, UnsupportedAlgorithm) as error:
            self.tried.append(f"{path} (unreadable: {error})")
        return None


class LoginRefused(Exception):
    """The server accepted none of the keys."""

    def __init__(self, user: str, tried: tuple[str, ...]) -> None:
        """Keep the user and the keys that were tried."""
        super().__init__(user)
        self.user = user
        self.tried = tried
