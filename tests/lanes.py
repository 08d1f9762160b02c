"""How the suite is spread over as many processes as there are cores by ``pytest -n auto`` (pytest-xdist).

A file of tests goes to one process. Every second process begins with those that start clusters of processes, which wait
half of their time; the others begin with those that compute, the ones of most tests first. Who is done with his kind
takes of the other, so that at the end all are busy.
"""

import os
from typing import Any

import pytest

try:
    from xdist.scheduler import LoadFileScheduling
except ImportError:  # then there is no -n either
    LoadFileScheduling = object

__all__ = ["PASSIVE", "cores", "pytest_xdist_auto_num_workers", "pytest_xdist_make_scheduler"]

CLUSTERS = ("tests/e2e/", "tests/api/test_docs.py", "tests/api/test_cli")
LONGEST = ("test_compose_run", "test_servers_change", "test_worker_dies", "test_soak", "test_compose_restart")
"""Files of clusters that take a minute or more, so that none of them is begun when nothing else is left."""

PASSIVE = {"OMP_WAIT_POLICY": "passive"}
"""Threads that wait for work sleep: if they spun, they would take the cores from the other processes."""


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else cores()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return Lanes(config, log) if config.getvalue("dist") == "load" else None


class Lanes(LoadFileScheduling):  # type: ignore[misc]
    """Files to processes as they become free; see above."""

    def _assign_work_unit(self, node: Any) -> None:
        clusters = self.nodes.index(node) % 2 == 0
        self.workqueue.move_to_end(min(self.workqueue, key=lambda file: _turn(file, clusters)), last=False)
        super()._assign_work_unit(node)


def _turn(file: str, clusters: bool) -> int:
    """When a file is taken by a process that begins with clusters, or not: those of a lower number first."""
    return 2 * (file.startswith(CLUSTERS) != clusters) + (not any(name in file for name in LONGEST))
