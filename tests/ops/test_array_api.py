"""The Python array API standard 2024.12: every function is there, takes its parameters, and makes what it should."""

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal import autograd
from shoal.errors import ConfigError, ShapeError
from shoal.ops import array_api as xp
from shoal.ops.tensor import Tensor
from tests.ops.array_api_names import (
    METHODS,
    REAL,
    SIGNATURES,
    WHOLE,
    found,
    same,
)


@pytest.mark.parametrize("text", SIGNATURES)
def test_a_function_has_the_parameters_of_the_standard(text: str) -> None:
    name, _, rest = text.partition("(")
    names: dict[str, Any] = {}
    kinds: list[Any] = []
    keyword = "/" not in rest and "*" not in rest
    assert isinstance(keyword, bool)
    parameters = inspect.signature(found(name)).parameters.values()
    mode = "plain"
    parts = [p.strip() for p in rest.rstrip(")").split(",") if p.strip()]
    positional = parts.index("/") if "/" in parts else 0
    for i, part in enumerate(parts):
        if part == "*":
            mode = "keyword"
        elif part != "/":
            p, _, default = part.partition("=")
            if p.startswith("*"):
                kind, mode = inspect.Parameter.VAR_POSITIONAL, "keyword"
            elif i < positional:
                kind = inspect.Parameter.POSITIONAL_ONLY
            else:
                kind = inspect.Parameter.KEYWORD_ONLY if mode == "keyword" else inspect.Parameter.POSITIONAL_OR_KEYWORD
            kinds.append(kind)
            names[p.lstrip("*")] = {"None": None, "True": True, "False": False}.get(default, default.strip("'"))
    ours = list(parameters)
    assert [p.name for p in ours] == list(names)
    for p, kind, (_, default) in zip(ours, kinds, names.items(), strict=True):
        assert p.kind == kind
        given = inspect.Parameter.empty if default == "" else default
        assert p.default is given or str(p.default) == str(given)


def test_the_namespace_has_the_standard_and_nothing_else_is_listed() -> None:
    names = {s.partition("(")[0] for s in SIGNATURES}
    constants = {"e", "inf", "nan", "newaxis", "pi", "__array_api_version__", "linalg", "fft"}
    dtypes = {"bool", *REAL, *WHOLE, "complex64", "complex128", "finfo_object", "iinfo_object"}
    assert {n for n in names if "." not in n} | constants | dtypes == set(xp.__all__)
    for part in ("linalg", "fft"):
        assert {n.partition(".")[2] for n in names if n.startswith(part)} == set(getattr(xp, part).__all__)
    assert len(set(xp.__all__)) == len(xp.__all__)


def test_an_array_has_what_the_standard_asks_of_it() -> None:
    x = xp.ones((2, 3))
    assert [m for m in METHODS if not hasattr(x, f"__{m}__")] == []
    assert (x.dtype, x.device, x.ndim, x.shape, x.size) == (xp.float32, "cpu", 2, (2, 3), 6)
    assert x.T.shape == x.mT.shape == (3, 2) and x.to_device("cpu", stream=None) is x
    assert x.__array_namespace__() is x.__array_namespace__(api_version="2024.12") is xp
    with pytest.raises(ConfigError, match=r"1999\.12"):
        x.__array_namespace__(api_version="1999.12")


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (True, "bool"),
        (3, "int64"),
        (3.0, "float32"),
        (3j, "complex64"),
        ([1, 2], "int64"),
        ([1, 2.5], "float32"),
        ([[True], [False]], "bool"),
        (np.ones(2), "float64"),
        (np.float64(2.0), "float64"),
        ([np.int8(1)], "int8"),
        (b"\x01\x02", "uint8"),
    ],
)
def test_python_numbers_have_the_default_dtypes(value: Any, dtype: str) -> None:
    made = xp.asarray(np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value)
    assert isinstance(made, Tensor) and made.dtype == dtype
    if isinstance(value, (bool, int, float, complex)):
        assert xp.full((2,), value).dtype == dtype


def test_asarray_copies_when_it_must_or_is_told_to() -> None:
    values, x = np.ones(3), xp.ones(3)
    assert np.shares_memory(xp.asarray(values).data, values) and xp.asarray(x) is x
    assert not np.shares_memory(xp.asarray(values, copy=True).data, values)
    assert xp.asarray(x, copy=True) is not x and xp.asarray(x, copy=False) is x
    assert xp.asarray([x, x]).shape == (2, 3)
    for bad in (lambda: xp.asarray([1], copy=False), lambda: xp.asarray(x, dtype=xp.int8, copy=False),
                lambda: xp.asarray(values, dtype=xp.int8, copy=False)):  # fmt: skip
        with pytest.raises(ValueError, match="copy"):
            bad()


