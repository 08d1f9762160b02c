"""What a server process changes about itself."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.kvstore.wire.tuning import allow_files, numa_node_cores, parse_cores, tune_malloc
from tests.patience import RUN_S


@pytest.mark.parametrize(
    ("text", "cores"), [("0-3\n", {0, 1, 2, 3}), ("0,2-3,9\n", {0, 2, 3, 9}), ("\n", set()), ("7", {7})]
)
def test_lists_of_cores_are_read_as_linux_writes_them(text: str, cores: set[int]) -> None:
    assert parse_cores(text) == cores


def test_nodes_without_a_core_for_this_process_do_not_count(tmp_path: Path) -> None:
    mine = sorted(os.sched_getaffinity(0))
    for name, text in {"node0": f"{mine[0]}", "node1": "", "node2": "100000", "node10": "x", "other": "0"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cpulist").write_text(text)
    assert numa_node_cores(tmp_path) == [{mine[0]}]


def test_without_nodes_nothing_is_known(tmp_path: Path) -> None:
    assert numa_node_cores(tmp_path) == []


def test_malloc_can_be_tuned_more_than_once() -> None:
    tune_malloc()
    tune_malloc()


def test_a_settled_server_has_frozen_what_there_was_and_keeps_to_a_node() -> None:
    script = """
import gc, os
from pathlib import Path
from shoal.kvstore.wire import tuning
mine = os.sched_getaffinity(0)
tuning.numa_node_cores = lambda: [mine, {min(mine)}]
tuning.settle_server(3)
assert gc.get_freeze_count() > 1000 and gc.get_threshold()[0] > 10_000
assert os.sched_getaffinity(0) == {min(mine)}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=RUN_S)
    assert done.returncode == 0, done.stderr


def test_a_process_may_open_as_many_files_as_its_hard_limit_lets_it() -> None:
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        most = allow_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == most >= min(soft, 512)
        assert allow_files() == most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
