"""Layers of every model: dense, dropout, embedding, reshaping, functions as layers."""

from collections.abc import Callable, Sequence
from typing import Any

from shoal.errors import ConfigError, DTypeError, ShapeError
from shoal.ops import dropout, embedding, linalg, shape
from shoal.ops.nn.activation import activation_layer
from shoal.ops.nn.block import Block
from shoal.ops.nn.hybrid import HybridBlock
from shoal.ops.nn.initializer import Initializer
from shoal.ops.nn.parameter import Parameter

__all__ = ["Dense", "Dropout", "Embedding", "Flatten", "HybridLambda", "Identity", "Lambda"]

Init = str | float | Initializer | None


class Dense(HybridBlock):
    """activation(x @ weight.T + bias).

    Args:
        units: length of the last axis of the output.
        activation: its name, or None; see `Activation`.
        use_bias: whether there is a bias.
        flatten: whether all axes of the input but the first are joined; otherwise the last one is transformed.
        dtype: of the parameters.
        weight_initializer: of the weight (units, in_units); None takes that of `Block.initialize`.
        bias_initializer: of the bias (units,).
        in_units: length of the transformed axis; 0 infers it from the first batch.
    """

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        use_bias: bool = True,
        flatten: bool = True,
        dtype: Any = "float32",
        weight_initializer: Init = None,
        bias_initializer: Init = "zeros",
        in_units: int = 0,
    ) -> None:
        super().__init__()
        if units < 1 or in_units < 0:
            raise ConfigError(f"Dense needs units >= 1 and in_units >= 0, got units={units}, in_units={in_units}")
        self.units, self.flatten = units, flatten
        size = (units, in_units or -1)
        self.weight = Parameter("weight", shape=size, dtype=dtype, init=weight_initializer, allow_deferred_init=True)
        self.bias = Parameter("bias", shape=(units,), dtype=dtype, init=bias_initializer) if use_bias else None
        self.act = activation_layer(activation)

    def infer_shape(self, x: Any) -> None:
        """The input's last axis, or all but its first, as in_units."""
        rest = x.shape[1:] if self.flatten else x.shape[-1:]
        size = 1
        for n in rest:
            size *= n
        self.weight.shape = (self.units, size)

    def forward(self, x: Any) -> Any:
        """Apply the layer.

        Raises:
            ShapeError: the input has another length than the weight; has both.
        """
        weight, bias = self.weight.data(), None if self.bias is None else self.bias.data()
        try:
            y = linalg.fully_connected(x, weight, bias, flatten=self.flatten)
        except (ShapeError, DTypeError) as error:
            raise type(error)(f"{self._label()} ({self.extra_repr()}): {error}") from None
        return y if self.act is None else self.act(y)

    def extra_repr(self) -> str:
        """Sizes and activation."""
        act = "linear" if self.act is None else self.act.name
        return f"{_length(self.weight, 1)} -> {self.units}, {act}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class Dropout(HybridBlock):
    """While training, sets elements to zero at random and scales the others up; otherwise does nothing.

    Args:
        rate: probability of zero, 0 <= rate < 1.
        axes: along these the same elements are dropped, such as (2, 3) for whole channels.
    """

    def __init__(self, rate: float, axes: Sequence[int] = ()) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ConfigError(f"Dropout needs 0 <= rate < 1, got {rate}")
        self.rate, self.axes = float(rate), tuple(axes)

    def forward(self, x: Any) -> Any:
        """Apply the layer; each call draws anew."""
        return dropout.dropout(x, self.rate, axes=self.axes)

    def extra_repr(self) -> str:
        """Rate and axes."""
        return f"p = {self.rate}" + (f", axes={self.axes}" if self.axes else "")


class Embedding(HybridBlock):
    """Rows of a table: maps integers of any shape to vectors, as a new last axis.

    Args:
        input_dim: number of rows.
        output_dim: length of a row.
        dtype: of the table.
        weight_initializer: of the table (input_dim, output_dim).
        padding_idx: this row gets no gradient.
        max_norm: rows that are looked up are shortened to this length first, in place; not in a graph.
        sparse_grad: the gradient is a `RowSparseTensor` with the rows that occur in the batch; `Trainer` then updates,
            and exchanges, these rows only.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        dtype: Any = "float32",
        weight_initializer: Init = None,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        sparse_grad: bool = False,
    ) -> None:
        super().__init__()
        self.input_dim, self.output_dim, self.padding_idx = input_dim, output_dim, padding_idx
        self.max_norm, self.sparse_grad = max_norm, sparse_grad
        self.weight = Parameter(
            "weight",
            shape=(input_dim, output_dim),
            dtype=dtype,
            init=weight_initializer,
            grad_stype="row_sparse" if sparse_grad else "default",
        )

    def forward(self, x: Any) -> Any:
        """Look the rows up.

        Raises:
            DTypeError: the input holds no integers.
            IndexError: an integer is not a row of the table.
        """
        if x.dtype.kind not in "iu":
            raise DTypeError(f"{self._label()} looks up integers, got {x.dtype}; use astype('int64')")
        if self.max_norm is not None:
            embedding.renormalize(self.weight.data(), x, self.max_norm)
        return embedding.embedding(x, self.weight.data(), padding_idx=self.padding_idx, sparse_grad=self.sparse_grad)

    def extra_repr(self) -> str:
        """Sizes."""
        return f"{self.input_dim} -> {self.output_dim}, {self.weight.dtype}"


class Flatten(HybridBlock):
    """Joins all axes but the first."""

    def forward(self, x: Any) -> Any:
        """(batch, a, b, ...) to (batch, a * b * ...)."""
        size = 1
        for n in x.shape[1:]:
            size *= n
        return shape.reshape(x, shape=(-1, size) if size else (x.shape[0], size))


class Identity(HybridBlock):
    """Returns its input."""

    def forward(self, x: Any) -> Any:
        """The input itself."""
        return x


class Lambda(Block):
    """A function as a block.

    Args:
        function: takes and returns tensors; or the name of one in `shoal.np` or `shoal.npx`.
    """

    def __init__(self, function: str | Callable[..., Any]) -> None:
        super().__init__()
        self.function = _function(function)

    def forward(self, *args: Any) -> Any:
        """Call the function."""
        return self.function(*args)

    def extra_repr(self) -> str:
        """The function's name."""
        return str(getattr(self.function, "__name__", self.function))


class HybridLambda(Lambda, HybridBlock):
    """A function of operators as a hybrid block."""


def _function(function: str | Callable[..., Any]) -> Callable[..., Any]:
    if callable(function):
        return function
    from shoal.ops.registry import OPS

    if function in OPS:
        return OPS[function]
    raise ConfigError(f"no operator is called {function!r}; give the function itself")


def _length(param: Parameter, axis: int) -> str:
    """A length of a parameter's shape, "?" if it is not known."""
    known = param.shape is not None and param.shape[axis] >= 0
    return str(param.shape[axis]) if known and param.shape is not None else "?"
