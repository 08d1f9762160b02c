"""``shoal.np`` and ``shoal.npx``: what is there, and what only they do."""

from typing import Any

import numpy as onp
import pytest

from shoal import autograd, linalg, nn, np, npx, random
from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops.tensor import Tensor

A = onp.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])


@pytest.mark.parametrize("module", [np, npx, autograd, random, linalg], ids=lambda m: m.__name__)
def test_every_listed_name_is_there_and_documented(module: Any) -> None:
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        thing = getattr(module, name)
        assert not callable(thing) or thing.__doc__, name


def test_names_that_numpy_has_mean_the_same_there() -> None:
    ours = {"Tensor", "array_api", "bfloat16", "ndarray", "rsqrt", "random", "linalg"}
    if onp.lib.NumpyVersion(onp.__version__) < "2.3.0":
        ours |= {"unstack", "cumulative_sum", "cumulative_prod", "matvec", "vecmat"}
    if onp.lib.NumpyVersion(onp.__version__) >= "2.5.0":  # has taken it away
        ours.add("row_stack")
    assert [n for n in np.__all__ if n not in ours and not hasattr(onp, n)] == []


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (np.zeros((2, 3)), onp.zeros((2, 3), "f4")),
        (np.ones(3, dtype="int32"), onp.ones(3, "i4")),
        (np.full((2,), 7), onp.full(2, 7, "f4")),
        (np.full(2, 1.5, "float64"), onp.full(2, 1.5)),
        (np.full_like(Tensor(A), 2), onp.full_like(A, 2)),
        (np.zeros_like(Tensor(A)), onp.zeros_like(A)),
        (np.ones_like(Tensor(A)), onp.ones_like(A)),
        (np.arange(4), onp.arange(4)),
        (np.arange(1, 7, 2), onp.arange(1, 7, 2)),
        (np.arange(0.0, 1.0, 0.25), onp.arange(0.0, 1.0, 0.25, "f4")),
        (np.arange(3, dtype="float32"), onp.arange(3, dtype="f4")),
        (np.linspace(0, 1, 5), onp.linspace(0, 1, 5, dtype="f4")),
        (np.logspace(0, 2, 3), onp.logspace(0, 2, 3, dtype="f4")),
        (np.eye(3, 4, 1), onp.eye(3, 4, 1, "f4")),
        (np.identity(2), onp.identity(2, "f4")),
        (np.tri(3, k=-1), onp.tri(3, k=-1, dtype="f4")),
        (np.array([[1, 2]]), onp.array([[1, 2]], "f4")),
        (np.asarray([1.0]), onp.array([1.0], "f4")),
    ],
)
def test_creation(made: Tensor, expected: Any) -> None:
    assert type(made) is Tensor and made.dtype == expected.dtype
    onp.testing.assert_array_equal(made.asnumpy(), expected)


