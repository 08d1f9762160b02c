"""What a training process says of itself: progress for the terminal, metrics and times for the final report."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from shoal.errors import ConfigError
from shoal.kvstore.exposition import Histogram

__all__ = ["RunRecord", "current", "parse_target", "report", "use"]


def parse_target(text: str) -> tuple[str, float] | None:
    """``"accuracy=0.97"`` as a pair; None for the empty text.

    Raises:
        ConfigError: it is not METRIC=VALUE.
    """
    if not text:
        return None
    name, _, value = text.partition("=")
    try:
        pair = name.strip(), float(value)
    except ValueError:
        pair = "", 0.0
    if not pair[0]:
        raise ConfigError(f"a target is METRIC=VALUE, such as accuracy=0.97; got {text!r}")
    return pair


class RunRecord:
    """Counts of one training process.

    Time starts with the first step (or `start`) and is measured to the last step or report.

    Args:
        target: metric and the value it is to reach; losses count as reached when they are not above it.
        publish: called with the status mapping whenever it changes.
    """

    def __init__(
        self,
        target: tuple[str, float] | None = None,
        publish: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target, self.samples, self.steps = target, 0, 0
        self.step_times = Histogram()
        self.metrics: dict[str, float] = {}
        self.status: dict[str, Any] = {}
        self.algo = ""  # what the Trainer was made with, by its parts
        self.seconds_to_target: float | None = None
        self.weights: Callable[[], dict[str, Any]] | None = None  # set where the store does not hold them
        self._publish, self._clock = publish, clock
        self._began: float | None = None
        self._last = 0.0
        self._window: tuple[float, int] | None = None

    def start(self) -> None:
        """Training begins now; later calls do nothing."""
        if self._began is None:
            self._began = self._last = self._clock()
            self._window = (self._began, 0)

    @property
    def seconds(self) -> float:
        """From the start of training to the last sign of it."""
        return 0.0 if self._began is None else self._last - self._began

    def step(self, samples: int) -> None:
        """One optimizer step over ``samples`` samples is done."""
        last = self._last if self._began is not None else None
        self.start()
        self._last = self._clock()
        if last is not None:  # of the first step nobody knows when it began
            self.step_times.observe(self._last - last)
        self.samples += samples
        self.steps += 1
        began, before = self._window or (self._last, 0)
        if self._last - began >= 0.5:
            self.status["samples_per_s"] = (self.samples - before) / (self._last - began)
            self._window = (self._last, self.samples)
        self.status["samples"], self.status["steps"] = self.samples, self.steps
        self._show()

    def note(self, **status: Any) -> None:
        """Things to show, such as ``epoch=3, epochs=10, loss=0.2``."""
        self.status.update(
            {k: float(v) if hasattr(v, "__float__") and not isinstance(v, int) else v for k, v in status.items()}
        )
        self._show()

    def report(self, metrics: Mapping[str, float]) -> None:
        """Results, such as ``accuracy``; the last value of each goes into the final report."""
        values = {k: _value(k, v) for k, v in metrics.items()}
        self.start()
        self._last = self._clock()
        self.metrics.update(values)
        if self.target and self.seconds_to_target is None and self.target[0] in metrics:
            name, bound = self.target
            value = self.metrics[name]
            if value <= bound if "loss" in name or "error" in name else value >= bound:
                self.seconds_to_target = self.seconds
        self.note(**self.metrics)

    def _show(self) -> None:
        if self._publish is not None:
            self._publish(dict(self.status))

    def summary(self) -> dict[str, Any]:
        """Plain data for the final report."""
        target = f"{self.target[0]}={self.target[1]:g}" if self.target else None
        return {
            "samples": self.samples,
            "algo": self.algo,
            "seconds": self.seconds,
            "target": target,
            "seconds_to_target": self.seconds_to_target,
            "metrics": dict(self.metrics),
        }


def _value(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"report: {name} is {value!r}, expected a number") from None


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | str | None) else float(value)


_current = RunRecord()


def current() -> RunRecord:
    """The record of this process."""
    return _current


def use(record: RunRecord) -> None:
    """Make ``record`` the one of this process."""
    global _current
    _current = record


def report(**values: float) -> None:
    """Report results of this process, such as ``shoal.report(accuracy=0.98)``.

    They are shown while the run goes on; the last value of each that worker 0 reports stands in ``--report``.

    Raises:
        ConfigError: a value is no number.
    """
    _current.report(values)
