"""Kernels that were compiled when the package was built."""

import platform
from pathlib import Path

import pytest

from shoal.ops.native import compiler, prebuilt

V3 = sorted(prebuilt.LEVELS["x86-64-v3"])
V4 = sorted(prebuilt.LEVELS["x86-64-v4"])
SOURCE = "EXPORT int seven(void) { return 7; }"
FLAGS = compiler.COMMON + compiler.EXACT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path)
    monkeypatch.setattr(compiler, "_loaded", {})
    return tmp_path


def pretend(source: str, flags: tuple[str, ...], out: Path) -> str:
    """A compiler that cannot do AVX-512."""
    if "-march=x86-64-v4" in flags:
        return "unknown instructions"
    out.write_text(" ".join(flags))
    return ""


def test_each_source_is_built_for_each_set_of_instructions_with_and_without_openmp(folder: Path) -> None:
    assert prebuilt.build(folder, ["a", "b"], ("-O3",), pretend) == 4
    assert {p.name.partition("-")[2] for p in folder.iterdir()} == {"x86-64-v3-team.so", "x86-64-v3-alone.so"}
    assert sum("-fopenmp " in p.read_text() + " " for p in folder.iterdir()) == 2


def test_a_processor_gets_the_best_that_it_can_run(folder: Path) -> None:
    prebuilt.build(folder, ["a"], (), lambda source, flags, out: out.write_text("") and "")
    names = [p.name.partition("-")[2] for p in prebuilt.candidates("a", (), V4)]
    assert names == [f"x86-64-{v}-{kind}.so" for kind in ("team", "alone") for v in ("v4", "v3")]
    assert [p.name.partition("-")[2][7:9] for p in prebuilt.candidates("a", (), V3)] == ["v3", "v3"]
    assert prebuilt.candidates("a", (), ["sse2"]) == []


def test_what_was_built_from_another_source_or_with_other_flags_is_not_taken(folder: Path) -> None:
    prebuilt.build(folder, ["a"], (), pretend)
    assert prebuilt.candidates("b", (), V3) == prebuilt.candidates("a", ("-O0",), V3) == []
    assert len(prebuilt.candidates("a", (), V3)) == 2


def test_every_fixed_source_is_there() -> None:
    assert all(compiler.text(f"{name}.c") for name in prebuilt.FIXED)


@pytest.mark.skipif(platform.machine() != "x86_64" or compiler.compiler() is None, reason="needs a compiler for x86-64")
def test_without_a_compiler_what_was_built_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = compiler.compiler()
    assert maker is not None
    if not prebuilt.level(compiler._processor().split()):
        pytest.skip("an old processor")
    prebuilt.build(folder, [compiler.prelude() + SOURCE], FLAGS, maker.build)
    monkeypatch.setattr(compiler, "compiler", lambda: None)
    library = compiler.load(SOURCE, exact=True)
    assert library is not None and library.seven() == 7
    assert compiler.load(SOURCE) is None and "no C compiler" in compiler.why_not()
