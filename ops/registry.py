"""Operators: declared once, used eagerly, on the tape, in graphs, in tests and in the documentation.

An operator is three functions in one place:

    @op(infer=elementwise, elementwise=True)
    def tanh(xp: Any, x: Array) -> Any:
        "Hyperbolic tangent of each element."
        return xp.tanh(x)

    @tanh.vjp
    def tanh_vjp(xp: Any, g: Any, out: Any, x: Any) -> Any:
        return (g * (1.0 - out * out),)

The *forward* sees raw arrays and the array namespace ``xp`` they belong to. Parameters annotated `Array` are inputs;
all others are attributes: numbers, booleans, strings, None and tuples of them, so that they can be hashed and written
as JSON.

The *gradient rule* turns the cotangent ``g`` of the output into one cotangent per input (None: not differentiable). It
runs on raw arrays (fast), on Tensors (higher derivatives) and on Symbols (a static gradient graph), because it reaches
every function through its ``xp``, whose attributes are the operators (`rules_for` raw arrays, `OPERATORS` else). A
cotangent may be given as a function of no arguments, which is called only if somebody needs it. A rule need not undo
broadcasting or dtype promotion: `Op.cotangents` does, for all. An operator with several outputs returns a tuple; ``g``
and ``out`` are then tuples, and ``g`` has None for an output that nothing depends on.

The *infer rule* says shape and dtype of the output without computing it, or says who does not fit.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType
from typing import Annotated, Any, ClassVar, Concatenate, Generic, NamedTuple, ParamSpec, TypeAlias

import numpy as np

from shoal.errors import ShapeError
from shoal.ops import casting
from shoal.ops.backend import CPU, Namespace, namespace
from shoal.ops.gpu.kernels import families
from shoal.ops.native import kernels
from shoal.ops.precision import narrowing

__all__ = ["OPERATORS", "OPS", "Array", "Op", "Shape", "Spec", "Traced", "op", "operator", "rules_for", "spec_of"]

Array: TypeAlias = Annotated[Any, "an input of an operator"]
Shape: TypeAlias = tuple[int, ...]
P = ParamSpec("P")

_casting = casting.state

OPS: dict[str, "Op[Any]"] = {}
"""Every operator by name."""


class Spec(NamedTuple):
    """What is known of an array before it exists."""

    shape: Shape
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)


class Traced:
    """What an operator follows: `Tensor` computes at once, `Symbol` builds a graph.

    An operator called on several kinds goes to the kind with the highest ``_rank``.
    """

    __slots__ = ()
    _rank: ClassVar[int] = 0

    @classmethod
    def _invoke(cls, op: "Op[Any]", inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        """Apply ``op`` to ``inputs``: instances of this class, of lower kinds, arrays, Python scalars and None."""
        raise TypeError(f"{cls.__name__} does not say how to apply an operator ({op.name})")

    def _random_key(self, purpose: str) -> Any:
        """A key for random operators such as dropout, fresh at each execution; a graph makes it an input."""
        raise TypeError(f"{type(self).__name__} has no random keys (for {purpose})")


class Op(Generic[P]):
    """An operator; see the module's text. Call it on Tensors, Symbols or plain arrays.

    Attributes:
        name: unique; NumPy's name where NumPy has the function.
        forward: ``forward(xp, *arrays, **attrs)`` on raw arrays, by a compiled kernel where there is one.
        plain: the forward as it was declared: the oracle of kernels.
        rule: the gradient rule, or None if the operator is not differentiable.
        arrays: names of the inputs, in order; the last may start with ``*`` for any number of them.
        attrs: names of the attributes, in order.
        defaults: values of the attributes that may be left out.
        elementwise: each output element depends on the input elements that broadcast to it, and on nothing else.
        ufunc: name of the NumPy ufunc that the forward is, if it is one (it then takes ``out=``).
        direct: that ufunc, if it takes no attributes: a way past the forward for NumPy arrays.
        view: the output may share memory with the first input.
        expr: one element of the result as an expression of C and of CUDA alike, with ``{0}``, ``{1}`` ... for the
            elements of the inputs; see `shoal.ops.graph.expression`. Empty: composed of operators that have one, or not
            to be had.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        infer: Callable[..., Any],
        *,
        elementwise: bool,
        ufunc: str | None,
        view: bool,
        expr: str,
    ) -> None:
        self.name = forward.__name__.rstrip("_")
        self.__name__, self.__doc__, self.__module__ = self.name, forward.__doc__, forward.__module__
        self.plain, self._infer = forward, infer
        self.rule: Callable[..., Any] | None = None
        self.elementwise, self.ufunc, self.view, self.expr = elementwise, ufunc, view, expr
        signature = inspect.signature(forward)
        parameters = list(signature.parameters.values())[1:]
        self.__signature__ = signature.replace(parameters=parameters)
        inputs = [p for p in parameters if p.annotation is Array]
        self.variadic = bool(inputs) and inputs[-1].kind is inspect.Parameter.VAR_POSITIONAL
        self.arrays = tuple(("*" if p.kind is p.VAR_POSITIONAL else "") + p.name for p in inputs)
        self.attrs = tuple(p.name for p in parameters if p.annotation is not Array)
        self.defaults = {p.name: p.default for p in parameters if p.name in self.attrs and p.default is not p.empty}
        count = len(self.arrays)
        on_gpu = families.dispatched(self.name, forward, CPU, count, self.attrs)
        self.forward = kernels.dispatched(self.name, on_gpu, CPU, count, self.attrs)
        complete = not self.variadic and len(self.defaults) == len(self.attrs)
        self._arity = len(inputs) if complete else -1  # that many inputs and no attributes need no sorting
        plain = not self.attrs and self.forward is forward  # no kernel stands before it
        self.direct: Any = getattr(np, ufunc) if ufunc is not None and plain else None
        self._required = sum(p.default is p.empty for p in inputs) - self.variadic

    def __repr__(self) -> str:
        return f"<operator {self.name}{self.__signature__}>"

    def vjp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Declare the gradient rule: ``rule(xp, g, out, *inputs, **attrs) -> (cotangent, ...)``."""
        self.rule = rule
        return rule

    def __call__(self, *inputs: P.args, **attrs: P.kwargs) -> Any:
        """Apply the operator: Tensors give Tensors, Symbols give Symbols, plain arrays give plain arrays."""
        if attrs or len(inputs) != self._arity:
            inputs, attrs = self.bind(inputs, attrs)  # type: ignore[assignment]  # P.args is no tuple type
        kind: type[Traced] | None = None
        for x in inputs:
            if isinstance(x, Traced):
                found = type(x)
                if kind is None or (found is not kind and found._rank > kind._rank):
                    kind = found
        if kind is None:
            return self.forward(namespace(*inputs), *inputs, **attrs)
        if _casting.policy is not None:
            inputs = _casting.policy.cast(self.name, inputs, attrs)  # type: ignore[assignment]  # as above
        return kind._invoke(self, inputs, attrs)

    def bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Sort a call's arguments into inputs (None for an optional one left out) and attributes.

        Raises:
            TypeError: the arguments do not fit the operator's signature.
        """
        attrs = {}
        inputs = list(args)
        if self.variadic:
            fixed = len(self.arrays) - 1
            first = inputs[fixed] if len(inputs) > fixed else None
            if isinstance(first, (list, tuple)) and not isinstance(first, Spec):  # NumPy's form: concatenate([a, b], 1)
                inputs, extra = [*inputs[:fixed], *inputs[fixed]], inputs[fixed + 1 :]
                attrs = dict(zip(self.attrs, extra, strict=False))
        elif len(inputs) > len(self.arrays):
            extra, inputs = inputs[len(self.arrays) :], inputs[: len(self.arrays)]
            if len(extra) > len(self.attrs):
                raise TypeError(f"{self.name}{self.__signature__} was called with {len(args)} positional arguments")
            attrs = dict(zip(self.attrs, extra, strict=False))
        for name, value in kwargs.items():
            if name in self.attrs and name not in attrs:
                attrs[name] = value
            elif not self.variadic and name in self.arrays[len(inputs) :]:
                inputs += [None] * (self.arrays.index(name) + 1 - len(inputs))
                inputs[self.arrays.index(name)] = value
            else:
                raise TypeError(f"{self.name}{self.__signature__} has no argument {name!r} left to give")
        if not self.variadic:
            inputs += [None] * (len(self.arrays) - len(inputs))
        self._check_complete(inputs, attrs)
        return tuple(inputs), {name: _plain(value) for name, value in attrs.items()}

    def _check_complete(self, inputs: list[Any], attrs: dict[str, Any]) -> None:
        missing = [name for name, x in zip(self.arrays[: self._required], inputs, strict=False) if x is None]
        missing += self.arrays[len(inputs) : self._required]
        missing += [name for name in self.attrs if name not in attrs and name not in self.defaults]
        if missing:
            raise TypeError(f"{self.name}{self.__signature__} was called without {', '.join(missing)}")

    def infer(self, *specs: Any, **attrs: Any) -> Any:
        """Shape and dtype of the output: a `Spec`, or a tuple of them, without computing anything of that size.

        Args:
            specs: one per input; a Python scalar stands for itself, None for an optional input that is left out.
            attrs: as in a call.
        Raises:
            ShapeError, DTypeError: the inputs do not fit; the message has the operator's name and both sides.
        """
        bound, attrs = self.bind(specs, attrs)
        return self._infer(self, *bound, **attrs)

    def cotangents(
        self, xp: Any, g: Any, out: Any, inputs: Sequence[Any], attrs: dict[str, Any], needed: Sequence[bool]
    ) -> list[Any]:
        """Apply the gradient rule: one cotangent per input, of its shape and dtype, or None where not ``needed``.

        This is the one place that undoes broadcasting and dtype promotion.
        """
        assert self.rule is not None
        if True not in needed:
            return [None] * len(inputs)
        result: list[Any] = [None] * len(inputs)
        found = self.rule(xp, g, out, *inputs, **attrs)
        for i, need in enumerate(needed):
            if not need or (c := found[i]) is None:
                continue
            if type(c) is FunctionType:
                c = c()
            x = inputs[i]
            if c.shape != x.shape:
                c = xp.sum_to(c, x.shape)
            if c.dtype is not x.dtype and c.dtype != x.dtype:
                if c.dtype.kind == "c" and x.dtype.kind != "c":
                    c = xp.real(c)
                c = c.astype(x.dtype)
            result[i] = c
        return result


