"""Checks for machines that have a GPU: steps with a budget, results that are on disk after each, one table at the end.

A step is a function that is registered in the module of what it checks, which `shoal.gpucheck` imports:

    @step("copies", order=20, budget_s=30.0)
    def copies(c: Check) -> None:
        "What the bus gives."
        with c.case("pinned memory comes back as it went"):
            ...
        c.number("h2d", 52.1, "GB/s")

A case that raises has failed, and the step goes on; one that is begun when the step's time is up is skipped. What is
measured is a number, with its unit, and never passes or fails by itself.
"""

import json
import os
import platform
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from shoal.errors import ConfigError
from shoal.version import VERSION

__all__ = ["Check", "Result", "Skipped", "Step", "chosen", "main_folder", "read", "run", "step", "steps", "table"]

TEXT = 2000
"""How many characters of an error are kept."""


class Skipped(Exception):  # it is no error
    """Raised in a step or a case that cannot be carried out here; has the reason."""


class _TimeUp(BaseException):
    """The step's time is up; no `Exception`, so that nothing in between takes it for an error of its own."""


@dataclass
class Result:
    """What became of a step.

    Attributes:
        failures: by case, the end of the error.
        reasons: why cases were skipped, and how often.
        numbers: by name, (value, unit).
        notes: text by name: versions, properties.
        seconds: how long it took.
        late: whether its time ran out.
    """

    passed: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, tuple[float, str]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    late: bool = False

    @property
    def failed(self) -> int:
        """How many cases failed."""
        return len(self.failures)

    @property
    def skipped(self) -> int:
        """How many cases were skipped."""
        return sum(self.reasons.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "passed": self.passed,
            "failed": self.failed,
            "skipped": self.skipped,
            "failures": self.failures,
            "skip_reasons": self.reasons,
            "numbers": {name: {"value": v, "unit": unit} for name, (v, unit) in self.numbers.items()},
            "notes": self.notes,
            "seconds": round(self.seconds, 3),
            "out_of_time": self.late,
        }


class Check:
    """What a step reports to.

    Attributes:
        out: a folder to write files to.
        gpu: number of the GPU to use.
    """

    def __init__(self, result: Result, out: Path, ends: float, gpu: int = 0) -> None:
        self._result, self.out, self._ends, self.gpu = result, out, ends, gpu

    @property
    def left_s(self) -> float:
        """Seconds that the step has left."""
        return self._ends - time.monotonic()

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """What is checked inside passes, unless it raises; `Skipped` skips it."""
        if self.left_s <= 0:
            raise _TimeUp
        try:
            yield
        except Skipped as why:
            self.skip(str(why))
        except Exception as error:  # a check that fails, in whatever way
            self._result.failures[name] = f"{type(error).__name__}: {error}"[-TEXT:]
        else:
            self._result.passed += 1

    def count(self, passed: int = 0, failures: dict[str, str] | None = None, skipped: int = 0, why: str = "") -> None:
        """Cases that something else has carried out."""
        self._result.passed += passed
        self._result.failures.update(failures or {})
        if skipped:
            self._result.reasons[why] = self._result.reasons.get(why, 0) + skipped

    def skip(self, why: str) -> None:
        """One case that cannot be carried out here."""
        self.count(skipped=1, why=why)

    def number(self, name: str, value: float, unit: str) -> None:
        """What was measured."""
        self._result.numbers[name] = (float(value), unit)

    def note(self, name: str, value: Any) -> None:
        """Something to know: text, numbers, or lists and dictionaries of them."""
        self._result.notes[name] = value


@dataclass(frozen=True)
class Step:
    """A registered step; see `step`."""

    name: str
    run: Callable[[Check], None]
    order: int
    budget_s: float
    host: bool


_steps: dict[str, Step] = {}


def step(
    name: str, *, order: int, budget_s: float, host: bool = False
) -> Callable[[Callable[[Check], None]], Callable[[Check], None]]:
    """Register the decorated function as a step.

    Args:
        order: steps run from the smallest: 0 what there is, 10 smoke, 20 ceilings, 30 operators, 40 whole steps,
            50 speed.
        budget_s: how long it may take.
        host: whether it needs no GPU, and runs on every machine.
    """

    def register(run: Callable[[Check], None]) -> Callable[[Check], None]:
        if name in _steps and _steps[name].run is not run:
            raise ConfigError(f"two steps of gpu-check are called {name!r}")
        _steps[name] = Step(name, run, order, budget_s, host)
        return run

    return register


def steps() -> list[Step]:
    """All steps, in order."""
    return sorted(_steps.values(), key=lambda s: (s.order, s.name))


def run(
    wanted: list[Step], out: Path, budget_s: float, gpus: int, say: Callable[[str], None] = print
) -> dict[str, Result]:
    """Carry out steps; after each, ``result.json`` in ``out`` has all results so far.

    Args:
        budget_s: for all together; steps for which nothing is left are skipped.
        gpus: how many there are.
    """
    out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + budget_s
    results: dict[str, Result] = {}
    for one in wanted:
        result = results[one.name] = Result()
        left = min(one.budget_s, ends - time.monotonic())
        if not gpus and not one.host:
            result.reasons["no GPU"] = 1
        elif left <= 0:
            result.reasons["no time left"] = 1
        else:
            _carry_out(one, result, out, left)
            say(_line(one.name, result))
        _write(results, out, gpus)
    return results


