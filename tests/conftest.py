"""What every test relies on: GPU tests wait for a GPU, network tests leave nothing behind."""

import gc
import os
import threading
from collections.abc import Iterator

import pytest

from shoal.ops.backend import gpu_count

collect_ignore_glob = ["e2e/*_script.py"]  # what the workers of a test run: they need arguments


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if any("gpu" in item.keywords for item in items) and not gpu_count():
        skip = pytest.mark.skip(reason="needs a CUDA GPU and CuPy, and there are none here")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """A `net` test closes its sockets and ends its threads."""
    if request.node.get_closest_marker("net") is None:
        yield
        return
    threads, files = set(threading.enumerate()), _open_files()
    yield
    new = set(threading.enumerate()) - threads
    collector = {t for t in new if type(t).__name__ == "GarbageCollectorThread"}  # pyzmq's, one for ever
    for thread in new - collector:
        thread.join(5.0)
        assert not thread.is_alive(), f"the test left thread {thread.name!r} running"
    gc.collect()
    if not collector:
        assert _open_files() <= files, f"the test left {_open_files() - files} files or sockets open"


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
