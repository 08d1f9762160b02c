"""`Trainer` over bare parameters: arithmetic, options that contradict each other, states."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from shoal.errors import AutogradError, CheckpointError, ConfigError, DeferredInitializationError
from shoal.kvstore.local import LocalKVStore
from shoal.ops.nn.parameter import Parameter
from shoal.worker import record


def parameter(name: str, value: list[float], **options: Any) -> Parameter:
    p = Parameter(name, shape=(len(value),), **options)
    p.initialize(shoal.init.Zero())
    p.set_data(np.array(value, np.float32))
    return p


def give(p: Parameter, grad: list[float]) -> None:
    p.grad().data[:] = grad


@pytest.mark.parametrize("store", ["auto", "local", None])
@pytest.mark.parametrize("on_store", [None, False])
def test_a_step_divides_by_the_batch_and_updates(store: str | None, on_store: bool | None) -> None:
    p = parameter("w", [1.0, 2.0])
    trainer = shoal.Trainer({"w": p}, "sgd", {"learning_rate": 0.5}, kvstore=store, update_on_kvstore=on_store)
    give(p, [4.0, 8.0])
    trainer.step(4)
    np.testing.assert_array_equal(p.data().asnumpy(), [0.5, 1.0])


@pytest.mark.parametrize("store", ["local", None])
def test_multipliers_and_frozen_parameters_are_obeyed(store: str | None) -> None:
    slow, frozen = parameter("slow", [1.0], lr_mult=0.1), parameter("frozen", [1.0], grad_req="null")
    trainer = shoal.Trainer({"slow": slow, "frozen": frozen}, "sgd", {"learning_rate": 1.0}, kvstore=store)
    give(slow, [1.0])
    trainer.step(1)
    assert slow.data().asnumpy()[0] == pytest.approx(0.9)
    assert frozen.data().asnumpy()[0] == 1.0


def test_a_shared_parameter_is_updated_once() -> None:
    p = parameter("w", [1.0])
    trainer = shoal.Trainer({"a": p, "b": p}, "sgd", {"learning_rate": 1.0})
    give(p, [1.0])
    trainer.step(1)
    assert p.data().asnumpy()[0] == 0.0


@pytest.mark.parametrize("store", ["local", None])
def test_a_new_learning_rate_is_used_and_momentum_is_kept(store: str | None) -> None:
    p = parameter("w", [0.0])
    trainer = shoal.Trainer([p], "sgd", {"learning_rate": 1.0, "momentum": 0.5}, kvstore=store)
    give(p, [1.0])
    trainer.step(1)
    trainer.set_learning_rate(0.0)
    assert trainer.learning_rate == 0.0
    before = p.data().asnumpy().copy()
    trainer.set_learning_rate(1.0)
    give(p, [0.0])
    trainer.step(1)
    assert p.data().asnumpy()[0] == pytest.approx(before[0] - 0.5)


def test_a_learning_rate_at_a_clock_counts_from_that_update_on_and_outlasts_the_next_change() -> None:
    p = parameter("w", [0.0])
    trainer = shoal.Trainer([p], "sgd", {"learning_rate": 1.0, "momentum": 0.0}, kvstore="local")
    trainer.set_learning_rate(0.5, at_clock=2)
    for _ in range(3):
        give(p, [1.0])
        trainer.step(1)
    assert p.data().asnumpy()[0] == -2.5
    assert trainer.kvstore is not None
    trainer.kvstore.control(wd=0.25)
    trainer.set_learning_rate(1.0)
    give(p, [0.0])
    trainer.step(1)
    assert p.data().asnumpy()[0] == -2.5 * 0.75


def test_a_rate_at_a_clock_needs_a_store_that_updates() -> None:
    trainer = shoal.Trainer([parameter("w", [0.0])], "sgd", {"learning_rate": 1.0}, kvstore=None)
    with pytest.raises(ConfigError, match=r"at_clock.*needs a store"):
        trainer.set_learning_rate(0.5, at_clock=2)


def test_gradients_can_be_reduced_changed_and_then_applied() -> None:
    p = parameter("w", [1.0])
    trainer = shoal.Trainer([p], "sgd", {"learning_rate": 1.0}, kvstore="local", update_on_kvstore=False)
    give(p, [3.0])
    trainer.allreduce_grads()
    p.grad().data[:] *= 2
    trainer.update(6)
    assert p.data().asnumpy()[0] == 0.0


def test_steps_and_samples_are_counted() -> None:
    p = parameter("w", [1.0])
    trainer = shoal.Trainer([p], "sgd")
    for _ in range(3):
        give(p, [0.0])
        trainer.step(5)
    assert record.current().samples == 15


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kvstore": None, "update_on_kvstore": True}, "needs a kvstore"),
        ({"kvstore": "dist_sync"}, "shoal run"),
        ({"optimizer": "sdg"}, "no optimizer is called .sdg"),
        ({"params": []}, "needs parameters"),
        ({"params": shoal.nn.Dense(2)}, r"got a Dense: pass net\.collect_params\(\)"),
        ({"optimizer_params": 0.1}, "optimizer_params is 0.1, expected a mapping such as {'learning_rate': 0.1}"),
        ({"reduce": "median"}, "mean, sum"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    given = {"params": [parameter("w", [1.0])], "optimizer": "sgd", **options}
    with pytest.raises(ConfigError, match=says):
        shoal.Trainer(**given)


@pytest.mark.parametrize("batch_size", [0, None, "4", float("nan"), float("inf")])
def test_gradients_are_divided_by_a_number_of_samples(batch_size: Any) -> None:
    trainer = shoal.Trainer([p := parameter("w", [1.0])], "sgd")
    give(p, [1.0])
    for call in (trainer.step, trainer.overlap):
        with pytest.raises(ConfigError, match="batch_size is the number of samples"):
            call(batch_size)


def test_an_asynchronous_store_must_update_itself() -> None:
    class Async(LocalKVStore):
        type = "dist_async"

    with pytest.raises(ConfigError, match="synchronous"):
        shoal.Trainer([parameter("w", [1.0])], "sgd", kvstore=Async(), update_on_kvstore=False)


def test_nothing_to_learn_is_an_error() -> None:
    with pytest.raises(ConfigError, match="null"):
        shoal.Trainer([parameter("w", [1.0], grad_req="null")], "sgd")


def test_a_parameter_without_a_shape_is_named() -> None:
    p = Parameter("w", shape=(0,), allow_deferred_init=True)
    p.initialize(shoal.init.Zero())
    with pytest.raises(DeferredInitializationError, match="'w'"):
        shoal.Trainer([p], "sgd").step(1)


def test_a_parameter_that_was_never_initialized_says_so() -> None:
    with pytest.raises(DeferredInitializationError, match=r"'w': it has no value: call initialize\(\) on the model"):
        shoal.Trainer([Parameter("w", shape=(1,))], "sgd").step(1)


def test_single_samples_are_no_batches() -> None:
    with pytest.raises(ConfigError, match=r"train_data is a .*, which gives single samples.*DataLoader"):
        shoal.fit(
            None, shoal.data.digits("test"), loss=abs, trainer=shoal.Trainer([parameter("w", [1.0])], "sgd"), epochs=1
        )


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        shoal.Trainer([parameter("w", [1.0])], "sgd").step(0)


def test_the_rate_of_a_schedule_is_not_set_by_hand() -> None:
    schedule = shoal.lr_scheduler.FactorScheduler(step=2, factor=0.5)
    trainer = shoal.Trainer([parameter("w", [1.0])], "sgd", {"lr_scheduler": schedule})
    with pytest.raises(ConfigError, match="lr_scheduler"):
        trainer.set_learning_rate(0.1)


@pytest.mark.parametrize("store", ["local", None])
def test_a_resumed_trainer_goes_on_with_the_same_bits(store: str | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grads = rng.standard_normal((6, 3)).astype(np.float32)

    def trainer() -> tuple[Parameter, shoal.Trainer]:
        p = parameter("w", [1.0, 2.0, 3.0])
        return p, shoal.Trainer([p], "adam", {"learning_rate": 0.1}, kvstore=store)

    p, unbroken = trainer()
    for i, g in enumerate(grads):
        give(p, list(g))
        unbroken.step(1)
        if i == 2:
            unbroken.save_states(tmp_path / "states")
    q, resumed = trainer()
    resumed.load_states(tmp_path / "states")
    for g in grads[3:]:
        give(q, list(g))
        resumed.step(1)
    np.testing.assert_array_equal(p.data().asnumpy(), q.data().asnumpy())


def test_states_of_another_model_or_optimizer_are_refused(tmp_path: Path) -> None:
    shoal.Trainer([parameter("w", [1.0])], "adam").save_states(tmp_path / "s")
    with pytest.raises(CheckpointError, match="adam"):
        shoal.Trainer([parameter("w", [1.0])], "sgd").load_states(tmp_path / "s")
    with pytest.raises(CheckpointError, match="'v'"):
        shoal.Trainer([parameter("v", [1.0])], "adam").load_states(tmp_path / "s")


class Listening(LocalKVStore):
    """A local store that notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []

    def pushpull_async(self, key: Any, value: Any, out: Any = None, priority: int = 0) -> Any:
        self.asked.append((key, priority))
        return super().pushpull_async(key, value, out, priority)


