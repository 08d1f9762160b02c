"""Does cuDNN have plans for what shoal asks of it, on an H100 or H200? Answered without a GPU: ``make gpu-plan-check``.

The libraries are the real ones; the driver and the run-time library are stubs that say "no device", and the GPU is
described by its properties (cuDNN's documentation: "Deviceless Ahead-of-time Compilation"). It proves that a form is
supported, and how much room a plan needs; not numbers, nor speed.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

H200 = {
    "deviceVer": 900, "driverVer": 13000, "cudaDeviceId": 0, "totalGlobalMem": 150_000_000_000, "deviceName": "H200",
    "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536,
    "multiProcessorCount": 132, "warpSize": 32, "maxSharedMemoryPerBlock": 49152,
    "maxSharedMemoryPerBlockOptin": 232448, "reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536,
    "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "pciDeviceId": 0, "isTccDriver": 0,
    "supportCoopLaunch": 1, "smClockRateKHz": 1980000, "memClockRateKHz": 3201000, "l2CacheSize": 62914560,
}  # fmt: skip
"""Of the GPU, unless ``SHOAL_GPU_DEVICE`` names a file that has those of another one; integers, where the library would
take booleans for something else."""

ROOM = 512 << 20
"""No plan may need more bytes than this."""

ANSWERS = {"cuInit": 0, "cuDriverGetVersion": 0, "cuOccupancyMaxActiveClusters": 66}
RUNTIME = """
int cudaGetDevice(int *d) { *d = 0; return 0; }
int cudaDeviceGetAttribute(int *v, int which, int d) {
    *v = which == 75 ? 9 : which == 16 ? 132 : which == 10 ? 32 : which == 97 ? 232448 : 0;
    return 0;
}
int cudaGetDeviceCount(int *n) { *n = 0; return 100; }
int cudaGetLastError(void) { return 0; }
int cudaPeekAtLastError(void) { return 0; }
const char *cudaGetErrorString(int e) { return "there is no device"; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }
"""


def stubs(folder: Path, cudnn: Path) -> None:
    """Libraries that stand for the driver and the run-time library."""
    names: set[str] = set()
    for name in ("libcudnn_graph.so.9", "libcudnn_engines_runtime_compiled.so.9"):
        names |= {n.decode() for n in re.findall(rb"(?<=\0)cu[A-Z][A-Za-z0-9_]*(?=\0)", (cudnn / name).read_bytes())}
    lines = [f"int {n}() {{ return 3; }}" for n in sorted(names - set(ANSWERS))]
    lines.append("int cuInit(unsigned f) { return 0; } int cuDriverGetVersion(int *v) { *v = 13000; return 0; }")
    lines.append("int cuOccupancyMaxActiveClusters(int *n, void *f, void *c) { *n = 66; return 0; }")
    for library, text in (("libcuda.so.1", "\n".join(lines)), ("libcudart.so.13", RUNTIME)):
        source = folder / f"{library}.c"
        source.write_text(text)
        command = ["cc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(folder / library), str(source)]
        subprocess.run(command, check=True, timeout=60)
    (folder / "libcuda.so").symlink_to("libcuda.so.1")


def questions() -> Iterator[tuple[str, Callable[[Any, Any], Any]]]:
    """What is asked, by name: each makes a graph from the module and the properties."""
    import numpy as np

    from shoal.ops.gpu import dnn
    from shoal.ops.precision import BFLOAT16

    images = [  # of ResNet-50: channels, side, filters, kernel, stride
        (8, 224, 64, 7, 2), (64, 56, 64, 1, 1), (64, 56, 64, 3, 1), (64, 56, 256, 1, 1), (256, 56, 128, 1, 1),
        (128, 56, 128, 3, 2), (256, 56, 512, 1, 2), (512, 28, 128, 1, 1), (128, 28, 128, 3, 1), (512, 28, 256, 1, 1),
        (256, 28, 256, 3, 2), (512, 28, 1024, 1, 2), (256, 14, 256, 3, 1), (1024, 14, 512, 1, 1),
        (512, 14, 512, 3, 2), (1024, 14, 2048, 1, 2), (512, 7, 512, 3, 1), (512, 7, 2048, 1, 1),
    ]  # fmt: skip
    single = np.dtype(np.float32)
    for dtype, tf32 in ((BFLOAT16, False), (np.dtype(np.float16), False), (single, False), (single, True)):
        for c, n, k, r, s in images:
            side = (n + 2 * (r // 2) - r) // s + 1
            x, w, y = (64, c, n, n), (k, c, r, r), (64, k, side, side)
            given = dnn.Convolution(x, w, y, (s, s), (r // 2, r // 2), (1, 1), dtype, tf32)
            for part in ("forward", "data", "weight"):
                yield f"convolution {part} {dtype}{' tf32' * tf32} {x} * {w}", _conv(part, given)
        if dtype == single:
            continue
        for b, h, s, d, causal in [(4, 12, 1024, 64, True), (64, 12, 1024, 64, True), (2, 16, 512, 128, False)]:
            packed = (s * 3 * h * d, d, 3 * h * d, 1)
            size = (b, h, s, d)
            given_a = dnn.Attention(size, size, packed, packed, packed, dtype, causal, d**-0.5)
            assert not dnn.why_not_attention(given_a)
            for part in ("forward", "gradient"):
                yield f"attention {part} {dtype} {size} causal={causal}", _attention(part, given_a)


def _conv(part: str, given: Any) -> Callable[[Any, Any], Any]:
    from shoal.ops.gpu import dnn

    return lambda cudnn, p: dnn.convolution_graph(cudnn, part, given, device_property=p)


def _attention(part: str, given: Any) -> Callable[[Any, Any], Any]:
    from shoal.ops.gpu import dnn

    return lambda cudnn, p: dnn.attention_graph(cudnn, part, given, device_property=p)


def ask() -> int:
    """Ask all questions; how many have no plan."""
    import cudnn

    kept = os.environ.get("SHOAL_GPU_DEVICE", "")  # a device.json that gpu-check has written on a GPU
    properties = cudnn.create_device_properties(Path(kept).read_text() if kept else json.dumps(H200))
    failed = asked = 0
    largest = 0
    began = time.monotonic()
    for name, make in questions():
        asked += 1
        try:
            room = int(make(cudnn, properties).get_workspace_size())
            largest = max(largest, room)
            if room > ROOM:
                failed += 1
                print(f"{name}: needs {room} bytes of room")
        except Exception as error:  # the library's own kinds; each is an answer
            failed += 1
            print(f"{name}: {str(error).splitlines()[0][:200]}")
    print(
        f"cuDNN {cudnn.backend_version()}, no GPU: {asked - failed} of {asked} forms have a plan for compute "
        f"capability 9.0, the largest needs {largest / 1e6:.0f} MB of room; {time.monotonic() - began:.0f} s"
    )
    return failed


def main() -> int:
    """Make the stubs, and ask in a process that has them."""
    if os.environ.get("SHOAL_PLAN_CHECK"):
        return ask()
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    cudnn = packages / "cudnn" / "lib"
    if not cudnn.is_dir():
        print("cuDNN is not installed here: use `make gpu-plan-check`")
        return 1
    with tempfile.TemporaryDirectory(prefix="shoal-plans-") as folder:
        stubs(Path(folder), cudnn)
        paths = [folder, str(cudnn), str(packages / "cu13" / "lib")]
        env = {
            **os.environ,
            "SHOAL_PLAN_CHECK": "1",
            "LD_LIBRARY_PATH": ":".join(paths),
            "PYTHONPATH": str(Path(__file__).resolve().parents[3]),
        }
        return subprocess.run([sys.executable, __file__], env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
