"""``SHOAL_RESTART=on-failure:3 docker compose up``: containers that die are started again, by the same command.

As tests/e2e/test_compose_run.py, whose limits it shares: each container is a network namespace, and the engine's
restart policy is this file, which starts a killed container's command once more. Not exercised: Docker's own restarts
and health checks, images, GPUs, Prometheus and Grafana themselves (test_compose_file.py checks their files).
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.composefile import ROOT, document
from tests.e2e.test_compose_run import NO_LAB, Up, whole
from tests.patience import RUN_S, until_run

pytestmark = [
    pytest.mark.netns,
    pytest.mark.net,
    pytest.mark.slow,
    pytest.mark.skipif(bool(NO_LAB), reason=NO_LAB),
]

RESTARTED = {
    "SHOAL_RESTART": "on-failure:3",
    "SHOAL_WORKERS": "2",
    "SHOAL_SERVERS": "2",
    "SHOAL_SCRIPT": "digits.py --epochs 6",
}


def restart(up: Up, name: str) -> None:
    """Kill a container, and start it again as the engine does."""
    victim = up.processes.pop(name)
    up.lab.kill(victim)
    victim.wait(RUN_S)
    up.start(next(c for c in up.containers if c.name == name))


def test_a_worker_that_is_killed_and_started_again_takes_its_place(tmp_path: Path) -> None:
    with Up(tmp_path, RESTARTED) as up:
        up.until_training()
        restart(up, "worker-2")
        up.until_log("worker-2", "takes the place of worker")
        report = whole(up)
        assert "takes the place of one that died" in up.log("scheduler-1")
    assert [w["state"] for w in report["per_worker"]] == ["done", "done"]


def test_a_scheduler_that_is_killed_and_started_again_goes_on_with_its_log(tmp_path: Path) -> None:
    with Up(tmp_path, RESTARTED) as up:
        up.until_training()
        restart(up, "scheduler-1")
        report = whole(up)
    assert report["scheduler_restarts"] == 1


def test_a_server_that_is_killed_and_started_again_comes_back_from_its_snapshot(tmp_path: Path) -> None:
    with Up(tmp_path, RESTARTED) as up:
        up.until_training()
        restart(up, "server-2")
        up.until_log("server-2", "takes the place of server")
        report = whole(up)
    assert report["restored"] and report["ledger"]["lost"] >= 0


# --- the profiles -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad_day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A run with the profile chaos, in the middle of its training."""
    settings = {"SHOAL_SETTLE_S": "2", "SHOAL_SERVERS": "2", "SHOAL_SCRIPT": "digits.py --epochs 12"}
    with Up(tmp_path_factory.mktemp("chaos"), settings, {"worker": 1}, profiles=["chaos"]) as up:
        up.until_training()
        yield up


def scraped(up: Up, name: str) -> str:
    """What Prometheus is told by a container, asked from the scheduler's."""
    job = re.search(r"port: (\d+)", (ROOT / "deploy" / "observe" / "prometheus.yml").read_text())
    assert job is not None
    read = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())"
    command = [sys.executable, "-c", read, f"http://{name}:{job[1]}/metrics"]
    return str(up.lab.run("scheduler-1", command, env={"PATH": "/usr/bin:/bin"}).stdout)


def test_every_label_that_the_board_selects_by_is_on_what_the_containers_serve(bad_day: Up) -> None:
    text = "\n".join(scraped(bad_day, name) for name in ("scheduler-1", "server-1", "worker-1"))
    board = json.loads((ROOT / "deploy" / "observe" / "shoal.json").read_text())
    absent = set()
    for query in (t["expr"] for panel in board["panels"] for t in panel["targets"]):
        for name, chosen in re.findall(r"(shoal_\w+)(\{[^}]*\})?", query):
            series = re.findall(rf"^{name}(?:\{{.*\}})? ", text, re.M)
            absent |= set() if series else {name}
            for label in re.findall(r"(\w+)=", chosen):
                assert not series or any(f'{label}="' in s for s in series), query
    assert absent <= {
        "shoal_replica_lag",
        "shoal_replicated",
        "shoal_failovers_total",
        "shoal_malformed_messages_total",
    }


def test_a_worker_that_has_a_bad_day_leaves_a_ledger_that_balances(bad_day: Up) -> None:
    report = whole(bad_day)
    assert report["workers"] == 2 and "disturbs itself, on purpose" in bad_day.log("worker-chaos-1")
    assert sum(w["retries"] for w in report["per_worker"]) > 0, "lost messages are sent again"


# --- limits -----------------------------------------------------------------------------------------------------------


def megabytes(text: str) -> int:
    """``512m``, ``1g``."""
    return int(text[:-1]) * {"m": 1, "g": 1024}[text[-1]]


def peak_bytes(pid: int) -> int:
    """Of what a process has had in memory since it began its program; 0 if it has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0


def test_every_role_runs_within_the_memory_that_the_file_allows(tmp_path: Path) -> None:
    """Peak resident memory against ``mem_limit``: what the kernel would kill for, without a cgroup.

    The kernel's own account of children that have ended would count this process, which they were forked from.
    """
    limits: dict[str, Any] = {name: s["mem_limit"] for name, s in document()["services"].items()}
    settings = {"SHOAL_SETTLE_S": "1", "SHOAL_SCRIPT": "digits.py --epochs 2"}
    peaks: dict[str, int] = {}
    with Up(tmp_path, settings, {"worker": 1, "server": 1}) as up:

        def over() -> bool:
            for name, p in up.processes.items():
                peaks[name] = max(peaks.get(name, 0), peak_bytes(p.pid))
            return all(p.poll() is not None for p in up.processes.values())

        until_run(over, up.everything)
        assert set(up.wait(RUN_S).values()) == {0}
    assert {name.rpartition("-")[0] for name in peaks} == {"scheduler", "server", "worker"}
    for name, peak in peaks.items():
        assert 20 << 20 < peak < megabytes(limits[name.rpartition("-")[0]]) << 20, (name, peak >> 20)
