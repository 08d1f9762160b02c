"""``shoal simulate``: the same workers under several gates, side by side.

With ``--json`` one object is printed: ``scenario`` (what was simulated, as text and numbers) and ``runs``, one for each
gate, with the keys of `summary`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from shoal.errors import ConfigError
from shoal.lab.chaos.plan import read_plan
from shoal.lab.simulate import simulate
from shoal.lab.simulate_laws import Law, Slowed, parse_law
from shoal.lab.simulate_problems import Quadratic
from shoal.lab.simulate_result import SimulationResult
from shoal.lab.simulate_scenario import Scenario
from shoal.lab.simulate_time import Network
from shoal.ops import optim

__all__ = ["compare", "delay", "run", "slowed", "summary", "table"]

MANY = 20
"""Up to so many workers, the report in JSON has figures for each."""


def summary(result: SimulationResult) -> dict[str, Any]:
    """A run as plain data; times in seconds, shares from 0 to 1.

    A *round* is as many applied contributions as there are workers, whatever the gate.
    """
    per_s = result.pushes_per_s * (1.0 - result.dropped_share)
    data: dict[str, Any] = {
        "gate": result.gate,
        "seconds": result.seconds,
        "updates": result.updates,
        "contributions": result.pushes,
        "updates_per_s": result.updates_per_s,
        "contributions_per_s": per_s,
        "seconds_per_update": result.seconds / result.updates if result.updates else None,
        "seconds_per_round": result.workers / per_s if per_s else None,
        "staleness_mean": result.staleness_mean,
        "staleness_p95": result.staleness_quantile(0.95),
        "staleness_max": max(result.histogram, default=0),
        "waiting_share": result.waiting_share,
        "abandoned_share": result.abandoned_share,
        "dropped_share": result.dropped_share,
        "faults": list(result.faults),
        "messages_met": result.met,
        "duplicates": result.duplicates,
        "staleness": {str(tau): n for tau, n in sorted(result.histogram.items())},
    }
    if result.workers <= MANY:
        rows = zip(result.clocks, result.waiting_s, result.closed, strict=True)
        data["per_worker"] = [{"clock": c, "waiting_s": w, "closed": n} for c, w, n in rows]
    return data


def compare(scenario: Scenario, gates: Sequence[str], target: float | None = None) -> list[dict[str, Any]]:
    """The summaries of one scenario under several gates; the durations are the same for all.

    With a problem, ``loss`` is half the mean square of the last weights: that of `Quadratic`. With a target,
    ``seconds_to_target`` is when the loss first was no larger, or None.
    """
    found = []
    for gate in gates:
        result = simulate(scenario, gate=gate, record=target is not None)
        data = summary(result)
        if scenario.problem is not None:
            losses = (result.weights**2).mean(axis=1) / 2
            data["loss"] = float(losses[-1])
            if target is not None:
                data["seconds_to_target"] = _first(losses, result, target)
        found.append(data)
    return found


def _first(losses: Any, result: SimulationResult, target: float) -> float | None:
    reached = (losses <= target).nonzero()[0]
    if not reached.size:
        return None
    return float(result.update_times[reached[0] - 1]) if reached[0] else 0.0


def run(o: Any) -> int:
    """Carry out the command with parsed options; the exit code.

    Raises:
        ConfigError: options contradict each other.
    """
    scenario = _scenario(o)
    gates = list(dict.fromkeys(o.gate or ["bsp", "ssp:3", "asp"]))
    runs = compare(scenario, gates, o.target_loss)
    if o.json:
        print(json.dumps({"scenario": _described(o), "runs": runs}, indent=2))
        return 0
    console = Console()
    console.print(_title(o, scenario), soft_wrap=True, highlight=False)
    console.print(table(runs))
    return 0


def slowed(text: str) -> tuple[int, float]:
    """``"3:4"``, worker 3 takes 4 times as long, as a pair.

    Raises:
        ConfigError: it is not a rank and a positive factor.
    """
    rank, _, factor = text.partition(":")
    try:
        pair = int(rank), float(factor)
    except ValueError:
        pair = (-1, 0.0)
    if pair[0] < 0 or not 0 < pair[1] < float("inf"):
        raise ConfigError(f"a slow worker is RANK:FACTOR, such as 3:4 (worker 3 takes 4 times as long); got {text!r}")
    return pair


def delay(text: str) -> Law | float:
    """Seconds, or a law of them, such as ``"0.001"`` or ``"exp:0.001"``."""
    try:
        return float(text)
    except ValueError:
        return parse_law(text)


def _scenario(o: Any) -> Scenario:
    if not isinstance(o.workers, int) or not isinstance(o.servers, int):
        raise ConfigError("several numbers of workers, and servers by their number, are for --link RATE")
    law, slow = parse_law(o.compute), dict(o.slow or ())
    if o.bandwidth and not o.model_size:
        raise ConfigError("--bandwidth says how fast bytes travel; --model-size must say how many there are")
    for name in ("noise", "rule", "target_loss"):
        if getattr(o, name) and not o.lr:
            raise ConfigError(f"--{name.replace('_', '-')} is about gradients, and there are none without --lr")
    return Scenario(
        workers=o.workers,
        servers=o.servers,
        slices=o.servers,
        compute=Slowed(law, slow) if slow else law,
        rounds=o.rounds,
        seed=o.seed,
        problem=Quadratic(size=o.servers, noise=o.noise or 0.0, seed=o.seed) if o.lr else None,
        optimizer=optim.SGD(learning_rate=o.lr) if o.lr else None,
        rule=o.rule,
        network=Network(delay=delay(o.delay), bytes_per_s=o.bandwidth, handling_s=o.handling_s),
        model_bytes=o.model_size,
        restart=o.restart,
        record=False,
        chaos=read_plan(o.chaos) if o.chaos else None,
    )


def _described(o: Any) -> dict[str, Any]:
    """The options, as they were given."""
    names = ("workers", "servers", "compute", "rounds", "seed", "delay", "bandwidth", "model_size", "handling_s")
    slow = {str(rank): factor for rank, factor in o.slow or ()}
    return {
        **{n: getattr(o, n) for n in names},
        "slow": slow,
        "restart": o.restart,
        "chaos": o.chaos,
        "rule": o.rule,
        "lr": o.lr,
        "noise": o.noise,
    }


def _title(o: Any, scenario: Scenario) -> str:
    slow = "".join(f", worker {rank} x {factor:g}" for rank, factor in o.slow or ())
    how = "instant messages" if scenario.network.instant else "messages take time"
    servers = "1 server" if o.servers == 1 else f"{o.servers} servers"
    return f"{o.workers} workers, {servers}, compute {o.compute}{slow}, {how}, {o.rounds:,} rounds, seed {o.seed}"


_ROWS: list[tuple[str, str, str]] = [
    ("seconds a round", "seconds_per_round", ",.4g"),
    ("seconds an update", "seconds_per_update", ",.4g"),
    ("contributions/s", "contributions_per_s", ",.4g"),
    ("... vs the first", "ratio", ".2f"),
    ("waiting", "waiting_share", ".1%"),
    ("dropped", "dropped_share", ".1%"),
    ("given up", "abandoned_share", ".1%"),
    ("messages met by chaos", "messages_met", ",d"),
    ("repeated", "duplicates", ",d"),
    ("staleness, mean", "staleness_mean", ".2f"),
    ("staleness, p95", "staleness_p95", "d"),
    ("staleness, max", "staleness_max", "d"),
    ("loss at the end", "loss", ".3g"),
    ("seconds to target", "seconds_to_target", ",.4g"),
]
_OPTIONAL = ("dropped_share", "abandoned_share", "messages_met", "duplicates", "loss", "seconds_to_target")


def table(runs: Sequence[Mapping[str, Any]]) -> Table:
    """One column a gate, one row a question; a round is as many applied contributions as there are workers."""
    made = Table()
    made.add_column("")
    for r in runs:
        made.add_column(r["gate"], justify="right")
    base = runs[0]["contributions_per_s"]
    for label, key, form in _ROWS:
        values = [r["contributions_per_s"] / base if key == "ratio" and base else r.get(key) for r in runs]
        if key not in _OPTIONAL or any(values) or (key == "seconds_to_target" and key in runs[0]):
            made.add_row(label, *("never" if v is None else format(v, form) for v in values))
    return made
