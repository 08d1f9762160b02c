"""What a distributed store hands to its client: whose memory, in which order, under which priority."""

import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from shoal.kvstore.arrays import as_array
from shoal.kvstore.client.core import Job
from shoal.kvstore.client.shell import Group
from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.gates import Gate
from shoal.kvstore.placement import Placement
from shoal.kvstore.wire.messages import KeyLayout, KeySpec
from shoal.kvstore.wire.sharing import Sharing
from shoal.ops import optim


class Desk:
    """Takes the place of membership and client: requests are granted at once, pushes and reads are kept."""

    rank, num_workers, mode, changes, chief = 0, 2, "", (), 0

    def settle(self, *given: object) -> None:
        """Nobody takes note."""

    def past_clocks(self, slices: object) -> dict[int, int]:
        return {}

    def passed(self, name: str) -> bool:
        return False

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.log: list[str] = []
        self.rests: list[object] = []
        self.core = SimpleNamespace(links={0: None, 1: None})
        self.number_store = itertools.count(1).__next__
        self.transport = SimpleNamespace(sharing=Sharing(lambda fd: None, lambda fd: None, 0), wake=lambda: None)
        self.room, self.lies_well = np.empty, lambda array: False

    def declare(
        self,
        gate: str,
        reduce: str,
        specs: Sequence[KeySpec],
        timeout_s: float,
        *,
        store: int = 1,
        private: bool = False,
    ) -> tuple[KeyLayout, ...]:
        self.log.append("declare")
        return tuple(Placement(2, 16).add(specs))

    def barrier(self, name: str, timeout_s: float) -> None:
        self.log.append(f"barrier {name}")

    def register(self, slices: Sequence[tuple[int, Gate]]) -> None:
        """Slices are known."""

    def submit(self, jobs: list[Job], waits: bool = False, early: bool = False) -> None:
        self.log += [type(j.request).__name__ if j.request else "push" if j.payload else "pull" for j in jobs]
        self.jobs += [j for j in jobs if j.request is None]
        for job in jobs:
            group: Group = job.token[0]
            if job.request is not None or (job.payload is not None and not job.want):
                group.complete(None, None)


def store(rank: int = 0) -> tuple[DistKVStore, Desk]:
    desk = Desk()
    desk.rank = rank  # type: ignore[misc]
    kv = DistKVStore("bsp", "mean", desk, desk)  # type: ignore[arg-type]
    kv.init("w", np.zeros(4, np.float32))
    return kv, desk


def sent(job: Job) -> np.ndarray:
    assert job.payload is not None
    return as_array(job.payload)


def test_a_push_is_of_memory_that_the_caller_cannot_reach() -> None:
    kv, desk = store()
    value = np.ones(4, np.float32)
    kv.push("w", value)
    assert not np.may_share_memory(sent(desk.jobs[0]), value)


def test_pushpull_sends_the_callers_own_memory() -> None:
    kv, desk = store()
    value, out = np.ones(4, np.float32), np.empty(4, np.float32)
    kv.pushpull_async("w", value, out)
    (job,) = desk.jobs
    assert np.shares_memory(sent(job), value) and np.shares_memory(job.token[1], out)


@pytest.mark.parametrize("out", [True, False], ids=["out is value", "no out"])
def test_a_question_does_not_lie_where_its_answer_is_written(out: bool) -> None:
    kv, desk = store()
    value = np.ones(4, np.float32)
    kv.pushpull_async("w", value, value if out else None)
    (job,) = desk.jobs
    assert np.shares_memory(job.token[1], value) and not np.may_share_memory(sent(job), job.token[1])


def test_priorities_reach_every_job() -> None:
    kv, desk = store()
    kv.push("w", np.ones(4, np.float32), priority=3)
    kv.pull_async("w", priority=2)
    kv.pushpull_async("w", np.ones(4, np.float32), priority=1)
    assert [j.priority for j in desk.jobs] == [3, 2, 1]


def test_worker_0_sends_its_values_before_anybody_passes_the_barrier() -> None:
    assert store(0)[1].log == ["declare", "Init", "barrier init of store 1"]
    assert store(1)[1].log == ["declare", "barrier init of store 1"]


@pytest.mark.parametrize(("rank", "asked"), [(0, ["SetOptimizer"] * 2), (1, [])])
def test_an_optimizer_is_installed_between_two_barriers(rank: int, asked: list[str]) -> None:
    kv, desk = store(rank)
    desk.log.clear()
    kv.set_optimizer(optim.create("sgd"))
    before, after = "barrier before set_optimizer of store 1", "barrier set_optimizer of store 1"
    assert desk.log == ["Retire"] * 2 + [before, *asked, after]


@pytest.mark.parametrize("wait", ["barrier", "set_optimizer", "close"])
def test_pushes_are_counted_before_anything_that_promises_it(wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kv, desk = store()
    monkeypatch.setattr(kv, "flush", lambda: desk.log.append("flush"))
    desk.log.clear()
    if wait == "set_optimizer":
        kv.set_optimizer(optim.create("sgd"))
    else:
        getattr(kv, wait)()
    assert desk.log[0] == "flush"
