"""A transport to phones through an adb server."""
