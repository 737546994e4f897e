"""Suggest a command for a name that is none: one that is close, or what other tools call it."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

_CUTOFF = 0.7
"""A lower similarity is chance: "list" and "bisect" have 0.6."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "benchmark": ("bench",),
    "build": ("optimize",),
    "check": ("doctor",),
    "convert": ("optimize",),
    "diff": ("compare",),
    "farm": ("devices",),
    "html": ("report",),
    "install": ("setup",),
    "list": ("runs", "devices"),
    "ls": ("runs", "devices"),
    "measure": ("bench", "run"),
    "profile": ("layers", "profiles"),
    "quantise": ("optimize",),
    "quantize": ("optimize",),
    "results": ("runs", "show"),
    "status": ("runs", "doctor"),
    "test": ("selftest",),
}


def suggested(name: str, commands: Collection[str]) -> list[str]:
    """Return the commands that may be meant, the likeliest first; empty if none is close."""
    near = difflib.get_close_matches(name.lower(), commands, cutoff=_CUTOFF)
    known = [one for one in ALIASES.get(name.lower(), ()) if one in commands]
    return list(dict.fromkeys([*known, *near]))
