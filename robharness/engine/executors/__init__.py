"""Executors start workers: in this process, in subprocesses, or by a plugin."""
