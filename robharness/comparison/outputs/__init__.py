"""Forms of a comparison: text, JSON, Markdown, and an HTML page with figures."""
