"""What Slurm's variables say."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import ConfigError
from shoal.scheduler.hosts import Host
from shoal.scheduler.reach import Srun
from shoal.scheduler.slurm import allocation, expand_counts, expand_nodes


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("node1", "node1"),
        ("node[001-004,7]", "node001 node002 node003 node004 node7"),
        ("a,b[1-2],c", "a b1 b2 c"),
        ("rack[1-2]n[01-02]-ib", "rack1n01-ib rack1n02-ib rack2n01-ib rack2n02-ib"),
        ("n[8-11]", "n8 n9 n10 n11"),
        ("n[098-101]", "n098 n099 n100 n101"),
        ("a.b-c[3]", "a.b-c3"),
    ],
)
def test_node_lists_are_expanded(text: str, nodes: str) -> None:
    assert expand_nodes(text) == tuple(nodes.split())


@pytest.mark.parametrize(
    "text", ["", "n[", "n]", "n[1-]", "n[a]", "n[3-1]", "n[1-999999999]", "n[[1]]", "n[1-9999][1-9999]"]
)
def test_what_is_no_node_list_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="node"):
        expand_nodes(text)


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=20, unique=True), st.integers(1, 5))
def test_every_number_of_a_list_comes_once_in_its_order(numbers: list[int], width: int) -> None:
    names = tuple(f"n{str(i).zfill(width)}" for i in numbers)
    assert expand_nodes(f"n[{','.join(str(i).zfill(width) for i in numbers)}]") == names


def test_counts_are_expanded() -> None:
    assert expand_counts("2(x3),1") == (2, 2, 2, 1)
    with pytest.raises(ConfigError, match="counts by node"):
        expand_counts("2x3")


def test_an_allocation_is_its_nodes_with_a_slot_for_each_task() -> None:
    hosts = allocation({"SLURM_JOB_NODELIST": "gpu[1-3]", "SLURM_TASKS_PER_NODE": "4(x2),1"})
    assert [(h.name, h.slots) for h in hosts] == [("gpu1", 4), ("gpu2", 4), ("gpu3", 1)]


def test_outside_of_a_job_it_is_said_how_to_get_into_one() -> None:
    with pytest.raises(ConfigError, match=r"this is none .*salloc, sbatch.*shoal deploy render --target slurm"):
        allocation({})


def test_counts_that_do_not_fit_the_nodes_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 counts for the 3 nodes"):
        allocation({"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_TASKS_PER_NODE": "1,1"})


def test_a_node_is_reached_at_the_address_that_slurm_has_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "scontrol"
    said = "NodeName=n1 Arch=x86_64 NodeAddr=10.1.0.7 NodeHostName=n1 Version=22.05.8"
    program.write_text(f'#!/bin/sh\ntest "$4" = n1 || exit 1\necho "{said}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert Srun().address(Host("n1")) == "10.1.0.7"
    assert Srun().address(Host("n2")) == "n2"


def test_without_scontrol_a_node_is_called_as_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Srun().address(Host("n1")) == "n1"
