"""The final report of a run: what every process said when it left, added up.

The report is plain data, the same in memory and in the file that ``shoal run --report out.json`` writes:

==================  ================================================================================================
key                 value
==================  ================================================================================================
mode                consistency mode: "sync", "async", "ssp:S", ..., or "allreduce"
algo                the whole algorithm by its parts, as the last Trainer of worker 0 was made with, such as
                    "gate=asp rule=dcasgd:lam=0.04", or ""
workers, servers    how many processes of each role
accuracy            the last accuracy that worker 0 reported, or null
seconds             training time of the slowest worker
target              the target of ``--target``, such as "accuracy=0.97", or null
seconds_to_target   training time of worker 0 until it first reported the target, or null
samples_per_s       samples that all workers trained on, over ``seconds``
staleness_mean      mean, over all applied contributions, of how many versions of a slice had been made between the one
                    that the contribution was computed from and the one that it was applied to; null if none was applied
staleness_p95       the same, 95th percentile (the smallest value that at least 95 % do not exceed)
staleness           the same as a histogram: how many contributions by staleness; each worker has its own, too
staleness_by_key    by key, the stalest first: pushes, mean and max staleness, over all its slices
skew                histogram of the newest less the oldest version among the slices of one read (of one step's weights)
bytes_pushed        payload that the workers sent in pushes
bytes_saved         what compression made it smaller by
bytes_pulled        payload that they received
compression         null, or what compressed pushes and pulls, and its price: codec, encode_s and decode_s (seconds of
                    all workers and servers), bytes_saved, time_saved_s (what sending those would have taken at the
                    throughput that the workers measured) and pays (null if there was too little of it to say)
changes             settings that were changed meanwhile: number, store, settings, at_clock, by; and taken, which says
                    for each server (and for each worker, for codecs) how many slices took the change, and the first and
                    the last version (or clock) at which one did; and refused, why one could not
ledger              sent, acknowledged (counted by the workers), applied, rejected, dropped, duplicate, lost (counted by
                    the servers) and balanced: for every worker, sent = acknowledged = applied + rejected + dropped +
                    lost. Lost is what was acknowledged by a server that died, and not in the snapshot of it. One
                    push of one slice counts as one; in an all-reduce one message does, and the worker that takes it is
                    the server. Dropped is what came too late for its round; a duplicate is a repetition that was
                    answered without being counted again.
restored            for each server that was restored from a snapshot, one sentence: what was lost
cost                with ``--prices``, an estimate: ``total``, ``currency``, of each role ``count``, ``hours`` and
                    ``cost``, and ``source`` and ``date`` of the prices; else null
scheduler_restarts  how often the scheduler was started again
chaos               null, or with ``--chaos`` what was done to the run: see `shoal.lab.chaos.run.Chaos.report`
weights_sha256      hash of the final weights, from worker 0, or null
replicas_equal      whether all workers of an all-reduce ended with these weights; null where servers hold them
metrics             every metric that worker 0 reported, with its last value
per_worker          for each worker: rank, state ("done", "left" before that, "lost" if it was given up), samples,
                    seconds, samples_per_s, metrics, sent, acknowledged, applied, rejected, dropped, duplicate, lost,
                    retries, staleness_mean, balanced; samples and seconds of its last process, if it was replaced
seed                of the run
malformed           messages that servers dropped because they were not the protocol
shoal               version of shoal
==================  ================================================================================================
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

import shoal
from shoal.errors import ConfigError
from shoal.kvstore.codecs import pays
from shoal.kvstore.control import shown
from shoal.kvstore.gates import canonical_mode, mode_label
from shoal.kvstore.wire.messages import Change, NodeStatus, Snapshot
from shoal.lab.cost import Prices, estimate, shown_cost
from shoal.lab.staleness import bars, by_key, histogram, mean, percentile

__all__ = ["check_place", "final_report", "put_aside", "render", "save"]

Report = dict[str, Any]

MAX_CHANGES_SHOWN = 20
"""Changes of settings that are listed on the terminal; the report has all."""

_SERVER_COUNTS = ("applied", "rejected", "dropped", "duplicate", "lost")
_WORKER_COUNTS = ("sent", "acknowledged", "retries", "skipped")


def final_report(
    snapshot: Snapshot,
    seed: int | None = None,
    chaos: Sequence[Mapping[str, Any]] | None = None,
    prices: Prices | None = None,
) -> Report:
    """The report of a finished run; the module's documentation lists its keys.

    Args:
        snapshot: the scheduler's last.
        seed: of the run.
        chaos: what was done to the run on purpose.
        prices: of machines, for an estimate of what it has cost.
    """
    workers = [n for n in snapshot.nodes if n.role == "worker"]
    holders = [_report(n) for n in snapshot.nodes if n.role == "server"]
    servers = [*holders, *(_mapping(_report(n).get("taken")) for n in workers)]  # in an all-reduce workers take pushes
    staleness = {n.rank: _staleness(servers, n.rank) for n in workers}
    rows = [_worker_row(n, servers, staleness[n.rank]) for n in workers]
    first = next((_report(n) for n in workers if n.state == "done"), {})
    metrics = dict(_mapping(first.get("metrics")))
    seconds = max((row["seconds"] for row in rows), default=0.0)
    everyone = sum(staleness.values(), Counter[int]())
    return {
        "mode": mode_label(snapshot.mode),
        "algo": str(first.get("algo") or ""),
        "workers": len(workers),
        "servers": len(holders),
        "accuracy": metrics.get("accuracy"),
        "seconds": seconds,
        "target": first.get("target"),
        "seconds_to_target": first.get("seconds_to_target"),
        "samples_per_s": _rate(sum(row["samples"] for row in rows), seconds),
        "staleness_mean": mean(everyone),
        "staleness_p95": percentile(everyone, 0.95),
        "staleness": {str(tau): n for tau, n in sorted(everyone.items())},
        "staleness_by_key": by_key(servers),
        "skew": {str(k): n for k, n in sorted(histogram(_report(n).get("skew") for n in workers).items())},
        "bytes_pushed": sum(_number(_report(n), "bytes_pushed") for n in workers),
        "bytes_saved": sum(_saved(_report(n)) for n in workers),
        "bytes_pulled": sum(_number(_report(n), "bytes_pulled") for n in workers),
        "compression": _compression([_report(n) for n in workers], servers),
        "changes": [_change(c, snapshot.nodes) for c in snapshot.changes],
        "ledger": _ledger(rows),
        "restored": [str(text) for s in servers for text in s.get("restored") or ()],
        "cost": estimate(snapshot, prices) if prices is not None else None,
        "scheduler_restarts": max(0, snapshot.term - 1),
        "chaos": None if chaos is None else [dict(c) for c in chaos],
        "weights_sha256": first.get("weights_sha256"),
        "replicas_equal": _equal([_replica(_report(n)) for n in workers]),
        "metrics": metrics,
        "per_worker": rows,
        "seed": seed,
        "malformed": sum(_number(s, "malformed") for s in servers),
        "shoal": shoal.__version__,
    }


def _replica(report: Mapping[str, Any]) -> str | None:
    """The hash of a worker's own weights; None if servers hold them, or it has not said."""
    return report.get("weights_sha256") if report.get("replica") else None


