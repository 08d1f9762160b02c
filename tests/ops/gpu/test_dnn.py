"""Convolution and attention by cuDNN: what the library is told, against a model of it that computes on the CPU."""

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.ops.backend import CPU
from shoal.ops.gpu import dnn, emulate
from shoal.ops.gpu.dnn import Attention, Dnn, why_not_attention
from shoal.ops.gpu.kernels import products, table
from shoal.ops.gpu.kernels.table import In, lies_last
from shoal.ops.gpu.plans import PlanFolder, folder_of
from shoal.ops.graph.executor import Program
from shoal.ops.graph.gradient import gradients
from shoal.ops.graph.symbol import flatten, variable
from shoal.ops.precision import BFLOAT16
from shoal.ops.registry import OPS, Spec, rules_for
from tests.ops.gpu import fake_cudnn
from tests.ops.gpu.running import HALVES, close, drawn, wide

XP = emulate.NAMESPACE


@pytest.fixture
def engine() -> Iterator[Dnn]:
    fake_cudnn.log.clear()
    table._bound.clear()
    made = Dnn(fake_cudnn, lambda size: SimpleNamespace(ptr=1000 + size))
    dnn._installed.append(made)
    yield made
    dnn._installed.remove(made)
    table._bound.clear()


GEOMETRIES: list[tuple[Any, Any, dict[str, Any]]] = [
    ((2, 3, 8, 7), (4, 3, 3, 3), {"pad": 1}),
    ((1, 4, 9, 9), (2, 4, 3, 2), {"stride": (2, 1), "pad": (1, 0), "dilate": (1, 2)}),
    ((3, 2, 5, 5), (6, 2, 1, 1), {}),
]


@pytest.mark.parametrize("dtype", [np.float32, *HALVES])
@pytest.mark.parametrize(("shape", "filters", "attrs"), GEOMETRIES)
def test_convolution_and_its_gradients_are_told_with_channels_last(
    engine: Dnn, dtype: Any, shape: Any, filters: Any, attrs: dict[str, Any]
) -> None:
    x, w, bias = drawn(shape, dtype), drawn(filters, dtype, seed=1), drawn(filters[:1], dtype, seed=2)
    y = OPS["convolution"].forward(XP, x, w, bias, **attrs)
    close(y, OPS["convolution"].plain(CPU, wide(x), wide(w), wide(bias), **attrs), 2.0)
    assert lies_last(y)
    g = drawn(y.shape, dtype, seed=3)
    for name, first, second, more in [
        ("convolution_data", g, w, {"space": shape[2:]}),
        ("convolution_weight", g, x, {"kernel": filters[2:]}),
    ]:
        found = OPS[name].forward(XP, first, second, **more, **attrs)
        close(found, OPS[name].plain(CPU, wide(first), wide(second), **more, **attrs), 2.0)
        assert lies_last(found)
    built = [e for e in fake_cudnn.log if "build" in e]
    assert built == ["build exactly" if dtype == np.float32 else "build"] * 3


def test_a_plan_is_built_once_and_run_on_the_given_stream(engine: Dnn) -> None:
    x, w = drawn((1, 2, 4, 4), np.float32), drawn((3, 2, 3, 3), np.float32)
    for _ in range(3):
        OPS["convolution"].forward(XP, x, w)
    assert fake_cudnn.log == ["handle", ("stream", 0), "build exactly", *[("execute", 1110)] * 3]


def test_float32_is_exact_unless_tf32_is_asked_for_and_each_has_a_plan(engine: Dnn) -> None:
    x, w = drawn((1, 2, 4, 4), np.float32), drawn((3, 2, 3, 3), np.float32)
    half = [a.astype(np.float16) for a in (x, w)]
    assert products.get_float32_matmul_precision() == "highest"
    try:
        for precision in ("highest", "high", "highest", "high"):
            products.set_float32_matmul_precision(precision)
            OPS["convolution"].forward(XP, x, w)
            OPS["convolution"].forward(XP, *half)
    finally:
        products.set_float32_matmul_precision("highest")
    assert [e for e in fake_cudnn.log if "build" in e] == ["build exactly", "build", "build"]


