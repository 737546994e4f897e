"""The gate: A beside B on the same devices, and what may be said of the difference."""
