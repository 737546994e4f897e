"""Name the options of the command line in errors about a plan that was made from them."""

from __future__ import annotations

import re

_PREFIX = "command line: "
"""The name of such a plan in errors (harness.config.plans.quick)."""

_TABLES = {
    "run": {"recipes": "recipe", "devices": "on", "threads": "threads"},
    "dose": dict.fromkeys(("launches", "scenario", "period_ms")),
    "data": dict.fromkeys(("training", "calibration", "evaluation", "metric")),
    "model": dict.fromkeys(("shape", "signature", "allow_flex")),
}
"""The keys that have options, with the option's name if it is another one."""

_MODEL_PATH = re.compile(r"model(\[\d+\])?\.path: ")
_KEY = re.compile(r"\b(run|dose|data|model)(?:\[\d+\])?\.(\w+)(?:\[\d+\])?")
_SETTING = re.compile(r'\b(launches|scenario|period_ms) = "?([\w.]+)"?')
_TWICE = re.compile(r"means the same as number \d+ of that list")


def in_options(message: str) -> str:
    """Return an error as the user of the command line reads it; others are unchanged.

    "command line: dose.period_ms: a stream needs one, such as period_ms = 33.3" becomes
    "--period-ms: a stream needs one, such as --period-ms 33.3".
    """
    if not message.startswith(_PREFIX):
        return message
    text = _MODEL_PATH.sub("", message.removeprefix(_PREFIX))
    text = _KEY.sub(_option, text)
    text = _SETTING.sub(lambda found: f"{_name(found[1])} {found[2]}", text)
    return _TWICE.sub("the same value is given twice", text)


def _option(found: re.Match[str]) -> str:
    table, key = found[1], found[2]
    if key in _TABLES[table]:
        return _name(_TABLES[table][key] or key)
    return found[0]


def _name(key: str) -> str:
    return f"--{key.replace('_', '-')}"
