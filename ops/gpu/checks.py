"""The steps of gpu-check that look at the machine, at streams and memory, and at recordings; and that run the tests."""

import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import CaptureError
from shoal.ops.gpu import contract, dnn
from shoal.ops.gpu.check import Check, Skipped, step
from shoal.ops.gpu.device import Gpu, gpu

__all__ = ["ceilings", "names_of_cupy", "recordings", "seconds_of", "smoke", "tests", "versions"]

PACKAGES = (
    "numpy",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "nvidia-cudnn-frontend",
    "nvidia-cublas",
    "nvidia-nccl-cu13",
    "torch",
)

STEPS = 20
"""How many recorded steps are compared with steps that are not."""


@step("names", order=0, budget_s=30.0, host=True)
def names_of_cupy(c: Check) -> None:
    """The installed CuPy has the names that the tests without a GPU count on."""
    try:
        modules = contract.installed()
    except Exception as error:  # no CuPy, or one that does not load: which is said
        raise Skipped(str(error)) from error
    c.note("cupy", modules["version"])
    with c.case("names and keywords"):
        found = contract.missing(modules)
        assert not found, f"CuPy {modules['version']} lacks {', '.join(found)}"


@step("versions", order=1, budget_s=20.0)
def versions(c: Check) -> None:
    """What there is."""
    for name in PACKAGES:
        try:
            c.note(name, version(name))
        except PackageNotFoundError:
            continue
    g = gpu(c.gpu)
    runtime = g.xp.module.cuda.runtime
    c.note("driver", int(runtime.driverGetVersion()))
    c.note("runtime", int(runtime.runtimeGetVersion()))
    properties = runtime.getDeviceProperties(c.gpu)
    c.note("device", {k: v.decode() if isinstance(v, bytes) else v for k, v in properties.items() if _plain(v)})
    if text := dnn.described(c.gpu):
        (c.out / "device.json").write_text(text)
    memory = g.memory()
    c.number("memory", memory.total_bytes / 2**30, "GiB")
    c.number("free", memory.free_bytes / 2**30, "GiB")


def _plain(value: Any) -> bool:
    if isinstance(value, bytes):
        return value.isascii() and value.decode().isprintable()
    return isinstance(value, (int, float, str)) or (
        isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value)
    )


@step("smoke", order=10, budget_s=30.0)
def smoke(c: Check) -> None:
    """One of each: kernel, streams and events, pinned copies, the pool, a recording, and what recordings refuse."""
    g = gpu(c.gpu)
    xp = g.xp
    with g.use():
        with c.case("a kernel computes"):
            assert float((xp.arange(1000, dtype="float64") * 2.0).sum().get()) == 999000.0
        with c.case("a stream waits for an event of another"):
            _order(g)
        with c.case("pinned memory comes back as it went"):
            sent, back = g.pinned((1 << 20,), "uint8"), g.pinned((1 << 20,), "uint8")
            sent[...] = np.random.default_rng(time.time_ns()).integers(0, 256, sent.size, dtype=np.uint8)
            there, stream = g.empty(sent.shape, "uint8"), g.stream()
            g.copy(there, sent, stream)
            g.copy(back, there, stream)
            stream.synchronize()
            assert np.array_equal(sent, back)
        with c.case("reserved memory is not of the pool"):
            used = g.memory().used_bytes
            arena = g.reserve(1 << 20)
            assert arena.nbytes == 1 << 20 and g.memory().used_bytes == used
        with c.case("a recording is done at each launch"):
            stream, x = g.stream(), g.reserve(8).view("float64")
            x.fill(1.0)
            g.synchronize()
            with g.recording(stream) as recorded:
                xp.multiply(x, 2.0, out=x)
            for _ in range(3):
                recorded().launch(stream)
            stream.synchronize()
            assert float(x.get()[0]) == 8.0
        with c.case("a recording refuses cuBLAS by CuPy, and the stream can be used again"):
            _refuses(g)


def _order(g: Gpu) -> None:
    a, b, xp = g.stream(), g.stream(), g.xp
    big, seen = g.empty((1 << 24,), "float32"), g.pinned((1 << 24,), "float32")
    with a:
        for n in range(20):
            big.fill(float(n))
            xp.sin(big, out=big)
        big.fill(7.0)
    b.wait(a.record())
    g.copy(seen, big, b)
    b.synchronize()
    assert (seen == 7.0).all()


def _refuses(g: Gpu) -> None:
    stream, x = g.stream(), g.xp.ones((8, 8), "float32")
    out = g.xp.empty_like(x)
    g.synchronize()
    try:
        with g.recording(stream):
            g.xp.matmul(x, x, out=out)
    except (CaptureError, NotImplementedError):
        with stream:
            assert float((x + 1.0).sum().get()) == 128.0
    else:
        raise AssertionError(
            "cupy.matmul was recorded: CuPy allows it now, and shoal.ops.gpu may do without its own GEMM"
        )


