"""Comma-separated values: every row of the run, the columns of `show`."""

from __future__ import annotations

from harness.present.report import plain
from harness.records.table.rows import Measured, rows_of


def write(measured: Measured, *, emulated: bool) -> str:
    """Write every row; emulated ones say so in `flags`, whatever `emulated` is."""
    del emulated
    return plain.to_csv(rows_of(measured))
