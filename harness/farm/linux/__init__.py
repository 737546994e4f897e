"""Checks of Linux devices that need no more than a POSIX shell there."""
