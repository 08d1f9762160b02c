"""The store that threads of one process share, with and without locks."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from shoal.errors import ConfigError, KeyNotInitializedError, ShapeError, StoreTimeoutError
from shoal.kvstore.api import create
from shoal.kvstore.hogwild import HogwildKVStore
from shoal.kvstore.rows import RowSparse
from shoal.ops import optim
from tests.patience import PATIENCE_S


def together(kv: HogwildKVStore, work: Callable[[HogwildKVStore], None]) -> None:
    """Run ``work`` on every worker's handle, each in a thread."""
    errors: list[BaseException] = []

    def run(handle: HogwildKVStore) -> None:
        try:
            work(handle)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(kv.worker(r),)) for r in range(kv.num_workers)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(PATIENCE_S)
    if errors:
        raise errors[0]


def store(workers: int = 4, **options: object) -> HogwildKVStore:
    kv = create("hogwild", workers=workers, **options)
    assert isinstance(kv, HogwildKVStore)
    return kv


def steps(kv: HogwildKVStore, size: int, pushes: int) -> np.ndarray:
    """``pushes`` gradients of ones from every worker at rate 1; how far each element has come down."""
    kv.init("w", np.zeros(size, np.float32))
    kv.set_optimizer(optim.create("sgd", learning_rate=1.0))
    ones = np.ones(size, np.float32)

    def work(handle: HogwildKVStore) -> None:
        handle.barrier()
        for _ in range(pushes):
            handle.push("w", ones)

    together(kv, work)
    return -kv.shared("w")


@pytest.mark.parametrize("size", [1, 1000, 400_000])
def test_with_locks_integer_gradients_add_up_exactly(size: int) -> None:
    np.testing.assert_array_equal(steps(store(atomic=True), size, 20), 80)


def test_without_locks_no_update_counts_twice() -> None:
    moved = steps(store(), 300_000, 20)
    assert moved.max() <= 80 and moved.min() >= 2  # what is left even if each write undoes the others' (a classic)
    np.testing.assert_array_equal(moved, np.round(moved))


def test_row_sparse_gradients_touch_their_rows_only() -> None:
    kv = store(2, atomic=True)
    kv.init("e", np.zeros((10, 3), np.float32), rows=True)
    kv.set_optimizer(optim.create("sgd", learning_rate=1.0))

    def work(handle: HogwildKVStore) -> None:
        handle.push("e", RowSparse([handle.rank, 5], np.ones((2, 3), np.float32), (10, 3)))

    together(kv, work)
    assert kv.pull("e").sum(axis=1).tolist() == [-3, -3, 0, 0, 0, -6, 0, 0, 0, 0]
    assert kv.row_sparse_pull("e", row_ids=[5, 1]).rows.tolist() == [[-1.0] * 3, [-2.0] * 3]


def test_hogwild_reaches_the_optimum_of_a_sparse_least_squares_problem() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(50).astype(np.float32)
    kv = store(2)
    kv.init("w", np.zeros(50, np.float32))
    kv.set_optimizer(optim.create("sgd", learning_rate=0.2))

    def work(handle: HogwildKVStore) -> None:
        own = np.random.default_rng(handle.rank)
        for _ in range(3000):
            x = np.zeros(50, np.float32)
            x[own.integers(0, 50, 3)] = 1.0
            handle.push("w", x * (x @ (handle.shared("w") - truth)))

    together(kv, work)
    np.testing.assert_allclose(kv.shared("w"), truth, atol=0.05)


def test_threads_may_run_the_same_code_from_init_to_barrier() -> None:
    kv = store(3)

    def work(handle: HogwildKVStore) -> None:
        handle.init("w", np.full(4, handle.rank, np.float32))
        handle.set_optimizer(optim.create("sgd", learning_rate=1.0))
        handle.barrier()
        handle.pushpull("w", np.zeros(4, np.float32))
        handle.barrier()
        assert handle.pull("w").tolist() == [0.0] * 4  # worker 0's

    together(kv, work)


def test_without_an_optimizer_a_push_replaces_the_value() -> None:
    kv = store(1)
    kv.init("w", np.zeros(3, np.float32))
    kv.push("w", np.ones(3, np.float32))
    assert kv.pull("w").tolist() == [1.0] * 3


def test_optimizers_that_need_a_norm_get_the_whole_array() -> None:
    kv, one = store(1, atomic=True), create("local")
    value = np.linspace(0, 1, 400_000, dtype=np.float32)
    for s in (kv, one):
        s.init("w", value, whole=True)
        s.set_optimizer(optim.create("lars", learning_rate=0.1))
        s.push("w", value * 3)
    np.testing.assert_array_equal(kv.pull("w"), one.pull("w"))


def test_a_new_learning_rate_keeps_the_momentum() -> None:
    kv = store(1)
    kv.init("w", np.zeros(1, np.float32))
    kv.set_optimizer(optim.create("sgd", learning_rate=1.0, momentum=0.5))
    kv.push("w", np.ones(1, np.float32))
    kv.set_optimizer(optim.create("sgd", learning_rate=2.0, momentum=0.5))
    kv.push("w", np.ones(1, np.float32))
    assert kv.pull("w")[0] == -1 - 2 * 1.5


def test_a_handle_says_who_it_is_and_counts_its_own_pushes() -> None:
    kv = store(2)
    kv.init("w", np.zeros(3, np.float32))
    other = kv.worker(1)
    other.push("w", np.ones(3, np.float32))
    assert (other.rank, other.num_workers, other.type, other.keys()) == (1, 2, "hogwild", ["w"])
    assert other.ledger()["sent"] == 1 and kv.ledger()["sent"] == 0
    assert kv.server_stats() == [] and kv.is_capable("optimizer")


def test_waits_end_at_the_deadline_and_name_who_is_late() -> None:
    kv = store(3, timeout_s=0.05)
    with pytest.raises(StoreTimeoutError, match=r"worker 1 has waited for worker 0 to call init for 'w' for 0.05 s"):
        kv.worker(1).init("w", np.zeros(1))
    with pytest.raises(StoreTimeoutError, match="waited for worker 0 to call set_optimizer"):
        kv.worker(1).set_optimizer(optim.create("sgd"))
    with pytest.raises(StoreTimeoutError, match="worker 2 has waited for worker 0, worker 1 at a barrier"):
        kv.worker(2).barrier()


def test_what_threads_cannot_do_is_refused_with_the_reason() -> None:
    kv = store(2)
    with pytest.raises(ConfigError, match="there is no worker 2"):
        kv.worker(2)
    with pytest.raises(ConfigError, match="at least 1 worker"):
        store(0)
    with pytest.raises(ConfigError, match="counts no versions"):
        kv.set_optimizer(optim.create("sgd"), rule="stale")
    with pytest.raises(ConfigError, match="sends nothing"):
        kv.set_gradient_compression("2bit")
    with pytest.raises(KeyNotInitializedError, match="'w' is not initialised"):
        kv.push("w", np.zeros(1))
    kv.init("w", np.zeros(2, np.float32))
    with pytest.raises(ShapeError, match="shape"):
        kv.worker(1).init("w", np.zeros(3, np.float32))
