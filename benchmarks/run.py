"""Measure the figures this project promises: `python benchmarks/run.py [NAME...] [--json FILE]`.

One line a figure: PASS or MISS, the figure, its bound, and what it was measured against in the
same run. NAME is a module of this folder (`--list` shows them); without one, all are run. Exit 0
where every figure holds, 1 where one does not, 3 where one could not be measured.

Run it on a machine that does nothing else; the load average is printed and stored with the figures.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    "start_up",
    "many_rows",
    "agent",
    "ssh",
    "adb",
    "lease",
    "fidelity",
    "run_overhead",
    "conditions",
    "build",
    "first_row",
    "recipes",
    "large_build",
    "mixed",
    "dynamic",
    "structured",
    "techniques",
    "gate",
    "runner",
    "lab",
    "faults",
    "mutated",
    "damage",
    "delegation",
    "gpu",
)


def main() -> int:
    sys.path.insert(0, str(ROOT))
    from benchmarks.common import NotAsked

    parser = argparse.ArgumentParser(description="Measure the promised figures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, help="also write them here")
    parser.add_argument("--list", action="store_true", help="list the names and end")
    options = parser.parse_args()
    if options.list:
        print("\n".join(NAMES))
        return 0
    for name in options.names:
        if name not in NAMES:
            parser.error(f"unknown name {name!r} (known: {', '.join(NAMES)})")

    figures, missing = [], []
    for name in options.names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        try:
            for figure in module.figures():
                print(figure.line(), flush=True)
                figures.append(figure)
        except NotAsked as reason:
            print(f"----  {name}: {reason}", flush=True)
            missing.append({"name": name, "reason": str(reason)})
    held = sum(figure.holds for figure in figures)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{held} of {len(figures)} figures hold; load average {load}")
    if options.json:
        record = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "load_average": os.getloadavg(),
            "figures": [asdict(figure) for figure in figures],
            "not_measured": missing,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if missing:
        return 3
    return 0 if held == len(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
