"""Export of adversarial examples and of corrupted images."""
