"""Renderers of a report: terminal, JSON, Markdown."""