@step("ceilings", order=20, budget_s=30.0)
def ceilings(c: Check) -> None:
    """What the machine gives at best: copies, products, launches. Shares are of these, not of data sheets."""
    g = gpu(c.gpu)
    with g.use():
        a, b = g.empty((1 << 30,), "uint8"), g.empty((1 << 30,), "uint8")
        c.number(
            "copy", 2 * a.nbytes / seconds_of(g, lambda: g.copy(b, a, g.current())) / 1e12, "TB/s read and written"
        )
        host = g.pinned((256 << 20,), "uint8")
        part = a[: host.nbytes]
        c.number("h2d", host.nbytes / seconds_of(g, lambda: g.copy(part, host, g.current())) / 1e9, "GB/s")
        c.number("d2h", host.nbytes / seconds_of(g, lambda: g.copy(host, part, g.current())) / 1e9, "GB/s")
        one = g.xp.ones(1, "float32")
        c.number("eager operator", 1e6 * seconds_of(g, lambda: g.xp.add(one, 1.0, out=one), 2000), "us")
        for n, dtype in ((8192, "float16"), (4096, "float32")):
            x = g.xp.asarray(np.random.default_rng(0).standard_normal((n, n)).astype(dtype))
            out = g.xp.empty_like(x)
            taken = seconds_of(g, partial(g.xp.matmul, x, x, out=out))
            c.number(f"matmul {dtype} {n}", 2 * n**3 / taken / 1e12, "TFLOP/s")


def seconds_of(g: Gpu, work: Callable[[], Any], count: int = 10) -> float:
    """The median of 5 rounds of ``count`` calls, for one of them; after a round that is not counted."""
    rounds = []
    for _ in range(6):
        g.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            work()
        g.synchronize()
        rounds.append((time.perf_counter() - began) / count)
    return float(np.median(rounds[1:]))


@step("tests", order=30, budget_s=200.0)
def tests(c: Check) -> None:
    """The tests that are marked as needing a GPU: every operator against NumPy in float64, kernels, optimizers."""
    if not Path("tests/ops").is_dir():
        raise Skipped("there are no tests here: run it in the repository")
    report = c.out / "tests.xml"
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}", "tests"]
    command = [sys.executable, "-m", "pytest", *options]
    try:
        subprocess.run(command, timeout=max(1.0, c.left_s - 5.0), capture_output=True, check=False)
    except subprocess.TimeoutExpired:
        c.skip("the tests took longer than there was time")
        return
    counted(c, report)


def counted(c: Check, report: Path) -> None:
    """Take over what pytest has written."""
    for case in ET.parse(report).getroot().iter("testcase"):  # our own file
        wrong = case.find("failure") if case.find("failure") is not None else case.find("error")
        if wrong is not None:
            c.count(failures={f"{case.get('classname')}.{case.get('name')}": (wrong.get("message") or "")[-500:]})
        elif (left := case.find("skipped")) is not None:
            c.count(skipped=1, why=left.get("message") or "skipped")
        else:
            c.count(passed=1)


@step("recordings", order=40, budget_s=60.0)
def recordings(c: Check) -> None:
    """Twenty recorded steps of a model have the bits of twenty that are not."""
    from shoal import autograd, nn  # this module is imported by what they are made of
    from shoal import np as snp
    from shoal.ops.gpu.graphed import graphed

    def steps(enabled: bool) -> tuple[list[bytes], list[str]]:
        net = nn.HybridSequential(nn.LayerNorm(in_channels=64), nn.Activation("tanh"), nn.Dropout(0.0))
        net.initialize(device=f"gpu:{c.gpu}", seed=1)

        def run(x: Any) -> Any:
            with autograd.record():
                loss = (net(x) ** 2).mean()
            loss.backward()
            return loss

        made = graphed(run, enabled=enabled)
        seen = []
        for n in range(STEPS):
            x = snp.array(np.random.default_rng(n).standard_normal((32, 64)).astype("float32"), device=f"gpu:{c.gpu}")
            loss = made(x)
            grads = [p.grad() for p in net.collect_params().values()]
            seen.append(b"".join(t.asnumpy().tobytes() for t in (loss, *grads)))
        return seen, made.why_not()

    with c.case("recorded = not recorded"):
        (recorded, why), (plain, _) = steps(True), steps(False)
        assert not why, f"it was not recorded: {why[0]}"
        different = [n for n, (a, b) in enumerate(zip(recorded, plain, strict=True)) if a != b]
        assert not different, f"these steps differ: {different}"
