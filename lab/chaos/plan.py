"""The chaos file: what goes wrong, to whom, when and for how long. Strict: what is not understood is refused.

TOML with ``[[chaos]]`` tables (or JSON with a list ``chaos``) and a ``seed``:

    seed = 7
    [[chaos]]
    what = "kill"                  # or a list, of which each occurrence draws one
    who = "random worker"
    every_s = 10
    jitter_s = 2

`docs/chaos.md` lists the words.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError
from shoal.lab.chaos.cast import Cast, Link, Where, parse_where

__all__ = ["KINDS", "Event", "Plan", "parse_plan", "read_plan"]

SIGNALS = ("kill", "stop", "slow")
NETWORK = ("drop", "duplicate", "reorder", "delay", "partition")
INSIDE = ("full-disk", "clock-jump")
KINDS = (*SIGNALS, *NETWORK, *INSIDE)
"""What may go wrong."""

MOMENTARY = ("kill", "clock-jump")
"""Kinds that do not last."""

_AMOUNTS = {"slow": "factor", "drop": "percent", "duplicate": "percent", "reorder": "percent"}
_AMOUNTS |= {"delay": "delay_s", "clock-jump": "by_s"}
_WHENS = ("at_s", "every_s", "at_step", "at_clock")
_NUMBERS = (*_WHENS, "jitter_s", "first_s", "until_s", "for_s", "factor", "percent", "delay_s", "by_s")
_KEYS = ("what", "who", *_NUMBERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One table of the file.

    Args:
        what: kinds; an occurrence draws one.
        who: to whom, or to which links.
        at_s: seconds since the run began (all have joined); also where nothing is said, for what may last.
        every_s: again and again, first at ``first_s`` (``every_s`` if not given), each time up to ``jitter_s`` later.
        until_s: no occurrence begins later than this.
        at_step, at_clock: when the victim, or, if it is no worker, any worker, has made so many steps, or contributions
            to a slice.
        for_s: how long it lasts; None is to the end of the run.
        factor: slow: how many times as long everything takes.
        percent: drop, duplicate, reorder: of the messages.
        delay_s: delay: of each message.
        by_s: clock-jump: forward.
    """

    what: tuple[str, ...]
    who: tuple[Where | Link, ...]
    at_s: float | None = None
    every_s: float | None = None
    jitter_s: float = 0.0
    first_s: float | None = None
    until_s: float = float("inf")
    at_step: int | None = None
    at_clock: int | None = None
    for_s: float | None = None
    factor: float = 3.0
    percent: float = 0.0
    delay_s: float = 0.0
    by_s: float = 0.0

    def amount(self, what: str) -> str:
        """How much, as people say it: "x3", "5 %"; "" where there is nothing to say."""
        match what:
            case "slow":
                return f"x{self.factor:g}"
            case "drop" | "duplicate" | "reorder":
                return f"{self.percent:g} %"
            case "delay":
                return f"{self.delay_s:g} s"
            case "clock-jump":
                return f"{self.by_s:g} s"
        return ""

    def __str__(self) -> str:
        shown = [" ".join(filter(None, (w, self.amount(w)))) for w in self.what]
        lasts = "" if self.for_s is None else f" for {self.for_s:g} s"
        return f"{' or '.join(shown)}: {', '.join(map(str, self.who))}{lasts}, {self._when()}"

    def _when(self) -> str:
        if self.every_s is not None:
            later = f" (+ up to {self.jitter_s:g} s)" if self.jitter_s else ""
            until = f" until {self.until_s:g} s" if self.until_s < float("inf") else ""
            return f"every {self.every_s:g} s{later}{until}"
        if self.at_step is not None:
            return f"at step {self.at_step}"
        return f"at clock {self.at_clock}" if self.at_clock is not None else f"at {self.at_s:g} s"


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole file.

    Args:
        events: in the file's order.
        seed: of everything that is drawn.
        name: of the file, for texts.
    """

    events: tuple[Event, ...]
    seed: int = 0
    name: str = "chaos"

    def check(self, cast: Cast) -> None:
        """Find out before the run that an event names somebody who is not in it.

        Raises:
            ConfigError: it does.
        """
        for n, event in enumerate(self.events, 1):
            for where in event.who:
                try:
                    cast.check(where)
                except ConfigError as e:
                    raise ConfigError(f"{self.name}, event {n}: {e}") from e

    def refuse(self, kinds: Sequence[str], place: str) -> None:
        """Raise ConfigError if an event is of none of these ``kinds``, which are what ``place`` can do."""
        for n, event in enumerate(self.events, 1):
            for what in event.what:
                if what not in kinds:
                    known = ", ".join(kinds)
                    raise ConfigError(f"{self.name}, event {n}: {place} has no {what!r}; it has {known}")


def read_plan(path: str | Path) -> Plan:
    """The plan in a file, TOML, or JSON if its name ends with ``.json``.

    Raises:
        ConfigError: it cannot be read or is not understood; says where, and what was expected.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as e:
        raise ConfigError(f"the chaos file {str(path)!r} cannot be read: {e.strerror}") from e
    except ValueError as e:  # of both parsers
        raise ConfigError(f"the chaos file {str(path)!r} is not {path.suffix.lstrip('.') or 'toml'}: {e}") from e
    return parse_plan(data, path.name)


