"""Kill a controller at every fault point of a run, a gate and a search; continue each time.

    python benchmarks/fault_points.py [run|gate|search]...

Prints, for each kind, the number of kills and how many lost, doubled or could not go on: 0 is
wanted. The device is a fake one that answers at once (tests/integration/zygote.py); takes about ten
minutes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

from fault_campaign import Campaign, prepare
from zygote import zygote

KINDS = ("run", "gate", "search")


def main() -> int:
    """Run the campaigns; the exit code is 1 if any kill had a consequence."""
    bad = 0
    with tempfile.TemporaryDirectory() as space, zygote(Path(space)) as edge:
        for kind in KINDS:
            if sys.argv[1:] and kind not in sys.argv[1:]:
                continue
            home = Path(space) / kind
            prepare(home)
            campaign = Campaign(kind=kind, home=home, zygote=edge)
            names = campaign.points()
            started = time.monotonic()
            found = {number: campaign.trial(number) for number in range(1, len(names) + 1)}
            faults = {number: texts for number, texts in found.items() if texts}
            for number, texts in faults.items():
                print(f"  {number}: {'; '.join(texts)}")
            bad += len(faults)
            print(
                f"{kind}: {len(found)} kills at {len(set(names))} points, {len(faults)} lost, doubled "
                f"or stuck; {time.monotonic() - started:.0f} s"
            )
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
