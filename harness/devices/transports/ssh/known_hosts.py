"""Read known_hosts files by the rules of sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".

A line has an optional marker (`@cert-authority`, `@revoked`), host names, a key type and the key. The
names are a comma-separated list of patterns (`*`, `?`; `!` in front excludes), or one hashed name. A key
on another port than 22 has the name `[host]:port`. A line that cannot be read is skipped and counted.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

AUTHORITY = "@cert-authority"
REVOKED = "@revoked"
_MARKERS = frozenset({"", AUTHORITY, REVOKED})
_MAX_NAMES = 8192
_PORT = 22


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownKey:
    """A key that a line of known_hosts has for a host."""

    path: Path
    line: int
    """Counted from 1."""
    marker: str
    """`@cert-authority`, `@revoked`, or empty."""
    type: str
    blob: bytes
    """In wire format."""
    is_exact: bool = True
    """Whether the line names the host with its port; false for a plain name on another port than 22."""

    @property
    def where(self) -> str:
        """`FILE:LINE`."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNames:
    """The names under which a host may be known."""

    exact: str
    """`host`, `[host]:port`, or the alias."""
    plain: str
    """`host`: OpenSSH accepts the key of the plain name on any port."""

    @classmethod
    def of(cls, host: str, port: int, alias: str | None) -> HostNames:
        """Return the names of a host; with an alias (`HostKeyAlias`) only that."""
        plain = (alias or host).lower()
        return cls(
            exact=plain if alias or port == _PORT else f"[{plain}]:{port}",
            plain=plain,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    marker: str
    names: str
    type: str
    key: str


def _text(data: bytes) -> str:
    """Decode a file that an editor or PowerShell may have written; other bytes stay damaged lines."""
    is_wide = data[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}
    return data.decode("utf-16" if is_wide else "utf-8-sig", "replace")


def read(path: Path, names: HostNames) -> tuple[list[KnownKey], list[int]]:
    """Return the keys of a host in a file, and the numbers of the lines that cannot be read.

    A missing file has no keys. Raises OSError for a file that cannot be read.
    """
    try:
        text = _text(path.read_bytes())
    except FileNotFoundError:
        return [], []
    keys: list[KnownKey] = []
    damaged: list[int] = []
    # Not splitlines(): it also splits at form feeds and other characters.
    for number, raw in enumerate(text.split("\n"), start=1):
        stripped = raw.strip()
        if not stripped or stripped.startswith("#"):
            continue
        line = _parse(stripped)
        if line is None:
            damaged.append(number)
            continue
        is_exact = matches(names.exact, line.names)
        if not is_exact and (names.plain == names.exact or not matches(names.plain, line.names)):
            continue
        blob = _blob(line)
        if blob is None:
            damaged.append(number)
            continue
        keys.append(
            KnownKey(
                path=path,
                line=number,
                marker=line.marker,
                type=line.type,
                blob=blob,
                is_exact=is_exact,
            )
        )
    return keys, damaged


def _parse(text: str) -> _Line | None:
    fields = text.split(None, 4)
    marker = fields.pop(0) if text.startswith("@") else ""
    if marker not in _MARKERS or len(fields) < len(("names", "type", "key")):
        return None
    names, kind, key = fields[:3]
    if len(names) > _MAX_NAMES or kind.isdigit():
        # A number is the key of SSH version 1.
        return None
    return _Line(marker=marker, names=names, type=kind, key=key)


def _blob(line: _Line) -> bytes | None:
    """Decode the key; None if it is damaged or is not of the type that the line says."""
    try:
        blob = base64.b64decode(line.key, validate=True)
    except (binascii.Error, ValueError):
        return None
    kind = line.type.encode()
    return blob if blob[:4] == len(kind).to_bytes(4, "big") and blob[4:].startswith(kind) else None


def matches(host: str, names: str) -> bool:
    """Return whether a host's name, in lower case, is in the first field of a line."""
    if names.startswith("|"):
        return _matches_hash(host, names)
    return matches_patterns(host, names.lower().split(","))


def matches_patterns(host: str, patterns: Sequence[str]) -> bool:
    """Return whether a pattern matches and no excluded one (`!pattern`) does."""
    found = False
    for pattern in patterns:
        if pattern.startswith("!"):
            if _matches_pattern(host, pattern[1:]):
                return False
        elif _matches_pattern(host, pattern):
            found = True
    return found


def _matches_pattern(host: str, pattern: str) -> bool:
    """Match `*` and `?`; not a regular expression, so that a line cannot make it slow."""
    at = place = 0
    star, kept = -1, 0
    while at < len(host):
        if place < len(pattern) and pattern[place] == "*":
            star, kept, place = place, at, place + 1
        elif place < len(pattern) and pattern[place] in {"?", host[at]}:
            at, place = at + 1, place + 1
        elif star >= 0:
            kept += 1
            at, place = kept, star + 1
        else:
            return False
    return not pattern[place:].strip("*") and bool(pattern)


def _matches_hash(host: str, names: str) -> bool:
    """Compare with `|1|SALT|HMAC-SHA1`, both in base64."""
    parts = names.split("|")
    if len(parts) != len(("", "1", "salt", "hash")) or parts[1] != "1":
        return False
    try:
        salt, wanted = base64.b64decode(parts[2]), base64.b64decode(parts[3])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.digest(salt, host.encode(), "sha1"), wanted)
