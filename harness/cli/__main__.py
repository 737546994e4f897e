"""Run `edge-harness` with `python -m harness.cli`."""

from harness.cli import main

main()
