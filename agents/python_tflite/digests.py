"""sha256 without OpenSSL: hashlib brings 3.6 MB of it into a process that is being measured."""

from typing import Any

try:
    from _sha2 import sha256 as _sha256  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    try:
        from _sha256 import sha256 as _sha256  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from hashlib import sha256 as _sha256

_CHUNK = 1 << 18
_LETTERS = 64


def new() -> Any:
    """Start a sha256."""
    return _sha256()


def of_file(path: str) -> str:
    """Return the sha256 of a file, hexadecimal; raises OSError."""
    digest = _sha256()
    with open(path, "rb", buffering=0) as file:
        while True:
            data = file.read(_CHUNK)
            if not data:
                return str(digest.hexdigest())
            digest.update(data)


def is_digest(word: object) -> bool:
    """Tell whether `word` is a sha256 in lower-case hexadecimal (and so safe as a file name)."""
    return (
        isinstance(word, str) and len(word) == _LETTERS and not set(word) - set("0123456789abcdef")
    )
