"""Questions asked of devices and of records."""