def test_empty_has_the_shape_and_asarray_does_not_copy_tensors() -> None:
    x = np.empty((2, 0))
    assert x.shape == (2, 0) and np.asarray(x) is x and np.asarray(x, dtype="float64") is not x


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("vstack", ([A, A[0]],)), ("hstack", ([A, A],)), ("dstack", ([A, A],)), ("column_stack", ([A[0], A[1]],)),
        ("atleast_1d", (onp.float64(3.0),)), ("atleast_2d", (A[0],)), ("rot90", (A, 1)), ("rot90", (A, -1)),
        ("diff", (A,)), ("diff", (A, 2)), ("diag", (A,)), ("diag", (A[0], -1)), ("average", (A,)),
        ("median", (A,)), ("median", (A, 1)), ("ptp", (A, 0)), ("round", (A * 0.37,)), ("round", (A * 0.37, 1)),
        ("around", (A,)), ("pad", (A, 1)), ("pad", (A, (1, 2), "edge")), ("pad", (A, ((0, 1), (2, 1)), "reflect")),
        ("where", (A > 0, A, 0.0)), ("clip", (A, -1, 2)), ("absolute", (A,)), ("amax", (A, 0)), ("amin", (A, 1)),
        ("remainder", (A, 2.0)), ("true_divide", (A, 2.0)), ("einsum", ("ij,kj->ik", A, A)),
        ("einsum", ("ij,kj", A, A)),
        ("vdot", (A, A)), ("inner", (A, A)), ("outer", (A, A)), ("trace", (A,)), ("dot", (A, A.T)), ("dot", (A, 2.0)),
        ("dot", (onp.ones((2, 3, 4)), onp.ones((5, 4, 2)))), ("tensordot", (A, A.T, 1)), ("stack", ([A, A], 1)),
        ("concat", ([A, A], 1)), ("permute_dims", (A, (1, 0))), ("nan_to_num", (onp.array([onp.nan, onp.inf, -1.0]),)),
        ("sum", (A, 0)), ("isclose", (A, A + 1e-9)), ("unique", (A,)), ("argsort", (A, 0)), ("tile", (A, (2, 1))),
        ("histogram", (A, 3)), ("bincount", (onp.array([1, 1, 3]),)), ("nonzero", (A > 0,)), ("where", (A > 0,)),
        ("meshgrid", (A[0], A[1])), ("split", (A, 3, 1)), ("array_split", (A, 2, 1)), ("array_split", (A, [1], 1)),
        ("array_equal", (A, A)), ("allclose", (A, A + 1.0)), ("shape", (A,)), ("may_share_memory", (A, A.T)),
        ("result_type", (A, onp.float32(1))), ("floor_divide", (A, 2.0)), ("logical_not", (A > 0,)), ("isnan", (A,)),
    ],
)  # fmt: skip
def test_functions_are_numpys(name: str, args: Any) -> None:
    def wrapped(x: Any) -> Any:
        if isinstance(x, list):
            return [wrapped(v) for v in x]
        return Tensor(x) if isinstance(x, (onp.ndarray, onp.generic)) else x

    out, expected = getattr(np, name)(*map(wrapped, args)), getattr(onp, name)(*args)
    if not isinstance(expected, (tuple, list)) or isinstance(expected, onp.dtype) or name == "shape":
        out, expected = [out], [expected]
    for a, b in zip(out, expected, strict=True):
        if isinstance(b, (onp.ndarray, onp.generic)) and isinstance(a, Tensor):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            onp.testing.assert_allclose(a.asnumpy(), b, rtol=1e-12)
        else:
            assert a == b


def test_unique_gives_what_is_asked_for() -> None:
    values, first, inverse, counts = np.unique(np.array([3, 1, 3]), True, True, True)
    assert (values.tolist(), first.tolist(), inverse.tolist(), counts.tolist()) == ([1, 3], [1, 0], [1, 0, 1], [1, 2])


# -- npx


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "softrelu", "softsign", "gelu", "swish", "log_sigmoid"])
def test_activations_by_name(name: str) -> None:
    assert npx.activation(np.array([1.0]), name).shape == (1,)


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda x: npx.activation(x, "rleu"), ConfigError, "'rleu'; there are elu, gelu"),
        (lambda x: npx.convolution(x, np.ones((2, 3, 3, 3)), layout="CHWN"), ConfigError, "'NHWC'"),
        (lambda x: npx.convolution(x, np.ones((2, 3, 3, 3)), kernel=5), ShapeError, "kernel=5"),
        (lambda x: npx.convolution(x, np.ones((2, 3, 3, 3)), num_filter=5), ShapeError, "num_filter=5"),
        (lambda x: npx.pooling(x, 2, pool_type="mid"), ConfigError, "'lp'"),
        (lambda x: npx.pooling(x, 2, pooling_convention="all"), ConfigError, "'full'"),
        (lambda x: npx.topk(x, ret_typ="best"), ConfigError, "'best'"),
        (lambda x: npx.embedding(np.array([0]), np.ones((3, 2)), 4, 2), ShapeError, "(3, 2), not (4, 2)"),
        (lambda x: npx.group_norm(x, np.ones(3), np.ones(3), 2), ShapeError, "3 channels"),
        (lambda x: np.pad(x, 1, mode="mean"), ConfigError, "'mean'"),
        (lambda x: np.einsum("ij,jk", x), ShapeError, "2 operands, got 1"),
        (lambda x: np.einsum("...abcde->a", x), ShapeError, "more axes"),
        (lambda x: np.tensordot(x, x, 1), ShapeError, "differ in length"),
    ],
)
def test_unknown_options_are_named_with_the_known_ones(use: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        use(np.ones((2, 3, 4, 5)))
    assert words in str(caught.value)


def test_topk_gives_positions_values_both_or_a_mask() -> None:
    x = np.array([[1.0, 9.0, 5.0], [7.0, 7.0, 0.0]])
    assert npx.topk(x, k=2).tolist() == [[1, 2], [0, 1]]
    assert npx.topk(x, k=1, ret_typ="value").tolist() == [[9.0], [7.0]]
    assert npx.topk(x, k=1, is_ascend=True, axis=0).tolist() == [[0, 1, 1]]
    values, places = npx.topk(x, k=1, ret_typ="both")
    assert values.shape == places.shape == (2, 1)
    assert npx.topk(x, k=2, ret_typ="mask").tolist() == [[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]
    assert npx.topk(x, k=1, axis=0, ret_typ="mask").tolist() == [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]


def test_topk_of_the_flattened_array() -> None:
    x = np.array([[1.0, 9.0, 5.0], [7.0, 7.0, 0.0]])
    assert npx.topk(x, axis=None, k=2).tolist() == [1, 3]
    assert npx.topk(x, axis=None, k=2, ret_typ="value").tolist() == [9.0, 7.0]
    assert npx.topk(x, axis=None, k=2, ret_typ="mask").tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_pick_takes_labels_that_are_floats() -> None:
    class Picked(nn.HybridBlock):  # type: ignore[misc]  # nn is typed loosely for tests
        def forward(self, x: Any, labels: Any) -> Any:
            return npx.pick(x, labels)

    block = Picked()
    for hybrid in (False, True):
        block.hybridize(hybrid)
        assert block(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 0.0])).tolist() == [2.0, 3.0]


