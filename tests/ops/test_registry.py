"""Declaring, calling and describing operators."""

import inspect
import json
import pathlib
import threading
from typing import Any

import numpy as np
import pytest

import shoal.np
import shoal.npx
from shoal.errors import DTypeError, ShapeError
from shoal.ops import elementwise, index, linalg, reduce, shape, specs
from shoal.ops.backend import CPU, Namespace, asnumpy, gpu_count, namespace, on_device
from shoal.ops.registry import OPERATORS, OPS, Array, Op, Spec, Traced, op, operator, rules_for, spec_of
from shoal.ops.special import erf
from shoal.ops.tensor import Tensor

F32 = np.dtype(np.float32)
assert shoal.np and shoal.npx  # imported for the operators that they register


@pytest.fixture
def registered() -> Any:
    """Forget operators that the test declares."""
    before, extra = dict(OPS), dict(Namespace.extra)
    yield
    OPS.clear()
    OPS.update(before)
    Namespace.extra.clear()
    Namespace.extra.update(extra)


def test_an_operator_is_declared_in_one_place(registered: Any) -> None:
    @op(specs.elementwise, elementwise=True)
    def halved(xp: Any, x: Array, times: int = 1) -> Any:
        """x / 2 ** times."""
        return x / 2**times

    @halved.vjp
    def _(xp: Any, g: Any, out: Any, x: Any, times: int = 1) -> Any:
        return (g / 2**times,)

    assert operator("halved") is halved and halved.name == "halved" and halved.arrays == ("x",)
    assert halved.attrs == ("times",) and halved.defaults == {"times": 1} and halved.elementwise
    assert str(inspect.signature(halved)) == "(x: Annotated[Any, 'an input of an operator'], times: int = 1) -> Any"
    assert halved.__doc__ == "x / 2 ** times." and "halved" in repr(halved)
    x = Tensor(np.ones(2))
    x.attach_grad()
    from shoal.ops import autograd

    with autograd.record():
        y = halved(x, 2)
    y.backward()
    assert y.tolist() == [0.25, 0.25] and x.grad is not None and x.grad.tolist() == [0.25, 0.25]


def test_two_operators_cannot_have_one_name(registered: Any) -> None:
    with pytest.raises(ValueError, match="two operators are called 'add'"):

        @op(specs.same)
        def add(xp: Any, x: Array) -> Any:
            """x."""
            return x


def test_arrays_in_give_arrays_out_and_tensors_tensors() -> None:
    assert type(elementwise.exp(np.ones(2))) is np.ndarray
    assert type(elementwise.exp(Tensor(np.ones(2)))) is Tensor
    assert type(elementwise.add(np.ones(2), Tensor(np.ones(2)))) is Tensor


