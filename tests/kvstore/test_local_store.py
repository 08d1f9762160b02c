"""The store of one process, the table under it, and `create`."""

from collections.abc import Callable

import numpy as np
import pytest

from shoal.errors import ConfigError, DTypeError, KeyNotInitializedError, ShapeError
from shoal.kvstore.api import KVStore, attach, create
from shoal.kvstore.digest import weights_sha256
from shoal.kvstore.local import LocalKVStore
from shoal.kvstore.server.table import Table, reduce_in_order
from shoal.ops import optim
from tests.kvstore.test_server_core import parts


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape or (2,), np.float32)


def test_without_an_optimizer_a_push_replaces_the_value() -> None:
    kv = create("local")
    kv.init("w", ones())
    kv.push("w", 5 * ones())
    assert (kv.pull("w") == 5).all()


def test_with_an_optimizer_a_push_is_a_gradient() -> None:
    kv = create("local")
    kv.init("w", ones())
    kv.set_optimizer(optim.create("sgd", learning_rate=0.5))
    assert (kv.pushpull("w", ones()) == 0.5).all()


def test_multipliers_reach_the_update() -> None:
    kv = create("local")
    kv.init(["a", "b"], [ones(), ones()])
    kv.set_optimizer(optim.create("sgd", learning_rate=0.5), lr_mult={"a": 0.0})
    a, b = kv.pushpull(["a", "b"], [ones(), ones()])
    assert (a == 1).all() and (b == 0.5).all()


def test_pull_writes_into_what_it_is_given() -> None:
    kv = create("local")
    kv.init("w", ones())
    out = np.zeros(2, np.float32)
    assert kv.pull("w", out) is out
    assert (out == 1).all()


def test_the_init_value_is_copied() -> None:
    kv, value = create("local"), ones()
    kv.init("w", value)
    value[:] = 7
    assert (kv.pull("w") == 1).all()


def test_errors_name_key_and_shapes() -> None:
    kv = create("local")
    kv.init("w", ones(2, 3))
    with pytest.raises(KeyNotInitializedError, match=r"kv\.init"):
        kv.pull("nope")
    with pytest.raises(ShapeError, match=r"\(3, 2\).*\(2, 3\)"):
        kv.push("w", ones(3, 2))
    with pytest.raises(DTypeError, match="float64"):
        kv.push("w", np.ones((2, 3)))
    with pytest.raises(ConfigError, match="already"):
        kv.init("w", ones(2, 3))
    with pytest.raises(ConfigError, match="writable"):
        kv.pull("w", ones(3, 2).T)
    with pytest.raises(ConfigError, match="2 keys but 1 values"):
        kv.push(["w", "v"], [ones()])
    with pytest.raises(ConfigError, match="non-empty string or an integer"):
        kv.init("", ones())
    with pytest.raises(DTypeError, match="numbers"):
        kv.init("s", ["text"])


def test_the_local_store_is_a_cluster_of_one() -> None:
    with create("local") as kv:
        kv.init("w", ones())
        kv.push("w", ones())
        kv.barrier()
        assert (kv.rank, kv.num_workers, kv.type) == (0, 1, "local")
        assert kv.is_capable("optimizer") and not kv.is_capable("telepathy")
        assert kv.keys() == ["w"]
        assert kv.ledger()["sent"] == kv.server_stats()[0]["ledger"]["0"]["applied"] == 1


@pytest.mark.parametrize("name", ["foo", "dist-async", "dist_", "dist_nonsense", "Local"])
def test_an_unknown_store_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match="known: auto, local, dist"):
        create(name)


def test_a_misspelt_store_gets_a_hint() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'dist_async'"):
        create("dist-async")


def test_an_optimizer_by_its_name_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"set_optimizer\('sgd'\): expected an optimizer, such as shoal\.optim\.create"
    ):
        create("local").set_optimizer("sgd")  # type: ignore[arg-type]


def test_a_store_says_what_it_is() -> None:
    assert repr(create("local")) == "<kvstore 'local', worker 0 of 1, reduce 'mean'>"


def test_a_distributed_store_outside_a_cluster_says_how_to_get_one() -> None:
    with pytest.raises(ConfigError, match="shoal run"):
        create("dist_sync")


def test_an_unknown_reduction_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="mean, sum"):
        create("local", reduce="median")


@pytest.mark.parametrize(
    ("name", "mode"), [("auto", ""), ("dist", ""), ("dist_sync", "bsp"), ("dist_async", "asp"), ("dist_ssp:4", "ssp:4")]
)
def test_in_a_cluster_names_become_modes(name: str, mode: str) -> None:
    asked = []
    attach(lambda m, reduce: asked.append((m, reduce)) or LocalKVStore())
    try:
        create(name, reduce="sum")
    finally:
        attach(None)
    assert asked == [(mode, "sum")]


