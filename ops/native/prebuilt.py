"""The fixed kernels as they were compiled when the package was built; see setup.py. Needs the standard library alone.

Each source is built for several sets of instructions, with OpenMP and without. A file's name says of what it is made,
so that one that belongs to another version of the source is never taken.
"""

import hashlib
import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["FIXED", "LEVELS", "build", "candidates", "level"]

FIXED = ("elementwise", "gemm", "norm", "pieces", "pool", "random", "recurrent", "rows", "sparse", "stream", "sums")
"""C files of this package that are compiled as they are, exactly."""

_V3 = {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}
LEVELS = {"x86-64-v4": _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, "x86-64-v3": _V3}
"""Sets of instructions, best first, by the names that compilers have for them; what /proc/cpuinfo calls them."""

FOLDER = Path(__file__).with_name("built")


def level(processor: Collection[str]) -> list[str]:
    """The sets that a processor has."""
    return [name for name, needed in LEVELS.items() if needed <= set(processor)]


def candidates(source: str, flags: Collection[str], processor: Collection[str], threads: bool = True) -> list[Path]:
    """Files that were built from ``source`` with ``flags`` and run on this processor, best first.

    Args:
        threads: not only those without OpenMP.
    """
    folder = FOLDER
    if not folder.is_dir():
        return []
    kinds = ("team", "alone") if threads else ("alone",)
    names = [f"{_key(source, flags)}-{name}-{kind}.so" for kind in kinds for name in level(processor)]
    return [folder / name for name in names if (folder / name).is_file()]


def build(
    folder: Path,
    sources: Collection[str],
    flags: tuple[str, ...],
    compile_: Callable[[str, tuple[str, ...], Path], str],
) -> int:
    """Compile each source for every set of instructions; how many files were made.

    Args:
        compile_: (source, flags, file) to the empty text, or what is wrong; what cannot be compiled is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def one(job: tuple[str, str, str]) -> bool:
        source, name, kind = job
        out = folder / f"{_key(source, flags)}-{name}-{kind}.so"
        more = (f"-march={name}", *(["-fopenmp"] if kind == "team" else ["-fopenmp-simd"]))
        done = not compile_(source, (*flags, *more), out)
        out.with_suffix(".c").unlink(missing_ok=True)
        return done

    jobs = [(s, name, kind) for s in sources for name in LEVELS for kind in ("team", "alone")]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return sum(pool.map(one, jobs))


def _key(source: str, flags: Collection[str]) -> str:
    return hashlib.blake2b("\0".join((source, *flags)).encode(), digest_size=12).hexdigest()
