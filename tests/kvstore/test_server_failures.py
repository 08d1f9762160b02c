"""What fails on a server fails on the worker that caused it, with the traceback; the run ends only if it must."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from shoal.errors import NodeLostError, RemoteError
from shoal.kvstore import codecs, rules
from shoal.kvstore.arrays import Array
from shoal.kvstore.functions import PartView, server_function
from shoal.ops import optim
from tests.kvstore.threads import ThreadCluster, thread_cluster
from tests.worker.runs import run

BAD = np.float32(13.0)


@rules.register("superstitious")
@dataclass(frozen=True)
class Superstitious(rules.Rule):
    """Fails on a gradient of thirteens."""

    def correct(self, cell: rules.CellView, part: rules.Part, out: Array) -> None:
        if part.value.flat[0] == BAD:
            raise ArithmeticError("thirteen")
        np.copyto(out, part.value)


@codecs.register("fragile")
@dataclass(kw_only=True)
class Fragile(codecs.FP16):
    """Half precision that cannot be read if it begins with thirteen."""

    def decode(self, parts: Any, out: Array) -> None:
        super().decode(parts, out)
        if out[0] == BAD:
            raise IndexError("unreadable")


@optim.register
@dataclass(kw_only=True)
class Explosive(optim.SGD):
    """Fails in the middle of an update."""

    def update(self, work: Any, state: Any) -> None:
        work.w += 1.0
        if work.g[0] == BAD:
            raise OverflowError("bang")


@server_function("explode-of-tests", writes=True)
def explode(part: PartView) -> None:
    part.value += 1.0
    raise OverflowError("bang")


def grad(rank: int, bad: bool) -> Array:
    return np.full(3, BAD if bad else 1.0 + rank, np.float32)


def books(cluster: ThreadCluster, rank: int) -> dict[str, int]:
    found = cluster.shells[0].report()["ledger"][str(rank)]
    return {k: n for k, n in found.items() if n}


def start(kv: Any, rule: str | None = None) -> None:
    kv.init("a", np.zeros(3, np.float32))
    kv.set_optimizer(optim.create("sgd", learning_rate=1.0), rule=rule)


@pytest.mark.parametrize("mode", ["dist_async", "dist_sync"])
@pytest.mark.parametrize("want", [True, False])
def test_a_rule_that_fails_rejects_one_push_and_the_store_goes_on(mode: str, want: bool) -> None:
    def work(kv: Any) -> Any:
        start(kv, "superstitious")
        caught = ""
        try:
            if want:
                kv.pushpull("a", grad(kv.rank, kv.rank == 1), np.empty(3, np.float32))
            else:
                kv.push("a", grad(kv.rank, kv.rank == 1)).result()
                kv.pull("a")
        except RemoteError as e:
            caught = str(e)
        value = kv.pushpull("a", grad(kv.rank, False), np.empty(3, np.float32))
        kv.barrier()
        return caught, value, kv.pull("a").tolist(), kv.ledger()

    with thread_cluster(2, 1) as cluster:
        (none, _, first, _), (text, _, second, counts) = cluster.each(work, mode[5:])
        assert not cluster.shells[0].failure()
        assert books(cluster, 1) == {"applied": 1, "rejected": 1} and books(cluster, 0) == {"applied": 2}
    assert not none and "the rule failed on push 0 of 'a' by worker 1: ArithmeticError: thirteen" in text
    assert "Traceback" in text and "in correct" in text
    assert first == second == [-1.0 - 3.0 if mode == "dist_async" else -1.0 - 1.5] * 3
    assert counts["sent"] == counts["acknowledged"] == 2


def test_a_codec_that_cannot_be_read_rejects_one_push_and_the_store_goes_on() -> None:
    def work(kv: Any) -> Any:
        start(kv)
        kv.set_gradient_compression("fragile")
        caught = ""
        try:
            kv.push("a", grad(0, True)).result()
        except RemoteError as e:
            caught = str(e)
        return caught, kv.pushpull("a", grad(0, False), np.empty(3, np.float32)).tolist()

    with thread_cluster(1, 1) as cluster:
        ((text, value),) = cluster.each(work)
        assert books(cluster, 0) == {"applied": 1, "rejected": 1}
    assert "push of worker 0: IndexError: unreadable" in text and "in decode" in text
    assert value == [-1.0] * 3


@pytest.mark.parametrize("how", ["step", "call"])
def test_when_a_slice_may_be_half_changed_the_run_ends_and_everybody_gets_the_traceback(how: str) -> None:
    def work(kv: Any) -> None:
        kv.init("a", np.zeros(3, np.float32))
        kv.set_optimizer(optim.create("explosive", learning_rate=1.0))
        if how == "call":
            kv.call("explode-of-tests")
        for _ in range(100):
            kv.pushpull("a", grad(kv.rank, True), np.empty(3, np.float32))

    with run(2, 1, "bsp") as r:
        for s in r.sessions:  # nobody is to end this process
            s.membership.on_abort = lambda error, s=s: (s.aborted.set(), s.shell.fail_all(error))
        errors = r.each(work)
    for e in errors:
        assert isinstance(e, NodeLostError) and "server 0" in str(e) and "OverflowError: bang" in str(e)
        assert "Traceback" in "".join(e.__notes__) and "bang" in "".join(e.__notes__)
