"""Comma-separated values: every row of the run with the columns of `show`."""

from __future__ import annotations

from harness.present.report import plain
from harness.records.table.rows import Measured, rows_of


def write(measured: Measured, *, emulated: bool, include_suspect: bool = False) -> str:
    """Write every row, whatever `emulated` is; rows of emulators have the flag `emulated`."""
    del emulated, include_suspect
    return plain.to_csv(rows_of(measured))
