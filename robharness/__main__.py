"""Run the command line: `python -m robharness` is `robharness`."""

from robharness.cli import entry_point

if __name__ == "__main__":
    entry_point()
