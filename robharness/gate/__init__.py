"""The gate: verdicts on the results of a suite against a baseline, for `robharness check`."""
