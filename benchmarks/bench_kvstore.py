"""The store beside its peers and beside the machine's limits, in one run.

    python benchmarks/bench_kvstore.py                                     ours and the limits
    python benchmarks/bench_kvstore.py --peers mxnet,torch_rpc,gloo,pslite,ray
    python benchmarks/bench_kvstore.py --cases one1kb --topologies 1x1 --sgd no --rounds 9

A cycle is one exchange of a whole set by every worker: push every tensor, pull every tensor, wait until all are there.
For each case, topology (SERVERSxWORKERS) and update (none, or SGD on the servers) all systems are alive at once and
take turns, round by round, so that a machine that changes its speed does so for all; a ratio is the median over the
rounds. The limits are the same bytes through plain sockets there and back (``echo``), and copied once (``memcpy``).
Prints a JSON object a configuration; ``--markdown`` prints tables instead. Peers are installed from PyPI, once, each
into an environment of its own under ``--cache``; one that cannot be had is reported with the reason. Linux.

- ``python``: which one runs ours; one that was built without the compiler's profile makes small messages slower.
- ``GBps``: bytes of the set / median cycle, for one worker (each byte crosses the wire twice).
- ``cpu_s_per_GB``: user and system seconds of all processes of the system, for each GB of set and worker.
- ``other_cpu``: cores that everything else kept busy meanwhile; a row with much of it is an upper bound.
- ``times_as_long_as``: of ours, the peer's time / our time; for a limit, the limit's time / our time.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kv_control import Meeting, NotMeasured, System, prefer, stop
from kv_peers import PEERS, Unavailable, prepare
from kv_report import Turns, best_way, figures, markdown, ratio

from shoal.doctor import plainly_built
from shoal.lab.kvcases import CASES, Shape

HERE = Path(__file__).parent
CYCLES = {"t100mb": 6, "resnet50": 6, "k1000x1kb": 40, "one1kb": 300}
"""Timed cycles a turn; fewer for a system that would take longer than `TURN_S`."""
TURN_S = 1.0
LIMITS = ("echo", "memcpy")
OURS: dict[str, dict[str, str]] = {"shoal_tcp": {"SHOAL_SHM": "0"}, "shoal_shm": {"SHOAL_SHM": "1"}}
"""Ours by name, with the variable that chooses the path: sockets only, or shared memory on one host."""


def ours(name: str, servers: int, workers: int, logs: Path, env: Mapping[str, str], *arguments: str) -> System:
    """A real cluster, as a user starts it."""
    run = [sys.executable, "-m", "shoal", "run", "-n", str(workers), "-s", str(servers), "--no-progress"]
    return System(name, [*run, str(HERE / "kv_worker.py"), *arguments], workers, logs / f"{name}.log", env)


def limit(name: str, servers: int, workers: int, logs: Path) -> System:
    """What this machine can do."""
    command = [sys.executable, str(HERE / "kv_limits.py"), name, str(servers), str(workers)]
    return System(name, command, workers, logs / f"{name}.log")


def groups(
    peers: Sequence[str], ready: Mapping[str, tuple[str, dict[str, str]]], topology: str, logs: Path
) -> list[list[System]]:
    """Systems that are alive together: ours and the limits are in each."""
    servers, workers = map(int, topology.split("x"))
    together, apart = [], []
    for name in peers:
        peer = PEERS[name]
        if name not in ready or (peer.topologies and topology not in peer.topologies):
            continue
        python, env = ready[name]
        command = [python, str(HERE / "peers" / peer.script), str(servers), str(workers)]
        system = System(
            name, command, workers, logs / f"{name}.log", {"PYTHONPATH": "", **env}, peer.note, peer.restless
        )
        (apart if peer.apart else together).append(system)
    made = []
    for members in [together, *([s] for s in apart)]:
        base = [ours(n, servers, workers, logs, env) for n, env in OURS.items()]
        made.append([*base, *(limit(n, servers, workers, logs) for n in LIMITS if not made), *members])
    return made


def busy_s() -> float:
    """Seconds that all cores of this machine have been busy."""
    fields = [int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return float(sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def one_turn(system: System, way: str, t: Turns, cycles: int) -> None:
    """Let it run, alone."""
    cpu, busy, start = system.cpu(), busy_s(), time.perf_counter()
    answers = system.order(way=way, warm=1, run=cycles)
    wall, spent = time.perf_counter() - start, system.cpu() - cpu
    t.turns.append([ms for a in answers for ms in a["ms"]])
    t.cpu_s += spent
    t.cycles += (cycles + 1) * len(answers)
    t.other_s += busy_s() - busy - spent
    t.wall_s += wall


def measure(
    systems: Sequence[System], task: Mapping[str, Any], cycles: int, rounds: int, urgent: bool = False
) -> dict[str, Any]:
    """By system: its ways, or why there are none; every system has a turn in every round.

    Args:
        task: ``shapes`` of the set, ``sgd`` on the servers or not, ``servers`` and ``workers``.
        cycles: timed, a turn.
        urgent: go before other processes of this machine.
    """
    found: dict[str, Any] = {}
    meeting = Meeting()
    try:
        found |= meeting.gather(systems, task)
        if urgent:
            prefer(s.process.pid for s in systems if s.process is not None)
        alive = [s for s in systems if s.name not in found]
        tried = {s.name: {w: Turns() for w in s.ways} for s in alive}  # memory is touched, and speed found out
        turns = {s.name: {w: Turns() for w in s.ways} for s in alive}
        for number in range(-1, rounds):
            for s in [s for s in alive if s.name not in found]:
                try:
                    for way, first in tried[s.name].items():
                        one_turn(s, way, first if number < 0 else turns[s.name][way], allowed(first, cycles))
                except (NotMeasured, OSError) as e:
                    found[s.name] = str(e)
        for s in [s for s in alive if s.name not in found]:
            right = all(a["right"] for a in s.order(check=True))
            found[s.name] = turns[s.name] if right else "the values that came back are wrong"
    finally:
        stop(systems)
        meeting.close()
    return found


def allowed(t: Turns, cycles: int) -> int:
    """How many cycles fit into a turn, from what a turn before has shown; at least one."""
    if not t.turns:
        return 1
    return max(1, min(cycles, int(TURN_S * 1e3 / t.median_ms)))


def report(systems: Sequence[System], found: Mapping[str, Any], shapes: Sequence[Shape]) -> list[dict[str, Any]]:
    """A row a system, of its best way; ours have a row a way, compared with all others of the group."""
    rows = []
    others = {n: w[best_way(w)] for n, w in found.items() if isinstance(w, dict) and n not in OURS}
    for s in systems:
        ways = found.get(s.name, "not started")
        if isinstance(ways, str):
            rows.append({"system": s.name, "error": ways})
            continue
        for way in ways if s.name in OURS else [best_way(ways)]:
            row = {"system": s.name, "way": way, "version": s.version, "note": s.note, **figures(shapes, ways[way])}
            if s.name in OURS:
                row["times_as_long_as"] = {n: float(f"{ratio(t, ways[way]):.3g}") for n, t in others.items()}
            rows.append(row)
    return rows


def merge(rows: list[dict[str, Any]], more: Sequence[dict[str, Any]]) -> None:
    """Add the rows of a further group: ours are there already, and gain what they are compared with in it."""
    known = {(r["system"], r.get("way")): r for r in rows}
    for row in more:
        before = known.get((row["system"], row.get("way")))
        if before is None:
            rows.append(row)
        else:
            before.setdefault("times_as_long_as", {}).update(row.get("times_as_long_as", {}))


def configuration(
    case: str, topology: str, sgd: bool, o: argparse.Namespace, ready: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything about one case, topology and update."""
    result: dict[str, Any] = {"case": case, "topology": topology, "sgd": sgd, "keys": len(CASES[case]), "systems": []}
    result["python"] = platform.python_version() + ", plainly built" * plainly_built()
    servers, workers = map(int, topology.split("x"))
    task = {"shapes": CASES[case], "sgd": sgd, "servers": servers, "workers": workers}
    with tempfile.TemporaryDirectory(prefix="kvbench") as logs:
        for systems in groups(o.peers, ready, topology, Path(logs)):
            found = measure(systems, task, o.cycles or CYCLES[case], o.rounds, o.urgent)
            merge(result["systems"], report(systems, found, CASES[case]))
    return result


