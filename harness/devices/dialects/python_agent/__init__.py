"""The Python agent of Linux boards: one JSON object per line."""