def op(
    infer: Callable[..., Any],
    *,
    elementwise: bool = False,
    ufunc: str | None = None,
    view: bool = False,
    expr: str = "",
) -> Callable[[Callable[Concatenate[Any, P], Any]], Op[P]]:
    """Register the decorated forward function as an operator. See the module's text and `Op` for the arguments."""

    def register(forward: Callable[Concatenate[Any, P], Any]) -> Op[P]:
        made: Op[P] = Op(
            _narrowing(forward) if elementwise and not ufunc else forward,
            infer,
            elementwise=elementwise,
            ufunc=ufunc,
            view=view,
            expr=expr,
        )
        if made.name in OPS:
            raise ValueError(f"two operators are called {made.name!r}: {OPS[made.name].__module__}, {made.__module__}")
        OPS[made.name] = made
        Namespace.extra[made.name] = made.forward
        return made

    return register


def _narrowing(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`narrowing`, but for an operator that is told the dtype of its result."""
    return forward if "dtype" in inspect.signature(forward).parameters else narrowing(forward)


def operator(name: str) -> Op[Any]:
    """The operator called ``name``.

    Raises:
        KeyError: there is none.
    """
    return OPS[name]


class _Operators:
    """The ``xp`` of a gradient rule that runs on Tensors or Symbols: its attributes are the operators."""

    def __getattr__(self, name: str) -> Any:
        try:
            return OPS[name]
        except KeyError:
            raise AttributeError(
                f"no operator is called {name!r}; gradient rules may use registered ones only"
            ) from None


OPERATORS = _Operators()


class _RawOperators:
    """The ``xp`` of a gradient rule that runs on raw arrays: its attributes are the forwards of the operators.

    A rule must not see the array module itself: NumPy's ``mean`` and the operator ``mean`` differ in the last bits, and
    the tape and the gradient graph would too.
    """

    def __init__(self, xp: Namespace) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Any:
        if name not in OPS:
            raise AttributeError(f"no operator is called {name!r}; gradient rules may use registered ones only")
        op = OPS[name]
        if op.ufunc is not None:
            value = getattr(self._xp, op.ufunc)
        else:
            value = op if op.variadic else partial(op.forward, self._xp)
        setattr(self, name, value)
        return value


def rules_for(xp: Namespace) -> Any:
    """What a gradient rule on raw arrays of the namespace ``xp`` gets as its own ``xp``."""
    if xp.rules is None:
        xp.rules = _RawOperators(xp)
    return xp.rules


def spec_of(x: Any) -> Any:
    """What `Op.infer` wants for ``x``: the `Spec` of an array, Tensor or Symbol; scalars and None as they are."""
    if x is None or isinstance(x, (bool, int, float, complex, Spec)):
        return x
    if not hasattr(x, "shape"):
        x = np.asarray(x)
    return Spec(tuple(x.shape), np.dtype(x.dtype))


def _plain(value: Any) -> Any:
    """An attribute as a value that can be hashed, compared and written as JSON."""
    kind = type(value)
    if kind is int or kind is float or kind is bool or kind is str or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_plain(v) for v in value)
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if isinstance(value, (np.dtype, type)):
        return np.dtype(value).name
    if isinstance(value, np.ndarray):
        return tuple(_plain(v) for v in value.tolist())
    if isinstance(value, (int, float)):  # a subclass, such as an enum
        return value
    raise TypeError(
        f"an operator's attribute is a number, text, None or a tuple of these, not {kind.__name__}: {value!r}"
    )


def broadcast_shape(name: str, specs: Sequence[Any]) -> Shape:
    """The shape that the shapes of ``specs`` broadcast to.

    Raises:
        ShapeError: they do not; the message has ``name`` and the shapes.
    """
    shapes = [s.shape for s in specs if isinstance(s, Spec)]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ShapeError(
            f"{name}: shapes {' and '.join(map(str, shapes))} do not broadcast. "
            "Aligned at the last axis, sizes must be equal or 1."
        ) from None
