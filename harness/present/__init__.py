"""Show runs to people and other tools: terminal, HTML, Markdown and export formats."""
