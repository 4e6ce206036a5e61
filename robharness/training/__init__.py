"""Training of the models of a suite."""
