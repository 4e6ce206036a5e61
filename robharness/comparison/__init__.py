"""Comparison of two sides, which are models in stores or baselines, on the examples that both have."""
