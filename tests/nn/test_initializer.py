"""Initial values: addressed, of the right scale, and refused with the parameter's name."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from shoal.errors import ConfigError, ShapeError
from shoal.ops.nn import initializer as init


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def test_the_same_seed_and_name_give_the_same_bits() -> None:
    assert digest(init.Xavier()("0.weight", (8, 4), 7)) == digest(init.Xavier()("0.weight", (8, 4), 7))


def test_another_name_or_seed_gives_other_values() -> None:
    base = init.Uniform()("0.weight", (8, 4), 0)
    assert not np.array_equal(base, init.Uniform()("1.weight", (8, 4), 0))
    assert not np.array_equal(base, init.Uniform()("0.weight", (8, 4), 1))


def test_another_process_draws_the_same_bits() -> None:
    code = (
        "import hashlib; from shoal.ops.nn.initializer import Normal;"
        "print(hashlib.sha256(Normal()('a.b', (3, 5), 11).tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(init.Normal()("a.b", (3, 5), 11))


def test_uniform_is_bounded_by_its_scale_and_centred() -> None:
    values = init.Uniform(0.07)("w", (200, 200))
    assert np.abs(values).max() <= 0.07
    assert abs(values.mean()) < 1e-3


def test_normal_has_its_standard_deviation() -> None:
    assert init.Normal(0.5)("w", (200, 200)).std() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(("factor_type", "factor"), [("in", 30 * 9), ("out", 60 * 9), ("avg", 45 * 9)])
@pytest.mark.parametrize("rnd_type", ["uniform", "gaussian"])
def test_xavier_has_variance_magnitude_over_factor(rnd_type: str, factor_type: str, factor: float) -> None:
    values = init.Xavier(rnd_type, factor_type, magnitude=3.0)("w", (60, 30, 3, 3))
    variance = 3.0 / factor / (3.0 if rnd_type == "uniform" else 1.0)  # uniform in [-s, s) has variance s^2 / 3
    assert values.var() == pytest.approx(variance, rel=0.05)


def test_msra_prelu_has_the_variance_of_he() -> None:
    values = init.MSRAPrelu("in", slope=0.0)("w", (300, 100))
    assert values.var() == pytest.approx(2.0 / 100, rel=0.05)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 2, 2, 2)])
@pytest.mark.parametrize("rand_type", ["uniform", "normal"])
def test_orthogonal_rows_or_columns_are_orthonormal_times_scale(shape: tuple[int, ...], rand_type: str) -> None:
    matrix = init.Orthogonal(2.0, rand_type)("w", shape).reshape(shape[0], -1)
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(gram, 4.0 * np.eye(len(gram)), atol=1e-12)


def test_lstm_bias_opens_the_forget_gate_only() -> None:
    np.testing.assert_array_equal(init.LSTMBias(1.5)("b", (8,)), [0, 0, 1.5, 1.5, 0, 0, 0, 0])


def test_bilinear_interpolates() -> None:
    np.testing.assert_allclose(
        init.Bilinear()("w", (1, 1, 4, 4))[0, 0, 1], np.outer([0.25, 0.75, 0.75, 0.25], 0.75)[:, 0]
    )


def test_constants_fill_and_broadcast() -> None:
    assert init.Zero()("w", (2, 3)).tolist() == [[0, 0, 0]] * 2
    assert init.One()("w", ()).tolist() == 1
    np.testing.assert_array_equal(init.Constant([[1, 2]])("w", (1, 2)), [[1, 2]])


def test_a_constant_of_another_shape_is_refused_with_both_shapes() -> None:
    with pytest.raises(ShapeError, match=r"'fc.bias' has shape \(3,\).*\(2,\)"):
        init.Constant([1, 2])("fc.bias", (3,))


@pytest.mark.parametrize(
    "which", [init.Xavier(), init.Orthogonal(), init.MSRAPrelu(), init.Bilinear(), init.LSTMBias()]
)
def test_a_vector_where_fans_are_needed_is_refused_by_name(which: init.Initializer) -> None:
    with pytest.raises(ShapeError, match=r"fc\.bias"):
        which("fc.bias", (3,))


def test_create_takes_names_numbers_and_initializers() -> None:
    assert init.create("zeros") == init.Zero()
    assert init.create("Xavier") == init.Xavier()
    assert init.create(2) == init.Constant(2.0)
    assert init.create(one := init.One()) is one


def test_create_lists_the_known_names() -> None:
    with pytest.raises(ConfigError, match=r"xavir.*orthogonal"):
        init.create("xavir")


@pytest.mark.parametrize("bad", [{"rnd_type": "normal"}, {"factor_type": "mean"}])
def test_xavier_refuses_unknown_options(bad: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="Xavier"):
        init.Xavier(**bad)


def test_repr_shows_the_arguments() -> None:
    assert repr(init.Uniform(0.1)) == "Uniform(scale=0.1)"
    assert hash(init.Zero()) == hash(init.Zero())
