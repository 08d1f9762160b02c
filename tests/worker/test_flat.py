"""Updates of many parameters in one call: the bits of separate ones, and a way back where something does not fit."""

from typing import Any

import numpy as np
import pytest

import shoal
from shoal import autograd, init, nn, optim
from shoal.ops.tensor import Tensor
from shoal.worker.strategies.flat import Flat

RULES = [("sgd", {"momentum": 0.9, "wd": 0.01}), ("adam", {}), ("nag", {"momentum": 0.5}), ("rmsprop", {})]


def made(rule: str, options: dict[str, Any]) -> tuple[nn.HybridSequential, shoal.Trainer]:
    net = nn.HybridSequential(nn.Dense(5, "tanh"), nn.Dense(3))
    net.initialize(init.Xavier())
    net(Tensor(np.zeros((2, 4), "float32")))
    trainer = shoal.Trainer(net.collect_params(), optim.create(rule, learning_rate=0.1, **options), kvstore=None)
    return net, trainer


def train(net: Any, trainer: Any, steps: int, start: int = 0) -> None:
    for i in range(start, start + steps):
        x = Tensor(np.random.default_rng(i).standard_normal((8, 4)).astype("float32"))
        with autograd.record():
            loss = (net(x) ** 2).sum()
        loss.backward()
        trainer.step(8)


def weights(net: Any) -> list[bytes]:
    return [p.data().asnumpy().tobytes() for p in net.collect_params().values()]


@pytest.mark.parametrize(("rule", "options"), RULES, ids=[r[0] for r in RULES])
def test_one_call_gives_the_bits_of_many(rule: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    net, trainer = made(rule, options)
    train(net, trainer, 5)
    calls = []
    real = trainer.optimizer.step
    monkeypatch.setattr(trainer.optimizer, "step", lambda *a, **k: (calls.append(a[0].size), real(*a, **k))[1])
    train(net, trainer, 1, start=5)
    assert len(calls) == 1  # for four parameters
    other, apart = made(rule, options)
    monkeypatch.setattr(Flat, "step", lambda *args: False)
    train(other, apart, 6)
    assert weights(net) == weights(other)


def test_a_step_in_which_a_gradient_is_missing_updates_the_others() -> None:
    net, trainer = made("sgd", {"momentum": 0.9})
    train(net, trainer, 2)
    before = weights(net)
    x = Tensor(np.ones((2, 4), "float32"))
    with autograd.record():
        loss = net[0](x).sum()
    loss.backward()
    trainer.step(2, ignore_stale_grad=True)
    after = weights(net)
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True, True]
    train(net, trainer, 2)  # the counts differ from here on: one by one


def test_states_survive_saving_and_loading(tmp_path: Any) -> None:
    net, trainer = made("adam", {})
    train(net, trainer, 3)
    trainer.save_states(tmp_path / "states")
    kept = [p.data().asnumpy().copy() for p in net.collect_params().values()]
    train(net, trainer, 3, start=3)
    expected = weights(net)
    other, again = made("adam", {})
    for p, value in zip(other.collect_params().values(), kept, strict=True):
        p.set_data(value)
    again.load_states(tmp_path / "states")
    train(other, again, 3, start=3)
    assert weights(other) == expected


def test_factors_and_dtypes_divide_the_parameters() -> None:
    net, _ = made("sgd", {})
    params = net.collect_params()
    for name, p in params.items():
        p.wd_mult = 0.0 if name.endswith("bias") else 1.0
    trainer = shoal.Trainer(params, optim.create("sgd", learning_rate=0.1, wd=0.1), kvstore=None)
    train(net, trainer, 2)
    assert sorted(len(f.params) for f in trainer._site._flats) == [2, 2]


def test_weights_that_were_replaced_are_updated_where_they_are_now() -> None:
    net, trainer = made("sgd", {})
    train(net, trainer, 1)
    p = next(iter(net.collect_params().values()))
    p.data().data = p.data().data.copy()
    before = p.data().asnumpy().copy()
    train(net, trainer, 1, start=1)
    assert not np.array_equal(p.data().asnumpy(), before)
