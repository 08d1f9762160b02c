"""What Slurm says of a job's machines, in its environment: pure functions of those variables."""

import re
from collections.abc import Mapping

from shoal.errors import ConfigError
from shoal.scheduler.hosts import Host

__all__ = ["allocation", "expand_counts", "expand_nodes"]

MOST_NODES = 1 << 16
"""More nodes in one expression are a mistake."""

_COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def expand_nodes(text: str) -> tuple[str, ...]:
    """The nodes of a node list expression (``SLURM_JOB_NODELIST``), in its order.

    >>> expand_nodes("node[001-003,7],gpu2")
    ('node001', 'node002', 'node003', 'node7', 'gpu2')
    >>> expand_nodes("rack[1-2]n[1-2]")
    ('rack1n1', 'rack1n2', 'rack2n1', 'rack2n2')

    Raises:
        ConfigError: it is none.
    """
    names = [name for part in _parts(text) for name in _expand(part, text)]
    if not names:
        raise ConfigError(f"expected a list of nodes such as node[001-004,7], got {text!r}")
    return tuple(dict.fromkeys(names))


def _parts(text: str) -> list[str]:
    """What stands between the commas outside brackets."""
    parts, depth = [""], 0
    for c in text.strip():
        depth += (c == "[") - (c == "]")
        if depth not in (0, 1):
            raise ConfigError(f"node list {text!r}: a bracket too many at {c!r}")
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    if depth:
        raise ConfigError(f"node list {text!r}: a bracket is not closed")
    return [p for p in parts if p]


def _expand(part: str, whole: str) -> list[str]:
    head, bracket, rest = part.partition("[")
    if not bracket:
        return [head]
    inside, _, tail = rest.partition("]")
    numbers = [n for item in inside.split(",") for n in _numbers(item, whole)]
    tails = _expand(tail, whole)
    if len(numbers) * len(tails) > MOST_NODES:
        raise ConfigError(f"node list {whole!r} has more than {MOST_NODES} nodes")
    return [f"{head}{n}{t}" for n in numbers for t in tails]


def _numbers(item: str, whole: str) -> list[str]:
    """``001-003`` keeps its leading zeros."""
    found = _RANGE.fullmatch(item)
    if found is None:
        raise ConfigError(f"node list {whole!r}: expected a number or a range such as 001-004, got {item!r}")
    first, last = found[1], found[2] or found[1]
    if int(last) < int(first) or int(last) - int(first) >= MOST_NODES:
        raise ConfigError(f"node list {whole!r}: {item!r} is no range of at most {MOST_NODES} numbers")
    return [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]


def expand_counts(text: str) -> tuple[int, ...]:
    """Counts by node (``SLURM_TASKS_PER_NODE``, ``SLURM_JOB_CPUS_PER_NODE``).

    >>> expand_counts("2(x3),1")
    (2, 2, 2, 1)

    Raises:
        ConfigError: it is no such list.
    """
    counts: list[int] = []
    for item in text.strip().split(","):
        found = _COUNT.fullmatch(item)
        if found is None or int(found[2] or 1) > MOST_NODES:
            raise ConfigError(f"expected counts by node such as 2(x3),1; got {text!r}")
        counts += [int(found[1])] * int(found[2] or 1)
    return tuple(counts)


def allocation(env: Mapping[str, str]) -> tuple[Host, ...]:
    """The machines of the Slurm job in whose environment this process is; a task is a slot for a worker.

    Raises:
        ConfigError: this is no Slurm job, or what it says is not understood.
    """
    nodes = env.get("SLURM_JOB_NODELIST") or env.get("SLURM_NODELIST") or ""
    if not nodes:
        raise ConfigError(
            "--on slurm starts processes on the nodes of a Slurm job, and this is none (no SLURM_JOB_NODELIST): "
            "run it in an allocation (salloc, sbatch); shoal deploy render --target slurm writes a script for one"
        )
    names = expand_nodes(nodes)
    tasks = expand_counts(env.get("SLURM_TASKS_PER_NODE") or f"1(x{len(names)})")
    if len(tasks) != len(names):
        raise ConfigError(f"SLURM_TASKS_PER_NODE has {len(tasks)} counts for the {len(names)} nodes of {nodes!r}")
    return tuple(Host(name, slots=slots) for name, slots in zip(names, tasks, strict=True))
