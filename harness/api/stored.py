"""Questions asked of stored runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import assets
from harness.config import profiles as known_profiles
from harness.records import store, table
from harness.records.table import minutes as table_minutes
from harness.records.table.rows import read

if TYPE_CHECKING:
    import pandas as pd


def runs(*, results: Path | None = None) -> list[dict[str, Any]]:
    """List the stored runs, newest first."""
    return [summary.plain() for summary in _store(results).runs()]


def open_run(selector: str, *, results: Path | None = None) -> store.StoredRun:
    """Open a stored run by id, unique prefix or `latest`."""
    return _store(results).open(selector)


def rows(selector: str, *, results: Path | None = None) -> list[table.Row]:
    """Return the rows of a stored run; the columns are `harness.records.table.COLUMNS`."""
    return table.rows(open_run(selector, results=results))


def places(run: store.StoredRun) -> list[str]:
    """Say on which devices a run was made, a line each, and how far their profiles are proved."""
    known = known_profiles.load_all()
    lines = []
    for name, entry in run.record.devices.items():
        profile = known.get(entry.device.profile)
        proved = f"verified: {profile.verified}" if profile else "not among the known profiles"
        words = [f"profile {entry.device.profile} ({proved})"]
        if entry.facts:
            facts = entry.facts
            runtime = facts.runtimes[0] if facts.runtimes else None
            cores = f"{facts.cores} cores" if facts.cores else "cores unknown"
            chip = facts.board or facts.chip or facts.machine or facts.hostname or name
            words = [
                " ".join(filter(None, (f"{chip},", cores, facts.machine))),
                " ".join(filter(None, (facts.system, facts.kernel))) or "system unknown",
                f"{runtime.name} {runtime.version}" if runtime else "no runtime",
                *words,
            ]
        lines.append(f"{name}: {'; '.join(words)}")
    return lines


def minutes(run: store.StoredRun) -> list[str]:
    """Write the p50 of each minute of the sustained rows of a run, a line each."""
    return table_minutes.lines(read(run))


def load(selector: str, *, results: Path | None = None) -> pd.DataFrame:
    """Return a run's rows as a pandas frame."""
    return table.frame(open_run(selector, results=results))


def compare(selectors: Sequence[str], *, results: Path | None = None) -> list[dict[str, Any]]:
    """Put runs side by side: ratios with intervals, "below noise" where it is."""
    return table.compare([open_run(selector, results=results) for selector in selectors])


def report(selector: str, output: Path | None = None, *, results: Path | None = None) -> Path:
    """Write one self-contained HTML page of a run; returns where it is."""
    from harness.present.report import html

    stored = open_run(selector, results=results)
    target = output or stored.path / "report.html"
    html.write(stored, target)
    return target


def _store(results: Path | None) -> store.Store:
    return store.Store(results or assets.results_folder())
