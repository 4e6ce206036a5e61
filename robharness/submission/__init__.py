"""Submission of a suite's missing work as jobs of a cluster, and the status of these jobs."""
