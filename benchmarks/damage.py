"""Damage the files of stored runs: how many changed rows go unreported (0 is promised).

1,000 single bits are flipped over all files of a run that has ended, and as many over one that has
not. Then come larger damages of every file: cut, emptied, deleted, blocks of zeros, lines deleted,
repeated and moved, files of another run of the same plan. `DAMAGE_FLIPS` sets the number of flips.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.common import ROOT
from benchmarks.figure import Figure

FLIPS = 1000
SEED = 20261130


def figures() -> Iterator[Figure]:
    sys.path.insert(0, str(ROOT / "tests" / "unit"))
    import damaging

    flips = int(os.environ.get("DAMAGE_FLIPS", FLIPS))
    with tempfile.TemporaryDirectory(prefix="bench-damage-") as name:
        root = Path(name)
        other = damaging.make(root, scale=1.5)
        damaging.look(other)
        for kind, has_ended in (("ended", True), ("unended", False)):
            campaign = damaging.Campaign(damaging.make(root, has_ended=has_ended))
            yield _figure(
                f"damage.{kind}_flips",
                campaign,
                lambda campaign=campaign: campaign.flips(flips, SEED),
            )
            yield _figure(
                f"damage.{kind}_files",
                campaign,
                lambda campaign=campaign: campaign.run_damages(campaign.every_file(SEED)),
            )
            yield _figure(
                f"damage.{kind}_lines",
                campaign,
                lambda campaign=campaign: campaign.run_damages(campaign.every_line()),
            )
            if has_ended:
                yield _figure(
                    "damage.swapped_files",
                    campaign,
                    lambda campaign=campaign: campaign.swaps(other),
                )


def _figure(name: str, campaign: object, damage: Callable[[], None]) -> Figure:
    import damaging

    assert isinstance(campaign, damaging.Campaign)
    campaign.seen.clear()
    campaign.silent.clear()
    damage()
    seen = ", ".join(f"{count} {what}" for what, count in campaign.seen.most_common())
    return Figure(
        name=name,
        value=len(campaign.silent),
        unit="",
        bound="0 silent",
        holds=not campaign.silent,
        against=f"{campaign.seen.total()} damages: {seen}",
        detail="; ".join(sorted(set(campaign.silent))[:5]),
    )
