"""Compile C source when it is first needed, and load it: `load`.

The result is kept on disk under a name made from everything that it depends on: source, flags, compiler and its
version, and the instructions that the processor has. So a second process finds it, and another machine that shares the
folder does not take code that it cannot run. Files appear whole, by renaming; processes that want the same one at the
same time wait for the first. The folder must belong to the user and be writable by nobody else: what lies in it is
executed.
"""

import atexit
import ctypes
import fcntl
import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from shoal.ops.native import prebuilt

__all__ = ["Compiler", "build_fixed", "cache_folder", "compiler", "load", "load_all", "prelude", "why_not"]

COMMON = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math")
FREE = ("-fno-signed-zeros", "-fassociative-math", "-freciprocal-math")
EXACT = ("-ffp-contract=off",)
MACHINE, ALONE = ("-march=native", "-fopenmp"), ("-march=native", "-fopenmp-simd")
"""Wanted, but left out where the compiler refuses them. Never -ffast-math: the whole process would flush denormals."""

LIMIT_S = 300.0
KEPT = 1000
"""How many compiled files the folder keeps."""

_NONE = "no C compiler was found (cc, gcc, clang, or what CC names)"

_lock = threading.Lock()
_loaded: dict[tuple[str, bool, bool], ctypes.CDLL | None] = {}
_failure = ""


