"""When what happens to whom: a pure function of the plan and of what is known of the run.

Every choice is drawn at an address (seed, purpose, event, occurrence), so that the same file with the same seed gives
the same faults, however the run goes, and can be printed before it.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from shoal.lab.chaos.cast import Cast, Link, Pair
from shoal.lab.chaos.plan import MOMENTARY, NETWORK, Event, Plan
from shoal.ops.random import stream

__all__ = ["Facts", "Fault", "Over", "Schedule", "timetable"]

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a run: seconds since it began, and how far each worker is, by name."""

    now_s: float
    steps: Mapping[str, int] = field(default_factory=dict)
    clocks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """Something begins to go wrong.

    Args:
        number: of the fault, from 1 in each schedule.
        what: its kind.
        event: how much of it.
        victims: to whom; empty for links.
        links: who sends to whom, for what happens to messages.
        at_s: when it was due.
        until_s: when it is over; infinity for never, ``at_s`` for what does not last.
        about: why now, for texts: "at 12.0 s", "at step 100".
        named: what the file says of whom, with what was drawn.
    """

    number: int
    what: str
    event: Event
    victims: tuple[str, ...]
    links: tuple[Pair, ...]
    at_s: float
    until_s: float
    about: str
    named: str

    def __str__(self) -> str:
        lasts = "" if self.until_s in (self.at_s, NEVER) else f" for {self.until_s - self.at_s:g} s"
        amount = self.event.amount(self.what)
        return f"{' '.join(filter(None, (self.what, self.named, amount)))}{lasts} ({self.about})"


@dataclass(frozen=True, slots=True)
class Over:
    """A fault is over."""

    fault: Fault


class Schedule:
    """What of a plan is due.

    Args:
        plan: what is to happen.
        cast: who is there.
    Raises:
        ConfigError: the plan names somebody who is not there.
    """

    def __init__(self, plan: Plan, cast: Cast) -> None:
        plan.check(cast)
        self._plan, self._cast, self._number = plan, cast, 0
        self._ends: list[tuple[float, int, Fault]] = []
        self._coming: list[tuple[float, int, int]] = []  # when, event, occurrence
        self._waiting = [i for i, e in enumerate(plan.events) if e.at_step is not None or e.at_clock is not None]
        for i, event in enumerate(plan.events):
            if i not in self._waiting:
                self._plan_next(i, event, 0)

    def due(self, facts: Facts) -> list[Fault | Over]:
        """What begins and what is over, by now, in the order of time."""
        found: list[Fault | Over] = []
        for i in list(self._waiting):
            reached = self._reached(self._plan.events[i], facts)
            if reached:
                self._waiting.remove(i)
                found += self._begin(i, 0, facts.now_s, reached)
        while self.next_s() <= facts.now_s:
            if self._ends and (not self._coming or self._ends[0][0] <= self._coming[0][0]):
                found.append(Over(heapq.heappop(self._ends)[2]))
            else:
                at_s, i, occurrence = heapq.heappop(self._coming)
                self._plan_next(i, self._plan.events[i], occurrence + 1)
                found += self._begin(i, occurrence, at_s, f"at {at_s:.1f} s")
        return found

    def next_s(self) -> float:
        """When something is due whatever the workers do; infinity for never."""
        return min(self._ends[0][0] if self._ends else NEVER, self._coming[0][0] if self._coming else NEVER)

    def _plan_next(self, i: int, event: Event, occurrence: int) -> None:
        if event.every_s is None:
            at_s = event.at_s if occurrence == 0 and event.at_s is not None else NEVER
        else:
            first_s = event.every_s if event.first_s is None else event.first_s
            late_s = event.jitter_s * float(stream(self._plan.seed, "chaos when", worker=i, step=occurrence).random())
            at_s = first_s + occurrence * event.every_s + late_s
        if at_s <= event.until_s and at_s < NEVER:
            heapq.heappush(self._coming, (at_s, i, occurrence))

    def _reached(self, event: Event, facts: Facts) -> str:
        """Why an event that waits for the workers is due; "" if it is not."""
        name, goal, counts = (
            ("step", event.at_step, facts.steps)
            if event.at_step is not None
            else ("clock", event.at_clock, facts.clocks)
        )
        named = [str(w) for w in event.who if str(w) in counts]
        far = max((counts[n] for n in named or counts), default=0)
        return f"at {name} {goal}" if goal is not None and far >= goal else ""

    def _begin(self, i: int, occurrence: int, at_s: float, about: str) -> list[Fault]:
        event, draw = self._plan.events[i], self._draw(i, occurrence)
        what = event.what[draw(len(event.what)) if len(event.what) > 1 else 0]
        meant = [self._cast.draw(w, draw) for w in event.who]
        links: tuple[Pair, ...] = ()
        victims: tuple[str, ...] = ()
        if what in NETWORK:
            links = tuple(dict.fromkeys(pair for w in meant for pair in self._cast.links(w)))
        else:
            found = [v for w in meant if not isinstance(w, Link) for v in self._cast.victims(w)]
            victims = tuple(dict.fromkeys(found))
        named = ", ".join(map(str, meant))
        lasts = NEVER if event.for_s is None else event.for_s
        until_s = at_s if what in MOMENTARY else at_s + lasts
        self._number += 1
        fault = Fault(self._number, what, event, victims, links, at_s, until_s, about, named)
        if at_s < until_s < NEVER:
            heapq.heappush(self._ends, (until_s, self._number, fault))
        return [fault]

    def _draw(self, i: int, occurrence: int) -> Callable[[int], int]:
        drawn = stream(self._plan.seed, "chaos who", worker=i, step=occurrence)
        return lambda n: int(drawn.integers(n))


def timetable(plan: Plan, cast: Cast, until_s: float) -> Iterator[Fault]:
    """What will begin within so many seconds, as far as it does not wait for the workers."""
    made = Schedule(plan, cast)
    while made.next_s() <= until_s:
        yield from (f for f in made.due(Facts(made.next_s())) if isinstance(f, Fault))
