"""``shoal simulate --link 25gbit -n 8..1024``: how a run scales, as a table, as JSON, and as a picture."""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from shoal.errors import ConfigError
from shoal.lab.scaling import MEASURED, Costs, Setting, link_bytes, predict
from shoal.lab.scaling_chart import chart
from shoal.lab.simulate_command import slowed
from shoal.lab.simulate_laws import Law, Slowed, parse_law

__all__ = ["curve", "mean_of", "run", "servers_for", "slowed"]

DRAWS = 4096
"""Of which the mean of a law is taken."""


def servers_for(asked: int | str, workers: int) -> int:
    """How many servers ``"/4"``, one for each 4 workers, or a plain number is.

    >>> servers_for("/4", 10), servers_for(3, 10)
    (3, 3)
    """
    return asked if isinstance(asked, int) else -(-workers // int(asked[1:]))


def mean_of(law: Law) -> float:
    """Mean of worker 0's durations, from draws."""
    return sum(itertools.islice(law.times(0, "mean", 0), DRAWS)) / DRAWS


def curve(
    s: Setting, crowd: Sequence[int], servers: int | str, modes: Sequence[str], costs: Costs = MEASURED
) -> list[dict[str, Any]]:
    """A row for each number of workers: seconds of a step, efficiency, steps a second of all workers, for each mode.

    ``s`` says everything else. Efficiency is the mean time of computing by that of a step.
    """
    rows = []
    for n in crowd:
        shards = servers_for(servers, n)
        row: dict[str, Any] = {"workers": n, "servers": shards}
        row["server_link_bytes"] = link_bytes(n, shards, s.model_bytes)[1]
        for mode in modes:
            values = {name: getattr(s, name) for name in ("gbit_s", "model_bytes", "compute_s", "law", "slice_bytes")}
            step_s = predict(Setting(workers=n, servers=shards, mode=mode, **values), costs)
            row[mode] = {"step_s": step_s, "efficiency": s.compute_s / step_s, "steps_per_s": n / step_s}
        rows.append(row)
    return rows


def run(o: Any) -> int:
    """Carry out the command with parsed options; the exit code.

    Raises:
        ConfigError: an option is missing, or is not for this.
    """
    if not o.model_size:
        raise ConfigError("--link says how fast bytes travel; --model-size must say how many there are")
    given = [name for name in ("bandwidth", "lr", "chaos", "restart") if getattr(o, name)]
    if given or o.delay != "0" or o.handling_s:
        other = given[0] if given else "delay" if o.delay != "0" else "handling-s"
        raise ConfigError(f"--{other} is not for --link, which brings measured costs along: see docs/scaling.md")
    law, slow = parse_law(o.compute), dict(o.slow or ())
    crowd = (o.workers,) if isinstance(o.workers, int) else o.workers
    s = Setting(
        workers=1,
        servers=1,
        mode="sync",
        gbit_s=o.link,
        model_bytes=o.model_size,
        compute_s=mean_of(law),
        law=Slowed(law, slow) if slow else law,
    )
    began, modes = time.monotonic(), list(dict.fromkeys(o.gate or ["bsp", "ssp:3", "asp"]))
    rows = curve(s, crowd, o.servers, modes)
    about = {"link_gbit": o.link, "model_bytes": o.model_size, "compute": o.compute, "servers": o.servers}
    if o.svg:
        title = f"{o.model_size / 1e6:,.0f} MB, {o.link:g} Gbit/s, computing {s.compute_s:.3g} s a step"
        lines = {m: [(r["workers"], r[m]["efficiency"]) for r in rows] for m in modes}
        Path(o.svg).write_text(chart([(title, lines)]), encoding="utf-8")
    if o.json:
        print(json.dumps({"scaling": about, "rows": rows}, indent=2))
        return 0
    console = Console()
    console.print(
        f"{o.model_size / 1e6:,.0f} MB each way a step, links of {o.link:g} Gbit/s, compute {o.compute}; "
        f"simulated in {time.monotonic() - began:.1f} s",
        soft_wrap=True,
        highlight=False,
    )
    console.print(table(rows, modes))
    return 0


def table(rows: Sequence[Mapping[str, Any]], modes: Sequence[str]) -> Table:
    """One row a number of workers; for each mode seconds of a step and efficiency."""
    made = Table()
    for name in ("workers", "servers", "MB at a server"):
        made.add_column(name, justify="right")
    for mode in modes:
        made.add_column(f"{mode}\ns a step", justify="right")
        made.add_column("\nefficiency", justify="right")
    for r in rows:
        cells = [f"{r['workers']:,}", f"{r['servers']:,}", f"{r['server_link_bytes'] / 1e6:,.0f}"]
        for mode in modes:
            cells += [f"{r[mode]['step_s']:.4g}", f"{r[mode]['efficiency']:.0%}"]
        made.add_row(*cells)
    return made