def _equal(hashes: Sequence[str | None]) -> bool | None:
    """Whether all workers have these weights; None if not all say what they have.

    >>> _equal(["a", "a"]), _equal(["a", "b"]), _equal(["a", None])
    (True, False, None)
    """
    return None if None in hashes or len(hashes) < 2 else len(set(hashes)) == 1


def _change(c: Change, nodes: Sequence[NodeStatus]) -> Report:
    """A change of settings, and when who took it."""
    taken, refused = {}, {}
    for n in nodes:
        found = _mapping(_report(n).get("changes")).get(str(c.number))
        if found:
            taken[f"{n.role} {n.rank}"] = dict(zip(("slices", "first", "last"), found, strict=False))
        if why := _mapping(_report(n).get("changes_refused")).get(str(c.number)):
            refused[f"{n.role} {n.rank}"] = why
    asked = {"number": c.number, "store": c.store, "settings": c.settings, "at_clock": c.at_clock, "by": c.by}
    return {**asked, "taken": taken, "refused": refused}


def _worker_row(node: NodeStatus, servers: Sequence[Mapping[str, Any]], staleness: Counter[int]) -> Report:
    report = _report(node)
    own = _mapping(report.get("ledger"))
    booked = [_mapping(_mapping(s.get("ledger")).get(str(node.rank))) for s in servers]
    counts = {name: _number(own, name) for name in _WORKER_COUNTS}
    counts |= {name: sum(_number(book, name) for book in booked) for name in _SERVER_COUNTS}
    if node.state == "lost":  # it was given up, and has left no account: what the servers have counted of it stands
        counts["sent"] = counts["acknowledged"] = sum(counts[name] for name in _SERVER_COUNTS if name != "duplicate")
    return {
        "rank": node.rank,
        "state": node.state,
        "samples": _number(report, "samples"),
        "seconds": float(_number(report, "seconds")),
        "samples_per_s": _rate(_number(report, "samples"), _number(report, "seconds")),
        "metrics": dict(_mapping(report.get("metrics"))),
        **counts,
        "staleness_mean": mean(staleness),
        "staleness": {str(tau): n for tau, n in sorted(staleness.items())},
        "balanced": counts["sent"]
        == counts["acknowledged"]
        == counts["applied"] + counts["rejected"] + counts["dropped"] + counts["lost"],
    }


