"""Hostile devices for the tests: a scripted agent over any transport, and harmful texts."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from harness.types import Device, Dose, LaunchOrder

PROGRAM = Path(__file__).with_name("hostile_program.py")

ORDER = LaunchOrder(
    cell_id="c",
    kind="timed",
    block=0,
    position=0,
    variant_digest="0" * 64,
    target="xnnpack",
    threads=1,
    dose=Dose(),
    timeout_seconds=5.0,
)

TEXTS = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "\x1b]0;owned\x07\x1b[2J\x1b[31m",
    "\x9b31m\x9d0;owned\x9c",
    "=cmd|'/c calc'!A0",
    "\n::error::broken\n##[group]x",
    "]]></failure><x/>",
    "a|b\n|c|",
    "{{7*7}} {% raw %} ${7*7}",
    "\u202eexe.txt\u2066\u200b\ufeff",
    "[x](javascript:alert(1)) ![y](http://evil.invalid/p.png)",
    "@everyone #1 `code` $(touch pwned) `touch pwned`",
)
"""Each text breaks an output that shows it unescaped."""

BITING = " ".join(TEXTS)


def hostile_device(folder: Path, evil: str = "", name: str = "bench") -> Device:
    """This machine with an agent that lies according to `evil` (see hostile_program.py).

    Its Python is a real one for everything but the agent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "evil.py"
    script.write_text(evil, encoding="utf-8")
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$1" in *.zip) exec "{sys.executable}" "{PROGRAM}" "{script}";; esac\n'
        f'exec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o700)
    return Device(
        name=name,
        profile="linux_x86_64",
        address="local:",
        dialect_options={"python": str(python), "workdir": str(folder / "work")},
    )


def everything_under(folder: Path) -> dict[str, int]:
    """The permission bits of a folder and of everything in it."""
    found = {".": stat.S_IMODE(folder.stat().st_mode)}
    for root, folders, files in os.walk(folder):
        for one in (*folders, *files):
            path = Path(root) / one
            if not path.is_symlink():
                found[str(path.relative_to(folder))] = stat.S_IMODE(path.stat().st_mode)
    return found
