"""Copies past the caches: the same bytes as NumPy's, wherever they begin and end."""

import subprocess
import sys

import numpy as np
import pytest

from shoal.ops.native import compiler, prebuilt, stream
from tests.patience import RUN_S


@pytest.fixture(params=["compiled", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(stream, "_function", None)
    elif not stream.prepare():
        pytest.skip(f"no compiled code: {compiler.why_not()}")
    return str(request.param)


@pytest.mark.parametrize("size", [0, 1, 63, 8191, 8192, 8193, 100_003])
@pytest.mark.parametrize(("to", "of"), [(0, 0), (1, 0), (0, 1), (13, 7)])
def test_every_element_is_copied_and_no_other_written(way: str, size: int, to: int, of: int) -> None:
    source = np.random.default_rng(size).integers(0, 1 << 30, size + of).astype(np.int32)[of:]
    memory = np.full(size + to + 9, -1, np.int32)
    stream.copy(memory[to : to + size], source)
    assert (memory[to : to + size] == source).all()
    assert (memory[:to] == -1).all() and (memory[to + size :] == -1).all()


@pytest.mark.parametrize("start", range(0, 70, 3))
def test_bytes_may_begin_anywhere(way: str, start: int) -> None:
    source = np.random.default_rng(start).integers(0, 256, 40_000 + start, dtype=np.uint8)
    memory = np.zeros(50_000, np.uint8)
    stream.copy(memory[start : start + source.size], source)
    assert (memory[start : start + source.size] == source).all() and not memory[start + source.size :].any()


def test_what_is_not_contiguous_or_overlaps_is_copied_as_numpy_does(way: str) -> None:
    source, out = np.arange(60_000, dtype=np.float32), np.zeros(30_000, np.float32)
    stream.copy(out, source[::2])
    assert (out == source[::2]).all()
    stream.copy(source[20_000:], source[:40_000])
    assert (source[20_000:] == np.arange(40_000)).all()


def test_another_dtype_or_shape_or_memory_that_may_not_be_written_is_refused(way: str) -> None:
    big = np.zeros(20_000, np.float32)
    with pytest.raises(TypeError):
        stream.copy(big, np.zeros(20_000, np.float64))
    with pytest.raises(ValueError, match="broadcast"):
        stream.copy(big, np.zeros(20_001, np.float32))
    big.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        stream.copy(big, np.ones(20_000, np.float32))


def test_it_needs_no_thread_pool() -> None:
    code = (
        "from shoal.ops.native import pool, stream\n"
        "stream.prepare()\n"
        "assert pool.state().mode == 'none', pool.state()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=RUN_S)


def test_a_library_without_threads_is_taken_from_those_that_were_built_so(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("built")
    monkeypatch.setattr(prebuilt, "FOLDER", folder)
    prebuilt.build(folder, ["a"], (), lambda source, flags, out: out.write_text("") and "")
    found = prebuilt.candidates("a", (), prebuilt.LEVELS["x86-64-v3"], threads=False)
    assert [p.name.partition("-")[2] for p in found] == ["x86-64-v3-alone.so"]


def test_without_compiled_code_nothing_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_function", None)
    monkeypatch.setenv("SHOAL_NATIVE", "0")
    assert not stream.prepare()
