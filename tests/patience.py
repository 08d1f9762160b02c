"""How long tests wait for what has to come: until it has come, or so long that it never will, on any machine."""

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PATIENCE_S", "RUN_S", "until", "until_run"]

PATIENCE_S = 60.0
"""Nobody waits so long where all is well, however many others share the cores."""

RUN_S = 300.0
"""As much for a whole run of several processes, which take long to start where others use the cores."""

T = TypeVar("T")


def until(
    condition: Callable[[], T], what: Callable[[], object] | str = "it does not happen", within_s: float = PATIENCE_S
) -> T:
    """Look again and again until the condition holds, and return what it gave.

    Args:
        what: is said, or called for what to say, when ``within_s`` are over.
    Raises:
        AssertionError: the condition does not come true.
    """
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.002)
    return found


def until_run(condition: Callable[[], T], what: Callable[[], object] | str = "it does not happen") -> T:
    """`until`, for what processes do that may still have to start."""
    return until(condition, what, RUN_S)
