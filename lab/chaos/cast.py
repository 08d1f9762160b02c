"""Who is meant: "worker 1", "server *", "random worker", "random", and links between them, "worker 0 -> server 1"."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from shoal.errors import ConfigError

__all__ = ["Cast", "Draw", "Link", "Pair", "Where", "parse_where"]

ROLES = ("worker", "server", "replica", "scheduler")

Draw: TypeAlias = Callable[[int], int]
"""A number below the given one, drawn."""

Pair: TypeAlias = tuple[str, str]
"""Who sends, and who receives."""


@dataclass(frozen=True, slots=True)
class Where:
    """Processes: of a role ("" for any), with this rank; all of them if it is None, one that is drawn if ``random``."""

    role: str
    rank: int | None = None
    random: bool = False

    def __str__(self) -> str:
        if self.random:
            return f"random {self.role}".rstrip()
        if self.role == "scheduler":
            return self.role
        return f"{self.role} {'*' if self.rank is None else self.rank}".strip()


@dataclass(frozen=True, slots=True)
class Link:
    """What goes from one to the other, and back if ``both``."""

    source: Where
    to: Where
    both: bool

    def __str__(self) -> str:
        return f"{self.source} {'<->' if self.both else '->'} {self.to}"


def parse_where(text: str) -> Where | Link:
    """Who is meant by a text.

    >>> parse_where("worker 1"), parse_where("random")
    (Where(role='worker', rank=1, random=False), Where(role='', rank=None, random=True))

    Raises:
        ConfigError: it is nobody.
    """
    for arrow in ("<->", "->"):
        source, found, to = text.partition(arrow)
        if found:
            return Link(_where(source), _where(to), arrow == "<->")
    return _where(text)


def _where(text: str) -> Where:
    words = text.split()
    if words[:1] == ["random"] and len(words) == 1:
        return Where("", None, True)
    if words == ["*"]:
        return Where("")
    random = words[:1] == ["random"]
    role, *rest = words[1:] if random else words or [""]
    if role not in ROLES:
        near = difflib.get_close_matches(role, ROLES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        expected = "'worker 1', 'server *', 'scheduler', 'random worker', 'random', or a link such as 'a -> b'"
        raise ConfigError(f"who is {text.strip()!r}? Expected {expected}{hint}")
    if random or role == "scheduler":
        if rest:
            raise ConfigError(f"who is {text.strip()!r}? Nothing comes after {' '.join(words[: 1 + random])!r}")
        return Where(role, None, random)
    if len(rest) != 1 or not (rest[0] == "*" or rest[0].isdecimal()):
        raise ConfigError(f"which {role} is {text.strip()!r}? Expected a rank, '{role} 0', or all, '{role} *'")
    return Where(role, None if rest[0] == "*" else int(rest[0]))


@dataclass(frozen=True, slots=True)
class Cast:
    """Who is in a run."""

    workers: int
    servers: int
    replicas: int = 0
    scheduler: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Everybody: the scheduler first."""
        counts = (("worker", self.workers), ("server", self.servers), ("replica", self.replicas))
        return (*(["scheduler"] * self.scheduler), *(f"{role} {i}" for role, n in counts for i in range(n)))

    def check(self, where: Where | Link) -> None:
        """Raise ConfigError if ``where`` means nobody of this run."""
        for end in (where.source, where.to) if isinstance(where, Link) else (where,):
            if not self._of(end):
                there = ", ".join(self.names)
                raise ConfigError(f"there is no {end} in this run, which has {there}")

    def _of(self, where: Where) -> list[str]:
        named = [n for n in self.names if where.role in ("", n.split()[0])]
        return named if where.rank is None else [n for n in named if n == f"{where.role} {where.rank}"]

    def draw(self, where: Where | Link, draw: Draw) -> Where | Link:
        """The same, with one process for each that is random."""
        if isinstance(where, Link):
            return Link(self._drawn(where.source, draw), self._drawn(where.to, draw), where.both)
        return self._drawn(where, draw)

    def _drawn(self, where: Where, draw: Draw) -> Where:
        if not where.random:
            return where
        found = self._of(where)
        role, _, rank = found[draw(len(found))].partition(" ")
        return Where(role, int(rank) if rank else None)

    def victims(self, where: Where) -> tuple[str, ...]:
        """The processes that are meant, where nothing is left to be drawn."""
        return tuple(self._of(where))

    def links(self, where: Where | Link) -> tuple[Pair, ...]:
        """The links that are meant, each as who sends and who receives; all of a process's if no link is named."""
        if isinstance(where, Where):
            mine = self.victims(where)
            return tuple((a, b) for a in self.names for b in self.names if a != b and (a in mine or b in mine))
        there = [(a, b) for a in self.victims(where.source) for b in self.victims(where.to) if a != b]
        back = [(b, a) for a, b in there] if where.both else []
        return tuple(dict.fromkeys([*there, *back]))
