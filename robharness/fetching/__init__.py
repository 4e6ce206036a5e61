"""Fetching of what a suite misses: published weights and data, with resumption, checksums and a check of the space."""
