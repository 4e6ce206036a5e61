"""Training of the models that a suite asks for."""
