"""Read the user's files: text in the encodings that editors write, and never more than a bound.

    text = text_files.read(Path("plan.toml"))

A file is UTF-8, with or without a byte order mark, or UTF-16 or UTF-32 with one (PowerShell's `>`
writes UTF-16). Every line end becomes a newline. What is not a regular file is refused without
waiting for it: a pipe without a writer would block for ever, and `/dev/zero` never ends.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from harness.errors import ConfigError
from harness.printable import file_name

MAX_BYTES = 1_000_000
"""Maximum size of a text file. A plan of a thousand models is a tenth of it."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NAMES = {"utf-8": "UTF-8", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16"}
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def read(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """Return the text of a file.

    Raises ConfigError, with the path: no such file, not a regular file, larger than `max_bytes`, not
    text.
    """
    text = decoded(content(path, max_bytes=max_bytes), file_name(path))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def content(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a file; raises ConfigError as `read` does, except for its text."""
    with regular(path) as file:
        try:
            data = file.read(max_bytes + 1)
        except OSError as error:
            raise ConfigError(
                f"{file_name(path)}: cannot be read: {error.strerror or error}"
            ) from error
    if len(data) > max_bytes:
        raise ConfigError(f"{file_name(path)}: larger than {max_bytes:,} bytes, so it is not read")
    return data


def regular(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes; raises ConfigError with the path for anything else."""
    try:
        # Without O_NONBLOCK, opening a pipe waits for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(f"{file_name(path)}: there is no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{file_name(path)}: cannot be read: {reason}") from error
    mode = os.fstat(handle).st_mode
    other = kind(mode)
    if other is not None:
        os.close(handle)
        directory = f"cannot be read: {os.strerror(errno.EISDIR)}"
        reason = directory if stat.S_ISDIR(mode) else f"is {other}, not a file"
        raise ConfigError(f"{file_name(path)}: {reason}")
    return os.fdopen(handle, "rb")


def kind(mode: int) -> str | None:
    """Return what a file's mode says it is, such as "a pipe"; None for a regular file."""
    return next((name for test, name in _KINDS if test(mode)), None)


def decoded(data: bytes, name: str) -> str:
    """Return bytes as text without its mark, with its own line ends.

    `name` is the file's name in the ConfigError for what is not text.
    """
    mark, encoding = next(
        ((mark, encoding) for mark, encoding in _MARKS if data.startswith(mark)), (b"", "utf-8")
    )
    shown = _NAMES.get(encoding, "UTF-32")
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        place = len(mark) + error.start
        raise ConfigError(
            f"{name}: not {shown} text (byte {place}): {error.reason}; save it as UTF-8"
        ) from None
    if "\0" in text:
        raise ConfigError(f"{name}: {_about_nul(text)}")
    return text


def _about_nul(text: str) -> str:
    """Say why text with NUL characters is refused."""
    line = text.count("\n", 0, text.index("\0")) + 1
    if not text.rstrip("\0").count("\0"):
        return "ends with NUL bytes: it was not written completely; restore it, or remove them"
    if text.count("\0") > len(text) // 3:
        return "is UTF-16 without a byte order mark; save it as UTF-8"
    return f"has a NUL byte in line {line}; remove it"