class Wish(Traced):
    """Something of a higher rank than tensors, which notes what is wanted of it."""

    _rank = 9

    @classmethod
    def _invoke(cls, op: Op[Any], inputs: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
        return op.name, inputs, attrs


def test_the_kind_of_the_highest_rank_is_asked() -> None:
    w, t = Wish(), Tensor(np.ones(2))
    assert reduce.sum_(w, 0) == ("sum", (w,), {"axis": 0})
    assert elementwise.add(t, w) == ("add", (t, w), {})
    assert linalg.fully_connected(t, w) == ("fully_connected", (t, w, None), {})


def test_positional_and_keyword_arguments_are_sorted_into_inputs_and_attributes() -> None:
    w = Wish()
    calls = [
        linalg.fully_connected(w, 1, None, False),
        linalg.fully_connected(w, 1, flatten=False),
        linalg.fully_connected(w, weight=1, flatten=False),
    ]
    assert calls == [("fully_connected", (w, 1, None), {"flatten": False})] * 3
    assert shape.concatenate([w, 2], 1) == shape.concatenate(w, 2, axis=1) == ("concatenate", (w, 2), {"axis": 1})
    assert shape.concatenate((w, 2)) == ("concatenate", (w, 2), {})


def test_attributes_can_be_hashed_and_written_as_json() -> None:
    given = {
        "shape": [np.int64(2), 3],
        "dtype": np.float32,
        "axis": np.array([0, 1]),
        "flag": np.bool_(True),
        "nested": [[1, 2.5], None, "x"],
    }
    plain = {name: OPS["reshape"].bind((Wish(),), {"shape": v})[1]["shape"] for name, v in given.items()}
    assert plain == {
        "shape": (2, 3),
        "dtype": "float32",
        "axis": (0, 1),
        "flag": True,
        "nested": ((1, 2.5), None, "x"),
    }
    hash(tuple(plain.values()))
    json.dumps(plain)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: reduce.sum_(Wish(), 0, False, 3), "positional arguments"),
        (lambda: reduce.sum_(Wish(), axs=0), "'axs'"),
        (lambda: reduce.sum_(Wish(), 0, axis=0), "'axis'"),
        (lambda: linalg.matmul(Wish()), "without y"),
        (lambda: shape.reshape(Wish()), "without shape"),
        (lambda: shape.reshape(Wish(), {1}), "set"),
    ],
)
def test_arguments_that_do_not_fit_are_named(use: Any, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        use()
    assert words in str(caught.value)


def test_infer_takes_specs_numbers_and_none() -> None:
    assert OPS["add"].infer(Spec((3, 1), F32), 2.0) == Spec((3, 1), F32)
    assert OPS["add"].infer(Spec((3, 1), F32), Spec((4,), np.dtype(np.int32))) == Spec((3, 4), np.dtype(np.float64))
    connected = OPS["fully_connected"].infer(Spec((5, 2, 3), F32), Spec((4, 6), F32), None)
    assert connected == Spec((5, 4), F32) and connected.ndim == 2
    assert OPS["concatenate"].infer(Spec((1, 2), F32), Spec((3, 2), F32)) == Spec((4, 2), F32)


def test_infer_takes_no_memory_for_large_shapes() -> None:
    huge = Spec((10**6, 10**6), F32)
    assert OPS["matmul"].infer(huge, huge) == huge
    assert OPS["getitem"].infer(huge, key=((None, None, 2), 0)) == Spec((500_000,), F32)
    assert OPS["sum"].infer(huge, axis=0) == Spec((10**6,), F32)


@pytest.mark.parametrize(
    ("name", "inputs", "attrs", "error"),
    [
        ("add", [(2,), (3,)], {}, ShapeError),
        ("matmul", [(2, 3), (2, 3)], {}, ShapeError),
        ("matmul", [(), (2, 3)], {}, ShapeError),
        ("fully_connected", [(2, 3), (4, 5), None], {}, ShapeError),
        ("fully_connected", [(2, 3), (4, 3), (3,)], {}, ShapeError),
        ("convolution", [(2, 3, 8, 8), (4, 2, 3, 3), None], {}, ShapeError),
        ("convolution", [(2, 3, 8, 8), (4, 3, 9, 9), None], {}, ShapeError),
        ("convolution", [(2, 3, 8, 8), (4, 3, 3, 3), (3,)], {}, ShapeError),
        ("convolution", [(2, 3), (4, 3), None], {}, ShapeError),
        ("convolution_data", [(2, 4, 9, 9), (4, 3, 3, 3)], {"space": (4, 4)}, ShapeError),
        ("convolution_weight", [(2, 4, 9, 9), (2, 3, 4, 4)], {"kernel": (3, 3)}, ShapeError),
        ("max_pool", [(2, 3, 4, 4)], {"kernel": 5}, ShapeError),
        ("max_pool", [(2, 3, 4, 4)], {"kernel": 2, "pad": 2}, ShapeError),
        ("batch_norm", [(2, 3, 4), (4,), (3,)], {}, ShapeError),
        ("softmax", [(2, 3)], {"axis": 2}, ShapeError),
        ("softmax_cross_entropy", [(2, 3), (2,)], {}, DTypeError),
        ("concatenate", [(2, 3), (2, 4)], {}, ShapeError),
        ("concatenate", [], {}, ShapeError),
        ("stack", [(2, 3), (2, 4)], {}, ShapeError),
        ("sum_to", [(2, 3)], {"shape": (4,)}, ShapeError),
        ("pad", [(2, 3)], {"pad_width": ((1, 1),)}, ShapeError),
        ("tril", [(3,)], {}, ShapeError),
        ("topk", [(2, 3)], {"k": 4}, ShapeError),
        ("take", [(2, 3), (2,)], {}, DTypeError),
        ("one_hot", [(2,)], {"depth": 3}, DTypeError),
        ("contract", [(2, 3)], {"subscripts": "ii->i"}, ShapeError),
        ("contract", [(2, 3), (4,)], {"subscripts": "ab,b->a"}, ShapeError),
        ("inv", [(2, 3)], {}, ShapeError),
        ("solve", [(2, 2), (3, 1)], {}, ShapeError),
        ("prelu", [(2, 3, 4), (4,)], {}, ShapeError),
        ("moveaxis", [(2, 3)], {"source": (0, 1), "destination": 0}, ShapeError),
        ("take_along_axis", [(2, 3), (2, 3)], {"axis": 0}, DTypeError),
    ],
)
def test_infer_refuses_what_does_not_fit_and_names_the_operator(
    name: str, inputs: list[Any], attrs: dict[str, Any], error: type[Exception]
) -> None:
    given = [None if s is None else Spec(s, F32) for s in inputs]
    with pytest.raises(error, match=f"^{name if not name.startswith('contract') else 'einsum'}|^convolution|^prelu"):
        OPS[name].infer(*given, **attrs)


def test_eager_calls_raise_what_infer_raises() -> None:
    x = Tensor(np.ones((2, 3), np.float32))
    with pytest.raises(ShapeError, match="fully_connected: x of shape"):
        linalg.fully_connected(x, Tensor(np.ones((4, 5), np.float32)))
    with pytest.raises(DTypeError, match="take: indices must be integers"):
        index.take(x, x)


def test_gradient_rules_see_operators_only() -> None:
    assert OPERATORS.exp is OPS["exp"] and rules_for(CPU) is rules_for(CPU)
    assert rules_for(CPU).exp is np.exp
    for xp in (OPERATORS, rules_for(CPU)):
        with pytest.raises(AttributeError, match="no operator is called 'fft'"):
            _ = xp.fft


def test_cotangents_undo_broadcasting_and_promotion_where_they_are_needed() -> None:
    x, y = np.ones((3, 1), np.float32), np.ones(4)
    found = OPS["multiply"].cotangents(rules_for(CPU), np.ones((3, 4)), x * y, [x, y], {}, [True, False])
    assert found[0].shape == (3, 1) and found[0].dtype == np.float32 and found[1] is None


def test_cotangents_that_nobody_needs_are_not_computed(registered: Any) -> None:
    def never() -> Any:
        raise AssertionError("computed")

    @op(specs.elementwise)
    def first(xp: Any, x: Array, y: Array) -> Any:
        """x."""
        return x + 0 * y

    @first.vjp
    def _(xp: Any, g: Any, out: Any, x: Any, y: Any) -> Any:
        return g, never

    one = np.ones(2)
    assert first.cotangents(rules_for(CPU), one, one, [one, one], {}, [True, False])[1] is None
    assert first.cotangents(rules_for(CPU), one, one, [one, one], {}, [False, False]) == [None, None]


def test_spec_of_describes_arrays_and_keeps_numbers() -> None:
    assert spec_of(np.ones((2, 3), np.float32)) == spec_of(Tensor(np.ones((2, 3), np.float32))) == Spec((2, 3), F32)
    assert spec_of(2.0) == 2.0 and spec_of(None) is None and spec_of([1, 2]).shape == (2,)


# -- backends


def test_numpy_is_the_namespace_of_numpy_arrays_and_numbers() -> None:
    assert namespace(np.ones(2), 1.0, None) is CPU and Tensor(np.ones(2)).backend is CPU
    assert CPU.exp is np.exp and CPU.sum_to(np.ones((2, 3)), (3,)).tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(AttributeError, match="numpy has no 'nonsense'"):
        _ = CPU.nonsense


def test_without_a_gpu_arrays_stay_in_host_memory() -> None:
    x = np.ones(2)
    assert on_device(x, "cpu") is x and asnumpy(x) is x and gpu_count() >= 0


def test_only_the_backend_and_the_room_of_gpus_import_cupy() -> None:
    folder = pathlib.Path(inspect.getfile(Op)).parent
    users = [p for p in folder.rglob("*.py") if "import cupy" in p.read_text() and p.parent.name != "gpu"]
    assert [p.name for p in users] == ["backend.py"]


def test_the_dispatch_state_is_the_threads_own() -> None:
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda i=i: results.append(elementwise.add(i, Tensor(np.ones(1))).item()))
        for i in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(results) == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 5e-16), (np.float32, 2e-7), (np.float16, 1e-3)])
def test_erf_is_as_accurate_as_its_dtype(dtype: Any, error: float) -> None:
    import math

    x = np.concatenate([np.linspace(-7, 7, 4001), [-np.inf, np.inf, 0.0, 1.0, -1.0]]).astype(dtype)
    expected = np.array([math.erf(v) for v in x.tolist()])
    assert np.abs(erf(x) - expected).max() < error and erf(x).dtype == dtype
    assert np.isnan(erf(np.array([np.nan]))).all()
