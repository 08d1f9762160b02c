"""Runs without servers: the workers reduce among themselves."""

from dataclasses import replace
from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.kvstore.wire.messages import Left, Member, Placed, Refused, Roster, Welcome
from shoal.scheduler.core import SchedulerConfig
from shoal.scheduler.gather import Count, parse_count, unreachable
from shoal.scheduler.job import JobConfig
from tests.scheduler.helpers import BYE, Scheduler, declare, join, running


def member(rank: int, host: str, address: str) -> Member:
    return Member(role="worker", rank=rank, incarnation=1, address=address, host=host, pid=10 + rank)


def test_a_run_without_servers_is_an_all_reduce_and_begins_with_its_workers() -> None:
    s = Scheduler(workers=2, servers=0)
    assert s.answer("w0", join("worker", "w0"), Welcome).mode == "allreduce"
    s.hear("w1", join("worker", "w1"))
    (roster,) = s.told("w1", Roster)
    assert [m.address for m in roster.members] == ["w0:1", "w1:1"]


def test_it_ends_when_its_workers_are_done() -> None:
    s = running(workers=2, servers=0)
    s.hear("w0", BYE)
    assert [m.rank for m in s.told("w1", Left)] == [0]
    s.hear("w1", BYE)
    s.sleep(3)
    assert s.ended is not None and not s.ended.failed


def test_keys_are_numbered_without_servers_too() -> None:
    s = running(workers=2, servers=0)
    placed = s.answer("w0", declare(gate="allreduce", a=(4,), b=(2, 2)), Placed)
    assert [layout.slices[0].id for layout in placed.layouts] == [0, 1]
    assert s.answer("w1", declare(gate="allreduce", a=(4,), b=(2, 2)), Placed).layouts == placed.layouts
    wrong = s.answer("w1", declare(request=2, gate="allreduce", a=(5,)), Refused)
    assert wrong.error == "ShapeError"


def test_a_store_that_needs_servers_is_refused_where_there_are_none() -> None:
    s = running(workers=1, servers=0)
    assert "was started with --mode allreduce" in s.answer("w0", declare(gate="bsp", a=(4,)), Refused).text
    private = replace(declare(request=2, gate="bsp", a=(4,)), private=True)
    text = s.answer("w0", private, Refused).text
    assert "the run has no servers to hold it. Start the run with -s 1" in text


def test_an_all_reduce_store_may_be_made_beside_servers() -> None:
    s = running(workers=1, servers=1)
    assert s.answer("w0", declare(gate="allreduce", a=(4,)), Placed).layouts


@pytest.mark.parametrize("mode", ["sync", "async", "ssp:3"])
def test_other_modes_need_a_server(mode: str) -> None:
    with pytest.raises(ConfigError, match=f"mode {mode} needs at least 1 server to hold the weights, got 0"):
        SchedulerConfig(2, 0, mode=mode)


def test_a_number_of_servers_may_be_0_and_one_of_workers_not() -> None:
    assert parse_count("0", least=0) == Count(0)
    with pytest.raises(ConfigError, match="0 to 4096"):
        parse_count("-1", least=0)
    with pytest.raises(ConfigError, match="1 to 4096"):
        parse_count("0")


def test_a_local_job_of_mode_allreduce_has_no_servers(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("")
    assert JobConfig(str(script), servers=0, mode="allreduce").servers == 0
    with pytest.raises(ConfigError, match="has no use for 1 servers: leave -s out"):
        JobConfig(str(script), servers=1, mode="allreduce")
    with pytest.raises(ConfigError, match="mode sync needs at least 1 server"):
        JobConfig(str(script), servers=0, mode="bsp")


def test_workers_that_cannot_reach_each_other_are_named() -> None:
    assert unreachable([member(0, "a", "127.0.0.1:5"), member(1, "a", "127.0.0.1:6")]) == ""
    assert unreachable([member(0, "a", "10.0.0.1:5"), member(1, "b", "10.0.0.2:6")]) == ""
    text = unreachable([member(0, "a", "127.0.0.1:5"), member(1, "b", "10.0.0.2:6")])
    assert "worker 0 (host a, pid 10) is reached at 127.0.0.1:5, which means nothing to worker 1 on b" in text
    assert "worker 1 (host b, pid 11) listens nowhere" in unreachable([member(0, "a", "h:5"), member(1, "b", "")])


def test_an_all_reduce_among_workers_that_cannot_reach_each_other_is_refused() -> None:
    s = Scheduler(workers=2, servers=0)
    for name, host, address in [("w0", "a", "127.0.0.1:5"), ("w1", "b", "10.0.0.2:6")]:
        s.hear(name, replace(join("worker", name), host=host, address=address))
    assert "means nothing to worker 1 on b" in s.answer("w0", declare(gate="allreduce", a=(4,)), Refused).text
