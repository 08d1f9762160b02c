"""`Trainer` with row-sparse gradients: rows are updated, and exchanged, as whole gradients would be or lazily."""

from typing import Any

import numpy as np
import pytest

import shoal
from shoal import autograd, nn, optim
from shoal.ops.optim.rows import step_rows
from shoal.ops.rows import RowSparse
from shoal.ops.tensor import Tensor

IDS = [np.array([[4, 1], [4, 0]]), np.array([[3, 1], [1, 1]]), np.array([[4, 5], [0, 0]])]


def trained(sparse: bool, optimizer: str = "sgd", active: bool = False, **options: Any) -> tuple[Any, Any]:
    """(weights by name, the Trainer) after three steps of an embedding with a dense layer upon it."""
    net = nn.HybridSequential()
    net.add(nn.Embedding(7, 3, sparse_grad=sparse), nn.Dense(2, in_units=6))
    net.initialize(seed=1)
    net.hybridize(active)
    given = options.pop("optimizer_params", {"learning_rate": 0.1})
    trainer = shoal.Trainer(net.collect_params(), optimizer, given, **options)
    for ids in IDS:
        with autograd.record():
            out = net(Tensor(ids))
            (out * out).sum().backward()
        trainer.step(2)
    return {n: p.data().asnumpy() for n, p in net.collect_params().items()}, trainer


@pytest.mark.parametrize("active", [False, True])
@pytest.mark.parametrize("store", [None, "local", "hogwild"])
@pytest.mark.parametrize("on_store", [None, False])
def test_plain_sgd_gives_what_whole_gradients_give(store: Any, on_store: Any, active: bool) -> None:
    if store == "hogwild" and on_store is False:
        return
    options = {"kvstore": store, "update_on_kvstore": on_store}
    expected, _ = trained(False, **options)
    found, _ = trained(True, active=active, **options)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("on_store", [None, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad"])
def test_updates_are_lazy_and_the_same_here_and_in_a_store(optimizer: str, on_store: Any) -> None:
    params = {"learning_rate": 0.1, "wd": 0.1} | ({"momentum": 0.9} if optimizer == "sgd" else {})
    here, _ = trained(True, optimizer, kvstore=None, optimizer_params=dict(params))
    there, _ = trained(True, optimizer, kvstore="local", update_on_kvstore=on_store, optimizer_params=dict(params))
    whole, _ = trained(False, optimizer, kvstore=None, optimizer_params=dict(params))
    for name in here:
        assert here[name].tobytes() == there[name].tobytes()
    start = nn.Embedding(7, 3)
    net = nn.HybridSequential()
    net.add(start, nn.Dense(2, in_units=6))
    net.initialize(seed=1)
    name = next(iter(here))
    first = start.weight.data().asnumpy()
    assert np.array_equal(here[name][[2, 6]], first[[2, 6]])  # never looked up: not even decayed
    assert not np.array_equal(whole[name][[2, 6]], first[[2, 6]])


def test_an_optimizer_that_is_not_lazy_moves_all_rows() -> None:
    params = {"learning_rate": 0.1, "momentum": 0.9, "wd": 0.1}
    whole, _ = trained(False, kvstore=None, optimizer_params=dict(params))
    for store in (None, "local"):
        found, _ = trained(True, kvstore=store, optimizer_params={**params, "lazy_update": False})
        for name, value in whole.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-7)


def test_an_optimizer_that_needs_norms_gets_whole_gradients() -> None:
    whole, _ = trained(False, "lamb")
    found, _ = trained(True, "lamb")
    for name, value in whole.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def test_only_rows_are_pushed() -> None:
    _, sparse = trained(True, kvstore="local")
    _, dense = trained(False, kvstore="local")
    assert sparse.kvstore.ledger()["bytes_pushed"] < dense.kvstore.ledger()["bytes_pushed"]
    found = sparse.kvstore.row_sparse_pull(next(iter(sparse.kvstore.keys())) and "0.weight", row_ids=[1])
    assert found.rows.shape == (1, 3)


def test_gradients_reduced_by_hand_stay_row_sparse() -> None:
    net = nn.Embedding(7, 3, sparse_grad=True)
    net.initialize()
    trainer = shoal.Trainer(net.collect_params(), "sgd", {"learning_rate": 1.0}, "local", update_on_kvstore=False)
    with autograd.record():
        net(Tensor(IDS[0])).sum().backward()
    before = net.weight.data().asnumpy().copy()
    trainer.allreduce_grads()
    assert net.weight.grad().indices.tolist() == [0, 1, 4]
    trainer.update(1)
    assert (before - net.weight.data().asnumpy())[:, 0].round(5).tolist() == [1, 1, 0, 0, 2, 0, 0]


def test_updates_of_gradients_that_were_reduced_by_hand_are_lazy() -> None:
    net = nn.Embedding(7, 3, sparse_grad=True)
    net.initialize()
    rule = {"learning_rate": 1.0, "wd": 0.5}
    trainer = shoal.Trainer(net.collect_params(), "sgd", rule, "local", update_on_kvstore=False)
    with autograd.record():
        net(Tensor(IDS[0])).sum().backward()
    before = net.weight.data().asnumpy().copy()
    trainer.allreduce_grads()
    trainer.update(1)
    assert (net.weight.data().asnumpy() == before).all(1).tolist() == [False, False, True, True, False, True, True]


def test_a_step_by_rows_is_the_step_of_these_rows() -> None:
    rule = optim.create("adam", learning_rate=0.1)
    value, rows = np.ones((5, 2), "f"), np.full((3, 2), 0.5, "f")
    state = rule.init(value)
    step_rows(rule, value, RowSparse([3, 1, 3], rows, (5, 2)), state, 1)
    other = np.ones((2, 2), "f")
    rule.step(other, np.array([[0.5, 0.5], [1.0, 1.0]], "f"), rule.init(other), 1)
    assert value[[1, 3]].tobytes() == other.tobytes() and (value[[0, 2, 4]] == 1).all()
    step_rows(rule, value, RowSparse([], np.empty((0, 2), "f"), (5, 2)), state, 2)
    assert value[[1, 3]].tobytes() == other.tobytes()
