"""A run that shows what it does: metrics of every process, event logs, where its scheduler is."""

import json
import os
import socket
from pathlib import Path

from shoal.scheduler.address import parse_address, recorded_address
from shoal.scheduler.job import JobConfig
from shoal.scheduler.local import LocalLauncher
from tests.kvstore.exposition_parser import parse

SCRIPT = """
import pathlib, sys, urllib.request
import numpy as np
import shoal
from shoal.worker import record

kv = shoal.kv.create("dist_sync")
kv.init("w", np.zeros(4, np.float32))
for _ in range(3):
    kv.push("w", np.ones(4, np.float32))
    kv.pull("w")
    record.current().step(8)
kv.barrier()
if kv.rank == 0:
    for i in range(4):
        with urllib.request.urlopen(f"http://127.0.0.1:{int(sys.argv[1]) + i}/metrics", timeout=200) as answer:
            pathlib.Path(sys.argv[2], f"metrics-{i}").write_bytes(answer.read())
kv.barrier()
"""


def free_ports(count: int) -> int:
    """The first of so many ports that nobody listens at just now; elsewhere than in other processes that ask."""
    places = range(21_000, 29_000, count)
    mine = os.getpid() % len(places)
    for first in [*places[mine:], *places[:mine]]:
        held = []
        try:
            for port in range(first, first + count):
                held.append(socket.create_server(("127.0.0.1", port)))
            return first
        except OSError:
            continue
        finally:
            for each in held:
                each.close()
    raise AssertionError("no free ports")


def test_every_process_serves_metrics_and_keeps_its_events(tmp_path: Path) -> None:
    script, port, said = tmp_path / "script.py", free_ports(4), []
    script.write_text(SCRIPT)
    job = JobConfig(
        str(script),
        (str(port), str(tmp_path)),
        workers=2,
        servers=1,
        metrics=str(port),
        events=str(tmp_path / "events"),
        run_dir=str(tmp_path / "run"),
    )
    outcome = LocalLauncher(lambda source, stream, line: said.append(line)).launch(job)
    assert outcome.code == 0, said
    assert f"scheduler {port}, server 0 {port + 1}, worker 0 {port + 2}, worker 1 {port + 3}" in " ".join(said)
    assert parse_address(recorded_address(str(tmp_path / "run")))
    told = [parse((tmp_path / f"metrics-{i}").read_text()) for i in range(4)]
    assert told[0]["shoal_nodes"][1]["shoal_nodes", (("role", "worker"), ("state", "running"))] == 2
    pushes = told[1]["shoal_pushes_total"][1]
    assert [pushes["shoal_pushes_total", (("outcome", "applied"), ("worker", r))] for r in "01"] == [3, 3]
    for worker in told[2:]:
        assert worker["shoal_steps_total"][1]["shoal_steps_total", ()] == 3
        assert worker["shoal_wait_seconds"][1]["shoal_wait_seconds_count", ()] >= 3
    names = sorted(p.name for p in (tmp_path / "events").iterdir())
    assert {"scheduler.jsonl", "server-0.jsonl", "worker-0.jsonl"} <= set(names)
    events = [json.loads(line) for line in (tmp_path / "events" / "scheduler.jsonl").read_text().splitlines()]
    found = [e["event"] for e in events]
    assert found.count("joined") == 3 and found.count("left") == 3 and found[-1] == "finished"
