"""docs/devices.md lists the checks of doctor, what they need and what fixes them."""

from __future__ import annotations

import re

from conftest import ROOT

from harness.farm.checks import UNFORESEEN
from harness.farm.doctor import CHECKS

PAGE = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, without its own head."""
    text = PAGE.partition(f"\n{heading}\n")[2]
    text = re.split(r"\n##+ ", text)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_check_is_listed_in_order_with_what_it_needs() -> None:
    found = [(row[0], row[1]) for row in rows("## What doctor checks")]
    assert found == [
        (f"`{one.name}`", ", ".join(f"`{need}`" for need in one.needs)) for one in CHECKS
    ]


def test_every_fix_is_listed_and_says_whether_a_command_can_help() -> None:
    kinds = {kind.id: kind for one in CHECKS for kind in (*one.fixes, UNFORESEEN)}
    assert rows("### Fixes") == [
        [f"`{name}`", kinds[name].does, kinds[name].by_hand] for name in sorted(kinds)
    ]
