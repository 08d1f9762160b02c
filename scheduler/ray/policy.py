"""How many workers an elastic run wants: pure. A policy is asked now and then, with what is seen, and says why.

Written as one word, ``NAME`` or ``NAME:key=value,...``:

* ``fit``: as many as there is room for, up to the most that the run may have;
* ``throughput:samples_per_s=5000``: as few as reach this rate;
* ``budget:usd=20,price=0.4``: as many as there is room for until so much is spent, at so much for a worker's hour; with
  ``hours=2`` the money is spread over that time;
* ``queue:metric=backlog,each=1000``: one for each 1000 of what the workers report with ``shoal.report(backlog=...)``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from shoal.errors import ConfigError

__all__ = ["Decision", "Policy", "Seen", "parse_policy"]

SETTLE_S = 20.0
"""After a change, how long a rate needs to show what the change was worth."""

SHORT = 0.95
"""A rate below this part of the target is too low."""

SPARE = 1.1
"""A worker goes only if the others would still reach this multiple of the target."""

KEYS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "fit": (frozenset(), frozenset()),
    "throughput": (frozenset({"samples_per_s"}), frozenset()),
    "budget": (frozenset({"usd", "price"}), frozenset({"hours"})),
    "queue": (frozenset({"metric", "each"}), frozenset()),
}
"""By policy, the keys that it needs, and those that it also takes."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a policy is told.

    Args:
        now: seconds since the run began.
        workers: how many train.
        room: how many the machines have room for, the present ones included; None if that is not known.
        samples_per_s: of all workers together; None before they have said so.
        worker_s: seconds of all workers so far, added up.
        metrics: what workers have reported, the largest of each.
    """

    now: float
    workers: int
    room: int | None = None
    samples_per_s: float | None = None
    worker_s: float = 0.0
    metrics: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """How many workers there should be, and why."""

    workers: int
    why: str


class Policy:
    """Decides for one run.

    Args:
        name: which one.
        numbers: its settings.
        metric: what ``queue`` looks at.
        least, most: how many workers the run may have.
    """

    def __init__(self, name: str, numbers: Mapping[str, float], metric: str, least: int, most: int) -> None:
        self.name, self._numbers, self._metric = name, numbers, metric
        self.least, self.most = least, most
        self._changed, self._workers = 0.0, 0

    def decide(self, seen: Seen) -> Decision:
        """How many, between the least and the most."""
        if seen.workers != self._workers:
            self._changed, self._workers = seen.now, seen.workers
        rules = {"fit": self._fit, "throughput": self._throughput, "budget": self._budget, "queue": self._queue}
        wanted, why = rules[self.name](seen)
        held = min(max(wanted, self.least), self.most)
        if held != wanted:
            why += f"; the run has {self.least} to {self.most}"
        return Decision(held, why)

    def _fit(self, seen: Seen) -> tuple[int, str]:
        room = self.most if seen.room is None else seen.room
        return room, f"there is room for {room}"

    def _throughput(self, seen: Seen) -> tuple[int, str]:
        target, rate, n = self._numbers["samples_per_s"], seen.samples_per_s, seen.workers
        if not rate or not n or seen.now - self._changed < SETTLE_S:
            return n, "the rate is not known yet"
        each, told = rate / n, f"{rate:,.0f} samples/s of {target:,.0f} with {n} workers"
        if rate < target * SHORT:
            return math.ceil(target / each), told
        if each * (n - 1) >= target * SPARE:
            return min(n - 1, math.ceil(target * SPARE / each)), told
        return n, told

    def _budget(self, seen: Seen) -> tuple[int, str]:
        usd, price = self._numbers["usd"], self._numbers["price"]
        spent = seen.worker_s / 3600 * price
        left = usd - spent
        told = f"{spent:.2f} of {usd:g} USD are spent"
        if left <= 0:
            return self.least, told
        room = self.most if seen.room is None else seen.room
        hours = self._numbers.get("hours", 0.0) - seen.now / 3600
        if "hours" not in self._numbers:
            return room, told
        affordable = math.floor(left / (price * hours)) if hours > 0 else room
        return min(room, affordable), f"{told}, for {max(hours, 0.0):.1f} h more"

    def _queue(self, seen: Seen) -> tuple[int, str]:
        length = (seen.metrics or {}).get(self._metric)
        if length is None or not math.isfinite(length):
            return seen.workers, f"no worker has reported {self._metric} yet"
        wanted = math.ceil(max(0.0, length) / self._numbers["each"])
        return wanted, f"{self._metric} is {length:,.0f}"


def parse_policy(text: str, least: int, most: int) -> Policy:
    """The policy that is written so, for a run that has ``least`` to ``most`` workers.

    >>> parse_policy("throughput:samples_per_s=5000", 2, 16).name
    'throughput'

    Raises:
        ConfigError: it is none.
    """
    name, _, rest = text.partition(":")
    if name not in KEYS:
        raise ConfigError(f"unknown scaling policy {name!r}; known: {', '.join(KEYS)}")
    needed, taken = KEYS[name]
    pairs = dict(part.partition("=")[::2] for part in rest.split(",") if part)
    wrong = [key for key in pairs if key not in needed | taken]
    missing = sorted(needed - pairs.keys())
    if wrong or missing:
        example = ",".join(f"{key}=..." for key in sorted(needed)) or "nothing behind its name"
        raise ConfigError(f"scaling policy {name} takes {example}; got {text!r}")
    metric = pairs.pop("metric", "")
    numbers = {key: _positive(name, key, value) for key, value in pairs.items()}
    return Policy(name, numbers, metric, least, most)


def _positive(name: str, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise ConfigError(f"scaling policy {name}: {key} is a positive number, got {text!r}")
    return value
