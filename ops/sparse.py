"""Sparse tensors: making them, converting, products, files. Names are those of MXNet's ``mx.nd.sparse``."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from shoal.errors import CheckpointError, ConfigError, ShapeError
from shoal.ops import linalg, tape
from shoal.ops.csr import CSRTensor, csr_matmul
from shoal.ops.row_sparse import RowSparseTensor
from shoal.ops.rows import RowSparse
from shoal.ops.tensor import Tensor, raw
from shoal.ops.tensorfile import load_tensors, save_tensors

__all__ = [
    "add",
    "array",
    "cast_storage",
    "csr_matrix",
    "dot",
    "load",
    "multiply",
    "retain",
    "row_sparse_array",
    "save",
    "subtract",
    "zeros",
]

AnyTensor: TypeAlias = Tensor | RowSparseTensor | CSRTensor

_KINDS = "shoal.sparse"


def csr_matrix(source: Any, shape: Sequence[int] | None = None, dtype: Any = None) -> CSRTensor:
    """A matrix in compressed sparse rows.

    Args:
        source: a whole matrix; (data, indices, indptr); (data, (rows, columns)); or a shape, for one of zeros.
        shape: (rows, columns); None: as small as the indices allow.
        dtype: None: that of the values.
    """
    made = _csr(source, shape)
    return made if dtype is None else made.astype(dtype)


def _csr(source: Any, shape: Sequence[int] | None) -> CSRTensor:
    if isinstance(source, CSRTensor):
        return source.copy()
    if hasattr(source, "indptr"):  # such as scipy's
        return CSRTensor(source.data, source.indices, source.indptr, source.shape)
    if isinstance(source, tuple) and len(source) == 3:
        data, indices, indptr = source
        columns = np.asarray(raw(indices))
        size = shape or (len(indptr) - 1, int(columns.max(initial=-1)) + 1)
        return CSRTensor(data, columns, indptr, size)
    if isinstance(source, tuple) and len(source) == 2 and isinstance(source[1], (tuple, list)):
        data, (rows, columns) = source
        rows, columns = np.asarray(raw(rows)), np.asarray(raw(columns))
        size = shape or (int(rows.max(initial=-1)) + 1, int(columns.max(initial=-1)) + 1)
        return CSRTensor.from_coordinates(data, rows, columns, size)
    if isinstance(source, tuple) and len(source) == 2 and all(isinstance(n, int) for n in source):
        return CSRTensor(np.empty(0, "f"), np.empty(0, int), np.zeros(source[0] + 1, int), source)
    return CSRTensor.from_dense(_given(source))


def row_sparse_array(source: Any, shape: Sequence[int] | None = None, dtype: Any = None) -> RowSparseTensor:
    """A row-sparse tensor.

    Args:
        source: a whole array; (rows, indices); or a shape, for one of zeros.
        shape: of the whole array; None: as small as the indices allow.
        dtype: None: that of the rows.
    """
    if isinstance(source, RowSparse):
        made = RowSparseTensor.of(source).copy()
    elif isinstance(source, tuple) and all(isinstance(n, int) for n in source):
        made = RowSparseTensor.empty(source)
    elif isinstance(source, tuple) and len(source) == 2:
        rows, ids = _given(source[0]), np.asarray(raw(source[1]))
        made = RowSparseTensor(ids, rows, shape or (int(ids.max(initial=-1)) + 1, *rows.shape[1:]))
    else:
        made = RowSparseTensor.of(RowSparse.from_dense(_given(source)))
    return made if dtype is None else made.astype(dtype)


def _given(values: Any) -> Any:
    """An array; Python numbers become float32."""
    values = raw(values)
    return values if hasattr(values, "dtype") else np.asarray(values, "float32")


def zeros(stype: str, shape: Sequence[int], dtype: Any = "float32") -> AnyTensor:
    """Zeros, stored as "default", "csr" or "row_sparse".

    Raises:
        ConfigError: another storage type.
    """
    return cast_storage(Tensor(np.zeros(shape, dtype)), stype)


def array(source: Any, dtype: Any = None) -> AnyTensor:
    """A copy of a sparse tensor (or one of scipy's matrices), or of a whole array, in the same storage."""
    if isinstance(source, RowSparse):
        return row_sparse_array(source, dtype=dtype)
    if isinstance(source, CSRTensor) or hasattr(source, "indptr"):
        return csr_matrix(source, dtype=dtype)
    return Tensor(np.array(_given(source), dtype))


def cast_storage(x: Any, stype: str) -> AnyTensor:
    """``x`` stored as "default", "csr" or "row_sparse". Not recorded.

    Raises:
        ConfigError: another storage type.
    """
    if getattr(x, "stype", "default") != "default":
        if stype in ("default", x.stype):
            return x.tostype(stype)  # type: ignore[no-any-return]  # a sparse tensor's method
        x = x.todense()
    if stype == "csr":
        return CSRTensor.from_dense(x)
    if stype == "row_sparse":
        return RowSparseTensor.of(RowSparse.from_dense(x))
    if stype != "default":
        raise ConfigError(f"no storage type {stype!r}; there are 'default', 'csr' and 'row_sparse'")
    return x if isinstance(x, Tensor) else Tensor(x)


def dot(
    lhs: Any, rhs: Any, transpose_a: bool = False, transpose_b: bool = False, forward_stype: str | None = None
) -> Any:
    """The product of two matrices, of which one may be csr. It has gradients, also for the values of a csr matrix.

    Args:
        lhs, rhs: csr and whole, or whole and csr; row-sparse ones count as whole.
        transpose_a, transpose_b: take the transpose of the first, the second.
        forward_stype: storage of the result. None: "row_sparse" for the transpose of a csr matrix times a whole one,
            outside of recording; "default" otherwise.
    Raises:
        ShapeError: they do not fit.
        ConfigError: two csr matrices, or a row-sparse result that takes part in gradients.
    """
    if isinstance(lhs, CSRTensor) and isinstance(rhs, CSRTensor):
        raise ConfigError("dot of two csr matrices: convert one of them with todense()")
    if isinstance(rhs, CSRTensor):
        out = dot(rhs, _turned(lhs, not transpose_a), transpose_a=not transpose_b, forward_stype="default")
        return _turned(out, True)
    if not isinstance(lhs, CSRTensor):
        return linalg.dot(_turned(lhs, transpose_a), _turned(rhs, transpose_b))
    dense = _turned(rhs, transpose_b)
    recorded = tape.state.recording and any(getattr(x, "node", None) is not None for x in (lhs.data, dense))
    if forward_stype is None:
        forward_stype = "row_sparse" if transpose_a and not recorded and dense.ndim == 2 else "default"
    if forward_stype != "row_sparse":
        return csr_matmul(lhs.data, lhs.indices, lhs.indptr, dense, shape=lhs.shape, transpose=transpose_a)
    if recorded or not transpose_a:
        raise ConfigError("dot: a row-sparse result is for a transposed csr matrix, outside of gradients")
    return _rows_of_product(lhs, np.asarray(raw(dense)))


def _rows_of_product(lhs: CSRTensor, dense: Any) -> RowSparseTensor:
    """csr.T @ dense, only those rows that can differ from 0."""
    if dense.ndim != 2 or dense.shape[0] != lhs.shape[0]:
        raise ShapeError(f"dot: a csr matrix of shape {lhs.shape} transposed, times an array of shape {dense.shape}")
    ids, places = np.unique(lhs.indices.data, return_inverse=True)
    small = (lhs.shape[0], ids.size)
    rows = csr_matmul(lhs.data.data, places, lhs.indptr.data, dense, shape=small, transpose=True)
    return RowSparseTensor(ids, rows, (lhs.shape[1], dense.shape[1]))


def _turned(x: Any, turn: bool) -> Any:
    if isinstance(x, RowSparse):
        x = Tensor(x.dense())
    x = x if hasattr(x, "ndim") else Tensor(np.asarray(x, "f"))
    return x.T if turn and x.ndim == 2 else x


def add(lhs: Any, rhs: Any) -> Any:
    """Element by element: sparse with sparse of the same storage stays so, with anything else it is a Tensor."""
    return _binary(lhs, rhs, lambda a, b: a + b)


def subtract(lhs: Any, rhs: Any) -> Any:
    """As `add`."""
    return _binary(lhs, rhs, lambda a, b: a - b)


def multiply(lhs: Any, rhs: Any) -> Any:
    """Element by element: sparse times anything is sparse."""
    if getattr(lhs, "stype", "default") == "default":
        lhs, rhs = rhs, lhs
    if getattr(rhs, "stype", "default") not in ("default", getattr(lhs, "stype", "default")) or isinstance(
        rhs, CSRTensor
    ):
        rhs = rhs.todense()
    return lhs * rhs


def _binary(lhs: Any, rhs: Any, fn: Any) -> Any:
    kinds = {getattr(x, "stype", "default") for x in (lhs, rhs)}
    if len(kinds) == 2 and isinstance(lhs, Tensor):  # a Tensor's own operators know whole arrays only
        rhs = rhs.todense()
    if len(kinds) == 2 and "default" not in kinds:
        lhs, rhs = lhs.todense(), rhs.todense()
    return fn(lhs, rhs)


def retain(data: RowSparseTensor, indices: Any) -> RowSparseTensor:
    """Only those of the rows ``indices`` that ``data`` has."""
    return data.retain(indices)


def save(path: str | os.PathLike[str], tensors: Mapping[str, Any]) -> None:
    """Write named tensors, sparse or not, to one safetensors file, atomically.

    Raises:
        CheckpointError: the disk refuses, or a dtype that the format does not have.
    """
    parts: dict[str, Any] = {}
    kinds: dict[str, Any] = {}
    for name, x in tensors.items():
        stype = getattr(x, "stype", "default")
        if stype == "default":
            parts[name] = x
            continue
        kinds[name] = [stype, list(x.shape)]
        parts |= {f"{name}.data": x.data, f"{name}.indices": x.indices}
        if stype == "csr":
            parts[f"{name}.indptr"] = x.indptr
    save_tensors(path, parts, {_KINDS: json.dumps(kinds)})


def load(path: str | os.PathLike[str]) -> dict[str, AnyTensor]:
    """What `save` wrote.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    arrays, metadata = load_tensors(path)
    found: dict[str, AnyTensor] = {}
    try:
        for name, (stype, shape) in json.loads(metadata.get(_KINDS, "{}")).items():
            data, ids = arrays.pop(f"{name}.data"), arrays.pop(f"{name}.indices")
            if stype == "csr":
                found[name] = CSRTensor(data, ids, arrays.pop(f"{name}.indptr"), shape)
            else:
                found[name] = RowSparseTensor(ids, data, shape)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{os.fspath(path)!r}: its sparse tensors are damaged: {error}") from error
    return found | {name: Tensor(a) for name, a in arrays.items()}