def _carry_out(one: Step, result: Result, out: Path, left: float) -> None:
    began = time.monotonic()
    check = Check(result, out, began + left)
    try:
        with _alarm(left):
            one.run(check)
    except _TimeUp:
        result.late = True
        check.skip("time ran out")
    except Skipped as why:
        check.skip(str(why))
    except Exception as error:  # outside of a case: the step itself
        result.failures[one.name] = f"{type(error).__name__}: {error}"[-TEXT:]
    result.seconds = time.monotonic() - began


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise `_TimeUp` when they have passed: in the main thread, as soon as Python gets to it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _write(results: dict[str, Result], out: Path, gpus: int) -> None:
    """All of it, in place of what was there before, at once."""
    found = {
        "shoal": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "gpus": gpus,
        "steps": {name: r.as_dict() for name, r in results.items()},
    }
    with tempfile.NamedTemporaryFile("w", dir=out, suffix=".json", delete=False) as f:
        json.dump(found, f, indent=1)
        f.write("\n")
    os.replace(f.name, out / "result.json")


FIELDS: dict[str, tuple[type, ...]] = {
    "passed": (int,),
    "failed": (int,),
    "skipped": (int,),
    "failures": (dict,),
    "skip_reasons": (dict,),
    "numbers": (dict,),
    "notes": (dict,),
    "seconds": (int, float),
    "out_of_time": (bool,),
}
"""What ``result.json`` has of a step."""

HEAD: dict[str, tuple[type, ...]] = {
    "shoal": (str,),
    "python": (str,),
    "platform": (str,),
    "gpus": (int,),
    "steps": (dict,),
}
"""What it has in front of them."""


def read(path: Path) -> tuple[dict[str, Result], int]:
    """The results of an earlier run, perhaps on another machine, and how many GPUs that had.

    Args:
        path: of its ``result.json``.
    Raises:
        ConfigError: it is none; says where.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no result of gpu-check: {error}") from None
    _has(path, "the file", found, HEAD)
    results = {}
    for name, data in found["steps"].items():
        where = f"step {name!r}"
        _has(path, where, data, FIELDS)
        texts, counts, numbers = data["failures"], data["skip_reasons"], data["numbers"]
        sound = (
            all(isinstance(v, str) for v in texts.values())
            and all(type(v) is int and v > 0 for v in counts.values())
            and all(isinstance(v, dict) and set(v) == {"value", "unit"} for v in numbers.values())
            and all(isinstance(v["value"], int | float) and isinstance(v["unit"], str) for v in numbers.values())
        )
        if not sound:
            what = "a failure is text, a skip a count from 1 on, a number has a value and a unit"
            raise ConfigError(f"{path} is no result of gpu-check: {where}: {what}")
        measured = {n: (float(v["value"]), v["unit"]) for n, v in numbers.items()}
        r = Result(data["passed"], texts, counts, measured, data["notes"], float(data["seconds"]), data["out_of_time"])
        if (r.failed, r.skipped) != (data["failed"], data["skipped"]) or r.passed < 0:
            raise ConfigError(f"{path} is no result of gpu-check: {where}: its counts are not those of its cases")
        results[name] = r
    return results, int(found["gpus"])


def _has(path: Path, where: str, data: Any, fields: dict[str, tuple[type, ...]]) -> None:
    """Refuse what has not exactly these fields."""
    if not isinstance(data, dict) or set(data) != set(fields):
        got = ", ".join(sorted(data)) if isinstance(data, dict) else type(data).__name__
        raise ConfigError(f"{path} is no result of gpu-check: {where}: expected {', '.join(sorted(fields))}; got {got}")
    for name, kinds in fields.items():
        if type(data[name]) not in kinds:
            expected = " or ".join(k.__name__ for k in kinds)
            raise ConfigError(
                f"{path} is no result of gpu-check: {where}: {name} is {expected}, got {type(data[name]).__name__}"
            )


def _line(name: str, r: Result) -> str:
    return f"{name}: {r.passed} passed, {r.failed} failed, {r.skipped} skipped, {r.seconds:.1f} s" + (
        " (its time ran out)" if r.late else ""
    )


def table(results: dict[str, Result], gpus: int) -> str:
    """All that was found: a line per step, the numbers, the failures, and the sum."""
    passed, failed, skipped = (sum(getattr(r, k) for r in results.values()) for k in ("passed", "failed", "skipped"))
    lines = []
    if gpus:
        width = max([10, *(len(n) for n in results)])
        lines.append(f"{'step':<{width}}  passed  failed  skipped  seconds")
        for name, r in results.items():
            lines.append(f"{name:<{width}}  {r.passed:6}  {r.failed:6}  {r.skipped:7}  {r.seconds:7.1f}")
        lines += [f"{n}.{k} = {v:.4g} {u}" for n, r in results.items() for k, (v, u) in r.numbers.items()]
    lines += [f"FAILED {n}: {case}: {text}" for n, r in results.items() for case, text in r.failures.items()]
    head = f"{gpus} GPU{'s' * (gpus != 1)}" if gpus else "no GPU"
    return "\n".join([*lines, f"{head}: {passed} passed, {failed} failed, {skipped} skipped"])


def main_folder(text: str) -> Path:
    """Where results go: as told, else the variable OUT, else ``gpu-check-out``."""
    return Path(text or os.environ.get("OUT", "") or "gpu-check-out")


def chosen(names: str) -> list[Step]:
    """The steps of these names, separated by commas; all for none.

    Raises:
        ConfigError: there is no such step; lists those there are.
    """
    wanted = [n for n in (part.strip() for part in names.split(",")) if n]
    unknown = [n for n in wanted if n not in _steps]
    if unknown:
        raise ConfigError(f"no step is called {', '.join(unknown)}; there are {', '.join(s.name for s in steps())}")
    return [s for s in steps() if not wanted or s.name in wanted]