def _ledger(rows: Sequence[Report]) -> Report:
    names = ("sent", "acknowledged", *_SERVER_COUNTS, "skipped")
    return {name: sum(row[name] for row in rows) for name in names} | {"balanced": all(r["balanced"] for r in rows)}


def _compression(workers: Sequence[Mapping[str, Any]], servers: Sequence[Mapping[str, Any]]) -> Report | None:
    """What compression has cost and saved, over all processes."""
    costs = [_mapping(c) for w in workers for c in w.get("compression") or ()]
    if not costs:
        return None
    found = {name: sum(_number(c, name) for c in (*costs, *servers)) for name in ("encode_s", "decode_s")}
    saved_s = sum(_number(c, "time_saved_s") for c in costs)
    known = all(c.get("pays") is not None for c in costs)
    return {
        "codec": ", ".join(dict.fromkeys(str(c.get("codec")) for c in costs)),
        **found,
        "bytes_saved": sum(_number(c, "bytes_saved") for c in costs),
        "time_saved_s": saved_s,
        "pays": pays(sum(found.values()), saved_s) if known else None,
    }


def _staleness(servers: Sequence[Mapping[str, Any]], rank: int) -> Counter[int]:
    """How many contributions of a worker had which staleness, over all servers."""
    return histogram(_mapping(s.get("staleness")).get(str(rank)) for s in servers)


def _rate(samples: float, seconds: float) -> float:
    return samples / seconds if seconds > 0 else 0.0


def _report(node: NodeStatus) -> Mapping[str, Any]:
    return _mapping(node.report)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(values: Mapping[str, Any], name: str) -> Any:
    value = values.get(name)
    return value if isinstance(value, int | float) else 0


# --- showing and saving -----------------------------------------------------------------------------------------------


def render(report: Report) -> RenderableType:
    """The report as tables for people: the run, and a line for each worker."""
    return Group(_summary(report), _workers(report))


def _summary(report: Report) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for label, value in _lines(report):
        table.add_row(label, value)
    return table


def _lines(r: Report) -> list[tuple[str, str]]:
    book = r["ledger"]
    verdict = "balanced" if book["balanced"] else "DOES NOT BALANCE"
    nodes = f"{_some(r['workers'], 'worker')}, {_some(r['servers'], 'server')}"
    lines = [("run", f"{r['mode'] or 'no store'}, {nodes}, seed {r['seed']}")]
    if r["algo"] and r["algo"] != f"gate={canonical_mode(r['mode'])}":
        lines.append(("algorithm", r["algo"]))
    lines += [(name, f"{value:.4g}") for name, value in r["metrics"].items()]
    if r["target"]:
        reached = r["seconds_to_target"]
        lines.append((f"time to {r['target']}", "not reached" if reached is None else f"{reached:.2f} s"))
    lines.append(("time", f"{r['seconds']:.2f} s, {r['samples_per_s']:,.0f} samples/s"))
    if r["staleness_mean"] is not None:
        drawn = bars(histogram([r["staleness"]]))
        lines.append(("staleness", f"mean {r['staleness_mean']:.2f}, p95 {r['staleness_p95']}   {drawn} from 0"))
    skew = histogram([r["skew"]])
    if any(skew):
        text = f"mean {mean(skew):.2f}, p95 {percentile(skew, 0.95)} versions in one read   {bars(skew)} from 0"
        lines.append(("skew", text))
    lines.append(("traffic", f"{r['bytes_pushed'] / 1e6:.1f} MB pushed, {r['bytes_pulled'] / 1e6:.1f} MB pulled"))
    if r["compression"]:
        lines.append(("compression", _worth(r["compression"])))
    lines += [(f"change {c['number']}", _changed(c)) for c in r["changes"][:MAX_CHANGES_SHOWN]]
    counts = ", ".join(f"{book[name]} {name}" for name in ("sent", "acknowledged", *_SERVER_COUNTS))
    lines.append(("ledger", f"{verdict}: {counts}"))
    lines += [("restored", text) for text in r["restored"]]
    if r["cost"]:
        lines.append(("cost", shown_cost(r["cost"])))
    if r["weights_sha256"]:
        same = {None: "", True: ", the same on every worker", False: ", NOT THE SAME ON EVERY WORKER"}
        lines.append(("weights", f"sha256 {r['weights_sha256'][:16]}{same[r['replicas_equal']]}"))
    return lines


