"""Write the little TOML we write: values, a profile file, and one table inside a user's file."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import ConfigError

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = re.compile(r"^\s*\[")


def key(name: str) -> str:
    """Write a key, quoted where it has to be."""
    return name if _BARE.fullmatch(name) else _text(name)


def value(item: object) -> str:
    """Write a value: text, numbers, booleans, arrays and inline tables."""
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, (int, float)):
        return repr(item)
    if isinstance(item, Mapping):
        inside = ", ".join(f"{key(name)} = {value(one)}" for name, one in item.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(item, Sequence) and not isinstance(item, str):
        return "[" + ", ".join(value(one) for one in item) + "]"
    return _text(str(item))


def _text(item: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(item, ensure_ascii=False).replace("\x7f", "\\u007f")


def with_table(text: str, header: Sequence[str], entries: Mapping[str, Any]) -> str:
    """Return `text` with these entries in the table `[header]`; all else stays as it is.

    An entry there with this key is replaced where it stands, others are added at the end of the
    table, and a table that is not there is added at the end of the text.
    """
    lines = text.splitlines()
    start = _find(lines, header)
    if start is None:
        head = "[" + ".".join(key(part) for part in header) + "]"
        block = [head, *(f"{key(name)} = {value(item)}" for name, item in entries.items())]
        before = text.rstrip("\n")
        return (before + "\n\n" if before else "") + "\n".join(block) + "\n"
    end = start + 1
    while end < len(lines) and not _HEADER.match(lines[end]):
        end += 1
    # Blank lines and comments above the next header belong to it.
    while end > start + 1 and lines[end - 1].strip()[:1] in {"", "#"}:
        end -= 1
    body = lines[start + 1 : end]
    for name, item in entries.items():
        body = _with_entry(body, name, value(item))
    return "\n".join([*lines[: start + 1], *body, *lines[end:]]) + "\n"


def _find(lines: Sequence[str], header: Sequence[str]) -> int | None:
    parts = [
        rf"""(?:{re.escape(part)}|"{re.escape(part)}"|'{re.escape(part)}')""" for part in header
    ]
    pattern = re.compile(r"^\s*\[\s*" + r"\s*\.\s*".join(parts) + r"\s*\]\s*(#.*)?$")
    return next((at for at, line in enumerate(lines) if pattern.match(line)), None)


def _with_entry(body: Sequence[str], name: str, written: str) -> list[str]:
    quoted = re.escape(name)
    pattern = re.compile(rf"""^\s*(?:{quoted}|"{quoted}"|'{quoted}')\s*=""")
    kept = list(body)
    for at, line in enumerate(kept):
        if pattern.match(line):
            kept[at] = f"{key(name)} = {written}"
            return kept
    return [*kept, f"{key(name)} = {written}"]


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, keeping the mode of the one that was there.

    Raises ConfigError where the folder cannot be written.
    """
    target = path.resolve()
    part: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
        part = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o644)
        part.replace(target)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
