"""Checks of Linux devices that need only a POSIX shell on the device."""
