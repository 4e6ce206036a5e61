"""Executors start workers: in this process, in subprocesses, or wherever a plugin starts them."""
