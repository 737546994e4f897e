"""Checksums in the files of a run: they show damage that JSON alone would not.

A line or a document is a JSON object whose last key is `sum`: the first 16 hex digits of the SHA-256
of a scope and of the bytes before that key. The scope has the run's key and the file's name, so a
line of another run or of another file does not fit either.

    {"cell":"3f...","launches":["..."],"number":4,"sum":"0123456789abcdef"}
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import durable
from harness.errors import StoreError
from harness.records.store.text import decode, encode

_DIGITS = 16
_END = re.compile(rb',"sum":"([0-9a-f]{16})"\}')
_END_LENGTH = len(',"sum":""}') + _DIGITS


class WrongSum(ValueError):
    """The bytes are not those that were written, or belong to another place."""


def summed(plain: Mapping[str, Any], scope: str) -> str:
    """Write an object with at least one key as a line of JSON with its checksum, without a newline.

    Raises StoreError for NaN and infinities.
    """
    body = encode(plain)[:-1]
    return f'{body},"sum":"{_sum(scope, body.encode())}"}}'


def sum_of(text: bytes) -> str | None:
    """Return the checksum that a line or document has, whether it fits or not; None if it has none."""
    found = _END.fullmatch(text[-_END_LENGTH:])
    return found[1].decode() if found else None


def checked(text: bytes, scope: str, *, needed: bool) -> Any:  # noqa: ANN401 - JSON
    """Decode a line or document, without its checksum.

    Without `needed`, a text without a checksum is accepted: it was written before there were
    checksums. Raises ValueError if it is not JSON, WrongSum if its checksum is missing or wrong.
    """
    written = sum_of(text)
    if written is None:
        plain = decode(text)
        if needed:
            raise WrongSum("it has no checksum")
        return plain
    if written != _sum(scope, text[:-_END_LENGTH]):
        raise WrongSum("its checksum does not fit its content")
    plain = decode(text)
    del plain["sum"]
    return plain


def read_document(path: Path, scope: str, *, needed: bool) -> Any:  # noqa: ANN401 - JSON
    """Read a file that has one document; raises OSError, and ValueError as :func:`checked`."""
    with durable.opened(path) as file:
        text = file.read()
    return checked(text.removesuffix(b"\n"), scope, needed=needed)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal; raises StoreError if it cannot be read."""
    try:
        with durable.opened(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error


def _sum(scope: str, body: bytes) -> str:
    return hashlib.sha256(scope.encode() + b"\n" + body).hexdigest()[:_DIGITS]
