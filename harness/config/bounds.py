"""The bounds of a TOML file, checked before and after it is parsed.

The parser recurses into nested values and copies a dotted key for each of its parts, so a small file
can take minutes or exhaust the stack. Real files are far below every bound here.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping

from harness.errors import ConfigError
from harness.printable import clipped, file_name

MAX_TOML_BYTES = 500_000
MAX_DEPTH = 32
"""Tables and arrays inside each other."""
MAX_ITEMS = 10_000
"""Items of one table or array."""
MAX_NAME = 120
"""Characters of a name: of a model, a recipe, a device."""
MAX_MODELS = 1_000
MAX_RECIPES = 1_000
MAX_SELECTORS = 1_000
"""Entries of run.devices; one entry may select many devices."""
MAX_STEPS = 64
"""Steps of a recipe with all names expanded."""
MAX_NESTED_RECIPES = 32
MAX_CELLS = 10_000
MAX_LAUNCHES = 1_000_000
"""Launches of a whole run."""
MAX_ELEMENTS = 100_000_000
"""Elements of one input: four times those of a 4K image."""
_MAX_DIGITS = 1_000
_INT64 = 2**63

# The rest of a text without an end belongs to the last alternative, so that the search is linear.
_TEXTS = re.compile(
    r'"""(?:[^\\"]++|\\.|"(?!""))*+(?:"""|\\?\Z)'
    r"|'''(?:[^']++|'(?!''))*+(?:'''|\Z)"
    r'|"(?:[^"\\\n]++|\\[^\n])*+"?'
    r"|'[^'\n]*+'?"
    r"|#[^\n]*+",
    re.DOTALL,
)
_BRACKETS = re.compile(r"[\[\]{}]")
_DOTTED = re.compile(rf'(?<![\w"-])(?:(?:""|[\w-]++)[ \t]*+\.[ \t]*+){{{MAX_DEPTH},}}')
_DIGITS = re.compile(rf"(?<!\w)[\d_]{{{_MAX_DIGITS},}}")


def check_text(text: str, name: str) -> None:
    """Refuse a TOML text that is too expensive to parse; raises ConfigError with the line."""
    bare = _TEXTS.sub(_emptied, text)
    depth = 0
    for bracket in _BRACKETS.finditer(bare):
        depth += 1 if bracket.group() in "[{" else -1
        if depth > MAX_DEPTH:
            raise ConfigError(_too_deep(f"{name}: line {_line(bare, bracket.start())}"))
    if dotted := _DOTTED.search(bare):
        raise ConfigError(_too_deep(f"{name}: line {_line(bare, dotted.start())}"))
    if digits := _DIGITS.search(bare):
        line = _line(bare, digits.start())
        raise ConfigError(f"{name}: line {line}: a number of more than {_MAX_DIGITS:,} digits")


def check_values(value: object, name: str, within: tuple[int | str, ...] = ()) -> None:
    """Refuse values that no key takes; raises ConfigError with the place.

    These are dates and times, integers of more than 64 bits, text that is not Unicode, and tables or
    arrays that are too deep or too long.
    """
    if isinstance(value, (Mapping, list)):
        if len(within) > MAX_DEPTH:
            raise ConfigError(_too_deep(_place(name, within[:3])))
        check_count(_place(name, within), len(value), MAX_ITEMS)
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            check_values(item, name, (*within, key))
    elif isinstance(value, (dt.date, dt.time)):
        raise ConfigError(f"{_place(name, within)}: must not be a date or time; quote it")
    elif isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise ConfigError(f"{_place(name, within)}: the number has more than 64 bits")
    elif isinstance(value, str) and not value.isascii():
        _check_unicode(value, _place(name, within))


def check_count(where: str, count: int, most: int) -> None:
    """Raise ConfigError that starts with `where` if there are more than `most` items."""
    if count > most:
        raise ConfigError(f"{where}: {count:,} items; at most {most:,} are allowed")


def check_number(where: str, number: float | None, most: float) -> None:
    """Raise ConfigError that starts with `where` for a number over its bound."""
    if number is not None and number > most:
        raise ConfigError(f"{where}: must be at most {most:.12g}, not {number}")


def path_text(location: Iterable[int | str]) -> str:
    """Format a place in a file: `run.recipes[2]`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{clipped(part)}" if text else clipped(part)
    return text


def _emptied(match: re.Match[str]) -> str:
    """Replace a text by an empty one and a comment by nothing; line ends stay."""
    found = match.group()
    return ("" if found.startswith("#") else '""') + "\n" * found.count("\n")


def _check_unicode(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f'{place}: "{file_name(text)}" is not UTF-8') from None


def _too_deep(where: str) -> str:
    return f"{where}: tables or arrays are nested more than {MAX_DEPTH} deep"


def _place(name: str, within: tuple[int | str, ...]) -> str:
    return f"{name}: {path_text(within)}" if within else name


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