def test_the_first_layers_which_are_needed_first_are_the_most_urgent() -> None:
    store = Listening()
    names = ["first", "second", "third"]
    shoal.Trainer([parameter(n, [1.0] * 20_000) for n in names], "sgd", kvstore=store).step(1, ignore_stale_grad=True)
    assert sorted(store.asked, key=lambda a: -a[1]) == [(n, -i) for i, n in enumerate(names)]


def test_small_parameters_travel_together() -> None:
    store, sizes = Listening(), {"large": 20_000, "small": 2, "also large": 20_000, "tiny": 1}
    trainer = shoal.Trainer([parameter(n, [1.0] * size) for n, size in sizes.items()], "sgd", kvstore=store)
    trainer.step(1, ignore_stale_grad=True)
    assert store.asked == [("large", 0), (("small", "tiny"), -1), ("also large", -2)]


@pytest.mark.parametrize("store", ["local", None])
def test_a_step_leaves_the_gradient_as_it_was(store: str | None) -> None:
    p = parameter("w", [1.0], grad_req="add")
    trainer = shoal.Trainer([p], "sgd", kvstore=store)
    give(p, [8.0])
    trainer.step(4)
    assert p.grad().asnumpy().tolist() == [8.0]


@pytest.mark.parametrize(
    "strategy", ["local:h=3", "bmuf:h=3,mu=0.5", "diloco:h=3", "dn:h=3", "easgd:tau=3", "eamsgd:tau=2"]
)
@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_strategy_is_resumed_with_the_same_bits(strategy: str, at: int, tmp_path: Path) -> None:
    grads = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)

    def trainer() -> tuple[Parameter, shoal.Trainer]:
        p = parameter("w", [1.0, 2.0, 3.0])
        params = {"learning_rate": 0.1, "momentum": 0.9}
        return p, shoal.Trainer([p], "sgd", params, kvstore="local", strategy=strategy)

    p, unbroken = trainer()
    for i, g in enumerate(grads):
        give(p, list(g))
        unbroken.step(1)
        if i == at:
            unbroken.save_states(tmp_path / "states")
    q, resumed = trainer()
    resumed.load_states(tmp_path / "states")
    for g in grads[at + 1 :]:
        give(q, list(g))
        resumed.step(1)
    np.testing.assert_array_equal(p.data().asnumpy(), q.data().asnumpy())
    for each in (unbroken, resumed):
        each.finish()
    np.testing.assert_array_equal(p.data().asnumpy(), q.data().asnumpy())