class Compiler:
    """A C compiler: its path, and what it says of itself."""

    def __init__(self, path: str) -> None:
        self.path = path
        told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True)
        self.version = told.stdout.partition("\n")[0]

    def build(self, source: str, flags: tuple[str, ...], out: Path, wanted: tuple[str, ...] = ()) -> str:
        """Compile ``source`` to the shared library ``out``: the empty text, or what the compiler complains of.

        Args:
            wanted: two further flags, either of which may be left out.
        """
        text = out.with_suffix(".c")
        text.write_text(source)
        complaint = ""
        for machine in (wanted, wanted[1:], wanted[:1], ()) if wanted else ((),):
            command = [self.path, *flags, *machine, "-o", str(out), str(text), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
            if done.returncode == 0:
                return ""
            complaint = complaint or done.stderr.strip()
        return complaint or f"{self.path} ended with code {done.returncode}"


@cache
def compiler() -> Compiler | None:
    """The C compiler of this machine: what the variable CC names, else cc, gcc or clang; None if there is none."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        path = shutil.which(name) if name else None
        if path is not None:
            with suppress(OSError, subprocess.SubprocessError):
                return Compiler(path)
    return None


def _unlocked() -> None:
    """In a child after fork: the thread that held the lock is not there."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlocked)


def switched_off() -> bool:
    """Whether the user wants no native code: ``SHOAL_NATIVE=0``."""
    return os.environ.get("SHOAL_NATIVE", "1").strip().lower() in ("0", "off", "no", "false")


def why_not() -> str:
    """Why nothing can be compiled or loaded here: one line, empty if all is well so far."""
    if switched_off():
        return "switched off by SHOAL_NATIVE"
    if compiler() is None:
        return _NONE
    return _failure


def load(source: str, *, exact: bool = False, threads: bool = True) -> ctypes.CDLL | None:
    """The library that ``source`` (C, after `prelude`) compiles to; None where that is not possible: see `why_not`.

    The first call takes as long as the compiler; later ones, in any process, well under a millisecond. OpenMP is on
    where the compiler has it; a parallel region takes ``num_threads(shoal_threads)``, or ``num_threads(
    SHOAL_TEAM(work))``, a number that `shoal.ops.native.pool` keeps. Functions are exported by ``EXPORT``.

    Args:
        exact: compute each operation as written, with IEEE rounding: no fused multiply-add, no re-ordering of sums. A
            loop of additions, products, quotients and square roots then gives NumPy's bits. Otherwise the compiler may
            re-order and contract, but infinities, nan and denormals keep their meaning.
        threads: without them the library needs no pool: this process's is not touched, nor set up.
    """
    return load_all([(source, exact)], threads=threads)[0]


def load_all(wanted: Sequence[tuple[str, bool]], *, threads: bool = True) -> list[ctypes.CDLL | None]:
    """`load` for several sources, each with ``exact``, that are compiled side by side."""
    from shoal.ops.native import pool

    if switched_off():
        return [None] * len(wanted)
    with _lock:
        keys = [(source, exact, threads) for source, exact in wanted]
        missing = [k for k in dict.fromkeys(keys) if k not in _loaded]
        if missing and threads:
            pool.before_loading()
        if len(missing) > 1:
            with ThreadPoolExecutor(min(len(missing), os.cpu_count() or 1)) as side_by_side:
                made = list(side_by_side.map(_compiled, missing))
        else:
            made = [_compiled(k) for k in missing]
        for key, library in zip(missing, made, strict=True):
            if library is not None and threads:
                pool.adopt(library)
            _loaded[key] = library
        return [_loaded[k] for k in keys]


def _compiled(key: tuple[str, bool, bool]) -> ctypes.CDLL | None:
    global _failure
    source, exact, threads = key
    try:
        return opened(source, exact=exact, threads=threads)
    except (OSError, subprocess.SubprocessError) as error:
        _failure = _failure or str(error)[:2000]
        return None


def opened(source: str, *, exact: bool, threads: bool = True) -> ctypes.CDLL:
    """The library: built with the package; else from the folder, compiled into it if it is not there or does not load.

    Raises:
        OSError: there is no compiler, the source does not compile, or the folder cannot be written.
    """
    source, flags = prelude() + source, COMMON + (EXACT if exact else FREE)
    for ready in prebuilt.candidates(source, flags, _processor().split(), threads):
        with suppress(OSError):  # OpenMP's library may be missing
            return ctypes.CDLL(str(ready))
    with_compiler = compiler()
    if with_compiler is None:
        raise OSError(_NONE)
    machine = MACHINE if threads else ALONE
    parts = (source, *flags, *machine, with_compiler.path, with_compiler.version, _processor())
    key = hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
    path = cache_folder() / f"{key}.so"
    for again in (False, True):
        if again or not path.exists():
            with _alone(path.with_suffix(".lock")):
                if again or not path.exists():
                    _make(with_compiler, source, flags, machine, path)
        with suppress(OSError):
            os.utime(path)  # it is in use: others are removed first
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            if again:
                raise
    raise AssertionError


def _make(with_compiler: Compiler, source: str, flags: tuple[str, ...], machine: tuple[str, ...], path: Path) -> None:
    _trim(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="building-") as folder:
        fresh = Path(folder) / "a.so"
        complaint = with_compiler.build(source, flags, fresh, machine)
        if complaint:
            raise OSError(complaint)
        os.replace(fresh, path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process if it dies."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _trim(folder: Path) -> None:
    """Remove the files beyond `KEPT` that have not been used for the longest time."""
    used = []
    for path in folder.glob("*.so"):
        with suppress(OSError):  # another process has removed it
            used.append((path.stat().st_mtime, path))
    for _, old in sorted(used)[: max(0, len(used) - KEPT + 1)]:
        for path in (old, old.with_suffix(".lock")):
            path.unlink(missing_ok=True)


@cache
def cache_folder() -> Path:
    """Where compiled files are kept: ``SHOAL_CACHE``, else ``shoal`` in the user's cache folder; one of this process's
    own if that cannot be written, or others may write to it.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    wanted = Path(os.environ.get("SHOAL_CACHE") or Path(home) / "shoal") / "native"
    with suppress(OSError):
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = wanted.stat()
        ours = about.st_uid == os.getuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if ours and os.access(wanted, os.W_OK | os.X_OK):
            return wanted
    return _temporary()


@cache
def _temporary() -> Path:
    """A folder that goes when this process ends; not when a child of it does."""
    folder, owner = Path(tempfile.mkdtemp(prefix="shoal-native-")), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def build_fixed(folder: Path) -> int:
    """Compile the fixed kernels into ``folder``, for other machines too; how many files were made.

    Raises:
        OSError: there is no compiler.
    """
    with_compiler = compiler()
    if with_compiler is None:
        raise OSError(_NONE)
    sources = [prelude() + text(f"{name}.c") for name in prebuilt.FIXED]
    return prebuilt.build(folder, sources, COMMON + EXACT, with_compiler.build)


@cache
def prelude() -> str:
    """What stands before every source: includes, ``EXPORT``, ``shoal_threads``, and functions such as ``shoal_expf``
    that loops can be vectorised over."""
    return text("prelude.h") + '\n#line 1 "source.c"\n'


@cache
def text(name: str) -> str:
    """A C file of this package, with those of the package that it includes."""
    whole = (Path(__file__).parent / "c" / name).read_text(encoding="utf-8")
    return re.sub(r'^#include "([a-z]+\.h|[a-z]+\.c)"$', lambda found: text(found[1]), whole, flags=re.MULTILINE)


@cache
def _processor() -> str:
    """What code made here needs: the machine's kind, and the instructions it has."""
    with suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith(("flags", "Features")):
                return f"{platform.machine()} {' '.join(sorted(line.split(':', 1)[1].split()))}"
    return f"{platform.machine()} {platform.processor()} {platform.node()}"
