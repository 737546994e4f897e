"""Hide a password in an address before it is shown."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*:(?://)?[^:@/]*):.*@", re.DOTALL)


def without_password(address: str) -> str:
    """Return an address for a message, with the text between the user's colon and `@` hidden."""
    return _PASSWORD.sub(r"\1:***@", address)
