"""A run for people: HTML and Markdown."""
