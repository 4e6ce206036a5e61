"""Work as a count of calls, which is equal on every machine, in place of a time."""

import sys
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Work:
    """Calls of functions by one thread. calls: functions of Python and of C, 0 or more."""

    calls: int = 0


@contextmanager
def counted():
    """Count the calls of this thread within a `with` block; give the Work."""
    work = Work()

    def count(frame, event, argument):
        if event in ("call", "c_call"):
            work.calls += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield work
    finally:
        sys.setprofile(before)


def calls_of(function, *arguments):
    """Return the number of calls of `function(*arguments)`. Imports that it makes for the first time count, too."""
    with counted() as work:
        function(*arguments)
    return work.calls


def assert_linear(function, small, large):
    """Assert that the calls of a function grow at most as its input does.

    small, large: two inputs, the second twice as large as the first.
    """
    function(small)  # its imports and caches
    calls = [calls_of(function, given) for given in (small, large)]
    assert calls[1] < 2.2 * calls[0], f"{calls[0]} calls, and {calls[1]} of twice the input"
