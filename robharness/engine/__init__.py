"""The engine: units, workers, scheduling, resuming."""