def test_plans_are_read_back_from_the_disk_for_the_same_machine_only(tmp_path: Path) -> None:
    x, w = drawn((1, 2, 4, 4), np.float32), drawn((3, 2, 3, 3), np.float32)

    def built(machine: str, folder: Path = tmp_path) -> tuple[list[Any], bytes]:
        fake_cudnn.log.clear()
        table._bound.clear()
        made = Dnn(fake_cudnn, lambda size: SimpleNamespace(ptr=1000 + size), PlanFolder(folder, (machine, 13000)))
        dnn._installed.append(made)
        try:
            y = OPS["convolution"].forward(XP, x, w)
        finally:
            dnn._installed.remove(made)
            table._bound.clear()
        return [e for e in fake_cudnn.log if e in ("build exactly", "deserialize")], y.tobytes()

    first, bits = built("H200")
    assert first == ["build exactly"] and built("H200") == (["deserialize"], bits)
    assert built("B200")[0] == ["build exactly"]
    (plan, other) = sorted(tmp_path.glob("*.plan"))
    for raw in (b"", b"x" * 40):  # damaged: not given to the library
        plan.write_bytes(raw)
        other.write_bytes(raw)
        assert built("H200") == (["build exactly"], bits)
    folder = PlanFolder(tmp_path, ("H200", 13000))
    c = dnn.Convolution(x.shape, w.shape, (1, 3, 2, 2), (1, 1), (0, 0), (1, 1), np.dtype(np.float32))
    folder.write(("forward", c), b"nonsense")  # whole, and refused by the library
    assert built("H200") == (["build exactly"], bits) and built("H200")[0] == ["deserialize"]


def test_a_folder_that_cannot_be_written_to_is_told_and_does_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    folder = PlanFolder(tmp_path / "file", ())
    with caplog.at_level("WARNING", "shoal.gpu"):
        folder.write("a", b"plan")
    assert folder.read("a") is None and "a plan cannot be kept" in caplog.text


