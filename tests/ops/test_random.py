"""Random numbers depend on their address, and on nothing else."""

import subprocess
import sys
import threading
from typing import Any

import numpy as onp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import autograd, npx, random
from shoal.errors import ConfigError, GraphError, ShapeError
from shoal.ops import random as addresses
from shoal.ops.tensor import Tensor, array

ADDRESS = st.tuples(
    st.integers(-(2**70), 2**70),
    st.text(max_size=8),
    *[st.integers(0, 2**64 - 1)] * 3,
)


@pytest.fixture(autouse=True)
def start_of_a_run() -> Any:
    random.seed(0)
    random.set_address(worker=0, step=0)
    yield
    random.seed(0)
    random.set_address(worker=0, step=0)


@given(ADDRESS, ADDRESS)
def test_equal_addresses_have_equal_streams_and_different_ones_different_streams(a: Any, b: Any) -> None:
    first = random.stream(*a).random(4)
    assert (first == random.stream(*a).random(4)).all()
    assert (first == random.stream(*b).random(4)).all() == (a == b)


def test_a_stream_is_the_same_in_every_process_and_version() -> None:
    assert random.stream(7, "shuffle", worker=1, step=2, index=3).integers(0, 1000, 5).tolist() == GOLDEN


def test_a_stream_does_not_depend_on_pythons_hash_seed() -> None:
    code = "from shoal import random; print(random.stream(7, 'shuffle', 1, 2, 3).integers(0, 1000, 5).tolist())"
    got = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "123"}
    )
    assert got.stdout.strip() == str(GOLDEN)


GOLDEN = [312, 544, 516, 78, 55]


def test_streams_of_neighbouring_addresses_do_not_overlap() -> None:
    streams = [
        random.stream(0, "x", worker=w, step=s, index=i).integers(0, 2**63, 64).tolist()
        for w in range(3)
        for s in range(3)
        for i in range(3)
    ]
    assert len({n for numbers in streams for n in numbers}) == 27 * 64


def test_draws_at_one_address_differ_and_come_again_at_the_same_address() -> None:
    random.set_address(seed=5, worker=2, step=9)
    first = [random.uniform(size=3).tolist() for _ in range(3)]
    assert random.address() == (5, 2, 9, 3)
    random.uniform(size=100)
    random.set_address(seed=5, worker=2, step=9)
    assert [random.uniform(size=3).tolist() for _ in range(3)] == first
    assert len({tuple(f) for f in first}) == 3


@pytest.mark.parametrize("change", [{"seed": 1}, {"worker": 1}, {"step": 1}])
def test_another_address_has_other_draws(change: dict[str, int]) -> None:
    random.set_address(seed=0, worker=0, step=0)
    first = random.normal(size=4).tolist()
    random.set_address(seed=0, worker=0, step=0)
    random.set_address(**change)
    assert random.normal(size=4).tolist() != first


def test_what_was_drawn_for_another_purpose_matters_only_through_the_count() -> None:
    random.uniform(size=1000)
    a = random.normal(size=2).tolist()
    random.set_address()
    random.randint(3)
    assert random.normal(size=2).tolist() == a


def test_seed_sets_the_seed_of_other_threads_too() -> None:
    random.seed(42)
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.extend([random.current_seed(), random.address().step]))
    thread.start()
    thread.join()
    assert seen == [42, 0]


def test_a_thread_keeps_its_own_address() -> None:
    def elsewhere() -> None:
        random.set_address(seed=9, worker=7, step=7)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert random.address() == (0, 0, 0, 0)


@pytest.mark.parametrize("wrong", [{"worker": -1}, {"step": -1}])
def test_a_negative_place_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="negative"):
        random.set_address(**wrong)


# -- distributions

LARGE = 40_000


@pytest.mark.parametrize(
    ("draw", "mean", "std"),
    [
        (lambda: random.uniform(size=LARGE), 0.5, 12**-0.5),
        (lambda: random.uniform(-1, 3, LARGE), 1.0, 4 * 12**-0.5),
        (lambda: random.normal(size=LARGE), 0.0, 1.0),
        (lambda: random.normal(2.0, 0.5, (200, 200)), 2.0, 0.5),
        (lambda: random.bernoulli(0.3, LARGE), 0.3, 0.21**0.5),
        (lambda: random.exponential(2.0, LARGE), 2.0, 2.0),
        (lambda: random.gamma(4.0, 0.5, LARGE), 2.0, 1.0),
        (lambda: random.beta(2.0, 2.0, LARGE), 0.5, 0.05**0.5),
        (lambda: random.chisquare(3.0, LARGE), 3.0, 6**0.5),
        (lambda: random.laplace(1.0, 1.0, LARGE), 1.0, 2**0.5),
        (lambda: random.gumbel(0.0, 1.0, LARGE), 0.5772, onp.pi / 6**0.5),
        (lambda: random.poisson(4.0, LARGE), 4.0, 2.0),
        (lambda: random.randint(0, 11, LARGE), 5.0, 10**0.5),
        (lambda: random.choice(3, LARGE, p=[1, 1, 2]), 1.25, 0.6875**0.5),
        (lambda: random.categorical(array([[1.0, 1.0, 2.0]]), LARGE), 1.25, 0.6875**0.5),
        (lambda: random.rand(200, 200), 0.5, 12**-0.5),
        (lambda: random.randn(200, 200), 0.0, 1.0),
    ],
)
def test_mean_and_spread_are_the_distributions(draw: Any, mean: float, std: float) -> None:
    drawn = draw().asnumpy().astype(float)
    assert drawn.size == LARGE
    assert abs(drawn.mean() - mean) < 5 * std / LARGE**0.5
    assert abs(drawn.std() / std - 1) < 0.03


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_uniform_numbers_have_the_dtype_and_never_reach_the_end(dtype: str) -> None:
    drawn = random.uniform(size=20_000, dtype=dtype)
    assert drawn.dtype == dtype and drawn.min() >= 0 and drawn.max() < 1


