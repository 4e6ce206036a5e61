"""Comparison of two sides, which are models in stores or baselines: differences on the same examples, and gates."""
