"""Read ahead in a thread: the same items in the same order, only earlier."""

import queue
import threading
from collections.abc import Generator, Iterator
from typing import TypeVar

__all__ = ["read_ahead"]

T = TypeVar("T")

_END = object()


class _Failed:
    """An exception on its way to the consumer."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def read_ahead(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """The items of ``items``, of which up to ``depth`` are made in advance by one thread.

    What the thread raises is raised here, after the items before it. When the generator is closed, at its end or by
    leaving the loop that runs it, the thread has ended.
    """
    free, stop = threading.Semaphore(depth), threading.Event()
    ready: queue.SimpleQueue[object] = queue.SimpleQueue()

    def produce() -> None:
        try:
            item: object = None
            while item is not _END and free.acquire() and not stop.is_set():
                item = next(items, _END)
                ready.put(item)
        except BaseException as error:
            ready.put(_Failed(error))

    thread = threading.Thread(target=produce, name="shoal-read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, _Failed):
                raise item.error
            yield item  # type: ignore[misc]  # neither _END nor _Failed: a T
            free.release()
    finally:
        stop.set()
        free.release()
        thread.join()