def parse_plan(data: Any, name: str = "chaos") -> Plan:
    """The plan that a file's content means.

    Args:
        data: mapping with ``chaos``, a list of mappings, and perhaps ``seed``.
        name: of the file, for texts.
    Raises:
        ConfigError: it is not understood.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("chaos"), list) or not data["chaos"]:
        raise ConfigError(f"{name}: expected [[chaos]] tables (in JSON a list under 'chaos'), got none")
    _known(f"{name}", data, ("seed", "chaos"))
    seed = data.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"{name}: seed must be a whole number, got {seed!r}")
    return Plan(tuple(_event(f"{name}, event {n}", e) for n, e in enumerate(data["chaos"], 1)), seed, name)


def _event(place: str, data: Any) -> Event:
    if not isinstance(data, Mapping):
        raise ConfigError(f"{place}: expected a table with 'what' and 'who', got {data!r}")
    _known(place, data, _KEYS)
    what = _words(place, data, "what")
    for kind in what:
        if kind not in KINDS:
            raise ConfigError(f"{place}: unknown kind {kind!r}{_near(kind, KINDS)}")
    try:
        who = tuple(parse_where(w) for w in _words(place, data, "who"))
    except ConfigError as e:
        raise ConfigError(f"{place}: {e}") from e
    numbers = {key: _number(place, key, data[key]) for key in _NUMBERS if key in data}
    _check_when(place, what, numbers)
    _check_amounts(place, what, numbers)
    if any(isinstance(w, Link) for w in who) and not set(what) <= set(NETWORK):
        other = next(w for w in what if w not in NETWORK)
        raise ConfigError(f"{place}: {other!r} happens to processes, not to links: name one, such as 'worker 1'")
    if not any(key in numbers for key in _WHENS):
        numbers["at_s"] = 0.0
    return Event(what=what, who=who, **numbers)


def _check_when(place: str, what: Sequence[str], numbers: Mapping[str, float]) -> None:
    whens = [key for key in _WHENS if key in numbers]
    if len(whens) > 1:
        raise ConfigError(f"{place}: {' and '.join(whens)} exclude each other: make two events of it")
    for kind in what:
        if not whens and kind in (*MOMENTARY, "stop", "partition"):
            raise ConfigError(f"{place}: when? {kind!r} needs one of {', '.join(_WHENS)}")
        if "for_s" not in numbers and kind in ("stop", "partition"):
            raise ConfigError(f"{place}: for how long? {kind!r} needs for_s, in seconds")
    if "for_s" in numbers and set(what) <= set(MOMENTARY):
        raise ConfigError(f"{place}: {what[0]!r} does not last: it has no for_s")
    for key in ("jitter_s", "first_s", "until_s"):
        if key in numbers and "every_s" not in numbers:
            raise ConfigError(f"{place}: {key} goes with every_s only")
    if not 0 <= numbers.get("jitter_s", 0.0) <= numbers.get("every_s", 0.0):
        raise ConfigError(f"{place}: jitter_s is at most every_s, so that occurrences stay in order")


def _check_amounts(place: str, what: Sequence[str], numbers: Mapping[str, float]) -> None:
    for kind in what:
        key = _AMOUNTS.get(kind)
        if key and key not in numbers and kind != "slow":
            raise ConfigError(f"{place}: how much? {kind!r} needs {key}")
    for key in ("factor", "percent", "delay_s", "by_s"):
        if key in numbers and all(_AMOUNTS.get(kind) != key for kind in what):
            raise ConfigError(f"{place}: {key} means nothing to {what[0]!r}")
    if numbers.get("factor", 2.0) <= 1.0:
        raise ConfigError(f"{place}: factor says how many times slower, more than 1, got {numbers['factor']:g}")
    if not 0 < numbers.get("percent", 1.0) <= 100:
        raise ConfigError(f"{place}: percent is more than 0 and at most 100, got {numbers['percent']:g}")


def _number(place: str, key: str, value: Any) -> Any:
    """A number that is no less than 0; counts are whole, and all but moments are more than 0."""
    whole = key in ("at_step", "at_clock")
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    least = 1 if whole else 0
    if not right or not least <= value < float("inf"):
        if key == "by_s" and right and value < 0:
            raise ConfigError(f"{place}: by_s is {value:g}: deadlines are on clocks that never go back; only forward")
        kind = "a whole number, at least 1" if whole else "a number of 0 or more"
        raise ConfigError(f"{place}: {key} must be {kind}, got {value!r}")
    if value == 0 and key not in ("at_s", "jitter_s", "first_s"):
        raise ConfigError(f"{place}: {key} must be more than 0")
    return value if whole else float(value)


def _words(place: str, data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = data.get(key)
    words = [found] if isinstance(found, str) else found
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise ConfigError(f"{place}: {key!r} must be a text or a list of texts, got {found!r}")
    return tuple(words)


def _known(place: str, data: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in data:
        if key not in keys:
            raise ConfigError(f"{place}: unknown key {key!r}{_near(str(key), keys)}")


def _near(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
