"""Gates: who may proceed, when a round closes, and what becomes of a contribution that comes too late.

A *clock* counts the contributions that a worker has made to a slice; the *floor* is the smallest clock among the
workers. Contributions gather in a *round*; when enough are in, they are applied together and the version grows by one.

==============  =====  ================  =====  =====  ================================================================
gate            slack  closes a round    waits  late   source
==============  =====  ================  =====  =====  ================================================================
``bsp``         0      all workers       -      -      bulk synchronous: Valiant, CACM 1990
``backup:b``    -      all but b         yes    drop   Chen et al., arXiv:1604.00981
``ksync:k``     -      k workers         yes    drop   K-sync SGD: Dutta et al., arXiv:1803.01113
``kbatch:k``    -      k contributions   no     drop   K-batch-sync SGD: the same
``kasync:k``    -      k workers         yes    keep   K-async SGD: the same
``fedbuff:k``   -      k contributions   no     keep   K-batch-async: the same; Nguyen et al., arXiv:2106.06639
``ssp:s``       s      each at once      -      -      stale synchronous: Ho et al., NIPS 2013
``essp:s``      s      each at once      -      -      the same; new values are sent unasked: Dai et al., AAAI 2015
``asp``         -      each at once      -      -      asynchronous: Downpour, Dean et al., NIPS 2012
``allreduce``   0      all workers       -      -      without servers: see ``shoal.kvstore.ring``
==============  =====  ================  =====  =====  ================================================================

*Slack*: a worker at clock c may read or push when ``c - floor <= slack``. *Waits*: whoever has contributed to the open
round waits until it closes. *Late*: a contribution computed from a version older than the open round's. Every gate but
``bsp`` takes ``max=T`` as well, such as ``asp:max=20``: a contribution more than T versions old is dropped.
"""

import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace

from shoal.errors import ConfigError, meant, unregistered

__all__ = [
    "Gate",
    "Progress",
    "altered_gate",
    "canonical_mode",
    "check_workers",
    "gate_names",
    "mode_label",
    "parse_gate",
    "register_gate",
]

_SYNONYMS = {"sync": "bsp", "async": "asp", "asgd": "asp", "kbatchasync": "fedbuff"}
_KNOWN = (
    "sync (bsp), async (asp), ssp:S and essp:S with S >= 0, backup:B, ksync:K, kbatch:K, kasync:K, fedbuff:K; "
    "each also with max=T, such as asp:max=20; and allreduce, which needs no servers"
)
_LIMIT = 10**9


@dataclass(frozen=True, slots=True)
class Gate:
    """A consistency model.

    Args:
        name: canonical name; `parse_gate` of it gives an equal gate.
        slack: how many clocks a worker may be ahead of the slowest; None is unbounded.
        need: contributions that close a round: k > 0 is k of them, 0 all workers', -b all workers' but b.
        waits: whoever has contributed to the open round waits until it closes, so that a worker contributes once.
        late: "keep" or "drop" contributions that were computed from a version older than the open round's.
        max_staleness: contributions more than this many versions old are dropped; None keeps them.
        eager: the servers send new values to the workers without being asked.
    """

    name: str
    slack: int | None = None
    need: int = 1
    waits: bool = False
    late: str = "keep"
    max_staleness: int | None = None
    eager: bool = False

    @property
    def rounds(self) -> bool:
        """Every worker contributes once to every round, and nobody goes on before it is closed."""
        return self.need == 0 and self.slack == 0

    @property
    def asks(self) -> bool:
        """Whether a worker must have heard of the open round before it pushes to it."""
        return self.waits or self.late == "drop"

    def ready(self, clock: int, floor: int) -> bool:
        """Whether a worker at ``clock`` is within the slack: it may read, and push its next contribution."""
        return self.slack is None or clock - floor <= self.slack

    def quota(self, workers: int) -> int:
        """How many contributions close a round when ``workers`` take part in it; at least 1."""
        if self.need > 0:
            return min(self.need, workers) if self.waits else self.need
        return max(1, workers + self.need)

    def drops(self, staleness: int, late: bool) -> bool:
        """Whether a contribution of this staleness, late or not, is dropped."""
        return (late and self.late == "drop") or (self.max_staleness is not None and staleness > self.max_staleness)


Maker = Callable[[int], Gate]
"""From a gate's number (0 where it has none) to the gate; its name is set by `parse_gate`."""

_GATES: dict[str, tuple[Maker, int | None]] = {
    "bsp": (lambda _: Gate("", slack=0, need=0), None),
    "asp": (lambda _: Gate(""), None),
    "allreduce": (lambda _: Gate("", slack=0, need=0), None),
    "ssp": (lambda s: Gate("", slack=s), 0),
    "essp": (lambda s: Gate("", slack=s, eager=True), 0),
    "backup": (lambda b: Gate("", need=-b, waits=True, late="drop"), 0),
    "ksync": (lambda k: Gate("", need=k, waits=True, late="drop"), 1),
    "kbatch": (lambda k: Gate("", need=k, late="drop"), 1),
    "kasync": (lambda k: Gate("", need=k, waits=True), 1),
    "fedbuff": (lambda k: Gate("", need=k), 1),
}
_BUILT_IN = frozenset(_GATES)
_LETTERS = {"ssp": "s", "essp": "s", "backup": "b"}
"""What a gate's number may be called, where that is not k; one that a plug-in has made takes any of these."""