def test_other_ways_to_make_arrays() -> None:
    assert xp.arange(3).dtype == xp.int64 and xp.arange(3.0).dtype == xp.float32
    assert xp.arange(1, 7, 2, dtype=xp.float64).tolist() == [1.0, 3.0, 5.0]
    same(xp.linspace(0, 1, 5), np.linspace(0, 1, 5, dtype="f4"))
    same(xp.linspace(0, 1, num=4, endpoint=False, dtype=xp.float64), np.linspace(0, 1, 4, endpoint=False))
    same(xp.eye(2, 3, k=1), np.eye(2, 3, 1, "f4"))
    same(xp.zeros((2, 0)), np.zeros((2, 0), "f4"))
    same(xp.ones(2, dtype=xp.bool), np.ones(2, bool))
    assert xp.empty((2, 3), device="cpu").shape == (2, 3)
    assert xp.from_dlpack(np.ones(2)).tolist() == [1.0, 1.0]
    assert xp.asarray(xp.asarray(True) | False).dtype == xp.bool


def test_astype_copies_unless_told_not_to() -> None:
    x = xp.ones(2)
    assert xp.astype(x, xp.float32) is not x and xp.astype(x, xp.float32, copy=False) is x
    assert xp.astype(x, xp.bool, device="cpu").dtype == xp.bool


def test_the_namespace_describes_itself() -> None:
    info = xp.__array_namespace_info__()
    assert info.default_device() == "cpu" and "cpu" in info.devices()
    assert info.capabilities() == {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}
    assert info.default_dtypes()["real floating"] == xp.float32 and info.default_dtypes()["indexing"] == xp.int64
    assert set(info.dtypes(kind="signed integer")) == {"int8", "int16", "int32", "int64"}
    assert set(info.dtypes(kind=("bool", "real floating"), device="cpu")) == {"bool", "float32", "float64"}
    assert len(info.dtypes()) == 13
    with pytest.raises(ConfigError, match="tpu"):
        info.dtypes(device="tpu")


def test_dtypes_are_described() -> None:
    f = xp.finfo(xp.float32)
    assert (f.bits, f.eps, f.dtype, f.smallest_normal) == (32, 2.0**-23, xp.float32, 2.0**-126)
    assert xp.finfo(xp.complex128).max == xp.finfo(xp.ones(1, dtype=xp.float64)).max
    assert (xp.iinfo(xp.uint8).max, xp.iinfo(xp.int16).min, xp.iinfo(xp.int32).bits) == (255, -32768, 32)
    assert xp.can_cast(xp.int8, xp.int16) and not xp.can_cast(xp.ones(1), xp.int64)
    assert xp.isdtype(xp.uint8, ("unsigned integer", xp.bool)) and not xp.isdtype(xp.float32, "integral")
    assert xp.result_type(xp.int8, 3, xp.float32) == xp.float32


@settings(max_examples=60)
@given(st.data())
def test_subscripts_of_the_standard(data: Any) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))
    values = np.arange(float(np.prod(shape, dtype=int))).reshape(shape)
    x = Tensor(values)
    key = data.draw(st.one_of(hnp.basic_indices(shape, allow_newaxis=True), hnp.arrays(bool, shape)))
    np.testing.assert_array_equal(x[Tensor(key) if isinstance(key, np.ndarray) else key].asnumpy(), values[key])


def test_everything_of_it_keeps_the_tape() -> None:
    x = xp.asarray([[1.0, 2.0], [3.0, 4.0]])
    x.attach_grad()
    with autograd.record():
        n = x.__array_namespace__()
        out = n.sum(n.linalg.inv(x) * n.take(n.exp(x), n.asarray([1, 0]), axis=0))
    out.backward()
    assert x.grad is not None and x.grad.asnumpy().all()


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda: xp.take(xp.ones((2, 2)), xp.asarray([0])), ShapeError, "axis="),
        (lambda: xp.nonzero(xp.asarray(1.0)), ShapeError, "without axes"),
        (lambda: xp.reshape(xp.ones((2, 3)).T, (6,), copy=False), ValueError, "copy"),
    ],
)
def test_what_the_standard_forbids_is_refused(use: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        use()
