"""Run `edge-harness` with `python -m harness`."""

from harness.cli import main

main()
