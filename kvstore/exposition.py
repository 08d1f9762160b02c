"""Numbers of a running process as Prometheus reads them: text exposition format 0.0.4. Pure.

Nothing here is asked for while a process works: it counts what it counts anyway, and a reader takes the numbers.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["CONTENT_TYPE", "SECONDS", "Family", "Histogram", "families", "provide", "text"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Upper bounds of times."""

_TRIES = 5

Labels = Mapping[str, object]


class Histogram:
    """How often a value was at most each bound.

    Args:
        bounds: ascending; what is larger than the last counts, too.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds, self.total = tuple(bounds), 0.0
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


@dataclass(slots=True)
class Family:
    """A metric: its name and unit, what it is, and its samples.

    Args:
        name: begins with ``shoal_``; of a counter it ends with ``_total``.
        kind: "counter", "gauge" or "histogram".
        help: one line.
    """

    name: str
    kind: str
    help: str
    samples: list[tuple[str, Labels, float]] = field(default_factory=list)  # what follows the name, labels, value

    def add(self, value: float, **labels: object) -> "Family":
        """A sample."""
        self.samples.append(("", labels, value))
        return self

    def spread(self, histogram: Histogram, **labels: object) -> "Family":
        """The samples of a histogram: cumulative buckets, sum and count."""
        counts, count = list(histogram.counts), 0
        for bound, n in zip((*histogram.bounds, float("inf")), counts, strict=True):
            count += n
            self.samples.append(("_bucket", {**labels, "le": _number(bound)}, count))
        self.samples += [("_sum", labels, histogram.total), ("_count", labels, count)]
        return self


def text(families: Iterable[Family]) -> str:
    r"""Families in the text exposition format; one without samples is left out.

    >>> print(text([Family("shoal_updates_total", "counter", "Updates.").add(3, server=0)]), end="")
    # HELP shoal_updates_total Updates.
    # TYPE shoal_updates_total counter
    shoal_updates_total{server="0"} 3
    """
    lines: list[str] = []
    for f in families:
        if not f.samples:
            continue
        escaped = f.help.replace("\\", r"\\").replace("\n", r"\n")
        lines += [f"# HELP {f.name} {escaped}", f"# TYPE {f.name} {f.kind}"]
        lines += [f"{f.name}{suffix}{_labels(labels)} {_number(value)}" for suffix, labels, value in f.samples]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{k}="{_escaped(str(v))}"' for k, v in labels.items()) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


Source = Callable[[], list[Family]]

_sources: dict[str, Source] = {}


def provide(name: str, source: Source | None) -> None:
    """Where numbers of this process come from, under a name; None when there are no more of it.

    The source is called on the thread of a reader, while others work: it changes nothing, and copies what it goes over.
    """
    if source is None:
        _sources.pop(name, None)
    else:
        _sources[name] = source


def families() -> list[Family]:
    """All numbers of this process."""
    return [family for source in list(_sources.values()) for family in _read(source)]


def _read(source: Source) -> list[Family]:
    """What a source gives; again if something that it goes over has grown meanwhile."""
    for _ in range(_TRIES - 1):
        try:
            return source()
        except RuntimeError:
            continue
    return source()
