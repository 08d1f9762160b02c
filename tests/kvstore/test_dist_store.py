"""The distributed store over real sockets: closed forms, bit-identity, errors."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.errors import ConfigError, DTypeError, KeyNotInitializedError, RemoteError, ShapeError, StaleWorkerError
from shoal.kvstore.digest import weights_sha256
from shoal.kvstore.dist import DistKVStore
from shoal.kvstore.given import host_array
from shoal.ops import optim
from tests.kvstore.threads import ThreadCluster, thread_cluster

pytestmark = pytest.mark.net

SHAPES = {"small": (3, 4), "scalar": (), "sliced": (33, 65), "empty": (0, 5)}
TINY_SLICES = 512


def rounds_of_ones(kv: DistKVStore, dtype: str, rounds: int, rate: float) -> dict[str, np.ndarray]:
    keys = list(SHAPES)
    kv.init(keys, [np.ones(s, dtype) for s in SHAPES.values()])
    kv.set_optimizer(optim.create("test", rescale_grad=rate))
    for _ in range(rounds):
        for key, shape in SHAPES.items():
            kv.push(key, np.full(shape, kv.rank + 1, dtype))
    values = dict(zip(keys, kv.pull(keys), strict=True))
    kv.barrier()
    return values


@pytest.mark.parametrize("workers", range(1, 8))
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_sum_semantics_obey_mxnets_closed_form(workers: int, dtype: str) -> None:
    rounds, rate = 3, 2.0
    with thread_cluster(workers, 2, slice_bytes=TINY_SLICES) as cluster:
        results = cluster.each(lambda kv: rounds_of_ones(kv, dtype, rounds, rate), reduce="sum")
    want = 1 + (workers + 1) * workers * rate / 2 * rounds
    for values in results:
        for key, shape in SHAPES.items():
            np.testing.assert_array_equal(values[key], np.full(shape, want, dtype))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_default_is_the_mean(workers: int) -> None:
    with thread_cluster(workers, 2, slice_bytes=TINY_SLICES) as cluster:
        results = cluster.each(lambda kv: rounds_of_ones(kv, "float32", 4, 2.0))
    want = 1 + (workers + 1) * 2.0 / 2 * 4
    assert all((v == np.float32(want)).all() for values in results for v in values.values())


def noisy_training(kv: DistKVStore) -> str:
    """Ten steps of momentum SGD on gradients whose sum depends on the order of addition."""
    rng = np.random.default_rng(100 + kv.rank)
    shapes = {"a": (7, 11), "b": (300,), "c": (64, 48)}
    weights = [np.zeros(s, np.float32) for s in shapes.values()]
    kv.init(list(shapes), weights)
    kv.set_optimizer(optim.create("sgd", learning_rate=0.1, momentum=0.9))
    for _ in range(10):
        grads = [(rng.standard_normal(s) * 10.0 ** rng.integers(-4, 4)).astype(np.float32) for s in shapes.values()]
        kv.pushpull(list(shapes), grads, weights)
    kv.barrier()
    return weights_sha256(dict(zip(shapes, weights, strict=True)))


def test_synchronous_weights_are_bit_identical_over_repeats_and_servers() -> None:
    digests = []
    for servers in (1, 1, 2, 3):
        with thread_cluster(3, servers, slice_bytes=TINY_SLICES) as cluster:
            digests += cluster.each(noisy_training)
    assert len(set(digests)) == 1


@pytest.mark.parametrize("mode", ["asp", "ssp:1", "bsp"])
def test_every_contribution_arrives_and_the_ledger_balances(mode: str) -> None:
    def work(kv: DistKVStore) -> None:
        kv.init("w", np.zeros(100, np.float32))
        kv.set_optimizer(optim.create("test", rescale_grad=1.0))
        for _ in range(20):
            kv.pushpull("w", np.ones(100, np.float32))
        kv.barrier()

    with thread_cluster(3, 2, mode, slice_bytes=64) as cluster:
        cluster.each(work, reduce="sum")
        kv = cluster.store(0, reduce="sum")
        stats = kv.server_stats()
        values = [c.value for s in cluster.shells for c in s.table.cells.values()]
        applied = sum(b["applied"] for s in stats for b in s["ledger"].values())
        sent = sum(c.core.counters.sent for c in cluster._clients)
        acknowledged = sum(c.core.counters.acknowledged for c in cluster._clients)
    assert all((v == 60).all() for v in values)
    assert applied == sent == acknowledged == 3 * 20 * len(values)


def test_pushes_without_pulls_keep_their_rounds_apart() -> None:
    def work(kv: DistKVStore) -> np.ndarray:
        kv.init("w", np.zeros(4, np.float32))
        for i in range(5):
            kv.push("w", np.full(4, 10.0 * i + kv.rank, np.float32))
        return kv.pull("w")

    with thread_cluster(2, 1) as cluster:
        for value in cluster.each(work):
            np.testing.assert_array_equal(value, np.full(4, 40.5, np.float32))


def test_the_value_of_worker_0_counts() -> None:
    def work(kv: DistKVStore) -> np.ndarray:
        return kv.broadcast("w", np.full(3, kv.rank + 5, np.float32))

    with thread_cluster(3, 1) as cluster:
        assert all((v == 5).all() for v in cluster.each(work))


def test_a_list_of_device_values_is_summed() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        kv.init("w", np.zeros(2, np.float32))
        assert (kv.pushpull("w", [np.ones(2, np.float32)] * 3) == 3).all()


def test_a_pushed_array_may_be_overwritten_at_once() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        kv.init("w", np.zeros(1 << 18, np.float32))
        grad = np.ones(1 << 18, np.float32)
        kv.push("w", grad)
        grad[:] = 99
        assert (kv.pull("w") == 1).all()


def test_integer_keys_work_as_in_mxnet() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        kv.init([3, 5], [np.ones(2, np.float32), np.zeros(2, np.float32)])
        out = [np.empty(2, np.float32), np.empty(2, np.float32)]
        kv.pull([3, 5], out)
        assert (out[0] == 1).all() and (out[1] == 0).all()


def test_changing_the_rate_keeps_the_momentum() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        kv.init("w", np.zeros(1, np.float64))
        kv.set_optimizer(optim.create("sgd", learning_rate=1.0, momentum=0.5))
        assert kv.pushpull("w", np.ones(1))[0] == -1.0
        kv.set_optimizer(optim.create("sgd", learning_rate=0.0, momentum=0.5))
        before = kv.pull("w")[0]
        kv.pushpull("w", np.zeros(1))
        kv.set_optimizer(optim.create("sgd", learning_rate=1.0, momentum=0.5))
        assert kv.pushpull("w", np.zeros(1))[0] < before


def test_an_uninitialised_key_is_an_error_that_says_what_to_do() -> None:
    with thread_cluster(1, 1) as cluster, pytest.raises(KeyNotInitializedError, match=r"kv.init\('nope', value\)"):
        cluster.store(0).push("nope", np.ones(1, np.float32))


def test_a_wrong_shape_or_dtype_names_both() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        kv.init("w", np.zeros((2, 3), np.float32))
        with pytest.raises(ShapeError, match=r"worker 0 pushes 'w' with shape \(3, 2\).*\(2, 3\)"):
            kv.push("w", np.zeros((3, 2), np.float32))
        with pytest.raises(DTypeError, match=r"float64.*float32"):
            kv.push("w", np.zeros((2, 3)))
        with pytest.raises(ShapeError, match="pulls"):
            kv.pull("w", np.zeros((3, 2), np.float32))


def test_a_second_init_of_a_key_is_an_error() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        kv.init("w", np.zeros(1, np.float32))
        with pytest.raises(ConfigError, match="already"):
            kv.init("w", np.zeros(1, np.float32))


def test_an_optimizer_unknown_to_the_server_is_refused_by_name() -> None:
    class Private(optim.SGD):
        def spec(self) -> optim.OptimizerSpec:
            return optim.OptimizerSpec("private", {})

    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        kv.init("w", np.zeros(1, np.float32))
        with pytest.raises(ConfigError, match="private"):
            kv.set_optimizer(Private())


def test_a_worker_that_is_done_is_waited_for_no_more() -> None:
    def work(kv: DistKVStore) -> np.ndarray:
        kv.init("w", np.zeros(1, np.float32))
        value = np.zeros(1, np.float32)
        for _ in range(2 + 3 * kv.rank):
            value = kv.pushpull("w", np.full(1, kv.rank + 1.0, np.float32))
        kv.close()
        return value

    with thread_cluster(2, 1) as cluster:
        first, second = cluster.each(work)
    assert first[0] == 1.5 and second[0] == 2.0


def test_futures_carry_errors_of_the_server() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        kv.init("w", np.zeros(1, np.float32))
        cluster.shells[0].core.known[0] = 2  # a newer incarnation of this worker has come
        with pytest.raises(Exception, match="incarnation 2") as e:
            kv.push("w", np.zeros(1, np.float32)).result()
        assert not isinstance(e.value, RemoteError)


def test_multipliers_may_be_any_numbers_by_any_key() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        kv.init(3, np.ones(2, np.float32))
        kv.set_optimizer(optim.create("sgd", learning_rate=np.float32(0.5)), lr_mult={3: np.float32(0.5)})
        assert (kv.pushpull(3, np.ones(2, np.float32)) == 0.75).all()


def test_integers_are_summed_and_not_averaged() -> None:
    def work(kv: DistKVStore) -> int:
        kv.init("n", np.zeros(1, np.int64))
        if kv.reduce == "sum":
            return int(kv.pushpull("n", np.ones(1, np.int64))[0])
        with pytest.raises(DTypeError, match="mean of integers"):
            kv.push("n", np.ones(1, np.int64))
        return 0

    with thread_cluster(2, 1) as cluster:
        assert cluster.each(work) == [0, 0]
    with thread_cluster(2, 1) as cluster:
        assert cluster.each(work, reduce="sum") == [2, 2]


def test_a_key_given_twice_is_an_error() -> None:
    with thread_cluster(1, 1) as cluster, pytest.raises(ConfigError, match="already"):
        cluster.store(0).init(["a", "a"], [np.zeros(1, np.float32)] * 2)


def refused_push(kv: DistKVStore, cluster: ThreadCluster) -> Future[None]:
    """A push that the server has refused."""
    kv.init("w", np.zeros(1, np.float32))
    cluster.shells[0].core.known[0] = 2
    future = kv.push("w", np.zeros(1, np.float32))
    wait([future])
    return future


def test_an_error_that_nobody_has_taken_is_raised_by_the_next_flush_and_once() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        refused_push(kv, cluster)
        with pytest.raises(StaleWorkerError):
            kv.flush()
        kv.flush()


def test_an_error_that_somebody_has_taken_is_not_raised_again() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        future = refused_push(kv, cluster)
        with pytest.raises(StaleWorkerError):
            future.result()
        kv.flush()


def test_pushes_that_are_done_are_forgotten() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        kv.init("w", np.zeros(1, np.float32))
        for _ in range(20):
            kv.push("w", np.ones(1, np.float32))
        kv.pull("w")
        kv.flush()
        assert not kv._under_way


def test_several_threads_may_use_one_store() -> None:
    def work(kv: DistKVStore) -> None:
        kv.init(list("abcd"), [np.zeros(64, np.float32)] * 4)
        kv.set_optimizer(optim.create("test", rescale_grad=1.0))

        def pusher(key: str) -> None:
            for _ in range(25):
                kv.push(key, np.ones(64, np.float32))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(pusher, "abcd"))
        kv.barrier()
        assert all((v == 50).all() for v in kv.pull(list("abcd")))

    with thread_cluster(2, 2, "asp", slice_bytes=64) as cluster:
        cluster.each(work)


def test_a_key_that_worker_0_has_not_initialised_is_named() -> None:
    with thread_cluster(1, 1) as cluster:
        kv = cluster.store(0)
        kv.init("w", np.zeros(1, np.float32))
        del cluster.shells[0].core.entries[0]
        with pytest.raises(KeyNotInitializedError, match=r"'w'.*worker 0 must.*same order"):
            kv.pull("w")


@pytest.mark.parametrize(
    "value",
    [np.arange(6.0).reshape(2, 3).T, np.broadcast_to(np.float64(7), (3, 2)), shoal.np.ones((3, 2), dtype="float64")],
    ids=["transposed", "read-only", "tensor"],
)
def test_any_array_or_tensor_of_the_shape_may_be_pushed(value: Any) -> None:
    with thread_cluster(1, 2, slice_bytes=16) as cluster:
        kv = cluster.store(0)
        kv.init("w", value)
        out = shoal.np.zeros((3, 2), dtype="float64")
        assert kv.pushpull("w", value, out) is out
        np.testing.assert_array_equal(out.asnumpy(), host_array(value))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "int64", "float16", "float64"])
def test_every_dtype_travels(dtype: str) -> None:
    with thread_cluster(1, 2, slice_bytes=8) as cluster:
        kv = cluster.store(0, reduce="sum")
        value = (np.arange(21) % 2).astype(dtype).reshape(3, 7)
        kv.init("w", np.zeros_like(value))
        got = kv.pushpull("w", value, np.empty_like(value))
        np.testing.assert_array_equal(got, value)
        assert got.dtype == value.dtype


def test_a_store_that_contradicts_the_runs_mode_is_refused_at_once() -> None:
    with thread_cluster(1, 1, "bsp") as cluster, pytest.raises(ConfigError, match=r"dist_async.*--mode sync"):
        cluster.store(0, mode="asp")


@pytest.mark.parametrize("gate", ["backup:b=2", "ksync:k=5"])
def test_a_store_whose_gate_needs_more_workers_than_there_are_is_refused(gate: str) -> None:
    with thread_cluster(2, 1) as cluster, pytest.raises(ConfigError, match="but the run has 2 workers"):
        cluster.store(0, gate)
