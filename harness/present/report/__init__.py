"""Write a run as HTML, Markdown, CSV and JSON."""
