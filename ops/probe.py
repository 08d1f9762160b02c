"""Where the time of a training script goes. Nobody looks, unless a trace is asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TypeAlias

__all__ = ["Note", "note", "span", "watch"]

Note: TypeAlias = Callable[[str, float, float], None]
"""Is told a name, and when that began and ended: seconds of the monotonic clock."""

note: Note | None = None
"""Who looks; whoever does something that takes long tests this, and no more, before it measures."""


def watch(who: Note | None) -> None:
    """From now on ``who`` is told; None ends it."""
    global note
    note = who


@contextmanager
def span(name: str) -> Iterator[None]:
    """What is done in this context is called so."""
    began = monotonic()
    try:
        yield
    finally:
        if note is not None:
            note(name, began, monotonic())
