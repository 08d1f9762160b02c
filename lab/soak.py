"""A soak: training under random kills, stops and partitions of random processes, and what became of it.

    python -m shoal.lab.soak --seconds 60 --workers 3 --servers 2 --every-s 5 --seed 1

Each task is first trained undisturbed, with several seeds and as fast as it goes; then again with the first of these
seeds, at a steady pace, while every few seconds something goes wrong. It holds if the disturbed run completes, with an
accuracy within the spread of the others, a ledger that balances, nothing counted twice and nothing lost (or, of servers
without replicas, as much as was said); under ``sync``, if nothing is lost and no worker was killed, with the same bits.
Prints a table and JSON; the exit code is 0 if all of that holds.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from shoal.errors import ConfigError
from shoal.lab.chaos.cast import Cast
from shoal.lab.chaos.plan import Plan, parse_plan
from shoal.lab.chaos.schedule import timetable
from shoal.lab.soak_report import judge, read_events, recoveries, summaries, tables

__all__ = ["Options", "chaos_of", "main", "soak"]

SCRIPT = Path(__file__).with_name("soak_train.py")

KILLS_A_MINUTE = 3
"""So often the launcher starts the same process again."""

ALONE_S = 25.0
"""Where not all roles are killed, those that are are so no more often than this."""

LIMIT_S = 300.0
"""A disturbed run that takes longer than it should by so much hangs."""

ROLES = ("scheduler", "server", "replica", "worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is trained, and what is done to it.

    Args:
        seconds: of disturbed training, all tasks together.
        workers, servers, replicas: the cluster; so many replicas of each server.
        every_s: between two faults.
        seed: of the faults, and of the disturbed runs.
        mode: the consistency model.
        tasks: of "digits" and "language".
        rate: steps a second of each worker, while disturbed.
        seeds: how many undisturbed runs.
        kill: roles whose processes are killed; all are stopped and cut off.
        for_s: how long a process stands still or is cut off.
        noise: per cent of the messages between workers and servers that are lost, that come twice, and that come late.
        snapshot_every: of the servers.
        folder: where the runs' files are kept; "" for nowhere.
    """

    seconds: float = 60.0
    workers: int = 3
    servers: int = 2
    replicas: int = 0
    every_s: float = 5.0
    seed: int = 1
    mode: str = "sync"
    tasks: tuple[str, ...] = ("digits", "language")
    rate: float = 15.0
    seeds: int = 3
    kill: tuple[str, ...] = ROLES
    for_s: float = 1.0
    noise: float = 0.0
    snapshot_every: str = "1s"
    folder: str = ""

    @property
    def steps(self) -> int:
        """Of each worker, in each run."""
        return max(1, round(self.seconds / len(self.tasks) * self.rate))


def chaos_of(o: Options, task: int) -> Plan:
    """The faults of one task: kills and others in turn, drawn anew until nobody is killed more often than is mended."""
    cast = Cast(o.workers, o.servers, o.replicas * o.servers)
    for more in range(100):
        plan = _chaos(o, o.seed + 1000 * task + 100_000 * more)
        if _bearable(plan, cast, o.seconds):
            return plan
    raise ConfigError(
        f"a fault every {o.every_s:g} s of {o.seconds:g} s kills the same process more than {KILLS_A_MINUTE} times a "
        "minute, which the launcher does not mend: let there be more time between them (--every-s)"
    )


def _chaos(o: Options, seed: int) -> Plan:
    milder: dict[str, Any] = {"what": ["stop", "partition"], "who": "random", "for_s": o.for_s}
    there = [r for r in ROLES if r != "replica" or o.replicas]
    killed = [r for r in there if r in o.kill]
    if killed == there:
        events = [{**milder, "what": ["kill", "stop", "partition"]}]
    else:
        kills = [{"what": "kill", "who": "scheduler" if r == "scheduler" else f"random {r}"} for r in killed]
        events = [x for kill in kills for x in (milder, kill)] or [milder]
    period_s = o.every_s * len(events)
    times = {"every_s": period_s, "jitter_s": o.every_s / 2}
    found = [{**e, **times, "first_s": o.every_s * (i + 0.5)} for i, e in enumerate(events)]
    for e in found:
        if e["what"] == "kill":
            e["every_s"] = max(period_s, ALONE_S)
    poor = {"who": "worker * <-> server *", "percent": o.noise}
    found += [{"what": what, **poor} for what in ("drop", "duplicate", "reorder") if o.noise]
    return parse_plan({"seed": seed, "chaos": found}, "soak")


def _bearable(plan: Plan, cast: Cast, seconds: float) -> bool:
    kills = [(f.at_s, v) for f in timetable(plan, cast, 2 * seconds) if f.what == "kill" for v in f.victims]
    return all(sum(w == v and 0 <= s - t < 70 for s, w in kills) <= KILLS_A_MINUTE for t, v in kills)


def soak(o: Options, say: Any = print) -> dict[str, Any]:
    """Train every task undisturbed and disturbed; what became of it, as plain data.

    Raises:
        ConfigError: the folder is there already, or more is to be killed than the launcher mends.
    """
    if o.folder and Path(o.folder).exists():
        raise ConfigError(f"the soak's files cannot go to {o.folder!r}: it is there already")
    with tempfile.TemporaryDirectory(prefix="shoal-soak-") as private:
        root = Path(o.folder or private)
        found = {task: _task(o, task, i, root / task, say) for i, task in enumerate(o.tasks)}
    rows = [row for result in found.values() for row in result["recoveries"]]
    return {
        "held": all(not result["broken"] for result in found.values()),
        "seconds": o.seconds,
        "workers": o.workers,
        "servers": o.servers,
        "replicas": o.replicas,
        "mode": o.mode,
        "faults": dict(Counter(f["what"] for result in found.values() for f in result["faults"])),
        "recovery_s": summaries(rows),
        "tasks": found,
    }