def test_states_of_another_strategy_are_refused(tmp_path: Path) -> None:
    shoal.Trainer([parameter("w", [1.0])], "sgd", strategy="diloco").save_states(tmp_path / "s")
    with pytest.raises(CheckpointError, match=r"has sgd \(diloco\) states .* this trainer is sgd \(gradient\)"):
        shoal.Trainer([parameter("w", [1.0])], "sgd").load_states(tmp_path / "s")


# --- gradients that are no new ones -----------------------------------------------------------------------------------


def two(store: str | None, **options: Any) -> tuple[Parameter, Parameter, shoal.Trainer]:
    used, unused = parameter("used", [1.0]), parameter("unused", [1.0])
    hyper = {"learning_rate": 0.5, "wd": 0.5, "momentum": 0.5}
    return used, unused, shoal.Trainer([used, unused], "sgd", hyper, kvstore=store, **options)


def learn(p: Parameter) -> None:
    with shoal.autograd.record():
        loss = (p.data() * 2.0).sum()
    loss.backward()


@pytest.mark.parametrize("store", ["local", None])
def test_a_gradient_is_not_applied_twice(store: str | None) -> None:
    used, unused, trainer = two(store)
    learn(used)
    learn(unused)
    trainer.step(1)
    learn(used)
    with pytest.raises(AutogradError, match=r"delivered a gradient to \['unused'\] since the last step"):
        trainer.step(1)


