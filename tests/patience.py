"""How long tests wait for what has to come: until it has come, or so long that it never will, on any machine."""

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PATIENCE_S", "RUN_S", "until"]

PATIENCE_S = 60.0
"""Nobody waits so long where all is well, however many others share the cores."""

RUN_S = 300.0
"""As much for a whole run of several processes, which take long to start where others use the cores."""

T = TypeVar("T")


def until(condition: Callable[[], T], what: Callable[[], object] | str = "it does not happen") -> T:
    """Look again and again until the condition holds, and return what it gave.

    Args:
        what: is said, or called for what to say, when `PATIENCE_S` are over.
    Raises:
        AssertionError: the condition does not come true.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.002)
    return found