def _task(o: Options, task: str, number: int, folder: Path, say: Any) -> dict[str, Any]:
    quiet = []
    for i in range(o.seeds):
        quiet.append(_run(o, task, folder / f"quiet-{i}", ["--seed", str(o.seed + i)], rate=0.0))
        say(f"{task}: undisturbed, seed {o.seed + i}: {_shown(quiet[-1])}")
    path = folder / "chaos.json"
    plan = chaos_of(o, number)
    path.write_text(json.dumps(_as_data(plan)))
    options = ["--seed", str(o.seed), "--chaos", str(path), "--events", str(folder / "events")]
    options += ["--snapshot-every", o.snapshot_every, *(["--replicas", str(o.replicas)] if o.replicas else [])]
    ran = _run(o, task, folder / "disturbed", options, rate=o.rate)
    say(f"{task}: disturbed, {len(ran['report'].get('chaos') or ())} faults: {_shown(ran)}")
    rows = recoveries(read_events(folder / "events"), o.workers)
    return {**judge(quiet, ran, o.mode, o.replicas), "recoveries": rows}


def _as_data(plan: Plan) -> dict[str, Any]:
    def shown(event: Any) -> dict[str, Any]:
        fields = {"what": list(event.what), "who": list(map(str, event.who)), "percent": event.percent or None}
        if event.every_s is not None:
            fields |= {"every_s": event.every_s, "first_s": event.first_s, "jitter_s": event.jitter_s}
        return {k: v for k, v in (fields | {"for_s": event.for_s}).items() if v is not None}

    return {"seed": plan.seed, "chaos": [shown(e) for e in plan.events]}


def _run(o: Options, task: str, folder: Path, options: Sequence[str], rate: float) -> dict[str, Any]:
    """One `shoal run`: its ``code``, the ``end`` of what it said, and its ``report``."""
    folder.mkdir(parents=True)
    report = folder / "report.json"
    command = [sys.executable, "-m", "shoal", "run", "-n", str(o.workers), "-s", str(o.servers), "--mode", o.mode]
    command += ["--no-progress", "--report", str(report), *options, str(SCRIPT)]
    command += ["--task", task, "--steps", str(o.steps), "--rate", str(rate)]
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    with (folder / "output").open("w+") as output:
        try:
            code = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, env=env, timeout=o.seconds + LIMIT_S, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        output.seek(0)
        lines = output.read().splitlines()
    told = json.loads(report.read_text()) if report.exists() else {}
    return {"code": code, "end": lines[-20:], "report": told}


def _shown(ran: Mapping[str, Any]) -> str:
    r = ran["report"]
    if not r:
        return "\n  ".join([f"FAILED with exit code {ran['code']}", *ran["end"]])
    return f"accuracy {r['accuracy']:.4f} in {r['seconds']:.1f} s"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 if everything holds, 1 if not."""
    d = Options()
    p = argparse.ArgumentParser(prog="python -m shoal.lab.soak", description=__doc__.splitlines()[0])
    p.add_argument("--seconds", type=float, default=d.seconds, help="of disturbed training, all tasks together")
    p.add_argument("--workers", type=int, default=d.workers)
    p.add_argument("--servers", type=int, default=d.servers)
    p.add_argument("--replicas", type=int, default=d.replicas, help="of each server")
    p.add_argument("--every-s", type=float, default=d.every_s, help="between two faults")
    p.add_argument("--for-s", type=float, default=d.for_s, help="how long a process stands still or is cut off")
    p.add_argument("--seed", type=int, default=d.seed)
    p.add_argument("--mode", default=d.mode, help="sync, async, ssp:3, ...")
    p.add_argument("--tasks", default=",".join(d.tasks), help="with commas: digits, language")
    p.add_argument("--rate", type=float, default=d.rate, help="steps a second of each worker")
    p.add_argument("--seeds", type=int, default=d.seeds, help="undisturbed runs to compare with")
    p.add_argument("--kill", default=",".join(d.kill), help="roles that are killed, with commas (default: all)")
    p.add_argument("--noise", type=float, default=d.noise, help="per cent of messages lost, doubled and late")
    p.add_argument("--snapshot-every", default=d.snapshot_every)
    p.add_argument("--folder", default="", help="keep the runs' files in this directory, which must not be there yet")
    p.add_argument("--json", default="", metavar="FILE", help="write the result here, not to stdout")
    named = vars(p.parse_args(argv))
    place = named.pop("json")
    for name in ("tasks", "kill"):
        named[name] = tuple(filter(None, named[name].split(",")))
    if wrong := set(named["kill"]) - set(ROLES):
        p.error(f"nobody is a {', '.join(sorted(wrong))}: roles are {', '.join(ROLES)}")
    try:
        found = soak(Options(**named), lambda text: print(text, file=sys.stderr, flush=True))
    except ConfigError as e:
        print(f"shoal.lab.soak: {e}", file=sys.stderr)
        return 2
    Console(stderr=True, width=120).print(tables(found))
    text = json.dumps(found, indent=2)
    if place:
        Path(place).write_text(text + "\n")
    else:
        print(text)
    return int(not found["held"])


if __name__ == "__main__":
    sys.exit(main())
