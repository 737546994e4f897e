"""Write TOML: values, whole files, and one table inside a user's file.

tomlkit edits a user's file. It is imported only when a file is written.
"""

from __future__ import annotations

import codecs
import os
import tempfile
import tomllib
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import text_files
from harness.config import bounds
from harness.errors import ConfigError

if TYPE_CHECKING:
    from tomlkit.items import Item, Trivia


def key(*parts: str) -> str:
    """Format a key, dotted if it has several parts; a part is quoted if TOML requires it."""
    import tomlkit

    return ".".join(tomlkit.key(part).as_string() for part in parts)


def value(item: object) -> str:
    """Format a value: text, numbers, booleans, arrays and inline tables."""
    return _item(item).as_string()


def _item(value: object) -> Item:
    import tomlkit

    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        for name, one in value.items():
            table.append(tomlkit.key(name), _item(one))
        return table
    if isinstance(value, Sequence) and not isinstance(value, str):
        array = tomlkit.array()
        for one in value:
            array.append(_item(one))
        return array
    return tomlkit.item(value if isinstance(value, (bool, int, float)) else str(value))


def table(path: Path, header: Sequence[str]) -> Mapping[str, Any]:
    """Return a table of a TOML file, empty if there is none; raises ConfigError like `update_table`."""
    found: Any = _read(path, _bytes(path))[1]
    for part in header:
        found = found.get(part, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, dict) else {}


def _read(path: Path, data: bytes | None) -> tuple[str, dict[str, Any]]:
    try:
        text = text_files.decoded(data or b"", str(path))
        bounds.check_text(text, str(path))
        return text, tomllib.loads(text)
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ConfigError(f"{path}: cannot be read: {reason}") from error


def update_table(path: Path, header: Sequence[str], entries: Mapping[str, Any]) -> None:
    """Set entries in the table `header` of a TOML file; every other line stays unchanged.

    An entry with the same key is replaced in place and keeps its comment. Other entries are added at
    the end of the table. A missing table is added at the end of the file; a missing file is
    created.

    Raises ConfigError if the file is not TOML, cannot be written, changes meanwhile, or has the
    table in a form that tomlkit cannot edit.
    """
    before = _bytes(path)
    text, data = _read(path, before)
    wanted = _merged(data, header, entries)
    if wanted == data and before is not None:
        return
    for edit in (_edit_table, _append_table, _nest_table):
        changed = _with_line_ends(text, edit(text, header, entries))
        if changed is not None and _parsed(changed) == wanted:
            mark = "\ufeff" if (before or b"").startswith(codecs.BOM_UTF8) else ""
            write_whole(path, mark + changed, before=before)
            return
    raise ConfigError(
        f"{path}: {'.'.join(header)} has a form that only a person can edit; "
        f"write it as a table [{key(*header)}] with {', '.join(_format_entries(entries))}"
    )


def _merged(
    data: Mapping[str, Any], header: Sequence[str], entries: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the data of the file after the change."""
    if not header:
        return {**data, **entries}
    inner = data.get(header[0])
    below = _merged(inner if isinstance(inner, dict) else {}, header[1:], entries)
    return {**data, header[0]: below}


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _with_line_ends(original: str, text: str | None) -> str | None:
    """Return the text with CRLF at all line ends, if all lines of the original have it."""
    if text is None or not original.count("\n") == original.count("\r\n") > 0:
        return text
    return text.replace("\r\n", "\n").replace("\n", "\r\n")


def _format_entries(entries: Mapping[str, Any]) -> list[str]:
    return [f"{key(name)} = {value(item)}" for name, item in entries.items()]


def _edit_table(text: str, header: Sequence[str], entries: Mapping[str, Any]) -> str | None:
    """Set the entries in the existing table; None if there is none, or tomlkit fails."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        table: Any = document
        for part in header:
            table = table[part]
        _set(table, entries)
    except (TOMLKitError, LookupError, TypeError, ValueError):
        return None
    return tomlkit.dumps(document)


def _nest_table(text: str, header: Sequence[str], entries: Mapping[str, Any]) -> str | None:
    """Add the table inside its parent, an inline table; None if tomlkit fails."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        table: Any = document
        missing = list(header)
        while missing and missing[0] in table:
            table = table[missing.pop(0)]
        inner: Mapping[str, Any] = entries
        for part in reversed(missing):
            inner = {part: inner}
        _set(table, inner)
    except (TOMLKitError, LookupError, TypeError, ValueError):
        return None
    return tomlkit.dumps(document)


def _set(table: object, entries: Mapping[str, Any]) -> None:
    """Set entries of a tomlkit table; raises TypeError if `table` is something else."""
    if not isinstance(table, MutableMapping):
        raise TypeError(type(table))
    new = {name: item for name, item in entries.items() if name not in table}
    for name, item in entries.items():
        if name not in new and table[name] != item:
            table[name] = _item(item)
    if new and (last := _last_line(table)):
        last.trail = "\n" + "\n".join(_format_entries(new)) + last.trail
        return
    # `append` puts a blank behind the comma of an inline table; a table in several parts lacks `append`.
    add = getattr(table, "append", table.__setitem__)
    for name, item in new.items():
        add(name, _item(item))


def _last_line(table: object) -> Trivia | None:
    """Return the trivia of a table's last line before its inner tables; None without a header.

    New lines are added behind that line. tomlkit's own `append` adds them behind the blank lines and
    comments above the next header, which belong to the next table.
    """
    from tomlkit.items import AoT, Table

    if not isinstance(table, Table) or table.is_super_table():
        return None
    last = table.trivia
    for name, item in table.value.body:
        if name is not None and not isinstance(item, (AoT, Table)):
            last = item.trivia
    return last


def _append_table(text: str, header: Sequence[str], entries: Mapping[str, Any]) -> str:
    """Add the table at the end of the text, after a blank line."""
    block = "\n".join([f"[{key(*header)}]", *_format_entries(entries), ""])
    before = text.rstrip("\r\n")
    blank = max(2 - text[len(before) :].count("\n"), 0) if before else 0
    return text + "\n" * blank + block


def _bytes(path: Path) -> bytes | None:
    """Return the content of a file; None if it does not exist."""
    try:
        path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    return text_files.content(path, max_bytes=bounds.MAX_TOML_BYTES)


def write_whole(path: Path, text: str, *, before: bytes | None = None) -> None:
    """Write a file completely or not at all; an existing file keeps its mode.

    `before` is the content of the file when it was read, None if it did not exist. Raises
    ConfigError if the content is different now, or the folder cannot be written.
    """
    target = path.resolve()
    part: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
        part = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        part.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o644)
        if _bytes(path) != before:
            raise ConfigError(f"{path}: changed while it was being written; run the command again")
        part.replace(target)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
