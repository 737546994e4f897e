"""Errors of commands without a plan name the option that was typed, not the key of a plan.

command line: data.calibration: there is no file or folder "cal.npz"
--calibration: there is no file or folder "cal.npz"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.printable import file_name

_MAX_SIZE = 2**31
_PREFIX = "command line: "
_OWN_NAMES = "give each its own name"
_KEYS = {"run.recipes": "--recipe", "run.devices": "--on", "run.threads": "--threads"}
_MODEL = re.compile(r"\bmodel(?:\[(\d+)\])?\.(path|name|shape|signature|allow_flex)\b[\w.\[\]*]*")
_LIST = re.compile(r"\b(run\.(?:recipes|devices|threads))(?:\[\d+\])?")
_OPTIONS = "launches|scenario|period_ms|training|calibration|evaluation|metric|margin|min_effect"
_TABLE = re.compile(rf"\b(?:dose|data|gate)\.({_OPTIONS})\b(?:\[\d+\])?")
_HOST = re.compile(r"\bhost\.(?:seconds|memory_mb)\b")
_LIMITS = re.compile(r"\b(min_effect|margin)\b(?= \()")
"""Limits of [gate] in a message about the table."""
_WRITTEN = re.compile(r'\b(launches|scenario|period_ms|metric) = "?([\w.]+)"?')
_TWICE = re.compile(r"means the same as number \d+ of that list")


@contextmanager
def naming_options(models: Sequence[Path]) -> Iterator[None]:
    """Raise a ConfigError about a key again with the option, or the model's file, in its place."""
    from harness.errors import ConfigError

    try:
        yield
    except ConfigError as error:
        message = str(error)
        if not message.startswith(_PREFIX):
            raise
        raise ConfigError(option_names(message.removeprefix(_PREFIX), models)) from error


def option_names(message: str, models: Sequence[Path]) -> str:
    """Replace the keys of a plan in a message by the options of the command line."""

    def of_model(match: re.Match[str]) -> str:
        index, key = match.groups()
        if key in {"path", "name"}:
            return file_name(models[int(index or 0)])
        return _option(key)

    place, colon, rest = message.partition(": ")
    place = _MODEL.sub(of_model, place)
    place = _LIST.sub(lambda match: _KEYS[match[1]], place)
    place = _TABLE.sub(lambda match: _option(match[1]), place)
    place = _HOST.sub(lambda match: _option(match[0].replace(".", "-")), place)
    if place == "gate":
        place, colon = "", ""
        rest = _LIMITS.sub(lambda match: _option(match[1]), rest)
    rest = _TABLE.sub(lambda match: _option(match[1]), rest)
    rest = _WRITTEN.sub(lambda match: f"{_option(match[1])} {match[2]}", rest)
    rest = _TWICE.sub("the same value is given twice", rest)
    return f"{place}{colon}{rest}".replace(_OWN_NAMES, "give each file once, or rename one")


def read_shape(written: Sequence[str]) -> list[int] | dict[str, list[int]] | None:
    """Read `1,224,224,3`, or `NAME=1,49,10` for each of several inputs; None if there is none.

    Raises ConfigError with the option.
    """
    from harness.errors import ConfigError

    named: dict[str, list[int]] = {}
    for text in written:
        name, _, sizes = text.rpartition("=")
        try:
            shape = [int(size) for size in sizes.split(",")]
        except ValueError:
            shape = []
        if not shape or any(not 0 < size < _MAX_SIZE for size in shape):
            raise ConfigError(
                f'--shape: "{text[:100]}" is not a shape; write 1,224,224,3, or NAME=1,224,224,3 '
                "for one of several inputs"
            )
        if name in named:
            raise ConfigError(f'--shape: a second shape for "{name or "the input"}"')
        named[name] = shape
    if "" in named and len(named) > 1:
        raise ConfigError("--shape: with several shapes, each needs its input: NAME=1,224,224,3")
    return named.get("") or (named or None)


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"
