"""C source to a loaded library: found, kept, and refused with a reason."""

import ctypes
import math
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from shoal.ops.native import compiler, pool
from tests.patience import RUN_S

SUM = """
EXPORT double total(const double *x, long n) {
    double s = 0;
    for (long i = 0; i < n; i++) s += x[i];
    return s;
}
"""

needs_compiler = pytest.mark.skipif(compiler.load(SUM) is None, reason=f"no native code: {compiler.why_not()}")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of its own."""
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path))
    compiler.cache_folder.cache_clear()
    monkeypatch.setattr(compiler, "_loaded", {})
    monkeypatch.setattr(compiler, "_failure", "")
    yield tmp_path / "native"
    compiler.cache_folder.cache_clear()


def test_no_native_code_when_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_NATIVE", "0")
    assert compiler.load(SUM) is None and "SHOAL_NATIVE" in compiler.why_not()


def test_no_native_code_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_loaded", {})
    monkeypatch.setattr(compiler, "compiler", lambda: None)
    assert compiler.load(SUM) is None and "no C compiler" in compiler.why_not()


@needs_compiler
def test_a_source_is_compiled_once_and_loaded_once(elsewhere: Path) -> None:
    library = compiler.load(SUM)
    assert library is not None and compiler.load(SUM) is library
    kept = list(elsewhere.glob("*.so"))
    compiler._loaded.clear()
    assert compiler.load(SUM) is not None and list(elsewhere.glob("*.so")) == kept


@needs_compiler
def test_a_source_with_a_mistake_is_none_and_the_compiler_says_why(elsewhere: Path) -> None:
    assert compiler.load("EXPORT int f(void) { return nothing_of_the_kind; }") is None
    assert "nothing_of_the_kind" in compiler.why_not()


@needs_compiler
def test_several_sources_are_compiled_together_and_one_with_a_mistake_spoils_no_other(elsewhere: Path) -> None:
    wrong = ("EXPORT int f(void) { return nothing_of_the_kind; }", False)
    one, none, exact, again = compiler.load_all([(SUM, False), wrong, (SUM, True), (SUM, False)])
    assert None not in (one, exact) and one is not exact and again is one and none is None
    assert compiler.load(SUM) is one and len(list(elsewhere.glob("*.so"))) == 2


@needs_compiler
def test_a_broken_file_is_made_again(elsewhere: Path) -> None:
    compiler.load(SUM)
    for path in elsewhere.glob("*.so"):
        path.unlink()
        path.write_bytes(b"not a library")
    compiler._loaded.clear()
    assert compiler.load(SUM) is not None


@needs_compiler
def test_exact_code_is_another_library(elsewhere: Path) -> None:
    source = "EXPORT float madd(float a, float b, float c) { return a * b + c; }"
    exact = compiler.load(source, exact=True)
    assert exact is not None and exact is not compiler.load(source)
    exact.madd.argtypes, exact.madd.restype = [ctypes.c_float] * 3, ctypes.c_float
    a, c = np.float32(1 + 2**-12), np.float32(-(1 + 2**-11))
    assert exact.madd(a, a, c) == a * a + c  # a fused one would keep the last bit of the product


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "native").mkdir()
    (tmp_path / "native").chmod(0o777)
    monkeypatch.setenv("SHOAL_CACHE", str(tmp_path))
    compiler.cache_folder.cache_clear()
    try:
        found = compiler.cache_folder()
        assert found != tmp_path / "native" and not stat.S_IMODE(found.stat().st_mode) & 0o077
    finally:
        compiler.cache_folder.cache_clear()


def test_the_folder_keeps_the_newest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "KEPT", 3)
    for i in range(5):
        path = tmp_path / f"{i}.so"
        path.touch()
        os.utime(path, (i, i))
    compiler._trim(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("*.so")) == ["3.so", "4.so"]


def test_a_file_that_goes_while_the_folder_is_looked_through_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "KEPT", 1)
    (tmp_path / "gone.so").symlink_to(tmp_path / "nothing")  # there is a name, and nothing to be asked about
    (tmp_path / "old.so").touch()
    compiler._trim(tmp_path)
    assert not (tmp_path / "old.so").exists()


@needs_compiler
def test_a_file_that_is_used_counts_as_new(elsewhere: Path) -> None:
    compiler.load(SUM)
    (path,) = elsewhere.glob("*.so")
    os.utime(path, (1, 1))
    compiler._loaded.clear()
    compiler.load(SUM)
    assert path.stat().st_mtime > 1


@needs_compiler
def test_loading_does_not_flush_denormals() -> None:
    compiler.load(SUM)
    assert np.float32(1e-40) * np.float32(1) != 0


@needs_compiler
def test_flushing_denormals_is_asked_for() -> None:
    tiny = np.full(4, 1e-40, "float32")
    if not pool.flush_denormals():
        pytest.skip("this processor has no switch")
    try:
        assert not (tiny * np.float32(1)).any()
    finally:
        pool.flush_denormals(False)
    assert (tiny * np.float32(1)).all()


FUNCTIONS = {
    "expf": (np.exp, (-104, 95)),
    "logf": (np.log, (1e-45, 1e4)),
    "tanhf": (np.tanh, (-10, 10)),
    "erff": (np.vectorize(math.erf, otypes=[float]), (-5, 5)),
    "sigmoidf": (lambda x: 1 / (1 + np.exp(-x)), (-90, 90)),
}


@needs_compiler
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_functions_of_the_prelude_are_accurate(name: str, exact: bool) -> None:
    loop = (
        f"EXPORT void f(const float *x, float *y, long n) {{ for (long i = 0; i < n; i++) y[i] = shoal_{name}(x[i]); }}"
    )
    library = compiler.load(loop, exact=exact)
    assert library is not None
    function, (low, high) = FUNCTIONS[name]
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 1e-40, 1.0, -1.0, 3e38, -3e38, 88.72, 88.73]
    x = np.concatenate([np.linspace(low, high, 20_001), np.linspace(0.5, 1.5, 2000), special]).astype("float32")
    y = np.empty_like(x)
    library.f(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_long(x.size))
    with np.errstate(all="ignore"):
        right = function(x.astype("float64"))
        rounded = right.astype("float32")
        distance = np.abs(y.astype("float64") - right) / np.spacing(np.maximum(np.abs(rounded), np.float32(1.2e-38)))
    same = (y == rounded) | (np.isnan(y) & np.isnan(rounded))
    assert np.where(same, 0, distance).max() < 3


CHILDREN = """
import os, sys, numpy as np
from shoal.ops.native import compiler
library = compiler.load('EXPORT int seven(void) { return 7; }')
sys.exit(0 if library.seven() == 7 else 1)
"""


@needs_compiler
def test_processes_that_want_the_same_file_at_once_all_get_it(tmp_path: Path) -> None:
    env = {**os.environ, "SHOAL_CACHE": str(tmp_path)}
    running = [subprocess.Popen([sys.executable, "-c", CHILDREN], env=env) for _ in range(3)]
    assert [p.wait(RUN_S) for p in running] == [0, 0, 0]
    assert not list((tmp_path / "native").glob("building-*"))
