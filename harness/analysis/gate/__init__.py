"""The gate: measure A and B on the same devices and judge the difference."""
