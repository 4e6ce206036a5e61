"""Forms of a check: text, JSON, JUnit XML, annotations of GitHub, and Markdown for a comment."""
