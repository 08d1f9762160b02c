"""The same work by several threads, as the members of a group do it."""

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["each"]


def each(size: int, work: Callable[[int], Any]) -> list[Any]:
    """What ``work`` gives for each rank, in a thread of its own; the first error that one raises is raised here."""
    found, errors = [None] * size, []

    def member(rank: int) -> None:
        try:
            found[rank] = work(rank)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=member, args=(r,)) for r in range(size)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
    return found
