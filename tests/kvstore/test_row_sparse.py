"""Row-sparse pushes and pulls: lazy updates, repeated ids, several workers and servers."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ConfigError, DTypeError, KeyNotInitializedError, ShapeError
from shoal.kvstore.api import KVStore
from shoal.kvstore.arrays import as_array, as_payload
from shoal.kvstore.events import Accumulate, Contribution, Received, Send, SendValue
from shoal.kvstore.local import LocalKVStore
from shoal.kvstore.rows import RowSparse, reduce_rows
from shoal.kvstore.server.core import ServerCore
from shoal.kvstore.server.shell import ServerShell
from shoal.kvstore.server.table import Table
from shoal.kvstore.wire.messages import Hello, Init, Pull, Push, Refused, Value
from shoal.ops import optim
from tests.kvstore.simnet import roster
from tests.kvstore.test_shells import Wire
from tests.kvstore.threads import thread_cluster

SHAPE = (12, 5)
TINY = 8
"""Of this a slice of rows has eight times as much, three rows: the key lies in four slices."""


def start(shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> Any:
    return np.random.default_rng(1).normal(size=shape).astype(dtype)


def gradient(seed: int, count: int = 6, shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> RowSparse:
    """Some rows, repeated ones among them."""
    rng = np.random.default_rng(seed)
    return RowSparse(rng.integers(0, shape[0], count), rng.normal(size=(count, *shape[1:])).astype(dtype), shape)


def kept(rule: optim.Optimizer | None = None, value: Any = None) -> LocalKVStore:
    kv = LocalKVStore()
    kv.init("e", start() if value is None else value, rows=True)
    if rule is not None:
        kv.set_optimizer(rule)
    return kv


RULES = {
    "sgd": lambda: optim.SGD(learning_rate=0.1),
    "momentum": lambda: optim.SGD(learning_rate=0.1, momentum=0.9, wd=0.01),
    "adam": lambda: optim.Adam(learning_rate=0.01),
    "adagrad": lambda: optim.AdaGrad(learning_rate=0.1),
    "ftrl": lambda: optim.Ftrl(),
}


# --- what an update is ------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 11), max_size=8), min_size=1, max_size=5))
def test_plain_descent_gives_exactly_what_dense_gradients_give(batches: list[list[int]]) -> None:
    sparse, dense = kept(optim.SGD(learning_rate=0.1)), kept(optim.SGD(learning_rate=0.1))
    for seed, ids in enumerate(batches):
        rows = np.random.default_rng(seed).normal(size=(len(ids), 5)).astype("float32")
        g = RowSparse(np.array(ids, np.int64), rows, SHAPE)
        sparse.push("e", g)
        dense.push("e", g.dense())
    assert np.array_equal(sparse.pull("e"), dense.pull("e"))


@pytest.mark.parametrize("name", RULES)
def test_neither_value_nor_state_of_other_rows_moves(name: str) -> None:
    kv = kept(RULES[name]())
    for seed in range(3):
        kv.push("e", gradient(seed))
    before, (_, state) = kv.pull("e"), kv.optimizer_states()["e"]
    state = {n: a.copy() for n, a in state.items()}
    g = RowSparse([3, 7], np.ones((2, 5), "float32"), SHAPE)
    kv.push("e", g)
    after, (updates, states) = kv.pull("e"), kv.optimizer_states()["e"]
    others = [i for i in range(12) if i not in (3, 7)]
    assert updates == 4 and (after[[3, 7]] != before[[3, 7]]).all()
    assert np.array_equal(after[others], before[others])
    assert all(np.array_equal(a[others], state[n][others]) for n, a in states.items())


@pytest.mark.parametrize("name", RULES)
def test_the_rows_of_a_gradient_get_the_optimizers_own_step(name: str) -> None:
    kv, rule = kept(RULES[name]()), RULES[name]()
    value, state = start(), rule.init(start())
    for t in range(1, 5):
        g = gradient(t)
        kv.push("e", g)
        merged = g.merged()
        rows, part = value[merged.ids], {n: a[merged.ids] for n, a in state.items()}
        rule.step(rows, merged.rows, part, t)
        value[merged.ids] = rows
        for n in state:
            state[n][merged.ids] = part[n]
    assert np.array_equal(kv.pull("e"), value)


def test_lazy_adam_is_torchs_sparse_adam() -> None:
    kv = kept(optim.Adam(learning_rate=0.05, epsilon=1e-12))
    weight = torch.from_numpy(start()).requires_grad_()
    reference = torch.optim.SparseAdam([weight], lr=0.05, eps=1e-12)
    for seed in range(10):
        g = gradient(seed)
        kv.push("e", g)
        weight.grad = torch.sparse_coo_tensor(
            torch.from_numpy(g.ids)[None], torch.from_numpy(g.rows), SHAPE, check_invariants=True
        )
        reference.step()
    np.testing.assert_allclose(kv.pull("e"), weight.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_without_lazy_update_it_is_dense_training(name: str) -> None:
    rule = RULES[name]()
    rule.lazy_update = False
    sparse, dense = kept(rule), kept(RULES[name]())
    for seed in range(4):
        g = gradient(seed)
        sparse.push("e", g)
        dense.push("e", g.dense())
    assert np.array_equal(sparse.pull("e"), dense.pull("e"))


def test_an_optimizer_that_needs_the_whole_key_gets_it() -> None:
    sparse, dense = kept(optim.LAMB(learning_rate=0.1)), kept(optim.LAMB(learning_rate=0.1))
    sparse.push("e", gradient(1))
    dense.push("e", gradient(1).dense())
    assert np.array_equal(sparse.pull("e"), dense.pull("e"))


def test_without_an_optimizer_the_rows_are_replaced() -> None:
    kv = kept()
    kv.push("e", RowSparse([2, 2, 4], np.ones((3, 5), "float32"), SHAPE))
    want = start()
    want[2], want[4] = 2.0, 1.0
    assert np.array_equal(kv.pull("e"), want)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_rows_have_masters(dtype: str) -> None:
    value = as_array(as_payload(np.ones((4, 2), "float32").astype(dtype)))
    kv = kept(optim.SGD(learning_rate=1e-4, multi_precision=True), value)
    for _ in range(100):
        kv.push("e", RowSparse([1], np.ones((1, 2), "float32").astype(dtype), (4, 2)))
    np.testing.assert_allclose(kv.pull("e").astype("float32")[:, 0], [1.0, 0.99, 1.0, 1.0], atol=4e-3)
    assert float(kv.pull("e")[1, 0]) < 0.995


def test_integers_are_summed_by_rows() -> None:
    kv = LocalKVStore("sum")
    kv.init("n", np.zeros((4, 2), np.int64), rows=True)
    kv.push("n", RowSparse([1, 1], np.ones((2, 2), np.int64), (4, 2)))
    assert kv.pull("n").tolist() == [[0, 0], [2, 2], [0, 0], [0, 0]]


def test_dense_and_row_sparse_contributions_to_one_round_are_a_dense_one() -> None:
    found, want = Table(), Table()
    g = gradient(1).merged()
    for table, part in ((found, g), (want, g.dense())):
        table.create(0, "e", start(), width=5)
        table.configure(optim.SGD(learning_rate=0.1, momentum=0.9), {}, {})
        table.accumulate(0, 0, np.ones(SHAPE, "float32"))
        table.accumulate(0, 1, part)
        table.apply(0, (Contribution(0, 0, 0), Contribution(1, 0, 0)), "mean")
    assert np.array_equal(found.cells[0].value, want.cells[0].value)


@pytest.mark.parametrize("rule", ["stale", "dcasgd:lam=0.5"])
def test_rules_correct_row_sparse_contributions_as_dense_ones(rule: str) -> None:
    kv = [kept(), kept()]
    for store in kv:
        store.set_optimizer(optim.SGD(learning_rate=0.1), rule=rule)
        store.pull("e")
    for seed in range(3):
        kv[0].push("e", gradient(seed))
        kv[1].push("e", gradient(seed).dense())
    assert np.array_equal(kv[0].pull("e"), kv[1].pull("e"))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_rows_are_read_each_once_in_ascending_order() -> None:
    kv = kept()
    got = kv.row_sparse_pull("e", row_ids=[7, 1, 7])
    assert got.ids.tolist() == [1, 7] and got.shape == SHAPE
    assert np.array_equal(got.rows, start()[[1, 7]])


def test_rows_are_written_into_an_array_of_the_whole_key() -> None:
    kv, out = kept(), np.zeros(SHAPE, "float32")
    assert kv.row_sparse_pull("e", out, row_ids=np.array([[3], [0]])) is out
    want = np.zeros_like(out)
    want[[0, 3]] = start()[[0, 3]]
    assert np.array_equal(out, want)


@pytest.mark.parametrize("ids", [[[0, 1], [7]], [np.array([0, 1]), [7]], (0, 1)])
def test_one_key_is_read_into_several_arrays(ids: Any) -> None:
    kv, outs = kept(), [np.zeros(SHAPE, "f"), np.zeros(SHAPE, "f")]
    assert kv.row_sparse_pull("e", outs, ids)[1] is outs[1]
    assert [np.flatnonzero(o.any(1)).tolist() for o in outs] == ([[0, 1], [0, 1]] if ids == (0, 1) else [[0, 1], [7]])
    with pytest.raises(ConfigError, match="2 outs and 3 row_ids; give one for each out"):
        kv.row_sparse_pull("e", outs, [[0], [1], [2]])
    with pytest.raises(DTypeError, match="got list of unequal lists"):
        kv.row_sparse_pull("e", outs[0], [[0, 1], [7]])


@pytest.mark.net
def test_one_key_is_read_into_several_arrays_in_a_cluster_too() -> None:
    with thread_cluster(1, 2, slice_bytes=TINY) as cluster:
        kv, outs = cluster.store(0), [np.zeros(SHAPE, "f"), np.zeros(SHAPE, "f")]
        kv.init("e", start(), rows=True)
        kv.row_sparse_pull("e", outs, [[0, 1], [1, 7]])
    assert [np.flatnonzero(o.any(1)).tolist() for o in outs] == [[0, 1], [1, 7]]


def test_several_keys_are_read_at_once() -> None:
    kv = kept()
    kv.init("f", np.arange(4.0), rows=True)
    e, f = kv.row_sparse_pull(["e", "f"], row_ids=[[0], [2, 3]])
    assert e.ids.tolist() == [0] and f.rows.tolist() == [2.0, 3.0]


def test_several_devices_are_added() -> None:
    one, two = kept(optim.SGD(learning_rate=1.0)), kept(optim.SGD(learning_rate=1.0))
    a, b = gradient(1), gradient(2)
    one.push("e", [a, b])
    two.push("e", RowSparse(np.concatenate([a.ids, b.ids]), np.concatenate([a.rows, b.rows]), SHAPE))
    assert np.array_equal(one.pull("e"), two.pull("e"))


# --- what does not fit ------------------------------------------------------------------------------------------------


def push_of(value: Any) -> Any:
    return lambda kv: kv.push("e", value)


ROW = np.ones((1, 5), "float32")
MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "range": (lambda kv: kv.row_sparse_pull("e", row_ids=[12]), ShapeError, "row id 12 is out of range"),
    "no ids": (lambda kv: kv.row_sparse_pull("e"), ConfigError, "needs row_ids"),
    "ids": (lambda kv: kv.row_sparse_pull("e", row_ids=[0.5]), DTypeError, "row ids are integers"),
    "out": (lambda kv: kv.row_sparse_pull("e", np.zeros((1, 5)), [0]), ShapeError, "an array of the whole key"),
    "shape": (push_of(RowSparse([0], ROW, (13, 5))), ShapeError, r"shape \(13, 5\) to 'e', .* with \(12, 5\)"),
    "width": (push_of(RowSparse([0], ROW[:, :4], (12, 4))), ShapeError, r"shape \(12, 4\) to 'e'"),
    "dtype": (push_of(RowSparse([0], ROW.astype("float64"), SHAPE)), DTypeError, "with dtype float64"),
    "pushpull": (lambda kv: kv.pushpull("e", RowSparse([0], ROW, SHAPE)), ConfigError, "then row_sparse_pull"),
    "value": (lambda kv: kv.init("x", RowSparse([0], ROW, SHAPE)), ConfigError, "can be pushed, and nothing else"),
    "unknown": (lambda kv: kv.row_sparse_pull("x", row_ids=[0]), KeyNotInitializedError, "not initialised"),
    "plain push": (lambda kv: kv.push("d", RowSparse([0], ROW, SHAPE)), ConfigError, "not kept by rows: initialise"),
    "plain pull": (lambda kv: kv.row_sparse_pull("d", row_ids=[0]), ConfigError, "not kept by rows"),
    "fuse": (lambda kv: kv.init("x", start(), rows=True, fuse=True), ConfigError, "rows=True and fuse=True"),
    "whole": (lambda kv: kv.init("x", start(), rows=True, whole=True), ConfigError, "no norm of the whole key"),
    "scalar": (lambda kv: kv.init("x", np.float32(1), rows=True), ShapeError, "rows=True needs rows"),
    "devices": (push_of([RowSparse([0], ROW, SHAPE), ROW]), ShapeError, "have one shape"),
}


def make_mistakes(kv: KVStore) -> None:
    kv.init("e", start(), rows=True)
    kv.init("d", start())
    for act, error, message in MISTAKES.values():
        with pytest.raises(error, match=message):
            act(kv)
    kv.push("e", RowSparse([0], ROW, SHAPE))
    kv.pull("e")


def test_mistakes_are_named_and_change_nothing() -> None:
    make_mistakes(LocalKVStore())


@pytest.mark.net
def test_mistakes_are_named_in_a_cluster_too() -> None:
    with thread_cluster(1, 2, slice_bytes=TINY) as cluster:
        cluster.each(make_mistakes)


# --- several workers and servers --------------------------------------------------------------------------------------


def train(kv: KVStore, name: str, steps: int = 4) -> Any:
    kv.init("e", start(), rows=True)
    kv.set_optimizer(RULES[name]())
    for step in range(steps):
        kv.push("e", gradient(10 * step + kv.rank))
        kv.row_sparse_pull("e", row_ids=[0, 5])
    kv.barrier()
    return kv.pull("e")


@pytest.mark.net
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_any_number_of_servers_gives_what_one_process_gives(name: str) -> None:
    rule, value = RULES[name](), start()
    state = rule.init(value)
    for step in range(4):
        total = reduce_rows([gradient(10 * step + rank).merged() for rank in range(3)], "mean")
        rows, part = value[total.ids], {n: a[total.ids] for n, a in state.items()}
        rule.step(rows, total.rows, part, step + 1)
        value[total.ids] = rows
        for n in state:
            state[n][total.ids] = part[n]
    for servers in (1, 2, 4):
        with thread_cluster(3, servers, slice_bytes=TINY) as cluster:
            assert all(np.array_equal(v, value) for v in cluster.each(lambda kv: train(kv, name)))


@pytest.mark.net
def test_one_worker_gives_what_the_local_store_gives() -> None:
    want = train(LocalKVStore(), "momentum")
    with thread_cluster(1, 2, slice_bytes=TINY) as cluster:
        assert np.array_equal(cluster.each(lambda kv: train(kv, "momentum"))[0], want)


def lonely_rows(kv: KVStore) -> Any:
    """Worker 0 has rows of the first slice only, worker 1 none at all."""
    kv.init("e", np.zeros(SHAPE, "float32"), rows=True)
    kv.set_optimizer(optim.SGD(learning_rate=1.0))
    for _ in range(3):
        ids = [0] if kv.rank == 0 else []
        kv.push("e", RowSparse(ids, np.ones((len(ids), 5), "float32"), SHAPE))
    return kv.pull("e"), kv.ledger()


@pytest.mark.net
def test_a_push_counts_in_every_slice_so_that_rounds_close() -> None:
    with thread_cluster(2, 2, slice_bytes=TINY) as cluster:
        for value, ledger in cluster.each(lonely_rows):
            assert value[0].tolist() == [-1.5] * 5 and not value[1:].any()
            assert ledger["sent"] == ledger["acknowledged"] == 3 * 4
            assert ledger["bytes_pushed"] <= 3 * 28 and ledger["bytes_dense"] == 3 * 240


@pytest.mark.net
@pytest.mark.parametrize("mode", ["asp", "ssp:1", "essp:1", "fedbuff:2", "ksync:2", "kasync:2"])
def test_every_gate_takes_rows(mode: str) -> None:
    def work(kv: KVStore) -> Any:
        kv.init("e", np.zeros(SHAPE, "float32"), rows=True)
        kv.set_optimizer(optim.SGD(learning_rate=1.0))
        for step in range(4):
            kv.push("e", RowSparse([step], np.ones((1, 5), "float32"), SHAPE))
            kv.row_sparse_pull("e", row_ids=[step])
        kv.barrier()
        return kv.row_sparse_pull("e", row_ids=range(6)).rows[:, 0].tolist()

    scale = 0.5 if mode.endswith(":2") else 1.0
    with thread_cluster(2, 2, mode, slice_bytes=TINY) as cluster:
        for found in cluster.each(work):
            assert sum(found) == -8.0 * scale and found[4:] == [0.0, 0.0]


# --- what servers take ------------------------------------------------------------------------------------------------


def payload(*values: int, shape: tuple[int, ...] | None = None) -> Any:
    array = np.array(values, np.int64)
    return as_payload(array if shape is None else array.reshape(shape))


def shell() -> tuple[ServerShell, Wire]:
    wire = Wire()
    server = ServerShell(wire)  # type: ignore[arg-type]
    server.start(0, 1, "run")
    server.roster(roster(1))
    server.receive("w0", Hello(cluster="run", worker=0, incarnation=1), 0.0)
    value = as_payload(np.zeros(12, np.float32))
    for slice_id, width in ((1, 4), (2, 0)):
        init = Init(seq=0, store=1, slice=slice_id, key="e", gate="bsp", reduce="sum", width=width, value=value)
        server.receive("w0", init, 0.0)
    return server, wire


def push(rows: Any, count: int, width: int = 4, slice_id: int = 1) -> Push:
    value = as_payload(np.ones((count, width), np.float32))
    return Push(worker=0, incarnation=1, seq=1, slice=slice_id, clock=0, pulled=0, want=False, value=value, rows=rows)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (push(payload(3), 1), "row id 3 is out of range"),
        (push(payload(-1), 1), "row id -1 is out of range"),
        (push(payload(1, 0), 2), "must ascend"),
        (push(payload(1, 1), 2), "must ascend"),
        (push(payload(0), 1, 3), r"a slice of <f4 (1, 3)"),
        (push(payload(0, 1), 1), r"a slice of <f4 (1, 4)"),
        (push(payload(0, shape=(1, 1)), 1), "one flat array"),
        (push(as_payload(np.ones(1)), 1), "row ids are integers"),
        (push(payload(0), 1, slice_id=2), "initialise it with rows=True"),
        (Pull(worker=0, incarnation=1, seq=1, slice=1, clock=0, payload=True, rows=payload(3)), "out of range"),
        (Pull(worker=0, incarnation=1, seq=1, slice=2, clock=0, payload=True, rows=payload(0)), "rows=True"),
    ],
)
def test_a_server_refuses_rows_that_it_does_not_have_and_goes_on(message: Any, says: str) -> None:
    server, wire = shell()
    server.receive("w0", message, 0.0)
    assert not server.failure()
    assert isinstance(wire.sent[-1], Refused) and says in wire.sent[-1].text
    server.receive("w0", push(payload(0, 2), 2), 0.0)
    ask = Pull(worker=0, incarnation=1, seq=9, slice=1, clock=1, payload=True, rows=payload(2, 0, 1))
    server.receive("w0", ask, 0.0)
    assert not server.failure()
    if isinstance(message, Pull):
        answer = wire.sent[-1]
        assert isinstance(answer, Value) and answer.value is not None
        assert as_array(answer.value)[:, 0].tolist() == [1.0, 1.0, 0.0]


def test_the_core_hands_on_which_rows_are_meant() -> None:
    core = ServerCore(0, 1, "run")
    core.roster(roster(1))
    value = as_payload(np.zeros(12, np.float32))
    init = Init(seq=0, store=1, slice=1, key="e", gate="bsp", reduce="sum", width=4, value=value)
    core.handle(Received("w0", init), 0.0)
    rows = payload(0, 2)
    [kept_part, *_] = core.handle(Received("w0", push(rows, 2)), 0.0)
    assert isinstance(kept_part, Accumulate) and kept_part.rows is rows
    ask = Pull(worker=0, incarnation=1, seq=2, slice=1, clock=1, payload=True, rows=rows)
    [answer] = core.handle(Received("w0", ask), 0.0)
    assert isinstance(answer, SendValue) and answer.rows is rows and not isinstance(answer, Send)
