"""Evaluation with torch: loading models, reading data, perturbing, judging."""
