"""How a run scales: the simulator with the costs of real processes, fitted to measurements of 1 to 3 workers.

What is fitted is how long things take, by the byte and by the message (`Costs`); what a run of N workers and S servers
then takes is simulated, on the store's own state machines. A large run is simulated by one server's share of it
(`share_of`): all servers are alike, so what one of them and its flows do is what all do.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import ConfigError
from shoal.lab.simulate import simulate
from shoal.lab.simulate_laws import Law, Listed, Uniform
from shoal.lab.simulate_links import PIECE_BYTES
from shoal.lab.simulate_scenario import Scenario
from shoal.lab.simulate_time import Network

__all__ = [
    "LINKS_ALONE",
    "MEASURED",
    "SLICE_BYTES",
    "Costs",
    "Setting",
    "error_of",
    "fit",
    "link_bytes",
    "predict",
    "read_rows",
    "rehearse",
    "scenario_of",
    "share_of",
]

SLICE_BYTES = 1 << 20
"""Of a model; so the store cuts it."""

JITTER = 0.01
"""Computing takes so much more or less: real timers are not the same to the last bit, and locked steps are no model."""

ROUNDS, WARM = 14, 4
"""Simulated steps of each worker, and how many of them are not counted."""

MANY, ROUNDS_OF_MANY = 32, 8
"""From so many workers on, so few steps are enough: each is a mean over many."""

PIECES_A_STEP = 32
"""Into so many pieces at most a worker's bytes for one server are cut: more show nothing else."""

TURNS, FEW_TURNS = 7, 1
"""Of which a rehearsal is the median, and while costs are sought: a short asynchronous run depends on chance."""

WHOLE = 64
"""Up to so many flows (workers by servers) everything is simulated; beyond it, one server's share."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What bytes and messages cost, beside the link.

    Args:
        share: of a link's nominal rate that payloads get: what the headers of Ethernet's, IP's and TCP's packets of
            1514 bytes leave. Known, not fitted.
        delay_s: of every message.
        handling_s, handling_byte_s: a server's processor time for a contribution, and for each byte of it.
        answering_byte_s: ... for each byte of a value that it sends.
        duplex, unfairness: of TCP on a link that carries both ways, and among the messages that meet (`Network`).
        worker_s, worker_byte_s: a worker's for each contribution and value, and each byte of them.
    """

    share: float = 1448 / 1514
    delay_s: float = 1.7e-3
    handling_s: float = 6.4e-6
    handling_byte_s: float = 2.4e-10
    answering_byte_s: float = 4.4e-10
    duplex: float = 0.87
    unfairness: float = 0.208
    worker_s: float = 3.1e-4
    worker_byte_s: float = 3.5e-10

    def network(self, s: "Setting", flows: int = 1) -> Network:
        """The links of a setting; with ``flows``, workers have that part of themselves for one.

        Each worker's link then carries one flow, which nothing else in the simulation holds up: pieces show nothing.
        """
        rate = s.gbit_s * 1e9 / 8 * self.share
        return Network(
            delay=self.delay_s,
            bytes_per_s=rate / flows or None,
            server_bytes_per_s=rate or None,
            handling_s=self.handling_s,
            handling_byte_s=self.handling_byte_s,
            answering_byte_s=self.answering_byte_s,
            duplex=self.duplex,
            unfairness=self.unfairness,
            worker_s=self.worker_s * flows,
            worker_byte_s=self.worker_byte_s * flows,
            burst_s=s.burst_s,
            piece=max(PIECE_BYTES, s.model_bytes / s.servers / PIECES_A_STEP) if flows == 1 else None,
        )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run.

    Args:
        workers, servers: how many.
        mode: the gate.
        gbit_s: nominal rate of every process's link; 0 is unlimited.
        model_bytes: of a push, and of a pull.
        compute_s: mean time of a gradient.
        law: of these times; by default they differ by `JITTER`.
        slice_bytes: into which the model is cut; may be coarser than the store's, for speed.
        burst_s: what the links' token buckets hold, in time; real links have none.
    """

    workers: int
    servers: int
    mode: str
    gbit_s: float
    model_bytes: int
    compute_s: float
    law: Law | None = None
    slice_bytes: int = SLICE_BYTES
    burst_s: float = 0.0

    @property
    def slices(self) -> int:
        """Into which the model is cut."""
        return max(1, math.ceil(self.model_bytes / self.slice_bytes))


def link_bytes(workers: int, servers: int, model_bytes: int) -> tuple[float, float]:
    """Bytes a step in each direction of a worker's link, and of a server's: 1 and N/S times the model.

    >>> link_bytes(8, 2, 100)
    (100.0, 400.0)
    """
    return float(model_bytes), model_bytes * workers / servers


def share_of(servers: int, slices: int) -> tuple[int, int]:
    """Slices of the server that has most, and how many servers have any.

    >>> share_of(4, 10), share_of(16, 4)
    ((3, 4), (1, 4))
    """
    return math.ceil(slices / servers), min(servers, slices)


def scenario_of(s: Setting, costs: Costs, *, whole: bool | None = None, rounds: int = ROUNDS) -> Scenario:
    """What is simulated; see `WHOLE`."""
    whole = s.workers * s.servers <= WHOLE if whole is None else whole
    most, flows = share_of(s.servers, s.slices)
    each = s.model_bytes // s.slices
    common: dict[str, Any] = {
        "workers": s.workers,
        "gate": s.mode,
        "compute": s.law or Uniform(s.compute_s * (1 - JITTER), s.compute_s * (1 + JITTER)),
        "rounds": rounds,
        "record": False,
    }
    if whole or s.servers == 1:
        network, servers = costs.network(s), min(s.servers, s.slices)
        return Scenario(**common, servers=servers, slices=s.slices, network=network, model_bytes=each * s.slices)
    network = costs.network(s, flows)
    return Scenario(**common, servers=1, slices=most, network=network, model_bytes=each * most)


def predict(s: Setting, costs: Costs, *, whole: bool | None = None, rounds: int = 0) -> float:
    """Seconds of a worker's step, in the long run: over so many ``rounds``, by default fewer where workers are many.

    Raises:
        ConfigError: there are no workers, or no servers.
    """
    if min(s.workers, s.servers) < 1:
        raise ConfigError(f"a run has workers and servers, got {s.workers} and {s.servers}")
    rounds = rounds or (ROUNDS if s.workers < MANY else ROUNDS_OF_MANY)
    found = simulate(scenario_of(s, costs, whole=whole, rounds=rounds))
    times = np.sort(found.push_times)
    first = WARM * s.workers
    return float((times[-1] - times[first - 1]) * s.workers / (len(times) - first))


# --- measurements -----------------------------------------------------------------------------------------------------


def setting_of(row: Mapping[str, Any]) -> Setting:
    """What a row of ``benchmarks/bench_efficiency.py`` is about."""
    return Setting(**{f.name: row[f.name] for f in fields(Setting) if f.name in row})


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows that ``benchmarks/bench_efficiency.py --out`` wrote."""
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    return rows


