"""sha256 without OpenSSL: hashlib adds 3.6 MB of OpenSSL to the measured process."""

import errno
import os
from typing import Any

try:
    from _sha2 import sha256 as _sha256  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    try:
        from _sha256 import sha256 as _sha256  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from hashlib import sha256 as _sha256

_CHUNK = 1 << 18
_LARGE = 8 * 1000 * 1000
_CHARACTERS = 64


def new() -> Any:
    """Start a sha256."""
    return _sha256()


def of_file(path: str) -> str:
    """Return the sha256 of a regular file, hexadecimal; raises OSError."""
    if not os.path.isfile(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    digest = _sha256()
    with open(path, "rb", buffering=0) as file:
        while True:
            data = file.read(_CHUNK)
            if not data:
                return str(digest.hexdigest())
            digest.update(data)


def of_arrival(path: str) -> str:
    """Return the sha256 of a file that was sent, hexadecimal; raises OSError.

    Only for the agent's own process, which is not measured: a large file is read at OpenSSL's speed
    (0.14 s instead of 0.6 s for 100 MB).
    """
    if os.path.getsize(path) < _LARGE:
        return of_file(path)
    import hashlib

    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while True:
            data = file.read(1 << 20)
            if not data:
                return digest.hexdigest()
            digest.update(data)


def is_digest(value: object) -> bool:
    """Return whether `value` is a sha256 in lower-case hexadecimal (and so safe as a file name)."""
    return (
        isinstance(value, str)
        and len(value) == _CHARACTERS
        and not set(value) - set("0123456789abcdef")
    )
