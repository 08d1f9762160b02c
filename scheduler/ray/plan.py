"""Where servers and replicas go, and how many workers there is room for: pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["Group", "lacking", "place_servers", "room_for"]

Resources = Mapping[str, float]


class Group(NamedTuple):
    """One placement group.

    Args:
        slots: who is in it, in the order of its bundles.
        strategy: Ray's word.
    """

    slots: tuple[str, ...]
    strategy: str


def place_servers(servers: int, replicas: int, need: Resources, nodes: Sequence[Resources]) -> tuple[list[Group], str]:
    """The groups of so many servers and replicas of each, and, unless each has a machine of its own, a line about it.

    A server and its replica are kept apart as long as there are two machines: that is what the replica is for.

    Args:
        need: of each of them.
        nodes: what each machine has in all.
    """
    first = tuple(f"server {i}" for i in range(servers))
    second = tuple(f"replica {i}" for i in range(servers * replicas))
    able = sum(fits(need, node) > 0 for node in nodes)
    everybody = first + second
    if len(everybody) <= max(able, 1):
        return [Group(everybody, "STRICT_SPREAD")] if everybody else [], ""
    if second and able >= 2:
        pairs = [Group((a, b), "STRICT_SPREAD") for a, b in zip(first, second, strict=True)]
        return pairs, (
            f"{len(everybody)} servers and replicas share {able} machines; "
            "a server and its replica are never on the same one"
        )
    who = f"{servers} servers" + f" and {servers} replicas" * bool(second)
    loss = "its death takes a server and its replica together" if second else "its death takes several of them"
    return [Group(everybody, "SPREAD")], f"{who} share {_machines(able)}: {loss}"


def _machines(n: int) -> str:
    return "1 machine" if n <= 1 else f"{n} machines"


def fits(need: Resources, free: Resources) -> int:
    """How many of ``need`` there are in ``free``."""
    counts = [math.floor(free.get(name, 0.0) / amount + 1e-9) for name, amount in need.items() if amount > 0]
    return max(0, min(counts)) if counts else 1 << 16


def room_for(need: Resources, free: Iterable[Resources]) -> int:
    """How many workers these machines take besides what runs there."""
    return sum(fits(need, node) for node in free)


def lacking(need: Resources, nodes: Sequence[Resources]) -> str:
    """Why no machine takes this, in words; empty if one could, were it free."""
    asked = ", ".join(f"{amount:g} {name}" for name, amount in sorted(need.items()) if amount)
    if not nodes:
        return f"{asked}: the cluster has no machine"
    if any(fits(need, node) for node in nodes):
        return ""
    largest = ", ".join(f"{max(node.get(name, 0.0) for node in nodes):g} {name}" for name in sorted(need))
    return f"{asked} on one machine: the largest has {largest}"
