"""What every test relies on: GPU tests wait for a GPU, network tests leave nothing behind."""

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import settings

from shoal.ops.backend import gpu_count
from tests.lanes import PASSIVE, pytest_xdist_auto_num_workers, pytest_xdist_make_scheduler
from tests.patience import PATIENCE_S

__all__ = ["pytest_xdist_auto_num_workers", "pytest_xdist_make_scheduler"]

# The suite takes the same examples each time: whether a change may land is no draw of lots. `make fuzz` seeks new ones.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("fuzz", max_examples=1000, print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

collect_ignore_glob = ["e2e/*_script.py"]  # what the workers of a test run: they need arguments


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("dist", "no") != "no":  # this process only hands out tests
        os.environ.update({k: v for k, v in PASSIVE.items() if k not in os.environ})


@pytest.fixture(scope="session", autouse=True)
def _compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where no compiled files may lie beside the sources, the thousands of processes of the suite share a folder."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("compiled")))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not gpu_count():
        skip = pytest.mark.skip(reason="needs a CUDA GPU and CuPy, and there are none here")
        for item in marked:
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """What 26,000 tests are made of stays for ever: no collection of garbage has to look at it."""
    gc.collect()
    gc.freeze()


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
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), f"the test left thread {thread.name!r} running"
    gc.collect()
    deadline = time.monotonic() + PATIENCE_S  # ZeroMQ closes its sockets in a thread of its own
    while not collector and len(_open_files()) > len(files) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    if not collector:
        left = _open_files()
        new_ones = sorted(left[fd] for fd in left if left[fd] != files.get(fd))
        assert len(left) <= len(files), f"the test left {len(left) - len(files)} open, of these: {new_ones}"


def _open_files() -> dict[str, str]:
    """What each file descriptor is of."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the folder's own is gone again
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found
