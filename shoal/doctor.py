"""``shoal doctor``: is this machine fit for a run, and if not, what to do."""

import importlib.metadata
import json
import os
import platform
import resource
import sys
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import shoal
from shoal.errors import ShoalError

if TYPE_CHECKING:
    from shoal.kvstore.wire.keys import Access

__all__ = ["Finding", "doctor", "examine", "show"]

ENOUGH_FILES = 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``state``: "ok", "note" (works, could be better) or "broken"."""

    name: str
    state: str
    text: str
    advice: str = ""


def doctor(*, as_json: bool = False, scheduler: str = "", access: "Access | None" = None) -> int:
    """Print every finding; 1 if something is broken, else 0.

    Args:
        as_json: print a JSON list instead of a table.
        scheduler: also ask the scheduler at this address, ``host:port``, how its run is doing.
        access: the key, if that asks for one.
    """
    return show(examine(scheduler, access), as_json=as_json)


def show(findings: list[Finding], *, as_json: bool = False) -> int:
    """Print findings; 1 if something is broken, else 0."""
    if as_json:
        print(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        _print(findings)
    return int(any(f.state == "broken" for f in findings))


def examine(scheduler: str = "", access: "Access | None" = None) -> list[Finding]:
    """Look at everything; what cannot be looked at is a finding too."""
    checks: list[Callable[[], Finding]] = [
        _versions,
        _python,
        _cores,
        _memory,
        _blas,
        _native,
        _ports,
        _shared_memory,
        _files,
        _gpu,
    ]
    findings = [_safely(check) for check in checks]
    return [*findings, *([_safely(lambda: _scheduler(scheduler, access), "scheduler")] if scheduler else [])]


def _safely(check: Callable[[], Finding], name: str = "") -> Finding:
    try:
        return check()
    except Exception as e:  # a doctor that falls ill helps nobody: say what happened and go on
        advice = "" if isinstance(e, ShoalError) else "Reinstall shoal in a fresh virtual environment, or report this."
        return Finding(name or check.__name__.strip("_"), "broken", f"{type(e).__name__}: {e}", advice)


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    colours = {"ok": "green", "note": "yellow", "broken": "bold red"}
    for f in findings:
        text = f"{f.text}\n{f.advice}" if f.advice else f.text
        table.add_row(f.name, f"[{colours[f.state]}]{f.state}[/]", text)
    Console().print(table)


# --- checks -----------------------------------------------------------------------------------------------------------


def _versions() -> Finding:
    from shoal.kvstore.wire.transport import versions

    names = ("numpy", "msgpack", "rich", "safetensors", "threadpoolctl")
    found = {"shoal": shoal.__version__, **{n: importlib.metadata.version(n) for n in names}, **versions()}
    return Finding("versions", "ok", ", ".join(f"{name} {version}" for name, version in found.items()))


def _python() -> Finding:
    text = f"Python {platform.python_version()} ({sys.executable}) on {platform.platform()}"
    if not plainly_built():
        return Finding("python", "ok", text)
    advice = (
        "Built without --enable-optimizations: pushes and pulls of small values take a quarter longer. Use the Python "
        "of a distribution, of docker or of uv; or PYTHON_CONFIGURE_OPTS=--enable-optimizations pyenv install ..."
    )
    return Finding("python", "note", text, advice)


def plainly_built() -> bool:
    """Whether this interpreter was configured without the compiler's profile; a distribution's has it nevertheless."""
    return "--enable-optimizations" not in str(sysconfig.get_config_var("CONFIG_ARGS")) and sys.base_prefix != "/usr"


def _cores() -> Finding:
    from shoal.scheduler.child import usable_cores

    usable, there = usable_cores(), os.cpu_count() or 1
    advice = "" if usable == there else "This process is confined to a part of the machine (affinity or container)."
    return Finding("cores", "ok" if usable > 1 else "note", f"{usable} usable of {there}", advice)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError), open("/sys/fs/cgroup/memory.max") as f:
        total = min(total, int(f.read()))
    enough = total >= 1 << 30
    text = f"{total / (1 << 30):.1f} GiB"
    return Finding("memory", "ok" if enough else "note", text, "" if enough else "Little: use small models.")


def _blas() -> Finding:
    import numpy  # noqa: F401  # loads the BLAS library that is asked about
    from threadpoolctl import threadpool_info

    pools = [p for p in threadpool_info() if p.get("user_api") == "blas"]
    if not pools:
        return Finding("blas", "note", "none found", "Matrix products will be slow: install NumPy from PyPI.")
    text = ", ".join(f"{p['internal_api']} {p.get('version') or ''} with {p['num_threads']} threads" for p in pools)
    advice = "`shoal run` divides the cores among its workers; by hand, set OMP_NUM_THREADS to cores / workers."
    return Finding("blas", "ok", text, advice)


def _native() -> Finding:
    from shoal.ops.native import compiler, pool

    fixed = compiler.load(compiler.text("rows.c"), exact=True)
    reason, maker, how = compiler.why_not(), compiler.compiler(), pool.state()
    if fixed is None:
        advice = "Steps of training take longer; install gcc or clang for compiled kernels."
        return Finding("native", "note", f"plain NumPy: {reason}", advice)
    shared = how.mode == "unified"
    threads = "one thread pool with NumPy" if shared else f"threads apart from NumPy's, {how.mode} ({how.reason})"
    if maker is None:
        advice = "Graphs are not compiled into loops of their own; install gcc or clang for that."
        text = f"kernels that were built with the package, {how.threads} threads, {threads}; {reason}"
        return Finding("native", "note", text, advice)
    return Finding("native", "ok", f"compiled kernels by {maker.version}, {how.threads} threads, {threads}")


def _ports() -> Finding:
    from shoal.kvstore.wire.keys import Access, Keys
    from shoal.kvstore.wire.transport import Transport

    bound = {}
    for host, port in (("127.0.0.1", 0), ("0.0.0.0", 0), ("0.0.0.0", 9091)):
        transport = Transport("doctor", Access(Keys(os.urandom(32))))  # nobody is let in
        try:
            bound[host, port] = transport.bind(host, port)
        except ShoalError as e:
            if port:
                return Finding("ports", "note", f"the scheduler's default port is taken: {e}")
            return Finding("ports", "broken", str(e), "No run can start: processes cannot listen on this machine.")
        finally:
            transport.close(0.0)
    return Finding("ports", "ok", "can listen on the loopback and on every interface; 9091 is free")


def _shared_memory() -> Finding:
    from shoal.kvstore.wire.sharing import switched_off
    from shoal.kvstore.wire.shm import Region, supported
    from shoal.kvstore.wire.transport import Transport

    name, slower = "shared memory", "Workers and servers on this machine use sockets, which take a few times longer."
    if switched_off():
        return Finding(name, "note", "switched off by SHOAL_SHM", slower)
    server, worker = Transport("doctor"), Transport("doctor")
    try:
        reason = supported()
        if not reason:
            Region(0, resource.getpagesize())
            worker.sharing.accept("server", *server.sharing.offer(worker.identity))
            for _ in range(2):  # the connection, then its token
                list(server.poll(1.0))
            reason = "" if server.sharing.shares(worker.identity) else "no unix socket with an abstract name"
    except OSError as e:
        reason = str(e)
    finally:
        worker.close(0.0)
        server.close(0.0)
    if reason:
        return Finding(name, "note", reason, slower)
    return Finding(name, "ok", "processes of this machine and user can exchange arrays without sending them")


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= ENOUGH_FILES:
        return Finding("open files", "ok", f"at most {soft}")
    return Finding("open files", "note", f"at most {soft}", f"Large clusters need more: ulimit -n {hard}")


def _gpu() -> Finding:
    driver = os.path.exists("/proc/driver/nvidia/version") or os.path.exists("/dev/nvidiactl")
    version = next((v for n in ("cupy-cuda12x", "cupy-cuda13x", "cupy") if (v := _installed(n))), "")
    if not driver:
        return Finding(
            "gpu", "ok", f"no NVIDIA driver{f'; CuPy {version} is installed' * bool(version)}: using the CPU"
        )
    if not version:
        advice = "pip install 'shoal[cuda12]' (or cuda13) to use it."
        return Finding("gpu", "note", "an NVIDIA GPU, but no CuPy: using the CPU", advice)
    return Finding("gpu", "ok", f"an NVIDIA GPU, and CuPy {version}")


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _scheduler(address: str, access: "Access | None") -> Finding:
    from shoal.kvstore.wire.keys import LOOPBACK
    from shoal.scheduler.address import address_towards
    from shoal.scheduler.watch import snapshot_of

    facing = address_towards(address, timeout_s=1.0)
    snapshot: Any = snapshot_of(address, access=access or LOOPBACK)
    if snapshot is None:
        advice = "Is it running, is the address right, and does a firewall let this machine reach it?"
        return Finding("scheduler", "broken", f"none answers at {address} (asked from {facing})", advice)
    missing = f", waiting for {', '.join(snapshot.missing)}" if snapshot.missing else ""
    text = f"run {snapshot.cluster} at {address} is {snapshot.phase}{missing}; this machine is {facing} to it"
    return Finding("scheduler", "broken" if snapshot.phase == "failed" else "ok", text)
