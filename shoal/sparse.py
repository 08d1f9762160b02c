"""Row-sparse and csr tensors: ``from shoal import sparse``. Names are those of MXNet's ``mx.nd.sparse``."""

from shoal.ops.csr import CSRTensor
from shoal.ops.row_sparse import RowSparseTensor
from shoal.ops.sparse import (
    add,
    array,
    cast_storage,
    csr_matrix,
    dot,
    load,
    multiply,
    retain,
    row_sparse_array,
    save,
    subtract,
    zeros,
)

__all__ = [
    "CSRTensor",
    "RowSparseTensor",
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