def test_permutation_and_shuffle_keep_the_elements() -> None:
    x = array(onp.arange(20))
    y = random.permutation(x)
    assert sorted(y.tolist()) == x.tolist() != y.tolist()
    random.shuffle(y)
    assert sorted(y.tolist()) == x.tolist()
    assert sorted(random.permutation(5).tolist()) == [0, 1, 2, 3, 4]


def test_counts_of_multinomial_add_up() -> None:
    assert random.multinomial(10, [0.5, 0.5], (3,)).asnumpy().sum(axis=1).tolist() == [10, 10, 10]


def test_categorical_needs_outcomes() -> None:
    with pytest.raises(ShapeError, match="no axis of outcomes"):
        random.categorical(1.0)


def test_parameters_give_the_shape_and_get_gradients() -> None:
    loc, scale = array([0.0, 10.0]), array([[1.0], [2.0]])
    loc.attach_grad()
    scale.attach_grad()
    with autograd.record():
        x = random.normal(loc, scale)
    x.backward()
    assert x.shape == (2, 2) and loc.grad is not None and scale.grad is not None
    assert loc.grad.tolist() == [2.0, 2.0]
    onp.testing.assert_allclose(
        scale.grad.asnumpy() * scale.asnumpy(), (x - loc).asnumpy().sum(1, keepdims=True), rtol=1e-5
    )


def test_keys_can_come_from_elsewhere_and_then_unkeyed_draws_are_refused() -> None:
    wanted = []

    def source(purpose: str) -> Any:
        wanted.append(purpose)
        return Tensor(onp.arange(5, dtype=onp.uint64))

    with addresses.keys_from(source):
        a, b = random.uniform(size=3).tolist(), random.uniform(size=3).tolist()
        with pytest.raises(GraphError, match="randint cannot become part of a graph"):
            random.randint(3)
    assert a == b and wanted == ["uniform", "uniform"] and random.address().drawn == 0


# -- dropout


def test_dropout_drops_the_right_part_and_scales_the_rest() -> None:
    with autograd.train_mode():
        y = npx.dropout(array(onp.ones(LARGE, onp.float32)), 0.25).asnumpy()
    assert set(y.tolist()) == {0.0, float(onp.float32(4 / 3))}
    assert abs((y == 0).mean() - 0.25) < 0.01


def test_dropout_does_nothing_in_prediction_unless_told() -> None:
    x = array([1.0, 2.0])
    assert npx.dropout(x, 0.5) is x
    assert npx.dropout(array(onp.ones(1000)), 0.5, mode="always").asnumpy().min() == 0.0


def test_dropout_gives_gradients_to_what_it_kept() -> None:
    x = array(onp.ones((30, 20), onp.float32))
    x.attach_grad()
    with autograd.record():
        y = npx.dropout(x, 0.5)
    y.backward()
    assert x.grad is not None
    onp.testing.assert_array_equal(x.grad.asnumpy(), y.asnumpy())


def test_dropout_drops_together_along_axes() -> None:
    with autograd.train_mode():
        y = npx.dropout(array(onp.ones((50, 8, 3))), 0.5, axes=(1, -1)).asnumpy()
    assert (y == y[:, :1, :1]).all() and 0 < y.mean() < 2


def test_dropout_comes_again_at_the_same_address() -> None:
    x = array(onp.ones(100))
    with autograd.train_mode():
        a, b = npx.dropout(x, 0.5).tolist(), npx.dropout(x, 0.5).tolist()
        random.set_address()
        again = npx.dropout(x, 0.5).tolist()
    assert a == again != b


@pytest.mark.parametrize(("p", "total"), [(0.0, 8.0), (1.0, 0.0)])
def test_dropout_of_nothing_and_of_everything(p: float, total: float) -> None:
    with autograd.train_mode():
        assert npx.dropout(array(onp.ones(8)), p).sum().item() == total


def test_dropout_refuses_what_is_no_probability() -> None:
    with pytest.raises(ConfigError, match=r"p=1\.5"):
        npx.dropout(array([1.0]), 1.5)
