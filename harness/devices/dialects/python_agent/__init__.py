"""The Python agent of Linux boards: one JSON object a line."""