def test_batch_norm_of_no_samples_leaves_the_running_statistics() -> None:
    one, mean, var = np.ones(2), np.zeros(2), np.ones(2)
    with autograd.train_mode():
        npx.batch_norm(np.ones((0, 2)), one, one, mean, var)
    assert mean.tolist() == [0.0, 0.0] and var.tolist() == [1.0, 1.0]


def test_pick_one_hot_and_embedding() -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert npx.pick(x, np.array([1, 0], "int64")).tolist() == [2.0, 3.0]
    assert npx.pick(x, np.array([1, 0], "int64"), axis=0, keepdims=True).tolist() == [[3.0, 2.0]]
    assert npx.one_hot(np.array([1, 5], "int64"), 2).tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert npx.embedding(np.array([1.0, 1.0]), x).tolist() == [[3.0, 4.0], [3.0, 4.0]]


def test_sequence_mask_and_softmax_with_lengths() -> None:
    x = np.ones((3, 2, 2))
    masked = npx.sequence_mask(x, np.array([1, 3], "int64"), True, value=-1.0)
    assert masked.asnumpy()[:, :, 0].tolist() == [[1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]]
    assert npx.sequence_mask(x) is x
    p = npx.softmax(np.zeros((2, 4)), length=np.array([1, 2], "int64"), use_length=True)
    assert p.tolist() == [[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]


def test_arange_like_counts_along_an_axis() -> None:
    x = np.zeros((2, 3))
    assert npx.arange_like(x, axis=1).tolist() == [0.0, 1.0, 2.0]
    assert npx.arange_like(x, start=1.0, step=2.0).tolist() == [[1.0, 3.0, 5.0], [7.0, 9.0, 11.0]]


def test_batch_norm_with_fixed_gamma_global_statistics_and_all_outputs() -> None:
    x, two = np.array([[1.0], [3.0]]), np.array([2.0])
    mean, var = np.array([1.0]), np.array([4.0])
    with autograd.record():
        fixed = npx.batch_norm(x, two, 0 * two, mean.copy(), var.copy(), eps=0.0, fix_gamma=True)
        out, m, v = npx.batch_norm(x, two, 0 * two, mean, var, eps=0.0, use_global_stats=True, output_mean_var=True)
    assert fixed.tolist() == [[-1.0], [1.0]] and out.tolist() == [[0.0], [2.0]]
    assert (m.item(), v.item(), mean.item()) == (1.0, 4.0, 1.0)


def test_flattening_and_dense_layers_take_empty_batches() -> None:
    assert npx.batch_flatten(np.zeros((0, 3, 2))).shape == (0, 6)
    assert npx.fully_connected(np.zeros((0, 3, 2)), np.zeros((4, 6))).shape == (0, 4)


def test_a_window_larger_than_the_input_is_an_error_that_names_both() -> None:
    small, kernel = np.ones((1, 1, 2, 2)), np.ones((1, 1, 3, 3))
    with pytest.raises(ShapeError, match=r"\(3, 3\).*\(1, 1, 2, 2\)"):
        npx.convolution(small, kernel, kernel=(3, 3), num_filter=1, no_bias=True)
    with pytest.raises(ShapeError, match=r"\(3, 3\).*\(1, 1, 2, 2\)"):
        npx.pooling(small, kernel=(3, 3), pool_type="max")


def test_what_is_not_numbers_or_ragged_is_an_error() -> None:
    with pytest.raises(DTypeError, match="numbers"):
        np.array(["a"])
    with pytest.raises(ShapeError, match="inhomogeneous"):
        np.array([[1.0], [1.0, 2.0]])
