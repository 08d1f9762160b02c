"""One contestant of bench_hybridize.py, in a process of its own: makes a model, and carries out steps when told to.

python benchmarks/steps/worker.py CONTESTANT MODEL

Prints one JSON line when the model is made and has run twice; then, for each number read from standard input, one with
the milliseconds of a step, averaged over that many, those of all its threads together, and with the peak of memory.
Every contestant has its own interpreter, so this file imports only the standard library.
"""

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

STATUS = Path("/proc/self/status")


def main() -> None:
    """Serve until standard input ends."""
    contestant, model = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    kind, _, variant = contestant.partition("-")
    module = _load("steps_" + kind, Path(__file__).with_name(f"{kind}_step.py"))
    peak = Peak()
    begin = time.perf_counter()
    step, describe = module.make(model, variant)
    made = time.perf_counter() - begin
    first = _timed(step)
    second = _timed(step)
    _answer(out, {"build_s": made, "first_s": first, "second_s": second, **describe()})
    for line in sys.stdin:
        count = int(line)
        peak.reset()
        begin, busy = time.perf_counter(), time.process_time()
        for _ in range(count):
            step()
        elapsed, busy = time.perf_counter() - begin, time.process_time() - busy
        _answer(out, {"ms": elapsed / count * 1e3, "cpu_ms": busy / count * 1e3, "peak_mb": peak.read()})


class Peak:
    """Peak of resident memory above what was resident when this was made, after the imports."""

    def __init__(self) -> None:
        self.base_kb = self._field("VmRSS")

    def reset(self) -> None:
        """Forget the peak so far."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:  # then it is the peak since the start
            return

    def read(self) -> float:
        """Megabytes; nan where the system does not tell."""
        return (self._field("VmHWM") - self.base_kb) / 1024

    def _field(self, name: str) -> float:
        if not STATUS.exists():
            return float("nan")
        lines = [line for line in STATUS.read_text().splitlines() if line.startswith(name + ":")]
        return float(lines[0].split()[1]) if lines else float("nan")


def _timed(step: Callable[[], None]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def _answer(out: TextIO, record: dict[str, object]) -> None:
    print(json.dumps(record), file=out, flush=True)


def _load(name: str, path: Path) -> object:
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # torch.compile looks for it there
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