def _changed(c: Report) -> str:
    when = "at once" if c["at_clock"] < 0 else f"at clock {c['at_clock']}"
    versions = [t[end] for who, t in c["taken"].items() if who.startswith("server") for end in ("first", "last")]
    span = sorted({min(versions), max(versions)}) if versions else []
    taken = f", taken at version {' to '.join(map(str, span))}" if span else ""
    refused = "".join(f"; {who} could not: {why}" for who, why in c["refused"].items())
    return f"{shown(c['settings'])} {when}{taken}, asked for by {c['by']}{refused}"


def _worth(c: Report) -> str:
    spent = c["encode_s"] + c["decode_s"]
    verdict = {None: "", True: ": it pays", False: ": IT DOES NOT PAY on this network"}[c["pays"]]
    sending = f"{c['time_saved_s']:.2f} s of sending"
    return f"{c['codec']}, {c['bytes_saved'] / 1e6:.1f} MB less ({sending}) for {spent:.2f} s of work{verdict}"


def _some(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _workers(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("worker", "samples", "seconds", "samples/s", "pushes", "retries", "staleness"):
        table.add_column(name, justify="right")
    for row in report["per_worker"]:
        mean = row["staleness_mean"]
        table.add_row(
            str(row["rank"]),
            f"{row['samples']:,}",
            f"{row['seconds']:.2f}",
            f"{row['samples_per_s']:,.0f}",
            str(row["sent"]),
            str(row["retries"]),
            "-" if mean is None else f"{mean:.2f}",
        )
    return table


def check_place(path: str, what: str = "report") -> None:
    """Find out before a run, not after it, that its report cannot be written to ``path``; "" is no path.

    Raises:
        ConfigError: it cannot.
    """
    folder = Path(path).parent
    reason = "" if os.access(folder, os.W_OK) else f"no right to write in {str(folder.absolute())!r}"
    if not folder.is_dir():
        reason = f"there is no folder {str(folder.absolute())!r}"
    elif Path(path).is_dir() and path:
        reason = "it is a folder"
    elif Path(path).exists() and not Path(path).is_file():  # such as /dev/null, which would be replaced
        reason = "it is no ordinary file"
    if path and reason:
        raise ConfigError(f"the {what} cannot be written to {path!r}: {reason}")


def put_aside(path: str) -> None:
    """Before a run: an earlier one's report becomes ``path.before``, so that nobody takes it for this one's."""
    with suppress(OSError):
        if Path(path).is_file():
            os.replace(path, path + ".before")


def save(report: Report, path: str | Path) -> None:
    """Write the report as JSON; the file appears whole or not at all.

    Raises:
        ConfigError: the file cannot be written there.
    """
    path = Path(os.path.realpath(path))  # what a link names, not the link
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as f:
            temporary = f.name
            json.dump(report, f, indent=2)
            f.write("\n")
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as e:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise ConfigError(f"the report cannot be written to {str(path)!r}: {e.strerror}") from e


def _saved(report: Mapping[str, Any]) -> int:
    pushed = _number(report, "bytes_pushed")
    return int((_number(report, "bytes_dense") or pushed) - pushed)
