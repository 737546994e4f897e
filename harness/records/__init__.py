"""The records of measurements: the store, and the rows that are read from it."""