def options() -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    listed = {"type": lambda text: [x for x in text.split(",") if x]}
    p.add_argument("--peers", default=[], help=f"of {','.join(PEERS)}", **listed)
    p.add_argument("--cases", default=list(CASES), help=f"of {','.join(CASES)}", **listed)
    p.add_argument("--topologies", default=["1x1", "2x2"], help="SERVERSxWORKERS", **listed)
    p.add_argument("--sgd", choices=["no", "yes", "both"], default="both", help="on the servers")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--cycles", type=int, default=0, help="timed cycles a turn; 0: as fits the case")
    p.add_argument(
        "--cache", type=Path, default=Path("~/.cache/shoal-bench").expanduser(), help="environments of peers"
    )
    p.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="an environment that is there")
    p.add_argument("--urgent", action="store_true", help="go before other processes of this machine (needs root)")
    p.add_argument("--markdown", action="store_true", help="tables instead of JSON")
    p.add_argument("--output", type=Path, help="also write the JSON lines here")
    o = p.parse_args()
    unknown = [x for x in o.peers if x not in PEERS] + [x for x in o.cases if x not in CASES]
    if unknown:
        p.error(f"unknown: {', '.join(unknown)}")
    return o


def main() -> None:
    """Measure and print."""
    o = options()
    ready: dict[str, tuple[str, dict[str, str]]] = {}
    missing = []
    for name in o.peers:
        try:
            ready[name] = prepare(name, o.cache, dict(x.split("=", 1) for x in o.python))
        except Unavailable as e:
            missing.append({"system": name, "error": str(e)})
            print(f"{name} is not measured: {e}", file=sys.stderr, flush=True)
    results = []
    for topology in o.topologies:
        for case in o.cases:
            for sgd in {"no": [False], "yes": [True], "both": [False, True]}[o.sgd]:
                result = configuration(case, topology, sgd, o, ready)
                result["systems"] += missing
                results.append(result)
                _say(result, o)
    if o.markdown:
        print(markdown(results))


def _say(result: dict[str, Any], o: argparse.Namespace) -> None:
    line = json.dumps(result)
    if o.output:
        with o.output.open("a") as f:
            f.write(line + "\n")
    if o.markdown:
        shown = {
            f"{s['system']} {s.get('way', '')}": s["ms"]["median"] if "ms" in s else "-" for s in result["systems"]
        }
        print(result["case"], result["topology"], "SGD" if result["sgd"] else "sum", shown, file=sys.stderr, flush=True)
    else:
        print(line, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
