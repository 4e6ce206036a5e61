"""Live view of a run: accuracies so far, speed, time left and failures, for terminals, plain streams and notebooks."""