def test_the_folder_of_plans_is_asked_for_and_named_by_gpu_driver_and_libraries(
    tmp_path: Path,
) -> None:
    found = {"name": b"H200", "major": 9, "minor": 0, "multiProcessorCount": 132}
    drivers = [13000]
    runtime = SimpleNamespace(getDeviceProperties=lambda i: found, driverGetVersion=lambda: drivers[-1])
    xp = SimpleNamespace(module=SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    versions = [91900]
    cudnn = SimpleNamespace(backend_version=lambda: versions[-1], __version__="1.32.0")
    assert folder_of(xp, cudnn, 0, "") is None

    def path() -> Path:
        folder = folder_of(xp, cudnn, 0, str(tmp_path))
        assert folder is not None
        return folder.path("key")

    paths = [path()]
    drivers.append(13010)
    paths.append(path())
    versions.append(92000)
    paths.append(path())
    found["name"] = b"H100"
    paths.append(path())
    assert len(set(paths)) == 4 and path() == paths[-1]


def test_what_cudnn_does_not_take_stays_with_the_array_namespace(engine: Dnn) -> None:
    f4, f8 = np.dtype(np.float32), np.dtype(np.float64)
    for x, w, attrs in [
        (In((1, 4, 5, 5), f4), In((4, 1, 3, 3), f4), {"num_group": 4}),
        (In((1, 4, 5), f4), In((4, 4, 3), f4), {}),
        (In((1, 4, 5, 5), f8), In((4, 4, 3, 3), f8), {}),
    ]:
        assert table.bound(XP, "convolution", [x, w, None], attrs) is None
    with table.using("-dnn"):
        x, w = In((1, 4, 5, 5), f4), In((4, 4, 3, 3), f4)
        assert table.bound(XP, "convolution", [x, w, None], {}) is None


def asked(s: int = 128, d: int = 64, dtype: Any = BFLOAT16, causal: bool = True, keys: int = 0) -> Attention:
    strides = dnn._rows((2, 3, s, d))
    return Attention((2, 3, s, d), (2, 3, keys or s, d), strides, strides, strides, np.dtype(dtype), causal, 0.125)


def test_attention_goes_to_cudnn_only_in_the_forms_that_were_clean() -> None:
    assert why_not_attention(asked()) == "" and why_not_attention(asked(keys=256, causal=False)) == ""
    assert "mask of its own" in why_not_attention(asked(), masked=True)
    assert "multiples of 128" in why_not_attention(asked(s=192)) and "multiples" in why_not_attention(asked(s=1))
    assert "different numbers" in why_not_attention(asked(keys=256))
    assert "half precision" in why_not_attention(asked(dtype=np.float32))
    assert "width" in why_not_attention(asked(d=60)) and "width" in why_not_attention(asked(d=256))
    assert "not dense" in why_not_attention(asked()._replace(q_stride=(1, 1, 1, 2)))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_takes_queries_keys_and_values_where_they_lie_and_gives_its_sums(engine: Dnn, causal: bool) -> None:
    packed = drawn((1, 128, 3, 2, 16), np.float16, scale=1.0)
    q, k, v = (packed[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    out, total = OPS["attention"].forward(XP, q, k, v, causal=causal)
    assert fake_cudnn.log[-1][0] == "execute"
    expected = OPS["attention"].plain(CPU, *(wide(t) for t in (q, k, v)), causal=causal)
    close(out, expected[0])
    close(total, expected[1])


def test_the_gradients_of_attention_are_told_in_its_own_names(engine: Dnn) -> None:
    q, k, v, g = (drawn((1, 2, 128, 8), np.float16, seed=i, scale=1.0) for i in range(4))
    out, total = OPS["attention"].forward(XP, q, k, v, causal=True)
    a = asked()._replace(queries=q.shape, keys=q.shape, dtype=q.dtype, scale=8**-0.5)
    a = a._replace(**dict.fromkeys(("q_stride", "k_stride", "v_stride"), dnn._rows(q.shape)))
    found = [np.empty_like(q) for _ in range(3)]
    names = (dnn.Q, dnn.K, dnn.V, dnn.OUT, dnn.TOTAL, dnn.DOUT, dnn.DQ, dnn.DK, dnn.DV)
    arrays = (q, k, v, out, total, g, *found)
    engine.attend("gradient", a, {n: x.ctypes.data for n, x in zip(names, arrays, strict=True)}, 0)
    s = wide(q) @ wide(k).swapaxes(-1, -2) / math.sqrt(8)
    p = np.exp(np.where(np.tri(128, dtype=bool), s, -np.inf))
    p /= p.sum(-1, keepdims=True)
    close(found[2], p.swapaxes(-1, -2) @ wide(g), 2.0)
    slope = p * (wide(g) @ wide(v).swapaxes(-1, -2) - (wide(g) * (p @ wide(v))).sum(-1, keepdims=True)) / math.sqrt(8)
    close(found[0], slope @ wide(k), 4.0)
    close(found[1], slope.swapaxes(-1, -2) @ wide(q), 4.0)


@pytest.mark.parametrize("hybrid", [False, True])
def test_autograd_calls_the_backward_plan_with_what_the_forward_plan_kept(engine: Dnn, hybrid: bool) -> None:
    q, k, v, g = (drawn((1, 2, 128, 8), np.float16, seed=i, scale=1.0) for i in range(4))
    arguments = [variable(n, Spec(q.shape, q.dtype)) for n in ("q", "k", "v", "g")]
    out, total = OPS["attention"](*arguments[:3], causal=True)
    if hybrid:
        grads = gradients([out, total], [arguments[3], None], arguments[:3])
        found = Program(flatten([out, *grads], arguments)[0], XP, planned=False)(q, k, v, g)[1:]
    else:
        results = OPS["attention"].forward(XP, q, k, v, causal=True)
        found = [
            x() if callable(x) else x
            for x in OPS["attention"].rule(rules_for(XP), (g, None), results, q, k, v, causal=True)[:3]
        ]
    assert [e[0] for e in fake_cudnn.log if isinstance(e, tuple)].count("execute") == 2
    expected = OPS["attention_grad"].plain(
        CPU,
        wide(g),
        *OPS["attention"].plain(CPU, *map(wide, (q, k, v)), causal=True),
        *map(wide, (q, k, v)),
        causal=True,
    )
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float16
        close(a, b, 4.0)


def test_gradients_of_an_attention_that_cudnn_does_not_take_are_those_of_the_array_namespace(engine: Dnn) -> None:
    q, g = drawn((1, 2, 100, 8), np.float16), drawn((1, 2, 100, 8), np.float16, seed=1)
    out, total = OPS["attention"].forward(XP, q, q, q)
    found = OPS["attention_grad"].forward(XP, g, out, total, q, q, q)
    assert not [e for e in fake_cudnn.log if "build" in e]
    for a, b in zip(found, OPS["attention_grad"].plain(CPU, g, out, total, q, q, q), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_attention_of_another_form_is_refused_by_name(engine: Dnn) -> None:
    with pytest.raises(ConfigError, match="not multiples of 128"):
        engine.attend("forward", asked(s=100), {}, 0)
    q = drawn((1, 2, 100, 8), np.float16)
    before = len(fake_cudnn.log)
    OPS["attention"].forward(XP, q, q, q)
    assert len(fake_cudnn.log) == before  # the operator's own forward


def test_the_properties_of_a_gpu_are_cudnns_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(serialize=lambda: '{"deviceVer": 900}')
    monkeypatch.setattr(dnn, "_module", lambda: SimpleNamespace(create_device_properties=lambda index: made))
    assert dnn.described(0) == '{"deviceVer": 900}'
    monkeypatch.setattr(dnn, "_module", lambda: None)
    assert dnn.described(0) == ""


def test_without_cudnn_there_are_no_kernels() -> None:
    if dnn._module() is None:
        x = In((1, 4, 5, 5), np.dtype(np.float32))
        assert table.bound(XP, "convolution", [x, In((4, 4, 3, 3), x.dtype), None], {}) is None
