"""`python -m harness.cli` is `edge-harness`."""

from harness.cli import main

main()