def test_contributions_are_added_in_the_order_given() -> None:
    parts = [np.float32([1e8]), np.float32([1.0]), np.float32([-1e8])]
    assert (
        reduce_in_order(parts, "sum", np.empty(1, np.float32))[0] == np.float32(np.float32(1e8) + np.float32(1)) - 1e8
    )


def test_half_precision_is_reduced_in_single() -> None:
    table = Table()
    table.create(0, "w", np.zeros(1, np.float16))
    for rank in range(3):
        table.accumulate(0, rank, np.array([2048.0 if rank == 0 else 0.75], np.float16))
    table.apply(0, parts(0, 1, 2), "sum")
    assert table.cells[0].value[0] == np.float16(2049.5)


def test_a_rule_of_the_same_name_keeps_the_state_and_another_starts_anew() -> None:
    table = Table()
    table.create(0, "w", np.zeros(1, np.float32))
    table.configure(optim.create("sgd", learning_rate=0.1, momentum=0.9), {}, {})
    table.accumulate(0, 0, np.ones(1, np.float32))
    table.apply(0, parts(0), "mean")
    state = table.cells[0].state
    table.configure(optim.create("sgd", learning_rate=0.2, momentum=0.9), {}, {})
    assert table.cells[0].state is state and table.cells[0].updates == 1
    table.configure(optim.create("adam"), {}, {})
    assert table.cells[0].updates == 0


def test_equal_weights_have_equal_hashes_whatever_their_memory_layout() -> None:
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert weights_sha256({"b": w, "a": w[0]}) == weights_sha256({"a": w[0].copy(), "b": np.asfortranarray(w)})
    assert weights_sha256({"w": w}) == weights_sha256({"w": w.astype(">f4")})
    assert weights_sha256({"w": w}) != weights_sha256({"w": w.reshape(3, 2)})


def test_multipliers_of_integer_keys_reach_the_update() -> None:
    kv = create("local")
    kv.init([3, 4], [ones(), ones()])
    kv.set_optimizer(optim.create("sgd", learning_rate=0.5), lr_mult={3: np.float32(0.0)})
    a, b = kv.pushpull([3, 4], [ones(), ones()])
    assert (a == 1).all() and (b == 0.5).all()


@pytest.mark.parametrize(
    "bad",
    [lambda kv: kv.push(["a", "nope"], [9 * ones(), ones()]), lambda kv: kv.pushpull("a", ones(4)[::2])],
)
def test_a_call_that_is_refused_changes_nothing(bad: Callable[[KVStore], object]) -> None:
    kv = create("local")
    kv.init(["a", "b"], [ones(), ones()])
    with pytest.raises((KeyNotInitializedError, ConfigError)):
        bad(kv)
    assert (kv.pull("a") == 1).all() and kv.ledger()["sent"] == 0


def test_a_key_given_twice_is_an_error() -> None:
    kv = create("local")
    with pytest.raises(ConfigError, match="'3' is initialised already"):
        kv.init([3, "3"], [ones(), ones()])
    assert kv.keys() == []


def test_integers_are_summed_and_not_averaged() -> None:
    kv = create("local", reduce="sum")
    kv.init("n", np.zeros(1, np.int64))
    assert kv.pushpull("n", np.ones(1, np.int64)) == 1
    kv = create("local")
    kv.init("n", np.zeros(1, np.int64))
    assert kv.pull("n") == 0
    with pytest.raises(DTypeError, match=r"'n' of dtype int64.*mean of integers.*reduce='sum'"):
        kv.push("n", np.ones(1, np.int64))


def test_a_rule_that_does_not_fit_every_value_changes_nothing() -> None:
    table = Table()
    table.create(0, "w", np.zeros(1, np.float32))
    table.create(1, "n", np.zeros(1, np.int64))
    with pytest.raises(DTypeError, match="int64"):
        table.configure(optim.create("adam"), {}, {})
    table.accumulate(0, 0, ones(1))
    table.apply(0, parts(0), "sum")
    assert table.cells[0].value == 1


def test_one_contribution_is_its_own_mean_and_three_are_divided_by_three() -> None:
    out = np.empty(1, np.float32)
    assert reduce_in_order([np.float32([7])], "mean", out)[0] == 7
    assert reduce_in_order([np.float32([1]), np.float32([2]), np.float32([9])], "mean", out)[0] == 4


def test_mistakes_are_named_before_anything_happens() -> None:
    kv = create("local")
    kv.init("a", np.zeros(3, np.float32))
    with pytest.raises(ConfigError, match="got None"):
        create(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"or a list of such; got 3\.5"):
        kv.push(3.5, np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a number for each key, got 'x' for 'a'"):
        kv.set_optimizer(optim.create("sgd"), lr_mult={"a": "x"})  # type: ignore[dict-item]


def test_rows_that_are_not_there_are_named_with_their_key() -> None:
    kv = create("local")
    kv.init("e", np.zeros((10, 2), np.float32), rows=True)
    with pytest.raises(ShapeError, match="row_sparse_pull of 'e': row id 99"):
        kv.row_sparse_pull("e", row_ids=[99])
