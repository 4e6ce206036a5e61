"""Checks of a model and of the attacks on it, from stored outcomes alone: what a careful reviewer checks by hand."""