@pytest.mark.parametrize("grad_req", ["write", "add"])
def test_a_parameter_that_never_had_a_gradient_is_told_of_at_the_first_step(grad_req: str) -> None:
    used, unused, trainer = two(None)
    unused.grad_req = grad_req
    learn(used)
    with pytest.raises(AutogradError, match=r"delivered a gradient to \['unused'\]"):
        trainer.step(1)
    assert unused.data().asnumpy()[0] == 1.0


@pytest.mark.parametrize("store", ["local", None])
@pytest.mark.parametrize("on_store", [None, False])
@pytest.mark.parametrize("codec", [None, "fp16"])
def test_parameters_with_an_old_gradient_can_be_left_out(
    store: str | None, on_store: bool | None, codec: str | None
) -> None:
    used, unused, trainer = two(store, update_on_kvstore=on_store, compression_params=codec if store else None)
    learn(used)
    learn(unused)
    trainer.step(1)
    before = float(unused.data().asnumpy()[0]), float(used.data().asnumpy()[0])
    learn(used)
    trainer.step(1, ignore_stale_grad=True)
    assert float(unused.data().asnumpy()[0]) == before[0]  # neither momentum nor weight decay moves it
    assert float(used.data().asnumpy()[0]) < before[1] - 0.9


def test_whoever_asks_for_a_gradient_may_have_written_it() -> None:
    used, unused, trainer = two("local")
    for _ in range(2):
        learn(used)
        unused.grad().data[:] = 1.0
        trainer.step(1)
    assert unused.data().asnumpy()[0] < 0.5


def test_a_gradient_of_functions_that_are_flat_is_new() -> None:
    p = parameter("w", [1.0])
    trainer = shoal.Trainer([p], "sgd", {"learning_rate": 1.0})
    for _ in range(2):
        with shoal.autograd.record():
            loss = shoal.np.sign(p.data()).sum()
        loss.backward()
        trainer.step(1)
    assert p.data().asnumpy()[0] == 1.0


# --- momentum="auto" --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "momentum"), [("local", 0.9), ("dist_sync", 0.9), ("dist_async", 6 / 7), ("dist_ssp:2", 6 / 7)]
)
def test_automatic_momentum_leaves_out_what_asynchrony_brings(kind: str, momentum: float) -> None:
    class Store(LocalKVStore):
        type, num_workers = kind, 4

    trainer = shoal.Trainer([parameter("w", [1.0])], "sgd", {"momentum": "auto"}, kvstore=Store())
    assert trainer.optimizer.spec().params["momentum"] == pytest.approx(momentum)


def test_a_list_of_layers_is_no_list_of_parameters() -> None:
    with pytest.raises(ConfigError, match=r"got a Dense: pass net\.collect_params"):
        shoal.Trainer([shoal.nn.Dense(2, in_units=2)], "sgd")  # type: ignore[list-item]
