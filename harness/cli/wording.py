"""Name the options of the command line in errors about a plan that was made from them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_PREFIX = "command line: "
"""The name of such a plan in errors (harness.config.plans.quick)."""

_TABLES: Mapping[str, Mapping[str, str | None]] = {
    "run": {"recipes": "recipe", "devices": "on", "threads": "threads"},
    "dose": dict.fromkeys(("launches", "scenario", "period_ms")),
    "data": dict.fromkeys(("training", "calibration", "evaluation", "metric")),
    "model": dict.fromkeys(("shape", "signature", "allow_flex")),
}
"""The keys that commands have options for, with the option's name if it is another one."""

_MODEL_PATH = re.compile(r"model(\[\d+\])?\.path: ")
_KEY = re.compile(r"\b(run|dose|data|model)(?:\[\d+\])?\.(\w+)(?:\[\d+\])?")
_SETTING = re.compile(r'\b(launches|scenario|period_ms) = "?([\w.]+)"?')
_TWICE = re.compile(r"means the same as number \d+ of that list")


def in_options(message: str, options: Collection[str]) -> str:
    """Return an error as the user of a command with these options reads it; others are unchanged.

    "command line: dose.period_ms: a stream needs one, such as period_ms = 33.3" becomes
    "--period-ms: a stream needs one, such as --period-ms 33.3".
    """
    if not message.startswith(_PREFIX):
        return message
    text = _MODEL_PATH.sub("", message.removeprefix(_PREFIX))

    def option(table: str, key: str) -> str | None:
        name = _TABLES[table].get(key) or key
        option = f"--{name.replace('_', '-')}"
        return option if key in _TABLES[table] and option in options else None

    def setting(found: re.Match[str]) -> str:
        named = option("dose", found[1])
        return f"{named} {found[2]}" if named else found[0]

    text = _KEY.sub(lambda found: option(found[1], found[2]) or found[0], text)
    text = _SETTING.sub(setting, text)
    return _TWICE.sub("the same value is given twice", text)
