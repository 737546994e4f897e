"""Addresses as they may be shown: without the password that somebody wrote into one."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*:(?://)?[^:@/]*):.*@", re.DOTALL)


def without_password(address: str) -> str:
    """Return an address for a message: what stands between user and `@` after a colon is hidden."""
    return _PASSWORD.sub(r"\1:***@", address)