def register_gate(name: str, make: Maker, least: int | None = None) -> None:
    """Make a gate known as ``name`` (without a number) or ``name:NUMBER``, in every process that calls this.

    The scheduler, the servers and the workers must all know it: name its module with ``--plugin``.

    ::

        register_gate("half", lambda _: Gate("", need=-2, waits=True))

    Args:
        name: lower-case letters and digits.
        make: from the number to the gate.
        least: smallest number that the gate takes; None for a gate without a number.
    Raises:
        ConfigError: the name cannot be one, or is taken by another gate.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*", name):
        raise ConfigError(f"a gate's name is lower-case letters and digits, got {name!r}")
    known = _GATES.get(name)
    if known is not None and known[0].__module__ != make.__module__:
        raise ConfigError(f"gate {name!r} is taken: known are {', '.join(sorted(_GATES))}")
    _GATES[name] = (make, least)


def gate_names() -> list[str]:
    """First words of all spellings of gates, sorted."""
    return sorted({*_GATES, *_SYNONYMS})


def canonical_mode(name: str) -> str:
    """The one spelling of a gate: ``bsp``, ``asp``, ``ssp:3``, ``backup:1``, ``asp:max=20`` for any accepted one.

    >>> canonical_mode("sync"), canonical_mode("ssp:s=3"), canonical_mode("backup:b=1"), canonical_mode("async:max=9")
    ('bsp', 'ssp:3', 'backup:1', 'asp:max=9')

    Raises:
        ConfigError: lists the spellings that are known.
    """
    return parse_gate(name).name


def mode_label(name: str) -> str:
    """How users spell a canonical mode: ``sync``, ``async``, ``ssp:S``; "" stays "".

    >>> mode_label("bsp"), mode_label("ssp:3")
    ('sync', 'ssp:3')
    """
    return {"bsp": "sync", "asp": "async"}.get(name, name)


def parse_gate(name: str) -> Gate:
    """The gate of this name; see `canonical_mode`."""
    text = name.strip().lower()
    kind, _, rest = text.partition(":")
    words = [w.strip() for w in rest.split(",")] if rest else []
    limits = [w for w in words if w.startswith("max=")]
    numbers = [w for w in words if not w.startswith("max=")]
    kind = _SYNONYMS.get(kind, kind)
    if kind not in _GATES or len(numbers) > 1 or len(limits) > 1 or text.endswith(":"):
        raise _unknown(name)
    make, least = _GATES[kind]
    letters = _LETTERS.get(kind, "k" if kind in _BUILT_IN else "sbk")
    count = _count(name, re.sub(f"^[{letters}]=", "", "".join(numbers)), least)
    if (kind, count) in (("ssp", 0), ("backup", 0)):
        kind, (make, least), count = "bsp", _GATES["bsp"], 0
    words = [kind] if least is None else [f"{kind}:{count}"]
    gate = make(count)
    if limits and gate.rounds:
        raise ConfigError(f"mode {name!r}: nothing is ever stale under {kind}; drop max=")
    if limits:
        limit = _count(name, limits[0][4:], 0)
        gate, words = replace(gate, max_staleness=limit), [*words, f"max={limit}"]
    sep = ":" if least is None else ","
    return replace(gate, name=sep.join(words))


def check_workers(name: str, workers: int) -> None:
    """Raise ConfigError if a run of so many workers is too small for the gate ``name`` ("" is for any number).

    A run that becomes smaller while it is under way goes on: its rounds then take those who are left.

    >>> check_workers("ksync:3", 3)
    """
    gate = parse_gate(name) if name else None
    if gate is None or gate.need == 0:
        return
    least = gate.need if gate.need > 0 else 1 - gate.need
    if workers >= least or (gate.need > 0 and not gate.waits):
        return
    label, kind = mode_label(gate.name), gate.name.partition(":")[0]
    if gate.need > 0:
        wrong, fits = f"closes a round with the contributions of {gate.need} workers", f"{kind}:{workers}"
    else:
        wrong = f"closes a round without the slowest {-gate.need}, and with at least one other"
        fits = f"{kind}:{workers - 1}" if workers > 1 else "sync"
    raise ConfigError(
        f"mode {label!r} {wrong}, but the run has {workers} worker{'s' * (workers != 1)}. Start at least {least} "
        f"workers (-n {least}), or use {fits}."
    )


def altered_gate(gate: Gate, settings: Mapping[str, object]) -> Gate:
    """``gate`` with another slack (``s``) or largest staleness (``max``; None for no limit), if ``settings`` have them.

    >>> altered_gate(parse_gate("ssp:3"), {"s": 5, "max": 20, "momentum": 0.9}).name
    'ssp:5,max=20'

    Raises:
        ConfigError: it has no such limit, or the value cannot be one.
    """
    label = mode_label(gate.name)
    if "s" in settings:
        if gate.slack is None or gate.rounds:
            raise ConfigError(f"gate {label!r} has no slack: s can be changed under ssp:S and essp:S")
        gate = replace(gate, slack=_limit("s", settings["s"]))
    if "max" in settings:
        if gate.rounds or gate.asks:
            raise ConfigError(
                f"gate {label!r} has no max: it can be changed under ssp, essp, asp and fedbuff, where what is old is "
                "dropped by its age alone"
            )
        limit = settings["max"]
        gate = replace(gate, max_staleness=None if limit is None else _limit("max", limit))
    kind, _, rest = gate.name.partition(":")
    words = [str(gate.slack)] if gate.slack is not None else [w for w in rest.split(",") if w and "max=" not in w]
    words += [] if gate.max_staleness is None else [f"max={gate.max_staleness}"]
    return replace(gate, name=":".join([kind, *([",".join(words)] if words else [])]))


def _limit(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LIMIT:
        raise ConfigError(f"{name} is a whole number of clocks, at least 0; got {value!r}")
    return value


def _count(name: str, text: str, least: int | None) -> int:
    if least is None:
        if text:
            raise _unknown(name)
        return 0
    if not re.fullmatch(r"\d{1,9}", text) or not least <= int(text) < _LIMIT:
        raise _unknown(name)
    return int(text)


def _unknown(name: str) -> ConfigError:
    kind = name.partition(":")[0].strip().lower()
    known = _GATES.get(_SYNONYMS.get(kind, kind))
    if known is not None:
        least, limit = known[1], ", and may have max=T" if kind not in ("bsp", "sync", "allreduce") else ""
        form = f"a whole number from {least}, such as {kind}:{least + 2}" if least is not None else "no number"
        return ConfigError(f"mode {name!r}: {kind} takes {form}{limit}")
    own = sorted(set(_GATES) - _BUILT_IN)
    more = f"; registered here: {', '.join(own)}" if own else ""
    return unregistered(f"unknown mode {name!r}; known: {_KNOWN}{more}{meant(kind, [*_GATES, *_SYNONYMS])}")


class Progress:
    """The clock of each worker that is still waited for, and their floor.

    A worker that rests does not hold the floor; where the floor passes it, its clock is taken along, so that it goes on
    as far as the slowest of the others is. ``skipped`` says by how much: a clock is what a worker has contributed plus
    what it has skipped (docs/decisions/0020-a-barrier-levels-the-clocks.md).

    Args:
        ranks: of the workers.
        resting: those of them that rest; whoever changes this set calls `settle` after adding to it.
    """

    __slots__ = ("_resting", "_slowest", "clocks", "floor", "skipped")

    def __init__(self, ranks: tuple[int, ...], resting: Set[int] = frozenset()) -> None:
        self.clocks = dict.fromkeys(sorted(ranks), 0)
        self.skipped: dict[int, int] = {}  # by rank, if it is not 0
        self.floor = 0
        self._resting = resting
        self._slowest = 0  # so many who do not rest are at the floor, or more: while some are, it cannot rise
        self.settle()

    def advance(self, rank: int) -> None:
        """Worker ``rank`` has contributed once more."""
        before = self.clocks[rank]
        self.clocks[rank] = before + 1
        if before == self.floor:
            self._leave()

    def add(self, rank: int, counted: int) -> None:
        """Worker ``rank``, which has made ``counted`` contributions before, takes part: as far as the slowest is."""
        self.clocks[rank] = self.floor
        self.clocks = dict(sorted(self.clocks.items()))
        if self.floor != counted:
            self.skipped[rank] = self.floor - counted
        self.settle()

    def drop(self, rank: int) -> None:
        """Nobody waits for worker ``rank`` any more; the floor may rise."""
        if self.clocks.pop(rank, None) == self.floor:
            self._leave()

    def _leave(self) -> None:
        self._slowest -= 1
        if self._slowest <= 0:
            self.settle()

    def behind(self, clock: int) -> tuple[int, ...]:
        """Workers that are waited for, and whose clock is less than ``clock``."""
        return tuple(r for r, c in self.clocks.items() if c < clock and r not in self._resting)

    def counts(self) -> dict[int, int]:
        """By worker, how many contributions it has made."""
        return {r: c - self.skipped.get(r, 0) for r, c in self.clocks.items()}

    def restore(self, clocks: dict[int, int], skipped: dict[int, int], floor: int) -> None:
        """As far as an earlier process was: ``floor`` does not exceed the clock of anybody who does not rest."""
        self.clocks, self.skipped, self.floor = clocks, skipped, floor
        self.settle()

    def settle(self) -> None:
        """Workers have begun to rest: the floor may rise, to the largest clock if nobody else is left."""
        awake = [c for r, c in self.clocks.items() if r not in self._resting]
        self.floor = max(self.floor, min(awake) if awake else max(self.clocks.values(), default=0))
        self._slowest = awake.count(self.floor)
        for rank, clock in self.clocks.items():
            if clock < self.floor:  # it rests
                self.skipped[rank] = self.skipped.get(rank, 0) + self.floor - clock
                self.clocks[rank] = self.floor
