"""What a run has cost, from a table of prices that its user keeps: processes of a role, times hours, times the price.

An estimate, of machines only: each process is taken to have a machine (or a share of one) for itself, from when the
scheduler first heard of it until the end of the run. Traffic, disks and the time that machines take to start and to go
are not in it.
"""

import datetime
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError
from shoal.kvstore.wire.messages import Snapshot

__all__ = ["Prices", "estimate", "read_prices", "shown_cost"]

ROLES = ("scheduler", "server", "replica", "worker")


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices an hour, by role.

    Args:
        per_hour: of one process; a role that is not there costs nothing, but a replica what a server does.
        currency: of them.
        source: whose prices these are, for which machines and region.
        date: when they were looked up, as text.
    """

    per_hour: Mapping[str, float]
    currency: str
    source: str
    date: str

    def of(self, role: str) -> float:
        """Of a process of this role, an hour."""
        return self.per_hour.get(role, self.per_hour.get("server", 0.0) if role == "replica" else 0.0)


def read_prices(path: str) -> Prices:
    """The table ``[cost]`` of a TOML file.

    Raises:
        ConfigError: it cannot be read, or says nothing, or something that makes no sense.
    """
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("cost")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise ConfigError(f"prices {path!r} cannot be read: {e}") from e
    if not isinstance(found, dict):
        raise ConfigError(f"{path!r} has no table [cost]: see docs/cloud.md")
    prices = found.get("per_hour", {})
    if not isinstance(prices, dict) or not prices:
        raise ConfigError(
            f"{path!r} has no prices yet: write down yours in [cost.per_hour], by role: {', '.join(ROLES)}"
        )
    return Prices(
        _checked(path, prices), _text(path, found, "currency"), _text(path, found, "source"), _date(path, found)
    )


def _checked(path: str, prices: Mapping[str, Any]) -> dict[str, float]:
    for role, price in prices.items():
        number = isinstance(price, int | float) and not isinstance(price, bool) and 0 <= price < float("inf")
        if role not in ROLES or not number:
            raise ConfigError(f"{path!r}: {role} = {price!r}; expected a price an hour, of {', '.join(ROLES)}")
    return {role: float(price) for role, price in prices.items()}


def _text(path: str, found: Mapping[str, Any], name: str) -> str:
    text = found.get(name)
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{path!r}: [cost] must say {name}, as text: prices without it mean nothing later")
    return text


def _date(path: str, found: Mapping[str, Any]) -> str:
    date = found.get("date")
    if not isinstance(date, datetime.date):
        raise ConfigError(f"{path!r}: [cost] must say when the prices were looked up: date = 2026-01-31")
    return date.isoformat()


def estimate(snapshot: Snapshot, prices: Prices) -> dict[str, Any]:
    """What the run has cost, by role and together, as the report has it."""
    hours: dict[str, list[float]] = {"scheduler": [snapshot.age_s / 3600]}
    for node in snapshot.nodes:
        hours.setdefault(node.role, []).append(node.age_s / 3600)
    roles = {
        role: {"count": len(each), "hours": sum(each), "per_hour": prices.of(role), "cost": sum(each) * prices.of(role)}
        for role, each in hours.items()
    }
    total = sum(float(row["cost"]) for row in roles.values())
    return {"total": total, "currency": prices.currency, "roles": roles, "source": prices.source, "date": prices.date}


def shown_cost(cost: Mapping[str, Any]) -> str:
    """In a line, for people."""
    parts = ", ".join(f"{row['count']} {role} {row['cost']:.4g}" for role, row in cost["roles"].items())
    return f"about {cost['total']:.4g} {cost['currency']} ({parts}; prices of {cost['date']}: {cost['source']})"
