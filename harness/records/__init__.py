"""What was measured: stored, and read as rows."""
