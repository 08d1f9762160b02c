"""Row-sparse and csr tensors: making, converting, arithmetic, products with gradients, files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal import autograd, kv, nn, npx, sparse
from shoal.errors import CheckpointError, ConfigError, DTypeError, ShapeError
from shoal.ops.rows import RowSparse
from shoal.ops.tensor import Tensor

DENSE = np.array([[0, 0, 1.5], [2, 0, 0], [0, 0, 0], [0, -1, 4]], "float32")
ROWS = np.array([[0, 0], [1, 2], [0, 0], [3, 0]], "float32")


def test_storages_convert_into_each_other() -> None:
    csr, rows = Tensor(DENSE).tostype("csr"), Tensor(ROWS).tostype("row_sparse")
    assert (csr.stype, rows.stype, Tensor(DENSE).stype) == ("csr", "row_sparse", "default")
    assert csr.data.asnumpy().tolist() == [1.5, 2.0, -1.0, 4.0]
    assert (csr.indices.tolist(), csr.indptr.tolist()) == ([2, 0, 1, 2], [0, 1, 2, 2, 4])
    assert (rows.indices.tolist(), rows.data.tolist()) == ([1, 3], [[1.0, 2.0], [3.0, 0.0]])
    for x, dense in ((csr, DENSE), (rows, ROWS)):
        assert np.array_equal(x.tostype("default").asnumpy(), dense) and np.array_equal(x.asnumpy(), dense)
        assert x.tostype(x.stype) is x and np.array_equal(np.asarray(x), dense)
        assert sparse.cast_storage(x, "default").shape == x.shape
    assert sparse.cast_storage(csr, "row_sparse").indices.tolist() == [0, 1, 3]
    with pytest.raises(ConfigError, match="no storage type 'coo'"):
        Tensor(DENSE).tostype("coo")


def test_csr_matrices_are_made_from_parts_coordinates_shapes_and_whole_arrays() -> None:
    parts = sparse.csr_matrix(([1.5, 2, -1, 4], [2, 0, 1, 2], [0, 1, 2, 2, 4]), (4, 3))
    places = sparse.csr_matrix(([4, 1.5, 2, -2, 1], ([3, 0, 1, 3, 3], [2, 2, 0, 1, 1])), shape=(4, 3))
    for made in (parts, places, sparse.csr_matrix(DENSE), sparse.csr_matrix(DENSE.tolist()), sparse.array(parts)):
        assert np.array_equal(made.asnumpy(), DENSE) and made.dtype == np.float32
    assert sparse.csr_matrix((2, 5)).nnz == 0 and sparse.zeros("csr", (2, 5)).shape == (2, 5)
    assert sparse.csr_matrix(DENSE, dtype="float64").dtype == np.float64
    assert np.array_equal(parts.T.asnumpy(), DENSE.T) and len(parts) == 4


def test_row_sparse_tensors_are_made_from_rows_shapes_and_whole_arrays() -> None:
    made = sparse.row_sparse_array(([[3, 0], [1, 2]], [3, 1]), shape=(4, 2))
    assert np.array_equal(made.asnumpy(), ROWS) and made.indices.tolist() == [1, 3] and made.size == 8
    twice = sparse.row_sparse_array((np.ones((2, 2)), [1, 1]))
    assert twice.asnumpy().tolist() == [[0, 0], [2, 2]]
    assert sparse.row_sparse_array((4, 2)).indices.tolist() == []
    assert sparse.array(made).data is not made.data
    assert np.array_equal(made.retain([3, 0]).asnumpy(), ROWS * [[0], [0], [0], [1]])
    assert np.array_equal(sparse.retain(made, Tensor(np.array([1]))).asnumpy(), ROWS * [[0], [1], [0], [0]])
    assert np.array_equal(made[1:3].asnumpy(), ROWS[1:3]) and made[:] is made


@pytest.mark.parametrize("key", [slice(1, 3), slice(None), slice(2, 1), slice(-2, None)], ids=str)
def test_slices_of_rows_are_those_of_the_whole_array(key: slice) -> None:
    assert np.array_equal(sparse.csr_matrix(DENSE)[key].asnumpy(), DENSE[key])
    assert np.array_equal(sparse.row_sparse_array(ROWS)[key].asnumpy(), ROWS[key])
    assert np.array_equal(sparse.csr_matrix(DENSE)[-1].asnumpy(), DENSE[-1:])


def test_arithmetic_keeps_the_storage_where_it_can() -> None:
    csr, rows, whole = sparse.csr_matrix(DENSE), sparse.row_sparse_array(ROWS), np.arange(12.0).reshape(4, 3)
    for x, dense in ((csr, DENSE), (rows, ROWS)):
        assert (x * 2).stype == x.stype and np.array_equal((2 * x / 4).asnumpy(), dense / 2)
        assert (x * 2).dtype == np.float32
        assert np.array_equal((x + x).asnumpy(), 2 * dense) and (x + x).stype == x.stype
        assert np.array_equal((x - x * 3).asnumpy(), -2 * dense)
        assert np.array_equal((-x).asnumpy(), -dense)
        for other in (whole[:, : dense.shape[1]], Tensor(whole[:, : dense.shape[1]])):
            assert np.array_equal((x + other).asnumpy(), dense + np.asarray(other))
            assert np.array_equal((x - other).asnumpy(), dense - np.asarray(other))
            assert np.array_equal((x * other).asnumpy(), dense * np.asarray(other)) and (x * other).stype == x.stype
            assert np.array_equal(sparse.subtract(other, x).asnumpy(), np.asarray(other) - dense)
            assert np.array_equal(sparse.multiply(other, x).asnumpy(), np.asarray(other) * dense)
        assert np.array_equal((whole[:, : dense.shape[1]] + x), dense + whole[:, : dense.shape[1]])
    assert np.array_equal(sparse.multiply(csr, csr).asnumpy(), DENSE * DENSE)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("columns", [(), (1,), (5,)], ids=str)
def test_products_and_their_gradients_are_those_of_whole_matrices(
    columns: tuple[int, ...], transpose: bool, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    whole = (rng.standard_normal((7, 4)) * (rng.random((7, 4)) < 0.4)).astype(dtype)
    right = rng.standard_normal((7 if transpose else 4, *columns)).astype(dtype)
    csr, x = sparse.csr_matrix(whole), Tensor(right)
    x.attach_grad()
    csr.data.attach_grad()
    with autograd.record():
        out = sparse.dot(csr, x, transpose_a=transpose)
        (out * out).sum().backward()
    tw, tx = torch.tensor(whole, requires_grad=True), torch.tensor(right, requires_grad=True)
    expected = (tw.T if transpose else tw) @ tx
    (expected * expected).sum().backward()
    tolerance = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-2}[dtype]
    np.testing.assert_allclose(out.asnumpy(), expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(x.grad.asnumpy(), tx.grad.numpy(), rtol=tolerance, atol=tolerance)
    at = (csr.rows, csr.indices.data)
    np.testing.assert_allclose(csr.data.grad.asnumpy(), tw.grad.numpy()[at], rtol=tolerance, atol=tolerance)


def test_the_transposed_product_is_row_sparse_outside_of_gradients() -> None:
    csr, x = sparse.csr_matrix(DENSE * [[1, 0, 1]]), Tensor(np.ones((4, 2), "f"))
    out = sparse.dot(csr, x, transpose_a=True)
    assert out.stype == "row_sparse" and out.indices.tolist() == [0, 2]
    np.testing.assert_allclose(out.asnumpy(), (DENSE * [[1, 0, 1]]).T @ np.ones((4, 2)))
    assert sparse.dot(csr, x, transpose_a=True, forward_stype="default").stype == "default"
    with pytest.raises(ConfigError, match="row-sparse result"):
        sparse.dot(csr, Tensor(np.ones((3, 2), "f")), forward_stype="row_sparse")


def test_products_from_the_left_and_of_row_sparse_tensors() -> None:
    csr, left = sparse.csr_matrix(DENSE), np.arange(8.0).reshape(2, 4).astype("f")
    np.testing.assert_allclose(sparse.dot(left, csr).asnumpy(), left @ DENSE)
    np.testing.assert_allclose(sparse.dot(left.T.copy(), csr, transpose_a=True).asnumpy(), left @ DENSE)
    np.testing.assert_allclose(sparse.dot(left[:, :3], csr, transpose_b=True).asnumpy(), left[:, :3] @ DENSE.T)
    np.testing.assert_allclose(sparse.dot(sparse.row_sparse_array(ROWS), left[:, :4]).asnumpy(), ROWS @ left)
    np.testing.assert_allclose(sparse.dot(csr, sparse.row_sparse_array(ROWS[:3])).asnumpy(), DENSE @ ROWS[:3])
    with pytest.raises(ConfigError, match="two csr"):
        sparse.dot(csr, csr)


@settings(max_examples=40)
@given(st.integers(0, 6), st.integers(1, 6), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_any_matrix_survives_being_compressed(rows: int, columns: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = (rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < density)).astype("f")
    csr = sparse.csr_matrix(whole)
    assert np.array_equal(csr.asnumpy(), whole) and np.array_equal(csr.T.T.asnumpy(), whole)
    right = rng.standard_normal((columns, 2)).astype("f")
    np.testing.assert_allclose(sparse.dot(csr, Tensor(right)).asnumpy(), whole @ right, atol=1e-5)


def test_parts_that_do_not_fit_are_named() -> None:
    with pytest.raises(ShapeError, match="indptr must ascend from 0 to 2"):
        sparse.csr_matrix(([1, 2], [0, 1], [0, 2, 1]), (2, 2))
    with pytest.raises(ShapeError, match="columns 0 to 5"):
        sparse.csr_matrix(([1, 2], [0, 5], [0, 1, 2]), (2, 2))
    with pytest.raises(DTypeError, match="indices must be integers"):
        sparse.csr_matrix(([1], [0.5], [0, 1]), (1, 2))
    with pytest.raises(ShapeError, match=r"csr_matmul: a csr matrix of shape \(4, 3\) times an array of shape \(4,\)"):
        sparse.dot(sparse.csr_matrix(DENSE), Tensor(np.ones(4, "f")))
    with pytest.raises(ShapeError, match="row id 9 is out of range"):
        sparse.row_sparse_array((np.ones((1, 2)), [9]), shape=(4, 2))
    with pytest.raises(ConfigError, match="sliced by rows"):
        sparse.csr_matrix(DENSE)[::2]


def test_sparse_tensors_survive_a_file(tmp_path: Path) -> None:
    tensors = {"a": sparse.csr_matrix(DENSE), "b": sparse.row_sparse_array(ROWS), "c": Tensor(DENSE)}
    sparse.save(tmp_path / "t.safetensors", tensors)
    found = sparse.load(tmp_path / "t.safetensors")
    assert {n: x.stype for n, x in found.items()} == {"a": "csr", "b": "row_sparse", "c": "default"}
    assert all(np.array_equal(found[n].asnumpy(), x.asnumpy()) for n, x in tensors.items())
    (tmp_path / "bad").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError):
        sparse.load(tmp_path / "bad")


# -- gradients by rows

IDS = np.array([[4, 1], [4, 0]])


def looked_up(weight: Tensor, **options: Any) -> None:
    with autograd.record():
        out = npx.embedding(Tensor(IDS), weight, sparse_grad=True, **options)
        (out * out).sum().backward()


def test_the_gradient_of_an_embedding_has_the_rows_that_occur() -> None:
    table = np.arange(18.0).reshape(6, 3)
    sparsely, densely = Tensor(table), Tensor(table)
    sparsely.attach_grad(stype="row_sparse")
    densely.attach_grad()
    looked_up(sparsely)
    looked_up(densely)
    assert sparsely.grad.stype == "row_sparse" and sparsely.grad.indices.tolist() == [0, 1, 4]
    assert np.array_equal(sparsely.grad.asnumpy(), densely.grad.asnumpy())
    assert np.array_equal(densely.grad.asnumpy()[[0, 1, 4]], 2 * table[[0, 1, 4]] * [[1], [1], [2]])
    sparsely.zero_grad()
    assert sparsely.grad.indices.tolist() == []


@pytest.mark.parametrize("stype", ["row_sparse", "default"])
def test_contributions_add_up_over_uses_and_passes(stype: str) -> None:
    table = Tensor(np.arange(18.0).reshape(6, 3))
    table.attach_grad("add", stype=stype)
    for _ in range(2):
        with autograd.record():
            a = npx.embedding(Tensor(IDS), table, sparse_grad=True).sum()
            b = npx.embedding(Tensor(np.array([5])), table, sparse_grad=True).sum()
            (a + b).backward()
    assert table.grad.asnumpy()[:, 0].tolist() == [2, 2, 0, 0, 4, 2]


def test_other_uses_of_the_table_make_the_gradient_whole() -> None:
    table = np.arange(18.0).reshape(6, 3)
    for stype in ("row_sparse", "default"):
        x = Tensor(table)
        x.attach_grad(stype=stype)
        with autograd.record():
            one = npx.embedding(Tensor(IDS), x, sparse_grad=True).sum()
            (one + (x * 3.0).sum() + npx.embedding(Tensor(IDS), x * 2.0, sparse_grad=True).sum()).backward()
        assert x.grad.asnumpy()[:, 0].tolist() == [6, 6, 3, 3, 9, 3]


def test_returned_and_second_gradients_are_whole() -> None:
    x = Tensor(np.arange(18.0).reshape(6, 3))
    x.attach_grad(stype="row_sparse")
    with autograd.record():
        out = npx.embedding(Tensor(IDS), x, sparse_grad=True)
        first = autograd.grad((out * out * out).sum(), x, create_graph=True)
        first.sum().backward()
    assert np.array_equal(autograd_of(x), x.grad.asnumpy())


def autograd_of(x: Tensor) -> Any:
    y = Tensor(x.asnumpy())
    y.attach_grad()
    with autograd.record():
        out = npx.embedding(Tensor(IDS), y)
        autograd.grad((out * out * out).sum(), y, create_graph=True).sum().backward()
    assert y.grad is not None
    return y.grad.asnumpy()


def test_a_sparse_gradient_can_be_pushed_as_it_is() -> None:
    store = kv.create("local")
    store.init("e", np.zeros((6, 3), "float32"), rows=True)
    store.push("e", sparse.row_sparse_array((np.ones((2, 3), "f"), [4, 1]), shape=(6, 3)))
    assert store.row_sparse_pull("e", row_ids=[1, 2]).rows[:, 0].tolist() == [1, 0]


def test_rows_added_to_arrays_give_arrays() -> None:
    rows = RowSparse([1, 1], np.ones((2, 2), "f"), (3, 2))
    assert (np.ones((3, 2), "f") + rows).tolist() == [[1, 1], [3, 3], [1, 1]]
    assert (rows + rows).dense().tolist() == [[0, 0], [4, 4], [0, 0]]


def test_an_embedding_layer_hybridized_or_not_has_a_sparse_gradient() -> None:
    for active in (False, True):
        layer = nn.Embedding(6, 3, sparse_grad=True)
        layer.initialize()
        layer.hybridize(active)
        with autograd.record():
            layer(Tensor(IDS)).sum().backward()
        assert layer.weight.grad().indices.tolist() == [0, 1, 4]
        assert layer.weight.grad().data.asnumpy()[:, 0].tolist() == [1, 1, 2]
        layer.zero_grad()
        assert layer.weight.grad().indices.tolist() == []
    with pytest.raises(ConfigError, match="grad_stype"):
        nn.Parameter("w", shape=(2, 2), grad_stype="csr")