def rehearse(s: Setting, costs: Costs, steps: int, turns: int = TURNS) -> float:
    """Seconds of a worker's step as the benchmark measures them: all begin at once, the first step is not counted.

    Asynchronous workers need many steps until they have spread; a short run is not their long run. Median of ``turns``.
    """
    found = []
    for turn in range(turns):
        draws = np.random.default_rng(turn)
        times = s.compute_s * (1 + JITTER * draws.uniform(-1, 1, (s.workers, steps + 1)))
        scenario = scenario_of(s, costs, whole=True)
        run = simulate(replace(scenario, compute=Listed(times.tolist()), rounds=None, until=1e9, seed=turn))
        found.append(float(np.mean([np.diff(b)[1:] for b in run.begun])))
    return float(np.median(found))


def error_of(row: Mapping[str, Any], costs: Costs, turns: int = TURNS) -> float:
    """The predicted time of a step by the measured one, minus 1."""
    return rehearse(setting_of(row), costs, row["steps"], turns) / float(row["step_s"]) - 1.0


def _loss(rows: Iterable[Mapping[str, Any]], costs: Costs) -> float:
    return sum(math.log1p(error_of(row, costs, FEW_TURNS)) ** 2 for row in rows)


def fit(
    rows: Sequence[Mapping[str, Any]], start: Costs, *, turns: int = 12, told: Callable[[str], None] = lambda text: None
) -> Costs:
    """The costs with the least squared relative error: search along one after another, with shrinking factors."""
    best, least, factor = start, _loss(rows, start), 1.2
    for turn in range(turns):
        before = least
        for name in [n for n in asdict(best) if n != "share"]:
            for times in (factor, 1 / factor):
                value = getattr(best, name) * times
                tried = replace(best, **{name: min(value, 1.0) if name == "duplex" else value})
                loss = _loss(rows, tried)
                if loss < least:
                    best, least = tried, loss
                    break
        told(f"turn {turn}: root mean square error {math.sqrt(least / len(rows)):.4f}, {best}")
        if least > before * 0.999:
            factor = math.sqrt(factor)
    return best


MEASURED = Costs()
"""Fitted to `benchmarks/data/efficiency.json`, 1 to 3 workers; docs/scaling.md has the residuals."""

LINKS_ALONE = Costs(
    delay_s=1e-4,
    handling_s=0.0,
    handling_byte_s=0.0,
    answering_byte_s=0.0,
    duplex=1.0,
    unfairness=0.0,
    worker_s=0.0,
    worker_byte_s=0.0,
)
"""Processes that take no time, and links whose directions and flows do not hinder each other."""
