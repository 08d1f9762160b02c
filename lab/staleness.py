"""How old contributions were, and how unlike each other the parts of a read: histograms, added up and drawn."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["bars", "by_key", "histogram", "mean", "percentile"]

_BLOCKS = " ▁▂▃▄▅▆▇█"


def histogram(counts: Iterable[Any]) -> Counter[int]:
    """The sum of histograms that travelled as mappings from text to numbers; what is none counts nothing."""
    total: Counter[int] = Counter()
    for given in counts:
        for value, n in given.items() if isinstance(given, Mapping) else ():
            if str(value).isdecimal() and isinstance(n, int) and n > 0:
                total[int(value)] += n
    return total


def by_key(servers: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Pushes, mean and maximum staleness of each key, over the slices on all servers; the stalest first."""
    sums: dict[str, list[int]] = {}
    for server in servers:
        found = server.get("staleness_by_key")
        for key, numbers in found.items() if isinstance(found, Mapping) else ():
            count, total, most = numbers
            n, s, m = sums.get(key, [0, 0, 0])
            sums[key] = [n + count, s + total, max(m, most)]
    ordered = sorted(sums.items(), key=lambda item: -item[1][1] / max(1, item[1][0]))
    return {k: {"pushes": n, "mean": s / n if n else 0.0, "max": m} for k, (n, s, m) in ordered}


def mean(counts: Counter[int]) -> float | None:
    """Mean value; None for an empty histogram."""
    total = counts.total()
    return sum(value * n for value, n in counts.items()) / total if total else None


def percentile(counts: Counter[int], q: float) -> int | None:
    """The smallest value that at least the share ``q`` does not exceed.

    >>> percentile(Counter({0: 94, 3: 5, 9: 1}), 0.95)
    3
    """
    seen, total = 0, counts.total()
    for value in sorted(counts):
        seen += counts[value]
        if seen >= q * total:
            return value
    return None


def bars(counts: Counter[int], width: int = 24) -> str:
    """The histogram as a line of bars from 0 on; values from ``width`` - 1 on share the last one.

    >>> bars(Counter({0: 4, 1: 8, 3: 1}))
    '▄█ ▁'
    """
    if not counts:
        return ""
    heights = [0] * min(width, max(counts) + 1)
    for value, n in counts.items():
        heights[min(value, width - 1)] += n
    most = max(heights)
    line = "".join(_BLOCKS[max(1, round(8 * n / most)) if n else 0] for n in heights)
    return line + ("+" if max(counts) >= width else "")
